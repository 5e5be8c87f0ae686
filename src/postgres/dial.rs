//! One login with one token: hosts and their addresses are tried in turn.
//!
//! As libpq does it (PostgreSQL documentation, "Specifying Multiple Hosts"): a
//! host that cannot be reached, or is not what `target_session_attrs` wants,
//! gives way to the next, and so does one that is silent for too long; one that
//! refuses the login does not. tokio-postgres,
//! given all hosts at once, would go on after a refusal and report what the
//! last host said.

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
    error::broke_off,
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
    // As limited as the connect, for a cancellation that the application sends.
    let dialling = session.get_connect_timeout().copied().unwrap_or(config.connect_timeout);
    session.user(user).connect_timeout(dialling);
    let mut hosts: Vec<&Host> = config.hosts.iter().collect();
    let in_random_order = session.get_load_balance_hosts() == LoadBalanceHosts::Random;
    if in_random_order {
        fastrand::shuffle(&mut hosts);
    }

    let mut kept = None;
    // The failure that is returned where each place has one: the last of those with the best
    // prospects. It is in `attempt`, in case the last place takes all the time that is left.
    let mut failed = |error: Error| {
        tracing::debug!(error = &error as &dyn std::error::Error, "not connected");
        let outlook = outlook(&error, config.hosts.len() > 1, attempt.known);
        if kept.is_none_or(|kept| kept <= outlook) {
            kept = Some(outlook);
            attempt.failed(error);
        }
    };
    for (at, host) in hosts.iter().enumerate() {
        attempt.turned_to(&host.to_string());
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
            // Moved about, it is large.
            let trying = Box::pin(try_one(&session, token, host, *address, driver, attempt));
            match within_share(&**clock, attempt, places, trying).await {
                Err(error) if !matches!(error, Error::LoginRefused { .. }) => failed(error),
                outcome => return outcome,
            }
        }
    }
    match attempt.take().failed {
        Some(failure) => Err(failure),
        None => unreachable!("there is a host at least, and each fails in one way or another"),
    }
}

/// Runs `future` within its share of the time that is left, where `places` are not tried yet:
/// a server that drops packets, or accepts and is silent, must leave time for the others.
async fn within_share<T>(
    clock: &dyn Clock,
    attempt: &Attempt<Error>,
    places: usize,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    if places == 1 {
        // The connect's own time limit is at work.
        return future.await;
    }
    let places = u32::try_from(places).unwrap_or(u32::MAX);
    let limit = attempt.left(clock.monotonic()) / places;
    clock::timeout(clock, limit, future).await.unwrap_or_else(|Elapsed| {
        let (stage, server) = attempt.position();
        Err(Error::TimedOut { server, limit, stage, source: None })
    })
}

/// Where the host is: one address at least.
async fn addresses(host: &Host, in_random_order: bool) -> Result<Vec<IpAddr>, Error> {
    if let Some(address) = host.address {
        return Ok(vec![address]);
    }
    let unresolved = |source| Error::Resolve { server: host.to_string(), source };
    let found = tokio::net::lookup_host((host.name.as_str(), host.port)).await;
    let mut found: Vec<_> = found.map_err(unresolved)?.map(|address| address.ip()).collect();
    if found.is_empty() {
        return Err(unresolved(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
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
    // Only here: tokio-postgres drops a configuration without overwriting its password.
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
            let error = replay::fit(error, &attempt.sent);
            if stage == Stage::Negotiate && !broke_off(&error) {
                // tokio-postgres does not return an answer other than `S`.
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

/// An error of the server in bytes, at most.
const LONGEST_ERROR: u64 = 8 * 1024;

/// `SSLRequest` (PostgreSQL documentation, "Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// An overloaded server answers the request for TLS with an error. Asks again, to read it: `None`
/// if the answer is another one.
async fn ask_again(address: (IpAddr, u16), login: &str, attempt: &Attempt<Error>) -> Option<Error> {
    let mut socket = TcpStream::connect(address).await.ok()?;
    socket.write_all(&SSL_REQUEST).await.ok()?;
    let mut answer = vec![0];
    socket.read_exact(&mut answer).await.ok().filter(|_| answer == *b"E")?;
    // The server closes the connection then, which may also end with an error.
    let _ = socket.take(LONGEST_ERROR).read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(answer[1..].split(|byte| *byte == 0).next()?).into_owned();
    let said = replay::play(Ok(answer));
    let said = match said.as_db_error() {
        Some(_) => said,
        // A server that cannot start another process has text alone (protocol 2).
        None if text.trim().is_empty() => return None,
        None => replay::server_error(&[(b'S', "FATAL"), (b'C', "53300"), (b'M', &text)]),
    };
    let source = replay::fit(said, &attempt.sent);
    let remedy = advice::remedy(source.as_db_error()?, login);
    let unproven = "The server sent this before TLS was set up, so its sender is not verified.";
    let advice = advice::after_reason(format!("{remedy} {unproven}").trim_start());
    Some(Error::Login { login: login.to_owned(), advice, source })
}

/// What an error means, by how far the attempt had come.
fn classified(error: tokio_postgres::Error, login: String, attempt: &Attempt<Error>) -> Error {
    let (stage, server) = attempt.position();
    match stage {
        Stage::Token | Stage::Resolve | Stage::Dial => Error::Dial { server, source: error },
        Stage::Negotiate | Stage::Tls if broke_off(&error) => {
            Error::ConnectionLost { server, stage, source: error }
        }
        Stage::Negotiate => Error::EncryptionDeclined { server },
        Stage::Tls => Error::Tls { server, source: error },
        // The rest is the login.
        _ => Error::of_login(login, error),
    }
}
