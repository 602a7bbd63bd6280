//! The models that can be asked for, and the servers' lists of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use http::{HeaderMap, Method};
use qwen_accounts::{Account, Record, Snapshot, Token, TokenManager};
use qwen_base::{Clock, Code, Error, Event, EventKind, Events, Http, Logger, Result, blocking, display_url};
use url::Url;

use super::Client;
use crate::headers;
use crate::models::book::{ListSource, ModelBook};
use crate::models::lists::{ServerList, read_list};
use crate::models::offer::{OfferedModel, Offering, offered};

/// Time limit for reading one list. A user may be waiting.
const LIMIT: Duration = Duration::from_secs(5);
/// Largest list that is read, in bytes.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// Time between two checks for old lists, in milliseconds.
const CHECK_INTERVAL_MS: u64 = 10 * 60_000;

/// Reads the servers' lists of models. Clones share state.
#[derive(Debug, Clone)]
pub(super) struct ListReader {
    http: Arc<Http>,
    tokens: TokenManager,
    pub(super) book: ModelBook,
    clock: Clock,
    events: Events,
    logger: Logger,
    /// In epoch milliseconds; 0 before the first request.
    next_check_at: Arc<AtomicU64>,
}

struct Server {
    source: ListSource,
    account: Account,
    token: Token,
}

impl Server {
    /// Returns `None` for a login and for a disabled key.
    fn of(snapshot: &Snapshot, record: &Record) -> Option<Self> {
        let source = ListSource::of(record).filter(|_| record.is_enabled())?;
        Some(Self { source, account: snapshot.account(record), token: record.token()? })
    }

    fn all_of(snapshot: &Snapshot) -> Vec<Self> {
        snapshot.document.all().filter_map(|record| Self::of(snapshot, record)).collect()
    }
}

impl Client {
    /// Returns the models of the enabled accounts. With `refresh`, the servers' lists are read first. Otherwise, lists
    /// older than a day are refreshed in the background.
    ///
    /// # Errors
    /// Those of [`Registry::snapshot`](qwen_accounts::Registry::snapshot). A list that can't be read is reported as an event.
    pub async fn models(&self, refresh: bool) -> Result<Vec<OfferedModel>> {
        let mut snapshot = self.tokens.snapshot().await?;
        let servers = Server::all_of(&snapshot);
        if refresh {
            self.lists.ask_all(servers).await;
            snapshot = self.tokens.snapshot().await?;
        } else {
            let lists = self.lists.clone();
            tokio::spawn(async move { lists.refresh_old(servers, false).await });
        }
        let (book, now) = (self.lists.book.clone(), self.clock.now_ms());
        if snapshot.document.keys.is_empty() {
            return Ok(offers(&snapshot, None, now));
        }
        blocking(move || offers(&snapshot, Some(&book), now)).await
    }

    /// Reads the model list of a new key.
    pub(super) async fn learn_models(&self, id: &str) {
        let Ok(snapshot) = self.tokens.snapshot().await else { return };
        let server = snapshot.record(id).and_then(|record| Server::of(&snapshot, record));
        self.lists.ask_all(server.into_iter().collect()).await;
    }
}

/// Returns the models of the active account, then those of the cheapest. Logins need no book, so that no file is read for
/// them.
fn offers(snapshot: &Snapshot, book: Option<&ModelBook>, now_ms: u64) -> Vec<OfferedModel> {
    let mut records: Vec<_> = snapshot.listed(now_ms).filter(|record| record.is_enabled()).collect();
    records.sort_by_key(|record| (snapshot.document.active_id() != Some(record.id()), record.kind().price()));
    let listed = |record: &Record| book.and_then(|book| book.list_of(record));
    let accounts: Vec<_> =
        records.into_iter().map(|record| Offering { record, listed: listed(record) }).collect();
    let mut models = offered(&accounts);
    if let Some(book) = book {
        for model in &mut models {
            model.accounts.retain(|id| !book.is_unavailable(id, &model.id));
        }
    }
    models.retain(|model| accounts.is_empty() || !model.accounts.is_empty());
    models
}

impl ListReader {
    pub(super) fn new(
        http: &Arc<Http>,
        tokens: &TokenManager,
        book: ModelBook,
        clock: &Clock,
        events: &Events,
        logger: &Logger,
    ) -> Self {
        Self {
            http: Arc::clone(http),
            tokens: tokens.clone(),
            book,
            clock: clock.clone(),
            events: events.clone(),
            logger: logger.clone(),
            next_check_at: Arc::default(),
        }
    }

