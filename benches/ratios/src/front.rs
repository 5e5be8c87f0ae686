//! `PostgresFront` against the direct TLS connection to the same PostgreSQL: what the relay
//! costs. Client, front and engine have the machine's cores to themselves, as in a test.

use std::time::{Duration, Instant};

use entra_pool::{
    postgres::{Config, Connector, tokio_postgres::Client},
    token::Identity,
};
use futures_util::{TryStreamExt, pin_mut};

use crate::{
    support::{credential::TestCredential, front::PostgresService},
    table::{Row, Wanted, median, on_one_thread, over, time},
};

/// The best round of each side counts.
const ROUNDS: usize = 21;

pub(crate) fn rows(wanted: Wanted) -> Vec<Row> {
    type Case = fn(&Sides) -> Row;
    let cases: [(&str, Case); 2] = [
        ("PostgresFront: SELECT 1", Sides::round_trip),
        ("PostgresFront: 100 MB result", Sides::result),
    ];
    let cases: Vec<_> = cases.into_iter().filter(|(what, _)| wanted(what)).collect();
    if cases.is_empty() {
        return Vec::new();
    }
    let sides = on_one_thread().block_on(Sides::start());
    let measure = |(what, case): (&str, Case)| {
        eprintln!("measuring: {what}");
        Row { what: what.into(), ..case(&sides) }
    };
    cases.into_iter().map(measure).collect()
}

struct Sides {
    _service: PostgresService,
    front: Connector,
    direct: Connector,
}

impl Sides {
    async fn start() -> Self {
        let service = PostgresService::start().await;
        let front = TestCredential::new("relayed", 2_000);
        service.create_principal(front.principal()).await;
        let direct = TestCredential::new("direct", 2_000);
        service.set_password("direct", &direct.secret()).await;
        let connector = |credential, url: String| {
            let config: Config = url.parse().expect("it is a URL of ours");
            let tokens =
                Identity::new(credential).tokens(config.token_scope().expect("it has one"));
            Connector::new(config, tokens).expect("the authority can be read")
        };
        let direct = connector(direct, service.url_at(service.engine_port(), "direct", ""));
        Self { front: connector(front, service.url("relayed")), direct, _service: service }
    }

    /// The same work in turn, so that what else the machine does meets both sides.
    fn alternate(&self, turns: usize, work: impl AsyncFn(&Client)) -> Row {
        let [front, direct] = on_one_thread().block_on(async {
            let mut best = [Duration::MAX; 2];
            for _ in 0..ROUNDS {
                let mut clients = Vec::new();
                for connector in [&self.front, &self.direct] {
                    let (client, connection) = connector.connect().await.expect("a connection");
                    tokio::spawn(connection);
                    work(&client).await;
                    clients.push(client);
                }
                let mut took = [Vec::new(), Vec::new()];
                for _ in 0..turns {
                    for (client, took) in clients.iter().zip(&mut took) {
                        let start = Instant::now();
                        work(client).await;
                        took.push(start.elapsed());
                    }
                }
                for (best, took) in best.iter_mut().zip(took) {
                    *best = median(took).min(*best);
                }
            }
            best
        });
        Row {
            what: String::new(),
            ours: time(front),
            peer: format!("{} (direct TLS)", time(direct)),
            floor: String::new(),
            ratio: format!("{:.2} of the peer", over(front, direct)),
        }
    }

    fn round_trip(&self) -> Row {
        self.alternate(2_000, async |client| {
            client.simple_query("SELECT 1").await.expect("an answer");
        })
    }

    fn result(&self) -> Row {
        const ROWS: &str = "SELECT repeat('x', 1000) FROM generate_series(1, 100000)";
        self.alternate(3, async |client| {
            let none: [&str; 0] = [];
            let rows = client.query_raw(ROWS, none).await.expect("rows");
            pin_mut!(rows);
            let mut length = 0;
            while let Some(row) = rows.try_next().await.expect("a row") {
                length += row.get::<_, &str>(0).len();
            }
            assert_eq!(length, 100_000_000);
        })
    }
}
