//! Knows which models each account serves, from the catalog and the servers' lists.
//!
//! Look-ups read memory, and the file of lists at most once a second. They ask no server.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use qwen_accounts::{Kind, Record, Serving, file::Stamp};
use qwen_base::{Clock, Code, Error, Event, EventKind, Events, Logger, blocking, lock};
use tokio::runtime::Handle;

use super::catalog::{self, CatalogList};
use super::is_of_login;
use super::lists::{AccountModels, ModelLists, ServerList, UNAVAILABLE_MS};
use crate::shared_file::SharedFile;

/// Time between two checks of the file.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// After a slower check, further ones run on a thread that may block: the file may be on a network mount.
const SLOW_LOOK: Duration = Duration::from_millis(20);
/// Time between two requests for a server's list, in milliseconds.
pub const REFRESH_MS: u64 = UNAVAILABLE_MS;
/// Time until an unreachable server is asked again, in milliseconds.
const UNREACHED_MS: u64 = 60 * 60 * 1000;
/// Time that a process has for asking, in milliseconds. After that, another process may ask.
const CLAIM_MS: u64 = 60_000;

/// The models of all accounts. Clones share state.
#[derive(Clone)]
pub struct ModelBook {
    shared: Arc<SharedBook>,
}

struct SharedBook {
    file: SharedFile<ModelLists>,
    clock: Clock,
    events: Events,
    logger: Logger,
    state: Mutex<BookState>,
}

#[derive(Default)]
struct BookState {
    lists: Arc<ModelLists>,
    stamp: Option<Stamp>,
    looked_at: Option<Instant>,
    is_slow: bool,
    /// True if the user was told that the file can't be used.
    has_told: bool,
}

/// An account whose server has a list of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSource {
    pub account: String,
    pub base_url: String,
}

impl ListSource {
    /// Returns `None` for a login, which has no list.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        let base_url = record.key_base_url()?.to_owned();
        Some(Self { account: record.id().to_owned(), base_url })
    }
}

impl ModelBook {
    #[must_use]
    pub fn new(path: std::path::PathBuf, clock: Clock, events: Events, logger: Logger) -> Self {
        let (file, state) = (SharedFile::new(path, "model lists are not kept"), Mutex::default());
        Self { shared: Arc::new(SharedBook { file, clock, events, logger, state }) }
    }

    /// Tells if an account serves a model. If `model` is empty, any account may serve it.
    #[must_use]
    pub fn serving(&self, record: &Record, model: &str) -> Serving {
        let Some(base_url) = record.key_base_url() else {
            return if is_of_login(model) { Serving::Yes } else { Serving::Maybe };
        };
        if model.is_empty() {
            return Serving::Maybe;
        }
        let lists = self.lists();
        let known = lists.0.get(record.id());
        if known.is_some_and(|known| known.is_unavailable(model, self.shared.clock.now_ms())) {
            return Serving::Unlikely;
        }
        let own_catalog = catalog_list(record);
        match known.and_then(|known| known.list_of(base_url)) {
            Some(list) if contains(list, model) => Serving::Yes,
            Some(_) if own_catalog.is_none() => Serving::Maybe,
            Some(_) if catalog::find(model).is_some() => Serving::No,
            Some(_) => Serving::Maybe,
            None => own_catalog.map_or(Serving::Yes, |list| serving_by_catalog(list, model)),
        }
    }

    /// Hides a missing model of an account for a day, in all processes.
    pub fn note_unavailable(&self, account_id: &str, model: &str) {
        let (account, model) = (account_id.to_owned(), model.to_owned());
        let now = self.shared.clock.now_ms();
        let note = move |lists: &mut ModelLists| lists.note_unavailable(&account, &model, now);
        // This process knows it at once, even if the file can't be written.
        let mut lists = (*self.lists()).clone();
        note(&mut lists);
        self.shared.state().lists = Arc::new(lists);
        let shared = Arc::clone(&self.shared);
        let write = move || {
            shared.change(&mut |lists| {
                note(lists);
                true
            });
        };
        match Handle::try_current() {
            Ok(_) => drop(blocking(write)),
            Err(_) => write(),
        }
    }

    /// Returns the last good list of a key's server.
    #[must_use]
    pub fn list_of(&self, record: &Record) -> Option<Vec<String>> {
        let lists = self.lists();
        lists.0.get(record.id())?.list_of(record.key_base_url()?).map(<[_]>::to_vec)
    }

    /// True if the account was without the model within the last day.
    #[must_use]
    pub fn is_unavailable(&self, account_id: &str, model: &str) -> bool {
        let now = self.shared.clock.now_ms();
        self.lists().0.get(account_id).is_some_and(|known| known.is_unavailable(model, now))
    }

    /// True if the server should be asked for its list. With `since_asked`, false for a server that was never asked.
    #[must_use]
    pub fn is_due(&self, source: &ListSource, since_asked: bool) -> bool {
        let lists = self.lists();
        let known = lists.0.get(&source.account).filter(|known| known.asked_at > 0);
        if known.is_none() && since_asked {
            return false;
        }
        known.is_none_or(|known| is_due(known, &source.base_url, self.shared.clock.now_ms()))
    }

    /// Reserves servers for this process, so that no other process asks them too. Returns those that should still be asked.
    /// Blocks.
    #[must_use]
    pub fn claim(&self, sources: &[ListSource]) -> Vec<ListSource> {
        let now = self.shared.clock.now_ms();
        let mut claimed = Vec::new();
        self.shared.change(&mut |lists| {
            claimed = sources.to_vec();
            claimed.retain(|source| {
                lists.0.get(&source.account).is_none_or(|known| is_due(known, &source.base_url, now))
            });
            for source in &claimed {
                note_asked(lists, source, due_after(now, CLAIM_MS));
            }
            !claimed.is_empty()
        });
        claimed
    }

