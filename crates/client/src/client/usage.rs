//! Usage of the accounts, as a client reports it.

use qwen_base::{Result, blocking};

use super::{AccountInfo, Client};
use crate::usage::WeakUsageBook;
use crate::usage::estimate::{Estimate, estimates};
use crate::usage::ledger::{Moment, Summary};

/// Usage of one account.
#[derive(Debug, Clone)]
pub struct AccountUsage {
    /// Id of the account.
    pub account_id: String,
    /// Name of the account.
    pub label: String,
    /// Requests and tokens by time.
    pub summary: Summary,
    /// Estimated shares of the plan's limits; empty if the limits are not known.
    pub estimates: Vec<Estimate>,
}

impl Client {
    /// Returns the usage of each account, counted by all processes, by hour and by day. `utc_offset_minutes` is the local
    /// time minus UTC.
    ///
    /// # Errors
    /// Those of [`Client::accounts`] and [`UsageBook::read`](crate::usage::UsageBook::read).
    pub async fn usage(&self, utc_offset_minutes: i32) -> Result<Vec<AccountUsage>> {
        let accounts = self.accounts().await?;
        let usage = self.usage.clone();
        let ledger = blocking(move || usage.read()).await??;
        let now = Moment::new(self.clock.now_ms(), utc_offset_minutes);
        let usage_of = |account: AccountInfo| AccountUsage {
            summary: ledger.summary(&account.id, now),
            estimates: estimates(&ledger, &account.id, account.kind.plan(), account.tier, now),
            account_id: account.id,
            label: account.label,
        };
        Ok(accounts.into_iter().map(usage_of).collect())
    }

    /// Returns a weak handle that the end of the process uses to write pending usage.
    #[must_use]
    pub fn usage_book(&self) -> WeakUsageBook {
        self.usage.downgrade()
    }

    /// Writes pending usage. Blocks, usually for a few milliseconds.
    pub fn flush(&self) {
        self.usage.flush();
    }
}
