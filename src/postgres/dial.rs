//! Logs in with one token, and tries hosts and their addresses in turn.
//!
//! This behaves like libpq (PostgreSQL documentation, "Specifying Multiple Hosts"). If a host
//! cannot be reached, does not match `target_session_attrs`, or does not respond in time, the next
//! host is tried. If a host refuses the login, the login fails. tokio-postgres, given all hosts at
//! once, would continue after a refusal and return the last host's error.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_postgres::config::LoadBalanceHosts;

use super::{
    Error, Stage, advice,
    config::Host,
    driver::{Driver, LoggedIn, outlook},
    error::is_disconnect,
    link::Link,
    replay,
    tls::Watched,
};
use crate::{
    clock::{self, Clock, Elapsed},
    connect::Attempt,
    token::Token,
};

pub(super) async fn log_in(
    driver: &Driver,
    user: &str,
    token: &Token,
    attempt: &Attempt<Error>,
) -> Result<LoggedIn, Error> {
    let Driver { config, clock, .. } = driver;
    let mut session = config.session.clone();
    // tokio-postgres also applies this time limit to cancellations by the application.
    let dialling = session.get_connect_timeout().copied().unwrap_or(config.connect_timeout);
    session.user(user).connect_timeout(dialling);
    let mut hosts: Vec<&Host> = config.hosts.iter().collect();
    let in_random_order = session.get_load_balance_hosts() == LoadBalanceHosts::Random;
    if in_random_order {
        fastrand::shuffle(&mut hosts);
    }

    let mut kept = None;
    // If all addresses fail, the error that is most likely transient is returned, the last of
    // several. `attempt` keeps it, in case the connect times out at the last address.
    let mut failed = |error: Error| {
        tracing::debug!(error = &error as &dyn std::error::Error, "cannot connect");
        let outlook = outlook(&error, config.hosts.len() > 1, attempt.known);
        if kept.is_none_or(|kept| kept <= outlook) {
            kept = Some(outlook);
            attempt.failed(error);
        }
    };
    for (at, host) in hosts.iter().enumerate() {
        attempt.trying(&host.to_string());
        let others = hosts.len() - at - 1;
        let looking_up = addresses(host, in_random_order);
        let addresses = match within_share(&**clock, attempt, others + 1, looking_up).await {
            Ok(addresses) => addresses,
            Err(error) => {
                failed(error);
                continue;
            }
        };
        attempt.resolved(&addresses);
        for (at, address) in addresses.iter().enumerate() {
            attempt.reached(Stage::Dial);
            let places = addresses.len() - at + others;
            // Boxed, because it is large and moved several times.
            let trying = Box::pin(try_one(&session, token, host, *address, driver, attempt));
            match within_share(&**clock, attempt, places, trying).await {
                Err(error) if !matches!(error, Error::LoginRefused { .. }) => failed(error),
                outcome => return outcome,
            }
        }
    }
    match attempt.take().failed {
        Some(failure) => Err(failure),
        None => unreachable!("there is at least one host, and each attempt returned an error"),
    }
}

/// Runs `future` within its share of the remaining time, if `places` are still to be tried. A
/// server that drops packets or does not respond must leave time for the others.
async fn within_share<T>(
    clock: &dyn Clock,
    attempt: &Attempt<Error>,
    places: usize,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    if places == 1 {
        // The connect's own time limit applies.
        return future.await;
    }
    let places = u32::try_from(places).unwrap_or(u32::MAX);
    let limit = attempt.left(clock.monotonic()) / places;
    clock::timeout(clock, limit, future).await.unwrap_or_else(|Elapsed| {
        let (stage, server) = attempt.position();
        Err(Error::TimedOut { server, limit, stage, source: None })
    })
}

