//! The live suite: a program with checks that only real servers can confirm.
//!
//! `ENTRA_POOL_LIVE_AZURE_SQL` and `ENTRA_POOL_LIVE_POSTGRES` are connection strings for `pool`,
//! which select the identity. One variable is enough. Without either, the same checks run against
//! the emulator and PostgreSQL on this machine; checks that need Azure are then listed as
//! skipped.
//!
//! `tests/live/run` creates the servers, runs this program, and deletes the servers. RELEASING.md
//! states when to run it.
#![allow(clippy::disallowed_methods)] // Real servers run in real time.

use std::{
    error::Error,
    fmt::Display,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use entra_pool::{
    credential::{
        Application, AzureCli, AzureDeveloperCli, Environment, ManagedIdentity, UserAssignedId,
    },
    token::{
        CredentialError, CredentialErrorKind, Identity, Scope, Token, TokenCredential, TokenError,
        TokenRequest,
    },
};

mod azure_sql;
mod local;
mod postgres;
#[cfg(unix)]
#[path = "../support/mod.rs"]
mod support;

/// The longest that one check may take.
const LIMIT: Duration = Duration::from_secs(120);

type Checked = Result<Outcome, Box<dyn Error + Send + Sync>>;

/// The outcome of a check that did not fail.
enum Outcome {
    /// The check passed, with a figure or fact to print.
    Passed(String),
    /// The check was skipped, with the reason.
    Skipped(String),
}

fn passed(detail: impl Display) -> Checked {
    Ok(Outcome::Passed(detail.to_string()))
}

fn skipped(reason: impl Display) -> Checked {
    Ok(Outcome::Skipped(reason.to_string()))
}

/// Fails the check with this description unless the condition holds.
fn ensure(holds: bool, found: impl Display) -> Result<(), Box<dyn Error + Send + Sync>> {
    if holds { Ok(()) } else { Err(found.to_string().into()) }
}

/// Runs checks and counts their outcomes.
struct Suite {
    passed: u32,
    skipped: u32,
    failed: u32,
    /// Whether the servers run in Azure, instead of on this machine.
    azure: bool,
}

impl Suite {
    async fn check(&mut self, name: &str, check: impl Future<Output = Checked>) {
        let began = Instant::now();
        let outcome = match tokio::time::timeout(LIMIT, check).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("not finished after {LIMIT:?}").into()),
        };
        let took = began.elapsed().as_secs_f64();
        match outcome {
            Ok(Outcome::Passed(detail)) => {
                self.passed += 1;
                println!("pass {name} ({took:.2} s) {detail}");
            }
            Ok(Outcome::Skipped(reason)) => {
                self.skipped += 1;
                println!("skip {name}: {reason}");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAIL {name} ({took:.2} s): {}", causes(&*error));
            }
        }
    }

    /// Like [`check`](Self::check), for checks that need Azure.
    async fn azure_check(&mut self, name: &str, check: impl Future<Output = Checked>) {
        if self.azure {
            self.check(name, check).await;
        } else {
            self.check(name, async { skipped("only possible in Azure") }).await;
        }
    }
}

/// Formats the error and its causes in one line.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Returns the credentials that this machine may have. Unavailable ones are skipped.
fn credentials(environment: &Environment) -> Vec<(&'static str, Option<Arc<dyn TokenCredential>>)> {
    let mut found: Vec<(_, Option<Arc<dyn TokenCredential>>)> = Vec::new();
    let system = ManagedIdentity::system_assigned().environment(environment.clone()).probe(true);
    found.push(("system-assigned identity", system.build().ok().map(|it| Arc::new(it) as _)));
    let user_assigned = std::env::var("AZURE_CLIENT_ID").ok().and_then(|id| {
        let identity = ManagedIdentity::user_assigned(UserAssignedId::ClientId(id));
        identity.environment(environment.clone()).probe(true).build().ok()
    });
    found.push(("user-assigned identity", user_assigned.map(|it| Arc::new(it) as _)));
    let workload = || {
        let variable = |name| std::env::var(name).ok();
        let application =
            Application::new(variable("AZURE_TENANT_ID")?, variable("AZURE_CLIENT_ID")?);
        application.ok()?.workload_identity(variable("AZURE_FEDERATED_TOKEN_FILE")?).ok()
    };
    found.push(("workload identity", workload().map(|it| Arc::new(it) as _)));
    found.push(("Azure CLI", Some(Arc::new(AzureCli::new()))));
    found.push(("Azure Developer CLI", Some(Arc::new(AzureDeveloperCli::new()))));
    found
}

/// Returns the reason if the credential is not available on this machine.
async fn is_missing(identity: &Identity, scope: &Scope) -> Option<String> {
    match identity.tokens(scope.clone()).token().await {
        Err(TokenError::Credential { source, .. })
            if source.kind() == CredentialErrorKind::Unavailable =>
        {
            Some(source.to_string())
        }
        _ => None,
    }
}

/// Requests tokens for another audience than the database's.
#[derive(Debug)]
struct ForAnotherAudience(Identity);

#[async_trait]
impl TokenCredential for ForAnotherAudience {
    async fn get_token(&self, _: TokenRequest) -> Result<Token, CredentialError> {
        let scope = Scope::new("https://management.azure.com/.default").unwrap();
        let failed = |error: TokenError| {
            CredentialError::new(CredentialErrorKind::Unavailable, error.to_string())
        };
        self.0.tokens(scope).token().await.map_err(failed)
    }

    fn name(&self) -> String {
        "test credential".to_owned()
    }
}

/// Returns the median of `count` measurements.
async fn median<T, E>(
    count: usize,
    mut measured: impl AsyncFnMut() -> Result<T, E>,
) -> Result<Duration, E> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        measured().await?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times[count / 2])
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let variable = |name| std::env::var(name).ok().filter(|it| !it.is_empty());
    let given = (variable("ENTRA_POOL_LIVE_AZURE_SQL"), variable("ENTRA_POOL_LIVE_POSTGRES"));
    let mut suite =
        Suite { passed: 0, skipped: 0, failed: 0, azure: given.0.is_some() || given.1.is_some() };
    runtime.block_on(async {
        if suite.azure {
            let environment = Environment::from_process();
            if let Some(string) = given.0 {
                let (config, credential) =
                    entra_pool::azure_sql::Config::parse_with_credential(&string).unwrap();
                azure_sql::run(&mut suite, config, Identity::new(credential), &environment).await;
            }
            if let Some(string) = given.1 {
                let (config, credential) =
                    entra_pool::postgres::Config::parse_with_credential(&string).unwrap();
                let server =
                    postgres::Server { config, string, identity: Identity::new(credential) };
                server.run(&mut suite, &environment).await;
            }
        } else {
            println!("ENTRA_POOL_LIVE_AZURE_SQL and ENTRA_POOL_LIVE_POSTGRES are not set: the");
            println!("checks run against the emulator and PostgreSQL on this machine.");
            local::run(&mut suite).await;
        }
    });
    println!("{} passed, {} skipped, {} failed", suite.passed, suite.skipped, suite.failed);
    if suite.failed == 0 && suite.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
