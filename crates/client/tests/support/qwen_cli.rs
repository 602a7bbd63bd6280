//! The qwen CLI's lock.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The qwen CLI's lock, as its versions take it.
pub struct CliLock {
    pub path: PathBuf,
    stale_after: Duration,
}

/// Age at which 0.15.10 takes a lock as stale.
pub const OLD_STALE: Duration = Duration::from_secs(10);
/// Age at which 0.24.4 takes a lock as stale.
pub const NEW_STALE: Duration = Duration::from_secs(35);

impl CliLock {
    pub fn new(path: PathBuf, stale_after: Duration) -> Self {
        Self { path, stale_after }
    }

    pub fn try_acquire(&self) -> bool {
        let made = fs::OpenOptions::new().write(true).create_new(true).open(&self.path);
        if let Ok(mut file) = made {
            std::io::Write::write_all(&mut file, uuid::Uuid::new_v4().to_string().as_bytes()).unwrap();
            return true;
        }
        if age(&self.path).is_some_and(|age| age > self.stale_after) {
            let _ = fs::remove_file(&self.path);
        }
        false
    }

    /// Twenty tries, the first pause 100 ms, the longest 2 s.
    pub fn acquire(&self) -> bool {
        let mut pause = Duration::from_millis(100);
        for _ in 0..20 {
            if self.try_acquire() {
                return true;
            }
            std::thread::sleep(pause);
            pause = (pause * 3 / 2).min(Duration::from_secs(2));
        }
        false
    }

    /// Removes the lock, even if another program holds it now.
    pub fn release(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

pub fn age(path: &Path) -> Option<Duration> {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    SystemTime::now().duration_since(modified).ok()
}
