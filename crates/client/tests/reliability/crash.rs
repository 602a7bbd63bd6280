//! Kills a process at each step of a refresh, and at random moments.

use std::time::Duration;

use futures_util::future::join_all;
use qwen_base::fault::Point;

use super::scene::{Scene, tell, times};
use crate::support::child::Child;
use crate::support::home::{document, in_seconds};

/// Returns the steps of an undisturbed refresh, in order.
async fn steps(scene: &Scene) -> Vec<String> {
    let trace = scene.home().path().join("trace");
    let mut client = Child::start_with(scene.setup(), &format!("trace {}", trace.display())).await;
    assert_eq!(client.token().await, scene.new_token());
    client.end().await;
    std::fs::read_to_string(trace).unwrap().lines().map(str::to_owned).collect()
}

/// Checks the files after the death of a process, and the answer that the next process gets.
async fn assert_recovered(scene: &Scene, when: &str) -> Outcome {
    scene.assert_whole(when);
    let server = &scene.setup().server;
    let (redeemed, is_kept) = (server.redemptions(), scene.is_kept());
    let answer = scene.next_process().await;
    scene.assert_whole(when);
    // A fresh token is used without any lock. So the locks are taken here, which clears leftovers.
    scene.setup().registry().guarded(|| None, |_| Ok(())).unwrap();
    if let Scene::Two(_) = scene {
        scene.setup().registry().with_store(|_| ()).unwrap();
    }
    if redeemed == 1 && !is_kept {
        scene.home().assert_tidy();
        // The token was only in the dead process's memory. The user is told once, and logs in.
        assert_eq!(answer, "ERR_QWEN_REFRESH_TOKEN_INVALID", "{when}");
        assert_eq!(server.redeemed_again(), 1, "{when}");
        server.know("access-login", "refresh-login");
        let login = document("access-login", "refresh-login", in_seconds(3600), &server.url());
        scene.home().write(&login);
        return Outcome::LoggedOut;
    }
    scene.assert_tidy(when);
    assert_eq!(answer, scene.new_token(), "{when}");
    assert_eq!((server.redemptions(), server.redeemed_again()), (1, 0), "{when}");
    if redeemed == 1 { Outcome::Kept } else { Outcome::Untouched }
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Outcome {
    /// Nothing was redeemed.
    Untouched,
    /// The redeemed token is on disk.
    Kept,
    /// The redeemed token was not on disk yet.
    LoggedOut,
}

async fn a_death_at_each_step(make: impl AsyncFn() -> Scene) {
    let path = steps(&make().await).await;
    for point in Point::ALL {
        assert!(path.contains(&format!("{point:?}")), "{point:?} is never reached: {path:?}");
    }
    let redeemed = path.iter().position(|step| step == "Redeemed").unwrap();
    let written = redeemed + path[redeemed..].iter().position(|step| step == "Written").unwrap();
    for (index, step) in path.iter().enumerate() {
        let when = format!("at step {index}, {step}");
        let scene = make().await;
        let mut client = Child::start_with(scene.setup(), &format!("kill {index}")).await;
        client.ask().await;
        client.died().await;
        let outcome = assert_recovered(&scene, &when).await;
        let expected = match index {
            _ if index < redeemed => Outcome::Untouched,
            _ if index < written => Outcome::LoggedOut,
            _ => Outcome::Kept,
        };
        assert_eq!(outcome, expected, "{when}");
    }
}

#[tokio::test]
async fn a_death_at_any_step_of_a_refresh_loses_nothing_that_is_written() {
    a_death_at_each_step(Scene::one).await;
}

#[tokio::test]
async fn a_death_at_any_step_loses_nothing_with_several_accounts() {
    a_death_at_each_step(Scene::two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deaths_at_random_moments_lose_nothing_that_is_written() {
    let rounds = times(60, 1000);
    let mut outcomes = Vec::new();
    for round in (0..rounds).step_by(4) {
        outcomes.extend(join_all((round..round + 4).map(a_death_at_random)).await);
    }
    let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    let counts = [Outcome::Untouched, Outcome::Kept, Outcome::LoggedOut].map(count);
    tell(&format!(
        "{rounds} kills at random: {} before the redemption, {} after it and kept, {} between the answer and the disk",
        counts[0], counts[1], counts[2]
    ));
    assert!(counts[0] > 0 && counts[1] > 0, "they must come before and after: {counts:?}");
}

async fn a_death_at_random(round: usize) -> Outcome {
    let scene = if round.is_multiple_of(2) { Scene::one().await } else { Scene::two().await };
    let mut client = Child::start_with(scene.setup(), "").await;
    client.ask().await;
    let random = uuid::Uuid::new_v4().as_u128();
    if random & 1 == 0 {
        scene.setup().server.until_token_requests(1).await;
    }
    let moment = u64::try_from(random >> 64 & 0x3fff).unwrap();
    tokio::time::sleep(Duration::from_micros(moment)).await;
    client.kill().await;
    // The dead process's requests have ended.
    scene.setup().server.until_closed().await;
    assert_recovered(&scene, &format!("{moment} us, round {round}")).await
}
