//! Each promise is kept with its safeguard, and broken without it.

use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use qwen_accounts::lock::TOUCH_INTERVAL;
use qwen_base::Clock;
use rustix::fs::OFlags;
use tokio::time::sleep;

use super::scene::read;
use super::sleep::cli_refreshes;
use crate::support::child::Child;
use crate::support::faults::PLAN;
use crate::support::fleet::{Fleet, access};
use crate::support::home::{document, in_seconds, make_pipe};
use crate::support::qwen_cli::{CliLock, NEW_STALE, age};
use crate::support::reply::Reply;
use crate::support::server::Server;
use crate::support::setup::Setup;
use crate::support::skipped;
use crate::support::time::until;

/// A user id that is not in use on this machine.
const OTHER_USER: u32 = 54_321;

/// An `omit` order for a safeguard, or [`NOTHING`].
type Omitted = &'static str;
const NOTHING: Omitted = "";

/// Each promise is kept, and broken without its safeguard.
macro_rules! promises {
    ($($name:ident: $is_broken:ident, $omitted:literal;)*) => {$(
        #[tokio::test]
        async fn $name() {
            assert!(!$is_broken(NOTHING).await);
            assert!($is_broken($omitted).await);
        }
    )*};
}

promises! {
    a_sleeper_sends_nothing_that_is_spent_thanks_to_its_last_look: sends_what_the_cli_has_redeemed, "omit LastLook";
    no_file_is_torn_thanks_to_replacing_it_whole: tears_the_file, "omit Replacement";
    an_exit_loses_no_login_thanks_to_delaying_the_end: is_lost_at_the_end, "omit HeldEnd";
    a_cli_whose_lock_was_removed_is_left_to_its_work_thanks_to_patience: redeems_beside_a_cli, "omit Patience";
    a_cli_that_is_refused_logs_no_user_out_thanks_to_outlasting_it: both_are_logged_out, "omit Outlasting";
    a_refresh_token_goes_to_its_own_server_thanks_to_its_binding: goes_to_another_server, "omit Binding";
    a_dead_login_replaces_no_good_one_thanks_to_its_proof: replaces_a_good_login, "omit Proof";
    a_pipe_stops_no_process_thanks_to_safe_opens: waits_for_a_writer, "omit SafeOpen";
    no_login_is_approved_in_vain_thanks_to_its_preparation: is_asked_in_vain, "omit LoginPreparation";
}

fn foreign_login(setup: &Setup) -> serde_json::Value {
    setup.server.know("access-login", "refresh-login");
    document("access-login", "refresh-login", in_seconds(3600), &setup.server.url())
}

/// Lets six processes find one expired token. Returns the number of redemptions, and the answers.
async fn redeemers(omitted: Omitted) -> (usize, Vec<String>) {
    let setup = Setup::expired().await;
    setup.server.hold();
    let mut clients = join_all((0..6).map(|_| Child::start_with(&setup, omitted))).await;
    for client in &mut clients {
        client.ask().await;
    }
    setup.server.until_token_requests(1).await;
    sleep(Duration::from_millis(500)).await;
    setup.server.release();
    let answers = join_all(clients.iter_mut().map(Child::answer)).await;
    (setup.server.token_requests(), answers)
}

#[tokio::test]
async fn one_of_many_processes_redeems_thanks_to_the_kernel_lock() {
    let (redemptions, answers) = redeemers(NOTHING).await;
    assert_eq!((redemptions, answers), (1, vec!["access-1".to_owned(); 6]));
    // Processes can miss each other by chance, but not again and again.
    let mut most = 0;
    for _ in 0..5 {
        most = most.max(redeemers("omit KernelLock").await.0);
        if most > 1 {
            return;
        }
    }
    panic!("{most} redemption without the lock");
}

/// A process decides to refresh, and gets the locks after another has refreshed. Returns true if it offers the spent
/// token.
async fn offers_a_spent_token(omitted: Omitted) -> bool {
    let setup = Setup::expired().await;
    let mut late = Child::start_with(&setup, &format!("stop LockFileOpened {omitted}")).await;
    late.ask().await;
    late.stopped().await;
    let mut early = Child::start(&setup).await;
    assert_eq!(early.token().await, "access-1");
    late.signal("CONT").await;
    let _ = late.answer().await;
    setup.server.redeemed_again() > 0
}

