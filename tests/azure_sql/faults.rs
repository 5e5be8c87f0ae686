//! Network faults at every packet: the caller gets a typed error within the time limit, the pool
//! works afterwards, and nothing leaks.

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

/// The time limit of the probe of an idle connection.
const PROBE: Duration = Duration::from_secs(5);

/// A server behind a network that breaks.
struct World {
    shop: Shop,
    server: AzureSqlServer,
    network: Network,
    /// Part of all connection strings.
    keywords: &'static str,
    /// The number of the runtime's tasks without a connection.
    tasks: usize,
}

/// The outcome of using the pool.
#[derive(Debug)]
enum Outcome {
    Fine,
    /// No connection.
    Pool(PoolError),
    /// A connection, but a failed query.
    Query(tiberius::error::Error),
    /// A query without a response was dropped.
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
        // From now on, the token is cached and the HTTP connection that fetched it is open.
        let (pool, connector) = world.pool(Recycling::Fast);
        assert!(matches!(use_twice(&pool).await, Outcome::Fine));
        drop((pool, connector));
        world.quiet().await;
        until(|| world.network.counters().open + world.server.counters().open_connections == 0)
            .await;
        world.tasks = alive_tasks();
        world
    }

    /// A pool of one connection, without a TLS session to resume.
    fn pool(&self, recycling: Recycling) -> (Pool, Connector) {
        let port = self.network.addr().port();
        let connector = self.shop.connector_to("127.0.0.1", port, self.keywords);
        let connector = recycled(&connector, recycling);
        (pool(&connector, 1), connector)
    }

    /// The number of packets in each direction when a pool is used without faults.
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

    /// Waits until the network appears to be idle.
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

    /// Uses the pool while every connection has `fault`. Advances the clock while the caller waits.
    async fn disturbed(&self, pool: &Pool, fault: Fault) -> Outcome {
        let faults = self.network.counters().faults;
        self.network.disturb(usize::MAX, fault);
        let outcome = self.wait(use_twice(pool), |clock| {
            if self.network.counters().faults == faults {
                return Wait::Continue;
            }
            match (fault.act, clock.next_wake()) {
                (Act::Stall, None) => Wait::GiveUp,
                (Act::Stall, Some(_)) => Wait::Advance,
                // The time limit, and the pause before a retry.
                (_, Some(pause)) if pause < PROBE * 2 && clock.sleepers() == 2 => Wait::Advance,
                _ => Wait::Continue,
            }
        });
        let outcome = outcome.await;
        self.network.calm();
        outcome
    }

    /// Uses the pool while the network works. A connection that has stalled before delays the
    /// checkout by the time limit of the probe. Without a probe, it costs its borrower one query.
    async fn undisturbed(&self, pool: &Pool, recycling: Recycling) -> Outcome {
        let outcome = self.wait(use_twice(pool), |clock| match clock.next_wake() {
            Some(PROBE) => Wait::Advance,
            None if recycling == Recycling::Fast => Wait::GiveUp,
            _ => Wait::Continue,
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
                (Wait::Advance, Some(time)) => self.shop.clock.advance(time),
                (Wait::GiveUp, _) => return Outcome::GivenUp,
                _ => {}
            }
        }
    }

    /// Checks that no socket and no task is left on either side.
    async fn assert_nothing_left(&self, case: &str) {
        until(|| self.network.counters().open + self.server.counters().open_connections == 0).await;
        until(|| alive_tasks() <= self.tasks).await;
        assert_eq!(self.shop.clock.sleepers(), 0, "{case}");
    }
}

/// What to do when using the pool makes no progress.
enum Wait {
    Continue,
    /// Advance the clock to the next wake-up.
    Advance,
    GiveUp,
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Checks out a connection and runs a query whose request and response have several packets; then
/// again, on the same connection if it still works.
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

/// Names the outcome, which a caller must be able to recognize and handle.
fn kind(outcome: &Outcome, act: Act, case: &str) -> &'static str {
    let stalled = act == Act::Stall;
    match outcome {
        // The fault came after everything that was needed.
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

async fn break_at_each_packet(
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
                let case = format!("{act:?} after packet {packet} of {packets} to {towards:?}");
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
async fn a_connection_that_breaks_at_any_packet_with_tls_1_3_clean() {
    break_at_each_packet(&rustls::version::TLS13, "", Recycling::Clean).await;
}

#[tokio::test]
async fn a_connection_that_breaks_at_any_packet_with_tls_1_3_fast() {
    break_at_each_packet(&rustls::version::TLS13, "", Recycling::Fast).await;
}

#[tokio::test]
async fn a_connection_that_breaks_at_any_packet_with_tls_1_2_clean() {
    break_at_each_packet(&rustls::version::TLS12, "", Recycling::Clean).await;
}

#[tokio::test]
async fn a_connection_that_breaks_at_any_packet_with_tls_1_2_fast() {
    break_at_each_packet(&rustls::version::TLS12, "", Recycling::Fast).await;
}

/// TDS 8.0.
const STRICT: &str = "Encrypt=Strict";

#[tokio::test]
async fn a_connection_that_breaks_at_any_packet_strict_with_tls_1_3_clean() {
    break_at_each_packet(&rustls::version::TLS13, STRICT, Recycling::Clean).await;
}

#[tokio::test]
async fn a_connection_that_breaks_at_any_packet_strict_with_tls_1_2_fast() {
    break_at_each_packet(&rustls::version::TLS12, STRICT, Recycling::Fast).await;
}

#[tokio::test]
async fn strict_encryption_sends_nothing_in_plain_text() {
    for keywords in [STRICT, "Encrypt=Mandatory"] {
        let world = World::open(&rustls::version::TLS13, keywords).await;
        world.network.record(true);
        let (pool, connector) = world.pool(Recycling::Clean);
        assert!(matches!(use_twice(&pool).await, Outcome::Fine));
        drop((pool, connector));
        until(|| world.network.counters().open == 0).await;
        let recording = world.network.take_recordings().pop().unwrap();
        for sent in [&recording.to_server, &recording.to_client] {
            // The first byte distinguishes a TLS record from a packet.
            let mut starts = [0].into_iter().chain(packet_borders(sent));
            let bare = starts.any(|at| sent.get(at).is_some_and(|kind| *kind < 20));
            assert_eq!(bare, keywords != STRICT, "{keywords}");
        }
    }
}
