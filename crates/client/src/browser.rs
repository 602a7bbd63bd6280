//! Opens the user's browser.

use std::process::Stdio;

use qwen_base::Environment;

/// True if the user would see a browser that opens on this machine.
#[must_use]
pub fn has_display(environment: &Environment) -> bool {
    let remote = environment.first(&["SSH_CONNECTION", "SSH_TTY"]).is_some();
    let graphical = cfg!(any(windows, target_os = "macos"))
        || environment.first(&["DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"]).is_some();
    graphical && !remote
}

/// Opens a web address in the desktop's browser, without a shell. Failures are ignored: the user also sees the address.
///
/// Only absolute directories of `PATH` are searched, by this program and by those it starts. A relative directory could run
/// a program from the project that the user works on.
pub fn open(environment: &Environment, address: &str) {
    for mut command in open::commands(address) {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if cfg!(unix) {
            command.env("PATH", environment.program_path(None)).current_dir("/");
        }
        // Ctrl-C in the terminal must not reach the browser.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        if let Ok(mut child) = command.spawn() {
            let _ = child.wait();
            return;
        }
    }
}

#[cfg(test)]
#[cfg_attr(
    target_os = "linux",
    expect(clippy::disallowed_methods, reason = "tests play the user and other programs")
)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn what_lies_in_the_working_directory_is_not_started() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let [bin, told] = ["bin", "told"].map(|name| directory.path().join(name));
        std::fs::create_dir(&bin).unwrap();
        let program = bin.join("xdg-open");
        std::fs::write(&program, format!("#!/bin/sh\necho \"$PWD $PATH $1\" > {}\n", told.display()))
            .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!(".::{}", bin.display());
        open(&[("PATH", path.as_str())].into_iter().collect(), "https://chat.qwen.ai/authorize?x=1");
        let expected = format!("/ {} https://chat.qwen.ai/authorize?x=1\n", bin.display());
        assert_eq!(std::fs::read_to_string(&told).unwrap(), expected);
    }

    #[test]
    fn no_browser_opens_over_ssh() {
        let display = |pairs: &[(&str, &str)]| has_display(&pairs.iter().copied().collect());
        assert!(!display(&[("DISPLAY", ":0"), ("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")]));
        assert!(display(&[("DISPLAY", ":0")]));
        assert_eq!(display(&[]), cfg!(any(windows, target_os = "macos")));
    }
}
