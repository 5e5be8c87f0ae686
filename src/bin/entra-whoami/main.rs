//! `entra-whoami` logs in to a database and reports each step. If a step fails, it prints what to
//! do.

mod database;
mod report;
mod watch;

use std::{error::Error, io::IsTerminal, num::NonZeroU16, process::ExitCode, time::Duration};

use clap::Parser;
use entra_pool::{
    clock::{Clock, SystemClock},
    token::{Identity, Token},
};

use database::Target;
use report::{Report, messages};

/// Logs in to Azure SQL or Azure Database for PostgreSQL and reports each step:
/// the token and its claims (never the token itself), the server's address, the TCP
/// connection, the certificate, the login, and the session's database and user.
/// The first step that fails is explained.
///
/// Exit codes:
///   0  every step passed
///   1  a step failed
///   2  the arguments, or the environment's identity, cannot be used
///
/// Examples:
///   entra-whoami
///   entra-whoami shop.database.windows.net
///   entra-whoami 'Server=tcp:shop.database.windows.net;Database=orders'
///   entra-whoami 'postgres://shop.postgres.database.azure.com/restaurant'
#[derive(Debug, Parser)]
#[command(name = "entra-whoami", version, verbatim_doc_comment)]
struct Arguments {
    /// A connection string in any form that entra-pool reads, or a host name. Without it,
    /// only a token for Azure SQL is requested
    target: Option<String>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// The time limit for each of the token, the connect and the query. Default: 30 for the
    /// token, that of the connection string for the connect (or 15), 15 for the query
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<NonZeroU16>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let limit = arguments.timeout.map(|seconds| Duration::from_secs(seconds.get().into()));
    let target = match Target::parse(arguments.target.as_deref(), limit) {
        Ok(target) => target,
        Err(error) => {
            eprintln!("error: {}", messages(&*error).join("\n  because: "));
            return ExitCode::from(2);
        }
    };
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let report = Report::new(arguments.json, std::io::stdout().is_terminal() && !no_color);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime of one thread needs no more than a few files");
    let outcome = runtime.block_on(check(target, limit, &report));
    // If the name server does not respond, a thread remains blocked. This does not wait for it.
    runtime.shutdown_background();
    report.finish(outcome)
}

async fn check(
    target: Target,
    limit: Option<Duration>,
    report: &Report,
) -> Result<(), Box<dyn Error>> {
    let seconds = |default| limit.unwrap_or(Duration::from_secs(default));
    let identity = Identity::builder(target.credential).wait_timeout(seconds(30)).build();
    let tokens = identity.tokens(target.scope);
    report.plan(match target.database {
        Some(_) => &["token", "resolve", "tcp", "tls", "login", "query"],
        None => &["token"],
    });
    let token = tokens.token().await;
    report.note("identity", identity.name());
    let token = token?;
    describe(&token, report);
    report.passed("token");
    match target.database {
        Some(database) => {
            let _watched = tracing::subscriber::set_default(watch::Stages(report.clone()));
            database.log_in(tokens, seconds(15), report).await
        }
        None => Ok(()),
    }
}

fn describe(token: &Token, report: &Report) {
    let claims = token.claims().unwrap_or_default();
    let name = claims.principal_name().map(str::to_owned);
    for (label, claim) in [
        ("principal", &name),
        ("object ID", &claims.object_id),
        ("client ID", &claims.application_id),
        ("tenant", &claims.tenant_id),
        ("audience", &claims.audience),
    ] {
        report.note(label, claim.as_deref().unwrap_or("not in the token"));
    }
    let minutes = token.remaining(SystemClock::new().wall()).as_secs() / 60;
    report.note("lifetime", format!("{} h {} min", minutes / 60, minutes % 60));
}
