//! Starts an application as a process, as its users do, against an emulator that the
//! test controls.
//!
//! Whatever goes wrong here fails the test that called it: it panics.
#![allow(clippy::expect_used, clippy::panic)]

mod browser;
mod process;

use std::{
    process::{Command, ExitStatus},
    time::Duration,
};

use entra_pool::{
    azure_sql,
    credential::{DefaultCredential, Environment},
    postgres,
    token::Identity,
};
use entra_pool_emulator::emulator::Emulator;
use reqwest::{Method, StatusCode, header::HeaderMap};

pub use browser::Browser;
pub use process::Process;

/// What the application lives in: the emulator, and pools of the test's own.
pub struct World {
    /// The stand-ins.
    pub emulator: Emulator,
    /// The user-assigned identity.
    pub identity: Identity,
    pool: azure_sql::Pool,
    postgres: postgres::Pool,
}

impl World {
    /// Starts the emulator, and runs this script in Azure SQL.
    pub async fn new(script: &str) -> Self {
        let emulator = Emulator::start().await.expect("it starts");
        let environment = Environment::from_pairs(emulator.env());
        let identity = Identity::new(
            DefaultCredential::new().environment(environment).build().expect("it is complete"),
        );
        let pool = azure_sql::pool_with(&identity, &emulator.azure_sql_string());
        let pool = pool.expect("the string is right");
        let postgres = postgres::pool_with(&identity, &emulator.postgres_url());
        let postgres = postgres.expect("the URL is right");
        let world = Self { emulator, identity, pool, postgres };
        if !script.is_empty() {
            world.sql(script).await;
        }
        world
    }

    /// Runs statements in Azure SQL.
    pub async fn sql(&self, sql: &str) {
        let mut connection = self.pool.get().await.expect("it connects");
        let answer = connection.simple_query(sql).await.expect(sql);
        answer.into_results().await.expect(sql);
    }

    /// Runs statements in PostgreSQL.
    pub async fn postgres_sql(&self, sql: &str) {
        let connection = self.postgres.get().await.expect("it connects");
        connection.batch_execute(sql).await.expect(sql);
    }

    /// A connection string with this `Authentication`, which tells of an outage at once;
    /// more keywords may be put behind it.
    #[must_use]
    pub fn azure_sql_string(&self, authentication: &str) -> String {
        let string = self.emulator.azure_sql_string();
        format!("{string};ConnectRetryCount=0;Authentication={authentication}")
    }

    /// Azure SQL goes away: its connections break, and new ones are refused.
    pub async fn azure_sql_goes_away(&self) {
        let server = self.emulator.azure_sql();
        server.refuse_connections(true).await.expect("it runs");
        server.cut_connections().await;
    }

    /// Azure SQL takes connections again.
    pub async fn azure_sql_comes_back(&self) {
        self.emulator.azure_sql().refuse_connections(false).await.expect("the port is free");
    }
}

/// A running application; killed, by its ID, when this goes.
pub struct Application {
    process: Process,
    client: reqwest::Client,
    address: String,
    accept: &'static str,
}

/// What the application answered.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
    /// The same, if it is text.
    pub text: String,
}

impl Application {
    /// Starts `program`, which is `env!("CARGO_BIN_EXE_NAME")`, with this environment
    /// and no other, on a free port, and waits until it listens.
    pub async fn start(
        program: &str,
        environment: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        let mut command = Command::new(program);
        command.env_clear().env("LISTEN", "127.0.0.1:0").envs(environment);
        let (process, rest) = Process::start(&mut command, "listening on http://").await;
        // In JSON the message ends with a quote.
        let address = format!("http://{}", rest.split('"').next().unwrap_or_default());
        let client = reqwest::Client::builder().no_proxy().build().expect("it has TLS");
        Self { process, client, address, accept: "*/*" }
    }

    /// From now on it is asked as browsers do, for pages.
    #[must_use]
    pub fn as_browser(self) -> Self {
        Self { accept: "text/html,application/xhtml+xml,*/*;q=0.8", ..self }
    }

    /// Where it is: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until it has logged this, for 10 s: what it writes arrives by itself, not
    /// with its answers.
    pub async fn has_logged(&self, text: &str) {
        for _ in 0..100 {
            if self.log().contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("it has not logged '{text}': {}", self.log());
    }

    /// The most memory that it has had so far, in bytes. Linux only.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        self.process.peak_memory()
    }

    /// Gets a path.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "", Vec::new()).await
    }

    /// Posts JSON.
    pub async fn post(&self, path: &str, json: &serde_json::Value) -> Answer {
        self.send(Method::POST, path, "application/json", json.to_string()).await
    }

    /// Sends a body of this type, if that is not empty.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.address));
        request = request.header("accept", self.accept);
        if !content_type.is_empty() {
            request = request.header("content-type", content_type).body(body.into());
        }
        let response = request.send().await.unwrap_or_else(|error| {
            panic!("{path}: {error:?}; it has logged: {}", self.log());
        });
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.expect("it ends").to_vec();
        Answer { status, headers, text: String::from_utf8_lossy(&body).into_owned(), body }
    }

    /// Gets a path until the answer is 200, for 30 s at most.
    pub async fn recovers(&self, path: &str) -> Answer {
        for _ in 0..300 {
            let answer = self.get(path).await;
            if answer.status == StatusCode::OK {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{path} does not recover: {}", self.log());
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.process.terminate();
    }

    /// Waits for its end, for 30 s at most; gives the exit status and the log.
    pub async fn ended(self) -> (ExitStatus, String) {
        self.process.ended().await
    }
}

impl Answer {
    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header's value; empty where it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// That this is a problem document of `status`, with `Retry-After` if that is 503
    /// and without any of the server's internals; gives its `detail`.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], status, "{self:?}");
        assert_eq!(json["title"], self.status.canonical_reason().expect("it is a known one"));
        if status == 503 {
            let seconds: u64 = self.header("retry-after").parse().expect("it is in seconds");
            assert!((1..=60).contains(&seconds), "{self:?}");
        }
        for internal in ["localhost", "127.0.0.1", "SELECT", "INSERT", "token", "tiberius"] {
            assert!(!self.text.contains(internal), "{self:?} tells of {internal}");
        }
        json["detail"].as_str().expect("it is text").to_owned()
    }
}
