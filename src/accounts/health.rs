//! What went wrong with an account last, for as long as this process knows.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::error::{Code, Error};
use crate::secret::Secret;

/// The last error of an account, for a person.
#[derive(Debug, Clone)]
pub struct LastError {
    /// Its code.
    pub code: Code,
    /// Its message.
    pub message: String,
    /// When, in epoch milliseconds.
    pub at: u64,
}

#[derive(Debug, Clone)]
struct Record {
    error: LastError,
    /// The access token that was refused. With another one the account has had a new start.
    refused: Option<Secret>,
}

/// The last errors by account id.
#[derive(Debug, Default)]
pub struct Health(Mutex<HashMap<String, Record>>);

impl Health {
    /// The API refused a token, or a refresh for it failed for good.
    pub fn failed(&self, id: &str, refused: &Secret, error: &Error, now_ms: u64) {
        let error = LastError { code: error.code(), message: error.message().to_owned(), at: now_ms };
        self.set(id, Record { error, refused: Some(refused.clone()) });
    }

    /// The API answered, with an error that leaves the login as it is.
    pub fn limited(&self, id: &str, code: Code, message: &str, now_ms: u64) {
        let error = LastError { code, message: message.to_owned(), at: now_ms };
        self.set(id, Record { error, refused: None });
    }

    /// The API answered well.
    pub fn recovered(&self, id: &str) {
        self.lock().remove(id);
    }

    /// The last error, and whether it means that the account with this access token needs a login.
    #[must_use]
    pub fn last(&self, id: &str, access_token: &Secret) -> Option<(LastError, bool)> {
        let record = self.lock().get(id).cloned()?;
        let refused = record.refused.as_ref() == Some(access_token);
        Some((record.error, refused))
    }

    fn set(&self, id: &str, record: Record) {
        self.lock().insert(id.to_owned(), record);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
