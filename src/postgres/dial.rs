//! One login with one token: hosts and their addresses are tried in turn.
//!
//! As libpq does it (PostgreSQL documentation, "Specifying Multiple Hosts"): a
//! host that cannot be reached, or is not what `target_session_attrs` wants,
//! gives way to the next; one that refuses the login does not. tokio-postgres,
//! given all hosts at once, would go on after a refusal and report what the
//! last host said.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio_postgres::Client;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Config, Connection, Error, Stage,
    config::Host,
    error::is_refusal,
    tls::{Progress, Watched},
};
use crate::token::Token;

pub(super) async fn log_in(
    config: &Config,
    tls: &MakeRustlsConnect,
    user: &str,
    token: &Token,
    progress: &Progress,
) -> Result<(Client, Connection), Error> {
    let mut session = config.session.clone();
    session.user(user).password(token.secret());
    let mut hosts: Vec<&Host> = config.hosts.iter().collect();
    if config.in_random_order() {
        fastrand::shuffle(&mut hosts);
    }

    let mut failure = None;
    for host in &hosts {
        let place = format!("{}:{}", host.name, host.port);
        progress.dialling(place.clone());
        let addresses = addresses(host, config.in_random_order()).await;
        // One that swallows packets must leave time for the others.
        let places = u32::try_from(hosts.len() * addresses.len()).unwrap_or(u32::MAX);
        let limit = config.connect_timeout / places.max(1);
        for address in addresses {
            progress.dialling(place.clone());
            let outcome = try_one(&session, host, address, limit, tls, progress).await;
            let error = match outcome {
                Ok(connected) => return Ok(connected),
                Err(error) => judged(error, progress),
            };
            if matches!(error, Error::LoginRefused(_)) {
                return Err(error);
            }
            tracing::debug!(host = %place, address = ?address, %error, "not connected");
            failure = Some(error);
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None => unreachable!("there is one host, and at least one attempt for each"),
    }
}

/// Where the host is; `None` stands for a look-up that failed, which the
/// attempt will report.
async fn addresses(host: &Host, in_random_order: bool) -> Vec<Option<IpAddr>> {
    if host.address.is_some() {
        return vec![host.address];
    }
    let found: io::Result<Vec<SocketAddr>> =
        tokio::net::lookup_host((host.name.as_str(), host.port)).await.map(Iterator::collect);
    let mut found: Vec<_> =
        found.unwrap_or_default().into_iter().map(|address| Some(address.ip())).collect();
    if in_random_order {
        fastrand::shuffle(&mut found);
    }
    if found.is_empty() { vec![None] } else { found }
}

async fn try_one(
    session: &tokio_postgres::Config,
    host: &Host,
    address: Option<IpAddr>,
    limit: Duration,
    tls: &MakeRustlsConnect,
    progress: &Progress,
) -> Result<(Client, Connection), tokio_postgres::Error> {
    let mut one = session.clone();
    one.host(&host.name).port(host.port).connect_timeout(limit);
    if let Some(address) = address {
        one.hostaddr(address);
    }
    one.connect(Watched { tls: tls.clone(), progress: progress.clone() }).await
}

/// What an error means, by how far the attempt had come.
fn judged(error: tokio_postgres::Error, progress: &Progress) -> Error {
    let (stage, server) = progress.get();
    match stage {
        Stage::Token | Stage::Dial => Error::Dial { server, source: error },
        Stage::Tls => Error::Tls { server, source: error },
        Stage::Login if is_refusal(&error) => Error::LoginRefused(error),
        Stage::Login => Error::Login(error),
    }
}
