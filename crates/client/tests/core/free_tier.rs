//! The end of the free tier: a valid login whose requests are refused.

use qwen_accounts::Availability;
use qwen_base::{Code, EventKind};
use qwen_client::{Answer, Client};

use crate::support::fleet::{Fleet, ask, quota, who_answers};
use crate::support::reply::Reply;
use crate::support::setup::{Setup, chat, quiet_login, text};

const ENDED: &str = "ERR_QWEN_FREE_TIER_DISCONTINUED";

const ENDED_WORDS: &str = "Qwen ended its free tier";

fn refused() -> Reply {
    Reply::api_error(401, "invalid_api_key", "invalid access token or token expired")
}

async fn say(client: &Client) -> Answer {
    client.fetch(chat(false)).await.unwrap()
}

async fn assert_ended(answer: Answer, status: u16) {
    assert_eq!((answer.status.as_u16(), answer.error_code()), (status, Some(ENDED)));
    let message = text(answer).await;
    for part in ["2026-04-15", "npx opencode-qwen-cli-auth add-key", "opencode -m qwen-code/"] {
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn a_login_that_just_succeeded_is_refused_at_once() {
    let setup = Setup::logged_out().await;
    let client = setup.client();
    client.login(quiet_login(), |_| {}).await.unwrap();
    let logins = setup.server.token_requests();
    setup.server.on_every_api(refused());
    assert_ended(say(&client).await, 401).await;
    // The second request had a token that was certainly fresh.
    assert_eq!((setup.server.api_requests().len(), setup.server.token_requests() - logins), (2, 1));

    // The account is asked each time, without further refreshes.
    for _ in 0..3 {
        assert_ended(say(&client).await, 401).await;
        assert_ended(setup.host_client().fetch(chat(true)).await.unwrap(), 402).await;
    }
    assert_eq!((setup.server.api_requests().len(), setup.server.token_requests() - logins), (8, 1));
    assert_eq!(setup.events.count(EventKind::NeedsLogin), 1);
    let account = &client.accounts().await.unwrap()[0];
    assert_eq!(account.availability, Availability::Dead);
    assert_eq!(account.last_error.as_ref().unwrap().code, Code::FreeTierDiscontinued.as_str());

    // One success from the server restores the account at once.
    setup.server.on_every_api(Reply::Real);
    assert_eq!(say(&client).await.status, 200);
    let account = &client.accounts().await.unwrap()[0];
    assert_eq!((account.availability, account.last_error.is_none()), (Availability::Ready, true));
}

#[tokio::test]
async fn a_key_found_elsewhere_is_named_to_users_without_a_working_account() {
    const KEY: &str = "sk-sp-0123456789abcdef0123456789abcdef";
    let hint = "A Token Plan key is in the variable BAILIAN_TOKEN_PLAN_API_KEY: run `npx opencode-qwen-cli-auth import`.";
    let variables = [("BAILIAN_TOKEN_PLAN_API_KEY", KEY)];
    let setup = Setup::logged_out().await;
    let error = setup.client_with(&variables, false).fetch(chat(false)).await.unwrap_err();
    assert!(error.code() == Code::NotLoggedIn && error.message().ends_with(hint), "{}", error.message());
    let answer = setup.client_with(&variables, true).fetch(chat(true)).await.unwrap();
    assert!(text(answer).await.contains(hint));

    let setup = Setup::fresh().await;
    setup.server.on_every_api(refused());
    let message = text(setup.client_with(&variables, false).fetch(chat(false)).await.unwrap()).await;
    assert!(message.contains(ENDED_WORDS) && message.contains(hint), "{message}");
    let account = &setup.client().accounts().await.unwrap()[0];
    assert!(!account.last_error.as_ref().unwrap().message.contains(hint), "true only until the import");
}

#[tokio::test]
async fn an_expired_or_revoked_token_is_not_the_end_of_the_free_tier() {
    let setup = Setup::expired().await;
    assert_eq!(say(&setup.client()).await.status, 200);
    assert_eq!(setup.server.redemptions(), 1);

    let setup = Setup::fresh().await;
    setup.server.revoke("access-0");
    assert_eq!(say(&setup.client()).await.status, 200);

    let setup = Setup::fresh().await;
    setup.server.on_every_api(refused());
    setup.server.on_every_token(Reply::oauth_error(400, "invalid_grant"));
    assert_eq!(say(&setup.client()).await.error_code(), Some("ERR_QWEN_REFRESH_TOKEN_INVALID"));
}

#[tokio::test]
async fn a_wrong_clock_is_not_the_end_of_the_free_tier() {
    let fleet = Fleet::of(1).await;
    fleet.pass_ms(2 * 3_600_000);
    fleet.on_every_host(&refused());
    let answer = ask(&fleet.client()).await;
    assert_eq!((answer.status.as_u16(), answer.error_code()), (401, Some("ERR_QWEN_TOKEN_REJECTED")));
    assert!(text(answer).await.contains("this computer's clock is 120 min ahead of"));
}

#[tokio::test]
async fn a_cooldown_does_not_hide_the_end_of_the_free_tier() {
    let fleet = Fleet::of(2).await;
    fleet.on_every_host(&quota());
    let client = fleet.client();
    assert_eq!(ask(&client).await.error_code(), Some("ERR_QWEN_QUOTA_EXHAUSTED"));
    fleet.on_every_host(&refused());
    fleet.pass_ms(61_000);
    assert_ended(ask(&client).await, 401).await;
    // If a key beside them is only out of quota, the error says that.
    let plan = fleet.add_key("plan", "coding-plan").await;
    plan.on_every_api(quota());
    fleet.choose("plan");
    assert_eq!(ask(&client).await.error_code(), Some("ERR_QWEN_QUOTA_EXHAUSTED"));
    plan.on_every_api(Reply::Real);
    fleet.pass_ms(31 * 60_000);
    assert_eq!(who_answers(&client).await, "plan");
}

#[tokio::test]
async fn an_older_token_is_refreshed_before_its_free_tier_counts_as_ended() {
    let fleet = Fleet::of(1).await;
    fleet.on_every_host(&refused());
    let client = fleet.client();
    assert_ended(ask(&client).await, 401).await;
    assert_ended(ask(&client).await, 401).await;
    assert_eq!(fleet.setup.server.redemptions(), 1);
    let a_while_ago = fleet.now_ms() - 11 * 60_000;
    fleet.edit_store(|store| store["accounts"][0]["updatedAt"] = a_while_ago.into());
    assert_ended(ask(&client).await, 401).await;
    assert_ended(ask(&client).await, 401).await;
    assert_eq!(fleet.setup.server.redemptions(), 2);
}