    /// Refreshes lists older than a day. With `since_asked`, skips servers that were never asked.
    async fn refresh_old(&self, servers: Vec<Server>, since_asked: bool) {
        if servers.is_empty() {
            return;
        }
        let book = self.book.clone();
        let claim = move || {
            let mut due = servers;
            due.retain(|server| book.is_due(&server.source, since_asked));
            if !due.is_empty() {
                let sources: Vec<_> = due.iter().map(|server| server.source.clone()).collect();
                let claimed = book.claim(&sources);
                due.retain(|server| claimed.contains(&server.source));
            }
            due
        };
        if let Ok(due) = blocking(claim).await {
            self.ask_all(due).await;
        }
    }

    /// Refreshes old lists now and then, since a process may run for months. Needs the runtime.
    pub(super) fn check_now_and_then(&self) {
        let now = self.clock.now_ms();
        let due_at = self.next_check_at.load(Ordering::Relaxed);
        if due_at > now && due_at - now <= CHECK_INTERVAL_MS {
            return;
        }
        let next = now + CHECK_INTERVAL_MS;
        let is_mine =
            self.next_check_at.compare_exchange(due_at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        // The first request only starts the timer: a new process has usually just listed the models.
        if is_mine && due_at > 0 {
            let lists = self.clone();
            tokio::spawn(async move {
                if let Ok(snapshot) = lists.tokens.snapshot().await {
                    lists.refresh_old(Server::all_of(&snapshot), true).await;
                }
            });
        }
    }

    async fn ask_all(&self, servers: Vec<Server>) {
        let asked = servers.iter().map(|server| self.ask(server));
        let answers = join_all(asked).await;
        for (Server { source, account, .. }, answer) in servers.into_iter().zip(answers) {
            let note = match &answer {
                Ok(list) if list.left_out > 0 => Some(format!(
                    "The server of the Qwen account \"{}\" lists {} models that can't be used; they are not offered.",
                    account.label, list.left_out
                )),
                Ok(_) => None,
                Err(error) => Some(format!(
                    "The models of the Qwen account \"{}\" could not be listed: {} The models known so far are offered. `npx opencode-qwen-cli-auth models --refresh` asks again.",
                    account.label,
                    error.message()
                )),
            };
            if let Some(message) = note {
                self.logger.warn("model-list", &[("account", &source.account), ("message", &message)]);
                let now = self.clock.now_ms();
                let event = Event::of_account(EventKind::Config, now, &account.id, &account.label, message);
                self.events.emit(event);
            }
            let book = self.book.clone();
            let keep = move || {
                let was_reached = answer.as_ref().is_ok() || answer.as_ref().is_err_and(was_reached);
                book.keep(&source, answer.as_ref().ok(), was_reached);
            };
            // The list is in memory even if this fails.
            let _ = blocking(keep).await;
        }
    }

    async fn ask(&self, server: &Server) -> Result<ServerList> {
        let Server { account, token, .. } = server;
        let base_url = account.base_url(token, None)?;
        let host = base_url.host_str().unwrap_or_default().to_owned();
        let headers = headers::for_attempt(&HeaderMap::new(), &token.access_token, account.kind, &host)?;
        let url = Url::parse(&format!("{}/models", display_url(&base_url))).map_err(Error::internal)?;
        let mut request = reqwest::Request::new(Method::GET, url);
        *request.headers_mut() = headers;
        let answer = self.http.exchange(request, LIMIT, MAX_BODY).await?;
        if !answer.status.is_success() {
            return Err(unusable(&host, &format!("answered with status {}", answer.status.as_u16())));
        }
        let body = answer.body?.ok_or_else(|| unusable(&host, "sent more than 4 MiB"))?;
        let list = blocking(move || read_list(&body)).await?;
        list.ok_or_else(|| unusable(&host, "sent no list of models"))
    }
}

fn unusable(host: &str, what: &str) -> Error {
    Error::new(Code::InvalidResponse, format!("{host} {what}."))
}

/// True if the server answered, even if the answer is not usable.
fn was_reached(error: &Error) -> bool {
    error.code() == Code::InvalidResponse
}
