//! Connections that a sleeping laptop or a changed network leaves dead are found long before the idle limit.

use std::io::Write as _;
use std::time::Duration;

use qwen_base::Code;

use crate::support::apart::{is_apart, run_apart, succeeds};
use crate::support::gate::Gate;
use crate::support::home::{document, in_seconds};
use crate::support::reply::{Part, Reply};
use crate::support::server::Server;
use crate::support::setup::{Setup, chat, read};
use crate::support::time::soon;
use crate::support::tls::Authority;

/// Sends the first event of a stream, and then nothing for ever.
const FIRST: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";

fn quiet_stream() -> Reply {
    Reply::events(vec![Part::text(FIRST), Part::Stall])
}

/// HTTP/2 pings find it: the kernel on the other side may still be alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_behind_a_black_hole_ends_and_a_quiet_one_does_not() {
    let (setup, authority) = (Setup::fresh().await, Authority::new());
    let server = Server::serve("https", authority.listen().await);
    server.know("access-0", "refresh-0");
    server.on_every_api(quiet_stream());
    let certificates = setup.home.path().join("ca.pem");
    authority.write(&certificates);
    let variables = [("NODE_EXTRA_CA_CERTS", certificates.to_str().unwrap())];
    let gate = Gate::to(server.address()).await;
    // Each on its own connection: one through the gate, one past it.
    setup.home.write(&document(
        "access-0",
        "refresh-0",
        in_seconds(3600),
        &format!("https://{}", gate.address()),
    ));
    let mut dead = setup.client_with(&variables, false).fetch(chat(true)).await.unwrap();
    setup.home.write(&document("access-0", "refresh-0", in_seconds(3600), &server.url()));
    let mut quiet = setup.client_with(&variables, false).fetch(chat(true)).await.unwrap();
    gate.freeze();
    let (bytes, end) = soon("the end of a dead connection", read(&mut dead.body)).await;
    assert_eq!((String::from_utf8(bytes).unwrap().as_str(), end), (FIRST, Err(Code::Network)));
    assert_eq!(quiet.body.next().await.unwrap().unwrap(), FIRST);
    let silence = tokio::time::timeout(Duration::from_secs(1), quiet.body.next()).await;
    assert!(silence.is_err(), "a server that is quiet and alive was given up");
}

#[tokio::test]
async fn a_stream_whose_network_is_gone_ends() {
    let Some(text) = run_apart("dead_connections::on_a_network_of_its_own").await else { return };
    assert!(text.contains("the network is gone"), "{text}");
}

/// Not a test by itself: this part runs in a network of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_network_of_its_own() {
    if !is_apart().await {
        return;
    }
    let setup = Setup::fresh().await;
    setup.server.on_every_api(quiet_stream());
    let client = setup.client();
    let mut answer = client.fetch(chat(true)).await.unwrap();
    assert_eq!(answer.body.next().await.unwrap().unwrap(), FIRST);
    // From here on no byte and no reset gets through.
    assert!(succeeds("ip", &["link", "set", "lo", "down"]).await);
    writeln!(std::io::stdout(), "the network is gone").unwrap();
    let (bytes, end) = soon("the end of a dead connection", read(&mut answer.body)).await;
    // The kernel gives up, or the HTTP/2 pings do.
    assert!(bytes.is_empty() && matches!(end, Err(Code::Network | Code::Timeout)), "{end:?}");
    assert!(succeeds("ip", &["link", "set", "lo", "up"]).await);
    setup.server.on_every_api(Reply::Real);
    assert_eq!(soon("an answer", client.fetch(chat(false))).await.unwrap().status, 200);
}
