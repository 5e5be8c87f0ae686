//! Whatever breaks, and wherever it breaks: an error of a type within the time
//! limit, a pool that works afterwards, and nothing that is left behind.

use std::{collections::BTreeMap, time::Duration};

use entra_pool::{
    azure_sql::{Connector, Error, LoginError, Pool, PoolError, Recycling, tiberius},
    clock::{Clock, ManualClock},
};
use entra_pool_emulator::{
    azure_sql::AzureSqlServer,
    network::{Act, After, Fault, Network, Towards},
};
use tokio::{runtime::Handle, task::yield_now};

use crate::{Shop, borders::packet_borders, pool, recycled, until};

/// `Connect Timeout`'s default.
const CONNECT: Duration = Duration::from_secs(15);

/// So long the probe of an idle connection is waited for.
const PROBE: Duration = Duration::from_secs(5);

/// A server behind a network that breaks.
struct World {
    shop: Shop,
    server: AzureSqlServer,
    network: Network,
    /// Of all connection strings.
    keywords: &'static str,
    /// Tasks of this runtime while nobody is connected.
    tasks: usize,
}

/// How a use of the pool went.
#[derive(Debug)]
enum Outcome {
    Fine,
    /// No connection.
    Pool(PoolError),
    /// A connection, but no answer.
    Query(tiberius::error::Error),
    /// A query whose answer does not come was dropped.
    GivenUp,
}

impl World {
    async fn open(tls: &'static rustls::SupportedProtocolVersion, keywords: &'static str) -> Self {
        let shop = Shop::open().await;
        let certificate = shop.emulator.authority().issue(&["127.0.0.1"]).unwrap();
        let tls = certificate.server_config_for(&[tls]).unwrap();
        let server = shop.another_server("127.0.0.1", |options| options.endpoint.tls = tls).await;
        let network = Network::to(server.addr()).unwrap();
        let mut world = Self { shop, server, network, keywords, tasks: 0 };
        // The token is there from now on, and the HTTP connection that brought it.
        let (pool, connector) = world.pool(Recycling::Fast);
        assert!(matches!(use_twice(&pool).await, Outcome::Fine));
        drop((pool, connector));
        world.quiet().await;
        until(|| world.network.counters().open + world.server.counters().open_connections == 0)
            .await;
        world.tasks = alive_tasks();
        world
    }

    /// A pool of one, with no TLS session to resume.
    fn pool(&self, recycling: Recycling) -> (Pool, Connector) {
        let port = self.network.addr().port();
        let connector = self.shop.connector_to("127.0.0.1", port, self.keywords);
        let connector = recycled(&connector, recycling);
        (pool(&connector, 1), connector)
    }

    /// How many packets an undisturbed use of a pool takes in either direction.
    async fn packets(&self, recycling: Recycling) -> [(Towards, usize); 2] {
        self.network.record(true);
        let (pool, connector) = self.pool(recycling);
        assert!(matches!(use_twice(&pool).await, Outcome::Fine));
        drop((pool, connector));
        until(|| self.network.counters().open == 0).await;
        self.network.record(false);
        let recording = self.network.take_recordings().pop().unwrap();
        [(Towards::Server, recording.to_server), (Towards::Client, recording.to_client)]
            .map(|(towards, sent)| (towards, packet_borders(&sent).len()))
    }

    /// Nothing comes and goes any more, as far as can be seen.
    async fn quiet(&self) {
        loop {
            let before = self.network.counters();
            for _ in 0..500 {
                yield_now().await;
            }
            if self.network.counters() == before {
                return;
            }
        }
    }

