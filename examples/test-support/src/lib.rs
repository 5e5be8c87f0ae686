//! Starts an example application as a process, like its users, against an emulator that runs in
//! the test.
//!
//! All functions panic on an error, and so fail the test that calls them.
#![allow(clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods)] // Uses real processes.

mod axe;
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

/// The emulator, and pools for changes to its databases by the test.
pub struct World {
    /// The emulator.
    pub emulator: Emulator,
    /// The user-assigned identity.
    pub identity: Identity,
    azure_sql: azure_sql::Pool,
    postgres: postgres::Pool,
}

impl World {
    /// Starts the emulator with empty databases.
    pub async fn start() -> Self {
        let emulator = Emulator::start().await.expect("the emulator starts");
        let environment = Environment::from_pairs(emulator.env());
        let identity = Identity::new(
            DefaultCredential::new().environment(environment).build().expect("a credential"),
        );
        let azure_sql = azure_sql::pool_with(&identity, &emulator.azure_sql_string());
        let azure_sql = azure_sql.expect("a valid connection string");
        let postgres = postgres::pool_with(&identity, &emulator.postgres_url());
        let postgres = postgres.expect("a valid URL");
        Self { emulator, identity, azure_sql, postgres }
    }

    /// Starts the emulator and runs a script in Azure SQL.
    pub async fn with_azure_sql(script: &str) -> Self {
        let world = Self::start().await;
        world.sql(script).await;
        world
    }

    /// Starts the emulator and runs a script in PostgreSQL.
    pub async fn with_postgres(script: &str) -> Self {
        let world = Self::start().await;
        world.postgres_sql(script).await;
        world
    }

    /// Runs statements in Azure SQL.
    pub async fn sql(&self, sql: &str) {
        let mut connection = self.azure_sql.get().await.expect("a connection");
        let answer = connection.simple_query(sql).await.expect(sql);
        answer.into_results().await.expect(sql);
    }

    /// Runs statements in PostgreSQL.
    pub async fn postgres_sql(&self, sql: &str) {
        let connection = self.postgres.get().await.expect("a connection");
        connection.batch_execute(sql).await.expect(sql);
    }

    /// The environment of an application in App Service with the user-assigned identity, and
    /// with Service Connector's variables for both databases.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = self.emulator.env();
        let azure_sql = self.azure_sql_string("Active Directory Default");
        environment.push(("AZURE_SQL_CONNECTIONSTRING", azure_sql));
        let postgres = format!("{}&connect_timeout=2", self.emulator.postgres_url());
        environment.push(("AZURE_POSTGRESQL_CONNECTIONSTRING", postgres));
        environment
    }

    /// A connection string with this `Authentication`, to which more keywords can be added. A
    /// connect fails at once, without retries, while the server is unavailable.
    #[must_use]
    pub fn azure_sql_string(&self, authentication: &str) -> String {
        let string = self.emulator.azure_sql_string();
        format!("{string};ConnectRetryCount=0;Authentication={authentication}")
    }

    /// Closes the connections of Azure SQL and refuses new connections.
    pub async fn azure_sql_goes_away(&self) {
        self.emulator.azure_sql().go_away().await.expect("the port is free");
    }

    /// Closes the connections of Azure SQL, and waits until they are closed.
    pub async fn cut_azure_sql_connections(&self) {
        let server = self.emulator.azure_sql();
        server.cut_connections().await;
        while server.counters().open_connections > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Accepts connections to Azure SQL again.
    pub async fn azure_sql_comes_back(&self) {
        self.emulator.azure_sql().come_back().expect("the port is free");
    }
}

/// A running application; killed, by its ID, when this is dropped.
pub struct Application {
    process: Process,
    client: reqwest::Client,
    address: String,
    accept: &'static str,
}

/// A response of the application.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
    /// The body as text.
    pub text: String,
}

impl Application {
    /// Starts `program`, which is `env!("CARGO_BIN_EXE_NAME")`, with this environment and no
    /// other variables, on a free port, and waits until it listens.
    pub async fn start(
        program: &str,
        environment: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        let mut command = Command::new(program);
        command.env_clear().env("LISTEN", "127.0.0.1:0").envs(environment);
        let (process, rest) = Process::start(&mut command, "listening on http://").await;
        // In JSON the message ends with a quote.
        let address = format!("http://{}", rest.split('"').next().unwrap_or_default());
        let client = reqwest::Client::builder().no_proxy().build().expect("a TLS provider");
        Self { process, client, address, accept: "*/*" }
    }

    /// Runs `program`, which fails at start, with this environment and no other variables.
    /// Returns its log.
    pub async fn fails(
        program: &str,
        environment: impl IntoIterator<Item = (&'static str, String)>,
    ) -> String {
        let mut command = tokio::process::Command::new(program);
        let output = command.env_clear().envs(environment).kill_on_drop(true).output().await;
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        let log =
            String::from_utf8([output.stdout, output.stderr].concat()).expect("the log is text");
        assert_eq!(output.status.code(), Some(1), "{log}");
        log
    }

    /// From now on, requests pages, as browsers do.
    #[must_use]
    pub fn as_browser(self) -> Self {
        Self { accept: "text/html,application/xhtml+xml,*/*;q=0.8", ..self }
    }

    /// The application's address: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The log so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits up to 10 s until the application has logged this text: the log arrives independently
    /// of the responses.
    pub async fn has_logged(&self, text: &str) {
        for _ in 0..100 {
            if self.log().contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("it has not logged '{text}': {}", self.log());
    }

    /// The peak of its memory so far, in bytes. Linux only.
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

    /// Sends a request; with a body, unless `content_type` is empty.
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
        let body = response.bytes().await.expect("the response is complete").to_vec();
        Answer { status, headers, text: String::from_utf8_lossy(&body).into_owned(), body }
    }

    /// Gets a path until the response is 200, for 30 s at most.
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

    /// Waits up to 30 s until the application has stopped. Returns the exit status and the log.
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

    /// A header's value; empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Asserts that this is a problem document of `status`, with `Retry-After` if that is 503,
    /// that shows nothing of the server's internals, except the `cause` of `/ready`. Returns its
    /// `detail`.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let mut json = self.json();
        json["cause"].take();
        assert_eq!(json["status"], status, "{self:?}");
        assert_eq!(json["title"], self.status.canonical_reason().expect("the status is known"));
        if status == 503 {
            let seconds: u64 = self.header("retry-after").parse().expect("a number of seconds");
            assert!((1..=60).contains(&seconds), "{self:?}");
        }
        for internal in ["localhost", "127.0.0.1", "SELECT", "INSERT", "token", "tiberius"] {
            assert!(!json.to_string().contains(internal), "{self:?} shows {internal}");
        }
        json["detail"].as_str().expect("the detail is text").to_owned()
    }
}
