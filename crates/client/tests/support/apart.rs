//! Tests that need a network of their own: this test program again, in namespaces where nothing is anybody else's.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::skipped;

/// Tells a process of this program that its network is its own.
const ROLE: &str = "OPENCODE_QWEN_TEST_NETWORK";

/// Runs one test of this program on a network that has a loopback device alone, with its own view of the mounted file
/// systems; `None` where that can't be had. The test begins with [`is_apart`].
pub async fn run_apart(name: &str) -> Option<String> {
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--map-root-user"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ROLE, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let Ok(process) = command.spawn() else {
        skipped("a network of its own takes unshare");
        return None;
    };
    let output =
        tokio::time::timeout(Duration::from_secs(120), process.wait_with_output()).await.unwrap().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if text.contains("SKIPPED") || text.contains("unshare failed") {
        skipped("a network of its own takes root, iproute2 and mount");
        return None;
    }
    assert!(output.status.success(), "{text}");
    Some(text)
}

/// Whether this is a process that [`run_apart`] has started, and has all that it takes.
pub async fn is_apart() -> bool {
    if std::env::var_os(ROLE).is_none() {
        return false;
    }
    let has_loopback = succeeds("ip", &["link", "set", "lo", "up"]).await;
    if !has_loopback {
        skipped("no iproute2");
    }
    has_loopback
}

/// Whether a program can be run, and ends well.
pub async fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().await.is_ok_and(|output| output.status.success())
}