    /// Uses the pool while every connection has `fault`, and lets the time pass
    /// that its user would wait.
    async fn disturbed(&self, pool: &Pool, fault: Fault) -> Outcome {
        let faults = self.network.counters().faults;
        self.network.disturb(usize::MAX, fault);
        let outcome = self.wait(use_twice(pool), |clock| {
            if self.network.counters().faults == faults {
                return Wait::On;
            }
            match (fault.act, clock.next_wake()) {
                (Act::Stall, None) => Wait::GiveUp,
                (Act::Stall, Some(_)) => Wait::Pass,
                // The limit, and the pause before another try.
                (_, Some(pause)) if pause < PROBE * 2 && clock.sleepers() == 2 => Wait::Pass,
                _ => Wait::On,
            }
        });
        let outcome = outcome.await;
        self.network.calm();
        outcome
    }

    /// Uses the pool while the network is well. A connection that is silent since
    /// before is waited for as long as its probe lasts; without a probe it costs its
    /// borrower one query.
    async fn undisturbed(&self, pool: &Pool, recycling: Recycling) -> Outcome {
        let outcome = self.wait(use_twice(pool), |clock| match clock.next_wake() {
            Some(PROBE) => Wait::Pass,
            None if recycling == Recycling::Fast => Wait::GiveUp,
            _ => Wait::On,
        });
        match (outcome.await, recycling) {
            (Outcome::Query(_) | Outcome::GivenUp, Recycling::Fast) => use_twice(pool).await,
            (outcome, _) => outcome,
        }
    }

    async fn wait(
        &self,
        using: impl Future<Output = Outcome>,
        stuck: impl Fn(&ManualClock) -> Wait,
    ) -> Outcome {
        let mut using = std::pin::pin!(using);
        loop {
            tokio::select! {
                biased;
                outcome = &mut using => return outcome,
                () = self.quiet() => {}
            }
            match (stuck(&self.shop.clock), self.shop.clock.next_wake()) {
                (Wait::Pass, Some(time)) => self.shop.clock.advance(time),
                (Wait::GiveUp, _) => return Outcome::GivenUp,
                _ => {}
            }
        }
    }

    /// Sockets and tasks are gone on either side.
    async fn assert_nothing_left(&self, case: &str) {
        until(|| self.network.counters().open + self.server.counters().open_connections == 0).await;
        until(|| alive_tasks() <= self.tasks).await;
        assert_eq!(self.shop.clock.sleepers(), 0, "{case}");
    }
}

/// What to do with a use of the pool in which nothing moves.
enum Wait {
    On,
    /// Until the next thing happens by the clock.
    Pass,
    GiveUp,
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// A connection, a query of several packets with an answer of several; and once
/// more, on the same connection if it is still good.
async fn use_twice(pool: &Pool) -> Outcome {
    for word in ["first", "second"] {
        let mut connection = match pool.get().await {
            Ok(connection) => connection,
            Err(error) => return Outcome::Pool(error),
        };
        let long = word.repeat(1_000);
        let sql = format!("SELECT N'{long}' UNION ALL SELECT N'{word}'");
        let rows = async { connection.simple_query(sql).await?.into_first_result().await };
        match rows.await {
            Ok(rows) => {
                let rows: Vec<_> = rows.iter().map(|row| row.get::<&str, _>(0)).collect();
                assert_eq!(rows, [Some(long.as_str()), Some(word)]);
            }
            Err(error) => return Outcome::Query(error),
        }
    }
    Outcome::Fine
}

/// Names the outcome, which must be one that a caller can tell and act upon.
fn kind(outcome: &Outcome, act: Act, case: &str) -> &'static str {
    let stalled = act == Act::Stall;
    match outcome {
        // What was broken came behind all that was wanted.
        Outcome::Fine => "Fine",
        Outcome::GivenUp if stalled => "GivenUp",
        Outcome::Query(tiberius::error::Error::Io { .. }) if !stalled => "Query",
        Outcome::Pool(PoolError::Backend(error)) if error.is_transient() => match error {
            Error::TimedOut { .. } if stalled => "TimedOut",
            Error::ConnectionLost { .. } if !stalled => "Broken",
            Error::Login {
                source: LoginError::Driver(tiberius::error::Error::Io { .. }), ..
            } if !stalled => "Login",
            _ => panic!("{case}: {error:?}"),
        },
        _ => panic!("{case}: {outcome:?}"),
    }
}

