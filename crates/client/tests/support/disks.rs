//! Mounts in a process's own namespace.

use std::process::Command;

use super::skipped;

/// Starts the next program with a disk of 64 KiB in place of the directory in `$0`, with its contents.
pub const SMALL_DISK: &str = r#"
    copy=$(mktemp -d) && cp -a "$0/." "$copy" && mount -t tmpfs -o size=64k,mode=700 small "$0" && cp -a "$copy/." "$0" &&
    rm -r "$copy" && exec "$@"
"#;

/// True if this process may mount. Otherwise says that the test is skipped.
pub fn may_mount() -> bool {
    let tried = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "try", "/mnt"]).output();
    let may = tried.is_ok_and(|output| output.status.success());
    if !may {
        skipped("mounts take root, unshare and mount");
    }
    may
}
