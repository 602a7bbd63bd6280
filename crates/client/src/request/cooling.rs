//! Keeps accounts that can't answer from being asked for a time, in all processes.

use qwen_accounts::{Account, Cooldown, Cooled, CoolingReason, Pause, Registry, TokenManager};
use qwen_base::{Clock, Code, Error, Event, EventKind, Events, Secret};

use super::no_account::{cooling_message, limit_reached};
use crate::config::Rotation;
use crate::verdict::Reading;

/// Starts the cooldowns that answers require, at once or after their content.
#[derive(Debug, Clone)]
pub(super) struct Cooling {
    pub(super) tokens: TokenManager,
    pub(super) clock: Clock,
    pub(super) events: Events,
    pub(super) rotation: Rotation,
    pub(super) quota_cooldown_ms: u64,
}

/// The facts that a cooldown depends on, beside the answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct CooldownInput<'a> {
    /// Time of the first try with the account in this call, in epoch milliseconds.
    pub(super) asked_at: u64,
    /// The pause before the request, if the head of its answer has ended that.
    pub(super) ended_pause: Option<Pause>,
    /// The wait that the server asks for, in milliseconds.
    pub(super) retry_after_ms: Option<u64>,
    /// The only account that is still to be asked, if there is just one.
    pub(super) last: Option<&'a Account>,
    /// Offset of the caller's time zone in minutes ahead of UTC.
    pub(super) utc_offset_minutes: i32,
}

impl Cooling {
    /// Starts the cooldown that an answer requires, and reports it. Returns the cooldown in the store; `None` if the answer
    /// requires none.
    pub(super) async fn start(
        &self,
        account: &Account,
        reading: &Reading,
        input: CooldownInput<'_>,
    ) -> Option<Cooldown> {
        let cooldown = reading.cooldown(self.clock.now_ms(), self.quota_cooldown_ms, input.retry_after_ms)?;
        Some(match cooldown.reason {
            CoolingReason::TokenLimit => self.pause(account, cooldown, input).await,
            _ => self.cool(account, cooldown, input).await,
        })
    }

    /// Marks a key that the server refused after content was passed on.
    pub(super) async fn reject(&self, account: &Account, key: Secret) {
        let Err(why) = self.tokens.token(&account.id, Some(&key)).await else { return };
        let (now, message) = (self.clock.now_ms(), why.message().to_owned());
        let event = Event::of_account(EventKind::NeedsLogin, now, &account.id, &account.label, message);
        self.events.emit(Event { code: Some(why.code()), ..event });
        let id = account.id.clone();
        // If the write fails, the next request learns the same from the server.
        drop(self.tokens.with_registry(move |registry| registry.mark_rejected(&id, &key, &why)).await);
    }

    async fn cool(&self, account: &Account, cooldown: Cooldown, input: CooldownInput<'_>) -> Cooldown {
        let (now, name) = (self.clock.now_ms(), name_of(account));
        let say = |cooldown: &Cooldown| cooling_message(&name, cooldown, now, input.utc_offset_minutes);
        // Not the server's words: they may repeat a token.
        let why = Error::new(cooldown.reason.code(), say(&cooldown));
        let (id, noted) = (account.id.clone(), cooldown.clone());
        let mark = move |registry: &Registry| registry.mark_cooling(&id, &noted, &why);
        // If the write fails, the next request learns the same from the server.
        let written = self.tokens.with_registry(mark).await.ok().flatten();
        let Cooled { until, is_news } = written.unwrap_or(Cooled { until: cooldown.until, is_news: true });
        let cooldown = Cooldown { until, ..cooldown };
        if is_news {
            let mut message = say(&cooldown);
            // In other rotations this is reported when requests go to that account.
            if self.rotation == Rotation::RoundRobin
                && let Some(last) = input.last
            {
                message = format!("{message} \"{}\" is the last one that is ready.", last.label);
            }
            if let Some(event) = event_of(account, &cooldown, message, now) {
                self.events.emit(event);
            }
        }
        cooldown
    }

    /// Pauses a key that has used up its tokens per minute.
    async fn pause(&self, account: &Account, cooldown: Cooldown, input: CooldownInput<'_>) -> Cooldown {
        let why = Error::new(Code::RateLimited, limit_reached(&name_of(account)));
        let (id, servers_code, longest_ms) =
            (account.id.clone(), cooldown.code.clone(), self.quota_cooldown_ms);
        let CooldownInput { asked_at, ended_pause, retry_after_ms, .. } = input;
        let next = move |current: Option<Pause>, now| {
            Pause::after(current.or(ended_pause), asked_at, retry_after_ms, longest_ms, now)
        };
        let mark = move |registry: &Registry| registry.mark_paused(&id, &servers_code, next, &why);
        let written = self.tokens.with_registry(mark).await.ok().flatten();
        let until = written.map_or(cooldown.until, |cooled| cooled.until);
        Cooldown { until, ..cooldown }
    }
}

fn name_of(account: &Account) -> String {
    format!("The Qwen account \"{}\"", account.label)
}

/// Returns the event of an account that starts to cool; `None` for limits that pass soon.
fn event_of(account: &Account, cooldown: &Cooldown, message: String, now_ms: u64) -> Option<Event> {
    let kind = match cooldown.reason {
        CoolingReason::Quota => EventKind::Exhausted,
        CoolingReason::Payment => EventKind::NeedsAttention,
        CoolingReason::RateLimit | CoolingReason::TokenLimit => return None,
    };
    let (until, code) = (Some(cooldown.until), Some(cooldown.reason.code()));
    Some(Event { until, code, ..Event::of_account(kind, now_ms, &account.id, &account.label, message) })
}
