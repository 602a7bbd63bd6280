//! The HTTP library alone, on one thread and without JavaScript: an upper limit for any addon that uses it. Takes the
//! commands of `child.mjs` for requests and streams.

use std::cell::Cell;
use std::error::Error;
use std::io::Write as _;
use std::time::Instant;

use futures_util::future::try_join_all;
use reqwest::{Client, Response};
use serde_json::{Value, json};

const MARK: &str = "\u{1}bench ";
const BODY: &str = r#"{"model":"coder-model","messages":[{"role":"user","content":"Hello"}]}"#;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Bench {
    client: Client,
    url: String,
}

impl Bench {
    async fn send(&self, bench: &str) -> reqwest::Result<Response> {
        let request = self.client.post(&self.url).bearer_auth("bench").header("x-bench", bench);
        request.header("content-type", "application/json").body(BODY).send().await?.error_for_status()
    }

    async fn requests(&self, count: u64, width: u64) -> reqwest::Result<()> {
        let left = Cell::new(count);
        let caller = async || {
            while left.get() > 0 {
                left.set(left.get() - 1);
                self.send("small").await?.bytes().await?;
            }
            reqwest::Result::Ok(())
        };
        try_join_all((0..width).map(|_| caller())).await.map(drop)
    }

    async fn stream(&self, bench: &str) -> reqwest::Result<()> {
        let mut response = self.send(bench).await?;
        while response.chunk().await?.is_some() {}
        Ok(())
    }

    /// Returns the rate in the unit of the command.
    async fn run(&self, command: &Value) -> Result<Value> {
        let number = |field: &str| command[field].as_u64().ok_or_else(|| format!("{field} is missing"));
        let count = number("count")?;
        let started = Instant::now();
        match command["command"].as_str() {
            Some("requests") => self.requests(count, number("width")?).await?,
            Some("events") => self.stream(&format!("events:{count}")).await?,
            other => return Err(format!("there is no command {other:?}").into()),
        }
        #[expect(clippy::cast_precision_loss, reason = "no count comes near 2^52")]
        let per_second = count as f64 / started.elapsed().as_secs_f64();
        Ok(json!({"perSecond": per_second}))
    }
}

fn reply(message: &Value) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{MARK}{message}")?;
    Ok(stdout.flush()?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let origin = std::env::args().nth(1).ok_or("the server's origin is missing")?;
    // Required to build a client, but not used here.
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "there is a provider already")?;
    let client = Client::builder().no_proxy().build()?;
    let bench = Bench { client, url: format!("{origin}/v1/chat/completions") };
    reply(&json!({"value": "ready"}))?;
    for line in std::io::stdin().lines() {
        match bench.run(&serde_json::from_str(&line?)?).await {
            Ok(value) => reply(&json!({"value": value}))?,
            Err(error) => reply(&json!({"error": error.to_string()}))?,
        }
    }
    Ok(())
}
