//! Faults of a client process.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use qwen_base::fault::{self, Faults, Point, Safeguard};
use rustix::process::{Signal, getpid, kill_process};

/// Holds a [`Plan`].
pub const PLAN: &str = "OPENCODE_QWEN_TEST_FAULTS";

/// Words: `omit <safeguard>`, `kill <n>` or `kill <point>` (SIGKILL at the nth point of all, or the first time that a
/// point is reached), `stop <point>` (SIGSTOP, once), `trace <file>` (notes every point).
#[derive(Default)]
pub struct Plan {
    kill: Option<String>,
    stop: Option<String>,
    trace: Option<String>,
    omitted: Vec<Safeguard>,
}

impl Plan {
    fn read(text: &str) -> Self {
        let mut plan = Self::default();
        let mut words = text.split_whitespace();
        while let (Some(verb), Some(object)) = (words.next(), words.next()) {
            match verb {
                "omit" => plan.omitted.push(
                    Safeguard::ALL
                        .into_iter()
                        .find(|safeguard| format!("{safeguard:?}") == object)
                        .expect("a safeguard"),
                ),
                "kill" => plan.kill = Some(object.to_owned()),
                "stop" => plan.stop = Some(object.to_owned()),
                "trace" => plan.trace = Some(object.to_owned()),
                _ => panic!("no fault: {verb}"),
            }
        }
        plan
    }

    fn at(&self, point: Point, count: usize, first_stop: &AtomicUsize) {
        let name = format!("{point:?}");
        if let Some(path) = &self.trace {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            writeln!(file.unwrap(), "{name}").unwrap();
        }
        if self.kill.as_ref().is_some_and(|kill| *kill == name || *kill == count.to_string()) {
            suffer(Signal::KILL);
        }
        if self.stop.as_ref() == Some(&name) && first_stop.fetch_add(1, Ordering::SeqCst) == 0 {
            suffer(Signal::STOP);
        }
    }
}

fn suffer(signal: Signal) {
    kill_process(getpid(), signal).unwrap();
    // The signal goes to another thread first, which a busy machine may let wait.
    std::thread::sleep(Duration::from_millis(500));
}

/// Applies the plan in this process's environment.
pub fn inject() {
    let plan = Plan::read(&std::env::var(PLAN).unwrap_or_default());
    let (count, stops) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let omitted = plan.omitted.clone();
    let at = move |point| plan.at(point, count.fetch_add(1, Ordering::SeqCst), &stops);
    fault::inject(Faults { at: Box::new(at), omitted });
}