    /// Stores an answer. A good list replaces the last one. `was_reached` is false if there was no answer. Blocks.
    pub fn keep(&self, source: &ListSource, list: Option<&ServerList>, was_reached: bool) {
        let now = self.shared.clock.now_ms();
        self.shared.change(&mut |lists| {
            let asked_at = if was_reached { now } else { due_after(now, UNREACHED_MS) };
            let known = note_asked(lists, source, asked_at);
            if let Some(list) = list {
                let is_listed = |model: &String| contains(&list.models, model);
                // The server lists the model again.
                known.unavailable.retain(|model, _| !is_listed(model) || known.models.contains(model));
                known.models.clone_from(&list.models);
                known.listed_at = now;
            }
            true
        });
    }

    /// Removes an account. Blocks.
    pub fn forget(&self, account_id: &str) {
        if self.lists().0.contains_key(account_id) {
            self.shared.change(&mut |lists| lists.0.remove(account_id).is_some());
        }
    }

    fn lists(&self) -> Arc<ModelLists> {
        self.shared.lists()
    }
}

/// Records when a server was asked. A key on a different server starts anew.
fn note_asked<'a>(lists: &'a mut ModelLists, source: &ListSource, now_ms: u64) -> &'a mut AccountModels {
    let known = lists.0.entry(source.account.clone()).or_default();
    if known.base_url != source.base_url {
        *known = AccountModels { base_url: source.base_url.clone(), ..AccountModels::default() };
    }
    known.asked_at = now_ms;
    known
}

/// Returns a value for `asked_at` with which the server is due after `wait_ms`.
fn due_after(now_ms: u64, wait_ms: u64) -> u64 {
    now_ms.saturating_sub(REFRESH_MS - wait_ms).max(1)
}

fn is_due(known: &AccountModels, base_url: &str, now_ms: u64) -> bool {
    known.base_url != base_url || known.asked_at.abs_diff(now_ms) >= REFRESH_MS
}

/// Searches a sorted list.
fn contains(list: &[String], model: &str) -> bool {
    list.binary_search_by(|known| known.as_str().cmp(model)).is_ok()
}

/// Returns the catalog's list for a key of Alibaba's; `None` for a key of another server.
#[must_use]
pub fn catalog_list(record: &Record) -> Option<CatalogList> {
    let Kind::Key(Some(plan)) = record.kind() else { return None };
    let region = record.place()?.region;
    Some(CatalogList::of_plan(plan, Some(&region)))
}

fn serving_by_catalog(list: CatalogList, model: &str) -> Serving {
    if list.models().contains_key(model) {
        Serving::Yes
    } else if is_of_login(model) {
        Serving::No
    } else if catalog::find(model).is_some() {
        Serving::Unlikely
    } else {
        Serving::Maybe
    }
}

impl SharedBook {
    fn state(&self) -> MutexGuard<'_, BookState> {
        lock(&self.state)
    }

    /// Returns the lists in memory, after a check of the file if the last one is old.
    fn lists(self: &Arc<Self>) -> Arc<ModelLists> {
        let is_slow = {
            let mut state = self.state();
            if state.looked_at.is_some_and(|at| at.elapsed() < LOOK_INTERVAL) {
                return Arc::clone(&state.lists);
            }
            state.looked_at = Some(Instant::now());
            state.is_slow
        };
        match Handle::try_current() {
            Ok(_) if is_slow => {
                let shared = Arc::clone(self);
                drop(blocking(move || shared.look()));
            }
            _ => self.look(),
        }
        Arc::clone(&self.state().lists)
    }

    fn look(&self) {
        let started = Instant::now();
        let stamp = self.file.stamp();
        if self.state().stamp == stamp {
            return;
        }
        let kept = self.file.read();
        let mut state = self.state();
        state.is_slow = started.elapsed() > SLOW_LOOK;
        state.stamp = stamp;
        match kept {
            Ok(Some(lists)) => state.lists = Arc::new(lists),
            Ok(None) => {
                let path = self.file.path();
                let message = format!(
                    "{} is not a file of model lists and is ignored. The next write moves it aside.",
                    path.display()
                );
                drop(state);
                self.tell(&Error::new(Code::StoreCorrupt, message).with_path(path));
            }
            Err(error) => {
                drop(state);
                self.tell(&error);
            }
        }
    }

    /// Changes the file and the memory. If the file can't be changed, only the memory changes.
    fn change(&self, change: &mut dyn FnMut(&mut ModelLists) -> bool) {
        let now = self.clock.now_ms();
        let mut change = |lists: &mut ModelLists| {
            let is_changed = change(lists);
            lists.prune(now);
            is_changed
        };
        match self.file.change(&self.clock, &mut change) {
            Ok(changed) => {
                let stamp = self.file.stamp();
                let mut state = self.state();
                (state.lists, state.stamp) = (Arc::new(changed.contents), stamp);
            }
            Err(error) => {
                let mut lists = (*self.state().lists).clone();
                change(&mut lists);
                self.state().lists = Arc::new(lists);
                self.tell(&error);
            }
        }
    }

    /// Reports a problem with the file once.
    fn tell(&self, error: &Error) {
        self.logger.warn("model-lists", &[("error", error)]);
        if !std::mem::replace(&mut self.state().has_told, true) {
            let event = Event::new(EventKind::Config, self.clock.now_ms(), error.message().to_owned());
            self.events.emit(event);
        }
    }
}

impl std::fmt::Debug for ModelBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelBook").field("file", &self.shared.file).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