/// Returns the addresses of the host: at least one.
async fn addresses(host: &Host, in_random_order: bool) -> Result<Vec<IpAddr>, Error> {
    if let Some(address) = host.address {
        return Ok(vec![address]);
    }
    let unresolved = |source| Error::Resolve { server: host.to_string(), source };
    let found = tokio::net::lookup_host((host.name.as_str(), host.port)).await;
    let mut found: Vec<_> = found.map_err(unresolved)?.map(|address| address.ip()).collect();
    if found.is_empty() {
        return Err(unresolved(io::Error::new(io::ErrorKind::NotFound, "no address found")));
    }
    if in_random_order {
        fastrand::shuffle(&mut found);
    }
    Ok(found)
}

async fn try_one(
    session: &tokio_postgres::Config,
    token: &Token,
    host: &Host,
    address: IpAddr,
    driver: &Driver,
    attempt: &Attempt<Error>,
) -> Result<LoggedIn, Error> {
    let mut one = session.clone();
    // Set as late as possible, because tokio-postgres does not overwrite the password in memory
    // when it drops a configuration.
    one.password(token.secret()).host(host.certificate_name()).hostaddr(address).port(host.port);
    let link = Arc::new(Link::new(driver.clock.clone()));
    let watched =
        Watched { tls: driver.tls.clone(), attempt: Some(attempt.clone()), link: link.clone() };
    match one.connect(watched).await {
        Ok((client, connection)) => {
            link.logged_in();
            Ok((client, connection, link))
        }
        Err(error) => {
            let (stage, server) = attempt.position();
            let login = advice::login(&server, session.get_user().unwrap_or_default());
            let error = replay::redacted(error, &attempt.sent);
            if stage == Stage::Negotiate && !is_disconnect(&error) {
                // tokio-postgres drops a response other than `S`, which may be an error.
                let asking = ask_again((address, host.port), &login, attempt);
                if let Ok(Some(said)) = clock::timeout(&*driver.clock, ANSWER, asking).await {
                    return Err(said);
                }
            }
            Err(classified(error, login, attempt))
        }
    }
}

/// How long a server may take to repeat its error.
const ANSWER: Duration = Duration::from_secs(2);

/// The maximum size of a server's error, in bytes.
const LONGEST_ERROR: u64 = 8 * 1024;

/// `SSLRequest` (PostgreSQL documentation, "Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Sends the request for TLS again, to read the error with which an overloaded server responds to
/// it. Returns `None` if the response is not an error.
async fn ask_again(address: (IpAddr, u16), login: &str, attempt: &Attempt<Error>) -> Option<Error> {
    let mut socket = TcpStream::connect(address).await.ok()?;
    socket.write_all(&SSL_REQUEST).await.ok()?;
    let mut answer = vec![0];
    socket.read_exact(&mut answer).await.ok().filter(|_| answer == *b"E")?;
    // The server then closes the connection, which may also cause an error.
    let _ = socket.take(LONGEST_ERROR).read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(answer[1..].split(|byte| *byte == 0).next()?).into_owned();
    let said = replay::play(Ok(answer));
    let said = match said.as_db_error() {
        Some(_) => said,
        // A server that cannot start another process sends only text (protocol 2).
        None if text.trim().is_empty() => return None,
        None => replay::server_error(&[(b'S', "FATAL"), (b'C', "53300"), (b'M', &text)]),
    };
    let source = replay::redacted(said, &attempt.sent);
    let remedy = advice::remedy(source.as_db_error()?, login);
    let unproven = "The server sent this before TLS was set up, so its sender is not verified.";
    let advice = advice::after_reason(format!("{remedy} {unproven}").trim_start());
    Some(Error::Login { login: login.to_owned(), advice, source })
}

/// Classifies an error by the stage that the attempt had reached.
fn classified(error: tokio_postgres::Error, login: String, attempt: &Attempt<Error>) -> Error {
    let (stage, server) = attempt.position();
    match stage {
        Stage::Token | Stage::Resolve | Stage::Dial => Error::Dial { server, source: error },
        Stage::Negotiate | Stage::Tls if is_disconnect(&error) => {
            Error::ConnectionLost { server, stage, source: error }
        }
        Stage::Negotiate => Error::EncryptionDeclined { server },
        Stage::Tls => Error::Tls { server, source: error },
        // The remaining stages belong to the login.
        _ => Error::of_login(login, error),
    }
}
