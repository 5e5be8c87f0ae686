//! Starts an application as a process, as its users do, against an emulator that the
//! test controls.
//!
//! Whatever goes wrong here fails the test that called it: it panics.
#![allow(clippy::expect_used, clippy::panic)]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use entra_pool::{
    azure_sql,
    credential::{Environment, from_environment},
    token::Identity,
};
use entra_pool_emulator::emulator::{Emulator, EmulatorOptions};
use reqwest::{Method, StatusCode, header::HeaderMap};

/// What the application lives in: the emulator, and a pool of the test's own.
pub struct World {
    /// The stand-ins.
    pub emulator: Emulator,
    pool: azure_sql::Pool,
}

impl World {
    /// Starts the emulator, and runs this script in Azure SQL.
    pub async fn new(script: &str) -> Self {
        let emulator = Emulator::start(EmulatorOptions::default()).await.expect("it starts");
        let environment = Environment::from_pairs(emulator.env());
        let identity = Identity::new(from_environment(environment).expect("it is complete"));
        let pool = azure_sql::connect_with(&identity, &emulator.azure_sql_string());
        let world = Self { pool: pool.expect("the string is right"), emulator };
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

    /// A connection string of the user-assigned identity, which gives up after 2 s;
    /// more keywords may be put behind it.
    #[must_use]
    pub fn azure_sql_string(&self, authentication: &str) -> String {
        let string = self.emulator.azure_sql_string();
        format!("{string};Connect Timeout=2;Authentication={authentication}")
    }

    /// Azure SQL goes away: its connections break, and new ones are refused.
    pub async fn azure_sql_goes_away(&self) {
        let server = self.emulator.azure_sql();
        server.refuse_connections(true).await.expect("it runs");
        server.behaviour().cut_connections();
    }

    /// Azure SQL takes connections again.
    pub async fn azure_sql_comes_back(&self) {
        self.emulator.azure_sql().refuse_connections(false).await.expect("the port is free");
    }
}

/// A running application; killed, by its ID, when this goes.
pub struct Application {
    process: Child,
    reader: Option<JoinHandle<()>>,
    log: Arc<Mutex<String>>,
    client: reqwest::Client,
    address: String,
}

/// What the application answered.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, which is text.
    pub text: String,
}

impl Application {
    /// Starts `program`, which is `env!("CARGO_BIN_EXE_NAME")`, with this environment
    /// and no other, on a free port, and waits until it listens.
    pub async fn start(
        program: &str,
        environment: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        let mut process = Command::new(program)
            .env_clear()
            .env("LISTEN", "127.0.0.1:0")
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was built");
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        let (found, address) = mpsc::channel();
        let log = Arc::new(Mutex::new(String::new()));
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in output.lines().map_while(Result::ok) {
                    if let Some((_, address)) = line.split_once("listening on http://") {
                        // In JSON the message ends with a quote.
                        let address = address.split('"').next().unwrap_or_default();
                        let _ = found.send(format!("http://{address}"));
                    }
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        let address =
            tokio::task::spawn_blocking(move || address.recv_timeout(Duration::from_secs(60)).ok());
        let address = address.await.expect("it does not panic");
        let client = reqwest::Client::builder().no_proxy().build().expect("it has TLS");
        let mut application =
            Self { process, reader: Some(reader), log, client, address: String::new() };
        match address {
            Some(address) => application.address = address,
            None => panic!("it does not listen: {}", application.log()),
        }
        application
    }

    /// Where it is: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        if !content_type.is_empty() {
            request = request.header("content-type", content_type).body(body.into());
        }
        let response = request.send().await.unwrap_or_else(|error| {
            panic!("{path}: {error:?}; it has logged: {}", self.log());
        });
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, text: response.text().await.expect("it ends") }
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
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().expect("there is a kill");
        assert!(sent.success(), "it has ended before: {}", self.log());
    }

    /// Waits for its end, for 30 s at most; gives the exit status and the log.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        for _ in 0..300 {
            if let Some(status) = self.process.try_wait().expect("it is our child") {
                let reader = self.reader.take().expect("nobody else takes it");
                reader.join().expect("it does not panic");
                return (status, self.log());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("it does not end: {}", self.log());
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
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