#[tokio::test]
async fn a_process_that_comes_late_redeems_nothing_thanks_to_reading_again() {
    assert!(!offers_a_spent_token(NOTHING).await);
    // The last look before sending would also notice.
    assert!(!offers_a_spent_token("omit ReadAgain").await);
    assert!(offers_a_spent_token("omit ReadAgain omit LastLook").await);
}

/// A process sleeps just before it sends, and the CLI takes its lock and refreshes. Returns true if it sends the spent
/// token.
async fn sends_what_the_cli_has_redeemed(omitted: Omitted) -> bool {
    let setup = Setup::expired().await;
    let mut sleeper = Child::start_with(&setup, &format!("stop Sending {omitted}")).await;
    sleeper.ask().await;
    sleeper.stopped().await;
    std::fs::remove_file(setup.home.cli_lock()).unwrap();
    let cli = CliLock::new(setup.home.cli_lock(), NEW_STALE);
    assert!(cli.try_acquire());
    cli_refreshes(&setup).await;
    cli.release();
    sleeper.signal("CONT").await;
    let _ = sleeper.answer().await;
    setup.server.redeemed_again() > 0
}

/// A process sleeps before it writes, and the user logs in. Returns true if the new login is overwritten.
async fn overwrites_a_login(point: &str, omitted: Omitted) -> bool {
    let setup = Setup::expired().await;
    let mut sleeper = Child::start_with(&setup, &format!("stop {point} {omitted}")).await;
    sleeper.ask().await;
    sleeper.stopped().await;
    let login = foreign_login(&setup);
    setup.home.write(&login);
    sleeper.signal("CONT").await;
    assert_eq!(sleeper.answer().await, "access-1");
    setup.home.document() != login
}

#[tokio::test]
async fn a_login_is_never_overwritten_thanks_to_comparing() {
    for point in ["Redeemed", "TemporaryCreated", "DataSynced"] {
        assert!(!overwrites_a_login(point, NOTHING).await, "{point}");
        assert!(overwrites_a_login(point, "omit Comparison").await, "{point}");
    }
}

/// A process dies while it writes. Returns true if the file is torn.
async fn tears_the_file(omitted: Omitted) -> bool {
    let setup = Setup::expired().await;
    let mut client = Child::start_with(&setup, &format!("kill HalfWritten {omitted}")).await;
    client.ask().await;
    client.died().await;
    read(&setup.home.credentials()).is_none()
}

/// A process dies between writing and renaming. Returns the next process's answer.
async fn token_after_a_death_before_the_renaming(omitted: Omitted) -> String {
    let setup = Setup::expired().await;
    let mut client = Child::start_with(&setup, "kill DataSynced").await;
    client.ask().await;
    client.died().await;
    Child::start_with(&setup, omitted).await.token().await
}

#[tokio::test]
async fn an_interrupted_write_loses_no_token_thanks_to_its_completion() {
    assert_eq!(token_after_a_death_before_the_renaming(NOTHING).await, "access-1");
    let lost = token_after_a_death_before_the_renaming("omit Completion").await;
    assert_eq!(lost, "ERR_QWEN_REFRESH_TOKEN_INVALID");
}

/// A process exits while its refresh token is on its way. Returns true if the login is lost.
async fn is_lost_at_the_end(omitted: Omitted) -> bool {
    let setup = Setup::expired().await;
    setup.server.hold();
    let mut client = Child::start_with(&setup, omitted).await;
    client.ask_and_exit().await;
    setup.server.until_token_requests(1).await;
    let end = tokio::spawn(client.exit());
    sleep(Duration::from_millis(500)).await;
    setup.server.release();
    end.await.unwrap();
    setup.home.access_token() != "access-1"
}

#[tokio::test]
async fn an_exit_does_not_wait_for_the_pause_before_another_try() {
    let setup = Setup::expired().await;
    setup.server.on_token([Reply::empty(503).header("retry-after", "4")]);
    let mut client = Child::start(&setup).await;
    client.ask_and_exit().await;
    setup.server.until_token_requests(1).await;
    // The answer arrives.
    sleep(Duration::from_millis(300)).await;
    let started = Instant::now();
    client.exit().await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!((setup.home.access_token(), setup.server.token_requests()), ("access-0".to_owned(), 1));
}

