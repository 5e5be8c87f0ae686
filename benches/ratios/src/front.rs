//! Compares `PostgresFront` with the direct TLS connection to the same PostgreSQL: the cost of the
//! relay. The floor is a relay that copies the bytes of TLS, on a runtime like the front's.
//! Client, front and engine share the machine's cores, as in a test.

use std::{
    io,
    time::{Duration, Instant},
};

use entra_pool::{
    postgres::{Config, Connector, tokio_postgres::Client},
    token::Identity,
};
use futures_util::{TryStreamExt, pin_mut};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
};

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
    _relay: Runtime,
    front: Connector,
    relayed: Connector,
    direct: Connector,
}

/// Copies bytes between clients and this port.
async fn relay(listener: TcpListener, port: u16) -> io::Result<()> {
    loop {
        let (mut client, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        });
    }
}

impl Sides {
    async fn start() -> Self {
        let service = PostgresService::start().await;
        let front = TestCredential::new("relayed", 2_000);
        service.create_principal(front.principal()).await;
        let direct = TestCredential::new("direct", 2_000);
        service.set_password("direct", &direct.secret()).await;
        let connector = |credential, url: String| {
            let config: Config = url.parse().expect("a valid URL");
            let tokens =
                Identity::new(credential).tokens(config.token_scope().expect("the scope is known"));
            Connector::new(config, tokens).expect("the authority can be read")
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("the listener's address").port();
        let listener = listener.into_std().expect("the listener is registered");
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let engine = service.engine_port();
        runtime.spawn(async move { relay(TcpListener::from_std(listener)?, engine).await });
        let relayed = connector(direct.clone(), service.url_at(port, "direct", ""));
        let direct = connector(direct, service.url_at(engine, "direct", ""));
        let front = connector(front, service.url("relayed"));
        Self { front, relayed, direct, _service: service, _relay: runtime }
    }

    /// The same work in alternation, so that the machine's other work slows down every side.
    fn alternate(&self, turns: usize, work: impl AsyncFn(&Client)) -> Row {
        let [front, relayed, direct] = on_one_thread().block_on(async {
            let mut best = [Duration::MAX; 3];
            for _ in 0..ROUNDS {
                let mut clients = Vec::new();
                for connector in [&self.front, &self.relayed, &self.direct] {
                    let (client, connection) = connector.connect().await.expect("a connection");
                    tokio::spawn(connection);
                    work(&client).await;
                    clients.push(client);
                }
                let mut took = [Vec::new(), Vec::new(), Vec::new()];
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
            floor: format!("{} (TCP relay)", time(relayed)),
            ratio: format!(
                "{:.2} of the peer; the floor is {:.2}",
                over(front, direct),
                over(relayed, direct)
            ),
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
