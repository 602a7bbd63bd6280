//! What a client shows of what accounts have given.

use qwen_base::{Error, Result};

use super::{AccountInfo, Client};
use crate::usage::WeakUsageBook;
use crate::usage::estimate::{Estimate, estimates};
use crate::usage::ledger::{Moment, Summary};

/// What an account has given.
#[derive(Debug, Clone)]
pub struct AccountUsage {
    /// Its id.
    pub account_id: String,
    /// Its name.
    pub label: String,
    /// The figures.
    pub summary: Summary,
    /// How much of its plan's limits it has used; empty where those are not known.
    pub estimates: Vec<Estimate>,
}

impl Client {
    /// What each account has given, for a user whose clock is so many minutes ahead of UTC: requests that any process has
    /// sent with it, by hour and by day.
    ///
    /// # Errors
    /// Those of [`Client::accounts`] and [`UsageBook::read`](crate::usage::UsageBook::read).
    pub async fn usage(&self, utc_offset_minutes: i32) -> Result<Vec<AccountUsage>> {
        let accounts = self.accounts().await?;
        let usage = self.usage.clone();
        let ledger = tokio::task::spawn_blocking(move || usage.read()).await.map_err(Error::internal)??;
        let now = Moment::new(self.clock.now_ms(), utc_offset_minutes);
        let usage_of = |account: AccountInfo| AccountUsage {
            summary: ledger.summary(&account.id, now),
            estimates: estimates(&ledger, &account.id, account.plan, account.tier, now),
            account_id: account.id,
            label: account.label,
        };
        Ok(accounts.into_iter().map(usage_of).collect())
    }

    /// Lets the end of the process write what was counted, even if the client is gone by then.
    #[must_use]
    pub fn usage_book(&self) -> WeakUsageBook {
        self.usage.downgrade()
    }

    /// Writes what was counted and is not written yet. Blocks, for a few milliseconds as a rule.
    pub fn flush(&self) {
        self.usage.flush();
    }
}