/// Returns a process that holds the lock and has sent its request.
async fn redeeming(setup: &Setup, omitted: Omitted) -> Child {
    setup.server.hold();
    let mut client = Child::start_with(setup, omitted).await;
    client.ask().await;
    setup.server.until_token_requests(1).await;
    until("the lock", || age(&setup.home.cli_lock()).is_some()).await;
    client
}

#[tokio::test]
async fn an_exiting_cli_lets_no_other_in_thanks_to_taking_the_lock_again_at_once() {
    let setup = Setup::expired().await;
    let mut client = redeeming(&setup, NOTHING).await;
    let cli = CliLock::new(setup.home.cli_lock(), NEW_STALE);
    for _ in 0..20 {
        cli.release();
        until("the lock that was removed", || cli.path.exists()).await;
        assert!(!cli.try_acquire());
    }
    // It names its process again.
    assert_eq!(std::fs::read_to_string(&cli.path).unwrap().lines().count(), 2);
    setup.server.release();
    assert_eq!(client.answer().await, "access-1");

    let setup = Setup::expired().await;
    let _client = redeeming(&setup, "omit Retake").await;
    let cli = CliLock::new(setup.home.cli_lock(), NEW_STALE);
    cli.release();
    sleep(Duration::from_millis(100)).await;
    assert!(cli.try_acquire(), "another CLI would get in");
}

/// A CLI redeems, and the exit of another CLI removes its lock. Returns true if our process redeems the same token.
async fn redeems_beside_a_cli(omitted: Omitted) -> bool {
    let setup = Setup::expired().await;
    let cli = CliLock::new(setup.home.cli_lock(), NEW_STALE);
    assert!(cli.try_acquire());
    let mut client = Child::start_with(&setup, omitted).await;
    client.ask().await;
    sleep(Duration::from_millis(300)).await;
    cli.release();
    sleep(Duration::from_millis(500)).await;
    let redeems = setup.server.token_requests() > 0;
    if !redeems {
        let theirs = cli_refreshes(&setup).await;
        // It removes any lock that is there.
        cli.release();
        assert_eq!(client.answer().await, theirs["access_token"].as_str().unwrap());
        assert_eq!((setup.server.token_requests(), setup.server.redeemed_again()), (1, 0));
    }
    redeems
}

/// A CLI gets the lock while our process redeems, is refused the spent token, and removes the file. Returns true if both
/// are logged out.
async fn both_are_logged_out(omitted: Omitted) -> bool {
    let setup = Setup::expired().await;
    let mut client = redeeming(&setup, omitted).await;
    let cli = CliLock::new(setup.home.cli_lock(), NEW_STALE);
    // Both are faster than the watch, as a CLI can be on a busy machine.
    while !cli.try_acquire() {
        cli.release();
    }
    sleep(Duration::from_millis(50)).await;
    setup.server.release();
    until("our new token", || setup.home.access_token() == "access-1").await;
    std::fs::remove_file(setup.home.credentials()).unwrap();
    cli.release();
    assert_eq!(client.answer().await, "access-1");
    !setup.home.credentials().exists()
}

/// Returns true if a slow refresh touches its lock before an old CLI would take it as abandoned.
async fn keeps_its_lock_fresh(omitted: Omitted) -> bool {
    let setup = Setup::expired().await;
    let _client = redeeming(&setup, omitted).await;
    let lock = setup.home.cli_lock();
    let modified = || std::fs::metadata(&lock).unwrap().modified().unwrap();
    let first = modified();
    let started = Clock::system().now_ms();
    // Twice the interval, for slow machines.
    while Clock::system().now_ms() - started < 2 * u64::try_from(TOUCH_INTERVAL.as_millis()).unwrap() {
        if modified() > first {
            return true;
        }
        sleep(Duration::from_millis(50)).await;
    }
    false
}

#[tokio::test]
async fn a_slow_refresh_keeps_its_lock_thanks_to_touching_it() {
    let (with, without) = tokio::join!(keeps_its_lock_fresh(NOTHING), keeps_its_lock_fresh("omit Touch"));
    assert!(with && !without);
}

