//! Opening the user's browser, where there is one.

use crate::environment::Environment;

/// Whether a browser on this machine would be seen by the user.
#[must_use]
pub fn has_display(environment: &Environment) -> bool {
    let remote = environment.first(&["SSH_CONNECTION", "SSH_TTY"]).is_some();
    let graphical = cfg!(any(windows, target_os = "macos"))
        || environment.first(&["DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"]).is_some();
    graphical && !remote
}

/// Hands a web address to the desktop, through no shell. Failing to is no error: the user has the address to open.
pub fn open(address: &str) {
    let _ = open::that_detached(address);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_browser_over_ssh() {
        let display = |pairs: &[(&str, &str)]| has_display(&pairs.iter().copied().collect());
        assert!(!display(&[("DISPLAY", ":0"), ("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")]));
        assert!(display(&[("DISPLAY", ":0")]));
        assert_eq!(display(&[]), cfg!(any(windows, target_os = "macos")));
    }
}
