//! Compares connections to PostgreSQL with bare tokio-postgres with the same TLS
//! configuration, and a pool's checkout with bare deadpool-postgres. All use the same
//! PostgreSQL, which the benchmark starts, and the same token.

use std::time::{Duration, Instant};

use entra_pool::{
    postgres::{
        self, Connector, Recycling,
        deadpool_postgres::{self, ManagerConfig, Pool, RecyclingMethod},
        tokio_postgres,
    },
    token::Identity,
};
use tokio::runtime::Runtime;

use crate::{
    support::{
        credential::TestCredential,
        postgres::{DATABASE, PostgresServer},
    },
    table::{Row, WAIT, Wanted, median, on_one_thread, over, time},
};

const ROLE: &str = "ratios";

/// Each round has its own connections. The best round of each side counts.
const ROUNDS: usize = 41;

/// Many short turns in alternation, so that the machine's other work affects both sides.
const TURNS: usize = 51;

pub(crate) fn rows(wanted: Wanted) -> Vec<Row> {
    type Case = fn(&Sides) -> Row;
    let cases: [(&str, Case); 3] = [
        ("PostgreSQL: connect and log in", Sides::connect),
        ("PostgreSQL: checkout, Fast", |sides| {
            sides.checkout(500, Recycling::Fast, RecyclingMethod::Fast)
        }),
        ("PostgreSQL: checkout, Clean (the default)", |sides| {
            sides.checkout(5, Recycling::Clean, RecyclingMethod::Clean)
        }),
    ];
    let cases: Vec<_> = cases.into_iter().filter(|(what, _)| wanted(what)).collect();
    if cases.is_empty() {
        return Vec::new();
    }
    stay_on_this_core();
    let runtime = Runtime::new().expect("a runtime");
    let sides = runtime.block_on(async {
        let credential = TestCredential::new(ROLE, 2_000);
        let server = PostgresServer::start().await;
        server.set_password(ROLE, &credential.secret()).await;
        Sides { identity: Identity::new(credential), server }
    });
    let measure = |(what, case): (&str, Case)| {
        eprintln!("measuring: {what}");
        Row { what: what.into(), ..case(&sides) }
    };
    cases.into_iter().map(measure).collect()
}

/// From here on, this process and the server that it starts run on one core. A round trip to a
/// server process on another core takes twice as long, and the core differs between
/// connections.
fn stay_on_this_core() {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        sched_setaffinity(None, &here).expect("the core exists");
    }
}

struct Sides {
    identity: Identity,
    server: PostgresServer,
}

impl Sides {
    fn connector(&self, recycling: Recycling) -> Connector {
        let config: postgres::Config = self.server.url(ROLE).parse().expect("a valid URL");
        let tokens = self.identity.tokens(config.token_scope().expect("the scope is known"));
        Connector::new(config.recycling(recycling), tokens).expect("the authority can be read")
    }

    /// The code of a user who has a token.
    fn bare(&self, token: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.server.port())
            .user(ROLE)
            .dbname(DATABASE)
            .password(token)
            .ssl_mode(tokio_postgres::config::SslMode::Require);
        config
    }

    fn connect(&self) -> Row {
        const CONNECTS: usize = 400;
        let connector = self.connector(Recycling::Fast);
        let (ours, peer) = on_one_thread().block_on(async {
            let token = connector.tokens().token().await.expect("a token");
            let config = self.bare(token.secret());
            let (mut ours, mut peer) = (Vec::new(), Vec::new());
            for _ in 0..CONNECTS {
                let start = Instant::now();
                let (client, connection) = connector.connect().await.expect("a connection");
                ours.push(start.elapsed());
                drop(client);
                connection.await.expect("the connection ends");
                let start = Instant::now();
                let (client, connection) =
                    config.connect(connector.tls()).await.expect("a connection");
                peer.push(start.elapsed());
                drop(client);
                connection.await.expect("the connection ends");
            }
            (ours, peer)
        });
        let [a, b] = [ours, peer].map(median);
        Row {
            what: String::new(),
            ours: time(a),
            peer: format!("{} (tokio-postgres)", time(b)),
            floor: String::new(),
            ratio: format!("{:.2} of the peer", over(a, b)),
        }
    }

    fn checkout(&self, count: u32, ours: Recycling, peer: RecyclingMethod) -> Row {
        let connector = self.connector(ours);
        let [a, b] = on_one_thread().block_on(async {
            let token = connector.tokens().token().await.expect("a token");
            let manager = deadpool_postgres::Manager::from_config(
                self.bare(token.secret()),
                connector.tls(),
                ManagerConfig { recycling_method: peer },
            );
            // With the same time limit, because it costs deadpool some time.
            let peer = Pool::builder(manager).runtime(WAIT.0).wait_timeout(Some(WAIT.1));
            let peer = peer.max_size(1).build().expect("a runtime is set");
            let ours = connector.pool_builder().max_size(1).build();
            let mut best = [Duration::MAX; 2];
            for _ in 0..ROUNDS {
                let (mut a, mut b) = (Vec::new(), Vec::new());
                checkouts(&ours, 1).await;
                checkouts(&peer, 1).await;
                for _ in 0..TURNS {
                    a.push(checkouts(&ours, count).await);
                    b.push(checkouts(&peer, count).await);
                }
                for (best, turns) in best.iter_mut().zip([a, b]) {
                    *best = median(turns).min(*best);
                }
                for pool in [&ours, &peer] {
                    drop(pool.retain(|_, _| false));
                }
            }
            best
        });
        Row {
            what: String::new(),
            ours: time(a),
            peer: format!("{} (deadpool-postgres)", time(b)),
            floor: String::new(),
            ratio: format!("{:.2} of the peer", over(a, b)),
        }
    }
}

async fn checkouts(pool: &Pool, count: u32) -> Duration {
    let start = Instant::now();
    for _ in 0..count {
        drop(pool.get().await.expect("a connection"));
    }
    start.elapsed() / count
}
