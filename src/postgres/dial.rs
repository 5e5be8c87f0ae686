//! One login with one token: hosts and their addresses are tried in turn.
//!
//! As libpq does it (PostgreSQL documentation, "Specifying Multiple Hosts"): a
//! host that cannot be reached, or is not what `target_session_attrs` wants,
//! gives way to the next; one that refuses the login does not. tokio-postgres,
//! given all hosts at once, would go on after a refusal and report what the
//! last host said.

use std::{io, net::IpAddr, time::Duration};

use tokio_postgres::Client;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Config, Connection, Error, Stage,
    config::Host,
    error::{broke_off, is_refusal},
    progress::Progress,
    tls::Watched,
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
        let server = host.to_string();
        progress.turned_to(&server);
        let addresses = match addresses(host, config.in_random_order()).await {
            Ok(addresses) => addresses,
            Err(source) => {
                tracing::debug!(server, error = %source, "not resolved");
                failure = Some(Error::Resolve { server, source });
                continue;
            }
        };
        // One that swallows packets must leave time for the others.
        let places = u32::try_from(hosts.len() * addresses.len()).unwrap_or(u32::MAX);
        let limit = config.connect_timeout / places.max(1);
        for address in addresses {
            progress.reached(Stage::Dial);
            let outcome = try_one(&session, host, address, limit, tls, progress).await;
            let error = match outcome {
                Ok(connected) => return Ok(connected),
                Err(error) => judged(error, progress),
            };
            if matches!(error, Error::LoginRefused(_)) {
                return Err(error);
            }
            tracing::debug!(server, %address, error = &error as &dyn std::error::Error, "not connected");
            failure = Some(error);
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None => unreachable!("there is a host at least, and each fails in one way or another"),
    }
}

/// Where the host is: one address at least.
async fn addresses(host: &Host, in_random_order: bool) -> io::Result<Vec<IpAddr>> {
    if let Some(address) = host.address {
        return Ok(vec![address]);
    }
    let found = tokio::net::lookup_host((host.name.as_str(), host.port)).await?;
    let mut found: Vec<_> = found.map(|address| address.ip()).collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
    }
    if in_random_order {
        fastrand::shuffle(&mut found);
    }
    Ok(found)
}

async fn try_one(
    session: &tokio_postgres::Config,
    host: &Host,
    address: IpAddr,
    limit: Duration,
    tls: &MakeRustlsConnect,
    progress: &Progress,
) -> Result<(Client, Connection), tokio_postgres::Error> {
    let mut one = session.clone();
    one.host(&host.name).hostaddr(address).port(host.port).connect_timeout(limit);
    one.connect(Watched { tls: tls.clone(), progress: progress.clone() }).await
}

/// What an error means, by how far the attempt had come.
fn judged(error: tokio_postgres::Error, progress: &Progress) -> Error {
    let (stage, server) = progress.get();
    match stage {
        Stage::Token | Stage::Resolve | Stage::Dial => Error::Dial { server, source: error },
        Stage::SslRequest | Stage::Tls if broke_off(&error) => {
            Error::Broken { server, stage, source: error }
        }
        Stage::SslRequest => Error::EncryptionDeclined { server },
        Stage::Tls => Error::Tls { server, source: error },
        Stage::Login if is_refusal(&error) => Error::LoginRefused(error),
        Stage::Login => Error::Login(error),
    }
}
