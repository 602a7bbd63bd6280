//! Runs tests of this program again in their own network and mount namespaces.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::skipped;

/// Set in a process that has its own network.
const ROLE: &str = "OPENCODE_QWEN_TEST_NETWORK";

/// Runs one test of this program on a network with only a loopback device, and with its own mounts. Returns `None` if
/// this machine can't. The test begins with [`is_apart`].
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

/// True in a process that [`run_apart`] started, if it can use its loopback device.
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

/// True if the program runs and succeeds.
pub async fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().await.is_ok_and(|output| output.status.success())
}