async fn break_everywhere(
    tls: &'static rustls::SupportedProtocolVersion,
    keywords: &'static str,
    recycling: Recycling,
) {
    let world = World::open(tls, keywords).await;
    let clock = &world.shop.clock;
    let mut outcomes = BTreeMap::new();
    for (towards, packets) in world.packets(recycling).await {
        assert!(packets >= 10, "{packets} packets of a handshake, a login and two queries");
        for packet in 0..=packets {
            for act in [Act::Close, Act::Reset, Act::Stall] {
                let after = After::Packets(packet, packet_borders);
                let case = format!("{act:?} behind packet {packet} of {packets} to {towards:?}");
                let (pool, connector) = world.pool(recycling);
                let began = clock.monotonic();
                let outcome = world.disturbed(&pool, Fault { towards, after, act }).await;
                *outcomes.entry(kind(&outcome, act, &case)).or_insert(0) += 1;
                assert!(clock.monotonic() - began <= CONNECT + PROBE, "{case}: in time");
                let after = world.undisturbed(&pool, recycling).await;
                assert!(matches!(after, Outcome::Fine), "{case}: {after:?} after {outcome:?}");
                assert!(pool.status().size == 1 && pool.status().available == 1, "{case}");
                drop((pool, connector));
                world.assert_nothing_left(&case).await;
            }
        }
    }
    println!("{tls:?}, {recycling:?} {keywords}: {outcomes:?}");
    let seen: Vec<_> = outcomes.keys().copied().collect();
    assert_eq!(seen, ["Broken", "Fine", "GivenUp", "Login", "Query", "TimedOut"]);
}

#[tokio::test]
async fn a_connection_that_breaks_at_any_packet_with_tls_1_3_verified() {
    break_everywhere(&rustls::version::TLS13, "", Recycling::Clean).await;
}

#[tokio::test]
async fn a_connection_that_breaks_at_any_packet_with_tls_1_3_fast() {
    break_everywhere(&rustls::version::TLS13, "", Recycling::Fast).await;
}

#[tokio::test]
async fn a_connection_that_breaks_at_any_packet_with_tls_1_2_verified() {
    break_everywhere(&rustls::version::TLS12, "", Recycling::Clean).await;
}

#[tokio::test]
async fn a_connection_that_breaks_at_any_packet_with_tls_1_2_fast() {
    break_everywhere(&rustls::version::TLS12, "", Recycling::Fast).await;
}

/// TDS 8.0.
const STRICT: &str = "Encrypt=Strict";

#[tokio::test]
async fn a_connection_that_breaks_at_any_packet_strict_with_tls_1_3_verified() {
    break_everywhere(&rustls::version::TLS13, STRICT, Recycling::Clean).await;
}

#[tokio::test]
async fn a_connection_that_breaks_at_any_packet_strict_with_tls_1_2_fast() {
    break_everywhere(&rustls::version::TLS12, STRICT, Recycling::Fast).await;
}

#[tokio::test]
async fn nothing_is_in_plain_text_where_encryption_is_strict() {
    for keywords in [STRICT, "Encrypt=Mandatory"] {
        let world = World::open(&rustls::version::TLS13, keywords).await;
        world.network.record(true);
        let (pool, connector) = world.pool(Recycling::Clean);
        assert!(matches!(use_twice(&pool).await, Outcome::Fine));
        drop((pool, connector));
        until(|| world.network.counters().open == 0).await;
        let recording = world.network.take_recordings().pop().unwrap();
        for sent in [&recording.to_server, &recording.to_client] {
            // The first byte tells a TLS record from a packet.
            let mut starts = [0].into_iter().chain(packet_borders(sent));
            let bare = starts.any(|at| sent.get(at).is_some_and(|kind| *kind < 20));
            assert_eq!(bare, keywords != STRICT, "{keywords}");
        }
    }
}
