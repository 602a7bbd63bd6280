//! Writes the files of the request log and limits their number and size.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use qwen_base::{KnownSecrets, Logger, iso_time, private_files};

use super::LoggedRequest;

/// Largest number of files.
pub const MAX_FILES: usize = 200;
/// Largest size of all files together, in bytes.
pub const MAX_TOTAL_BYTES: u64 = 50 * 1024 * 1024;

pub(super) struct Writer {
    directory: PathBuf,
    secrets: KnownSecrets,
    logger: Logger,
    count: u64,
}

impl Writer {
    pub(super) fn new(directory: PathBuf, secrets: KnownSecrets, logger: Logger) -> Self {
        Self { directory, secrets, logger, count: 0 }
    }

    pub(super) fn write(&mut self, records: VecDeque<LoggedRequest>, dropped: u64) {
        if dropped > 0 {
            self.logger.warn("request-log-overrun", &[("dropped", &dropped)]);
        }
        for record in records {
            if let Err(error) = self.write_one(&record).and_then(|()| prune(&self.directory)) {
                self.logger.warn("request-log-failed", &[("error", &error)]);
            }
        }
    }

    fn write_one(&mut self, record: &LoggedRequest) -> io::Result<()> {
        let document = record.to_json(&self.secrets.redactor_with(&record.secrets));
        let contents = format!("{document:#}\n");
        private_files::ensure_directory(&self.directory)?;
        loop {
            let path = self.directory.join(file_name(record.at, std::process::id(), self.count));
            self.count += 1;
            match private_files::create_file(&path, contents.as_bytes()) {
                // Another client in this process has created the file.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                done => return done,
            }
        }
    }
}

/// The name sorts by time and is unique per process.
fn file_name(at: u64, process: u32, number: u64) -> String {
    let time: String = iso_time(at).chars().filter(|c| !matches!(c, '-' | ':' | '.')).collect();
    format!("request-{time}-{process}-{number:06}.json")
}

fn is_file_name(name: &str) -> bool {
    let parts = || {
        let mut parts = name.strip_prefix("request-")?.strip_suffix(".json")?.split('-');
        let (time, process, number) = (parts.next()?, parts.next()?, parts.next()?);
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (day, time) = time.strip_suffix('Z')?.split_once('T')?;
        (parts.next().is_none() && [day, time, process, number].into_iter().all(digits)).then_some(())
    };
    parts().is_some()
}

/// Removes the oldest files until the limits are met.
fn prune(directory: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().filter(|name| is_file_name(name)).map(str::to_owned)
        else {
            continue;
        };
        // Another process may have removed the file.
        if let Ok(metadata) = entry.metadata()
            && metadata.is_file()
        {
            found.push((name, metadata.len()));
        }
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    let mut total = 0;
    for (index, (name, size)) in found.iter().enumerate() {
        total += size;
        if index < MAX_FILES && total <= MAX_TOTAL_BYTES {
            continue;
        }
        #[expect(clippy::disallowed_methods, reason = "old files of the request log make room for new ones")]
        match fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_time_and_other_files_are_ignored() {
        let name = file_name(1_744_705_800_123, 4321, 7);
        assert_eq!(name, "request-20250415T083000123Z-4321-000007.json");
        assert!(name < file_name(1_744_705_800_124, 1, 0) && name < file_name(1_744_705_800_123, 4321, 8));
        assert!(is_file_name(&name));
        for other in [
            "request-20250415T083000123Z-4321-000007.json.bak",
            "request-20250415T083000123Z-4321-000007-1.json",
            "request-20250415T083000123-4321-000007.json",
            "request-20250415T083000123Z--000007.json",
            "request-notes.json",
            "debug.log",
            "",
        ] {
            assert!(!is_file_name(other), "{other}");
        }
    }
}