/// A later process's environment names another server. Returns true if the refresh token goes there.
async fn goes_to_another_server(omitted: Omitted) -> bool {
    let mut setup = Setup::expired().await;
    let mut first = Child::start(&setup).await;
    assert_eq!(first.token().await, "access-1");
    first.end().await;
    let mut held = setup.home.document();
    held["expiry_date"] = in_seconds(-60).into();
    setup.home.write(&held);
    let _own = std::mem::replace(&mut setup.server, Server::start().await);
    let mut later = Child::start_with(&setup, omitted).await;
    later.token().await;
    setup.server.token_requests() > 0
}

/// The user chooses a login that the server refuses, and whose access token has not expired. Returns true if it replaces the
/// good one.
async fn replaces_a_good_login(omitted: Omitted) -> bool {
    let fleet = Fleet::of(2).await;
    fleet.setup.server.on_every_token(Reply::oauth_error(400, "invalid_grant"));
    let before = fleet.setup.home.document();
    Child::start_with(&fleet.setup, omitted).await.choose("bob").await;
    fleet.setup.home.document() != before
}

/// Counts the requests of two Qwen directories, one of which links to the other's file.
async fn sent_by_two_directories(omitted: Omitted) -> usize {
    let setup = Setup::expired().await;
    let linked = setup.home.path().join("linked");
    std::fs::create_dir(&linked).unwrap();
    std::os::unix::fs::symlink(setup.home.credentials(), linked.join("oauth_creds.json")).unwrap();
    setup.server.hold();
    let variables = [(PLAN, omitted), ("QWEN_HOME", linked.to_str().unwrap())];
    let mut children =
        [Child::start_with(&setup, omitted).await, Child::start_by(&setup, &[], &variables).await];
    for child in &mut children {
        child.ask().await;
    }
    setup.server.until_token_requests(1).await;
    sleep(Duration::from_secs(1)).await;
    setup.server.release();
    join_all(children.iter_mut().map(Child::answer)).await;
    setup.server.token_requests()
}

#[tokio::test]
async fn two_directories_send_one_token_once_thanks_to_a_shared_lock() {
    assert_eq!(sent_by_two_directories(NOTHING).await, 1);
    assert_eq!(sent_by_two_directories("omit SharedLock").await, 2);
}

/// Root refreshes a user's login. Returns true if the user is locked out of the file.
async fn locks_its_user_out(omitted: Omitted) -> bool {
    let setup = Setup::expired().await;
    for path in [setup.home.qwen_dir(), setup.home.credentials()] {
        std::os::unix::fs::chown(path, Some(OTHER_USER), Some(OTHER_USER)).unwrap();
    }
    assert_eq!(Child::start_with(&setup, omitted).await.token().await, "access-1");
    std::fs::metadata(setup.home.credentials()).unwrap().uid() != OTHER_USER
}

#[tokio::test]
async fn root_locks_no_user_out_thanks_to_keeping_owners() {
    if !rustix::process::geteuid().is_root() {
        return skipped("another user's files take root");
    }
    assert!(!locks_its_user_out(NOTHING).await);
    assert!(locks_its_user_out("omit Ownership").await);
}

/// A named pipe stands in place of the credentials file. Returns true if a process waits for its writer.
async fn waits_for_a_writer(omitted: Omitted) -> bool {
    let fleet = Fleet::of(2).await;
    let pipe = fleet.setup.home.credentials();
    std::fs::remove_file(&pipe).unwrap();
    make_pipe(&pipe);
    let mut client = Child::start_with(&fleet.setup, omitted).await;
    client.ask().await;
    // A writer that doesn't wait is refused while there is no reader.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let has_reader = || std::fs::File::options().write(true).custom_flags(flags).open(&pipe).is_ok();
    tokio::select! {
        answer = client.answer() => {
            assert_eq!(answer, access("ann", 0));
            false
        }
        () = until("a reader of the pipe", has_reader) => true,
    }
}

/// The user logs in where a lock can't be made. Returns true if they are asked for an approval that can't be kept.
async fn is_asked_in_vain(omitted: Omitted) -> bool {
    let setup = Setup::logged_out().await;
    std::fs::create_dir(setup.home.qwen_dir().join("oauth_creds.flock")).unwrap();
    assert_eq!(Child::start_with(&setup, omitted).await.login().await, "ERR_QWEN_IO");
    setup.server.all_requests() > 0
}
