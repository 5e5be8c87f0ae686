//! Compares connections to Azure SQL with stock tiberius (with rustls and the system's
//! roots), and a pool's checkout with a pool whose manager does nothing. All use the
//! same emulator and the same token.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use entra_pool::{
    azure_sql::{self, Connection, Connector, Manager, Pool, Recycling, deadpool::managed},
    credential::{Environment, ManagedIdentity, UserAssignedId},
    token::Identity,
};
use entra_pool_emulator::emulator::Emulator;
use tiberius::{AuthMethod, Client};
use tokio::{net::TcpStream, runtime::Runtime};
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

use crate::table::{Row, WAIT, Wanted, median, on_one_thread, over, time};

/// Many short turns in alternation, so that the machine's other work affects both sides.
const ROUNDS: usize = 501;

pub(crate) fn rows(wanted: Wanted) -> Vec<Row> {
    type Case = fn(&Sides) -> Row;
    let cases: [(&str, Case); 5] = [
        ("Azure SQL: connect and log in", Sides::connect),
        ("Azure SQL: checkout, Fast", Sides::fast),
        ("Azure SQL: checkout, Clean, not used", Sides::unused),
        ("Azure SQL: query and return, Clean, 8 tasks on 4 connections", Sides::throughput),
        ("Azure SQL: query, then checkout, Clean", Sides::clean),
    ];
    let cases: Vec<_> = cases.into_iter().filter(|(what, _)| wanted(what)).collect();
    if cases.is_empty() {
        return Vec::new();
    }
    let sides = Sides::start();
    let measure = |(what, case): (&str, Case)| {
        eprintln!("measuring: {what}");
        Row { what: what.into(), ..case(&sides) }
    };
    cases.into_iter().map(measure).collect()
}

struct Sides {
    emulator: Emulator,
    /// The emulator has its own threads: it must not wait for its clients.
    _server: Runtime,
    _roots: tempfile::NamedTempFile,
}

impl Sides {
    fn start() -> Self {
        let server = Runtime::new().expect("a runtime");
        let emulator = server.block_on(Emulator::start()).expect("the emulator starts");
        let roots = system_roots_and(&emulator.ca_path());
        // SAFETY: no other thread of this process reads or writes the environment
        // now. Stock tiberius has no other setting for additional roots.
        unsafe { std::env::set_var("SSL_CERT_FILE", roots.path()) };
        Self { emulator, _server: server, _roots: roots }
    }

    /// Trusts the system's roots, as stock tiberius does.
    fn connector(&self) -> Connector {
        let string = self.emulator.azure_sql_string();
        let of_the_system = |keyword: &&str| !keyword.starts_with("TrustServerCertificateCA");
        let string: Vec<_> = string.split(';').filter(of_the_system).collect();
        let config: azure_sql::Config = string.join(";").parse().expect("a valid string");
        let id = UserAssignedId::ClientId(self.emulator.user_assigned().client_id.clone());
        let environment = Environment::from_pairs(self.emulator.identity().app_service_env());
        let credential = ManagedIdentity::user_assigned(id).environment(environment).build();
        let identity = Identity::new(credential.expect("a valid configuration"));
        let tokens = identity.tokens(config.token_scope().expect("the scope is set"));
        Connector::new(config, tokens).expect("the roots can be read")
    }

    fn pool(&self, recycling: Recycling) -> Pool {
        let connector = self.connector();
        let config = connector.config().clone().recycling(recycling);
        let connector = Connector::new(config, connector.tokens().clone());
        connector.expect("the configuration is valid").pool_builder().max_size(1).build()
    }

    fn connect(&self) -> Row {
        const CONNECTS: usize = 200;
        let connector = self.connector();
        let (ours, peer) = on_one_thread().block_on(async {
            let token = connector.tokens().token().await.expect("a token");
            let config = self.stock(token.secret());
            let (mut ours, mut peer) = (Vec::new(), Vec::new());
            for _ in 0..CONNECTS {
                let start = Instant::now();
                let connection = connector.connect().await.expect("a connection");
                ours.push(start.elapsed());
                drop(connection);
                let start = Instant::now();
                let connection = connect_stock(&config).await;
                peer.push(start.elapsed());
                drop(connection);
            }
            (ours, peer)
        });
        let [a, b] = [ours, peer].map(median);
        Row {
            what: String::new(),
            ours: time(a),
            peer: format!("{} (tiberius)", time(b)),
            floor: String::new(),
            ratio: format!("{:.1} times faster", over(b, a)),
        }
    }

    fn stock(&self, token: &str) -> tiberius::Config {
        let mut config = tiberius::Config::new();
        config.host("localhost");
        config.port(self.emulator.azure_sql().addr().port());
        config.database("orders");
        config.authentication(AuthMethod::aad_token(token));
        config
    }

    fn fast(&self) -> Row {
        const CHECKOUTS: u32 = 500;
        let pool = self.pool(Recycling::Fast);
        let idle =
            managed::Pool::<Nothing>::builder(Nothing).runtime(WAIT.0).wait_timeout(Some(WAIT.1));
        let idle = idle.max_size(1).build().expect("a runtime is set");
        let [a, b] = on_one_thread().block_on(async {
            let (mut ours, mut floor) = (Vec::new(), Vec::new());
            checkouts(&pool, 1).await;
            checkouts(&idle, 1).await;
            for _ in 0..ROUNDS {
                ours.push(checkouts(&pool, CHECKOUTS).await);
                floor.push(checkouts(&idle, CHECKOUTS).await);
            }
            [ours, floor].map(median)
        });
        Row {
            what: String::new(),
            ours: time(a),
            peer: String::new(),
            floor: format!("{} (a manager that does nothing)", time(b)),
            ratio: format!("{} more than the floor", time(a.saturating_sub(b))),
        }
    }

    /// A connection that was cleaned on return is checked out without a round trip.
    fn unused(&self) -> Row {
        const CHECKOUTS: u32 = 500;
        let pool = self.pool(Recycling::Clean);
        let idle =
            managed::Pool::<Nothing>::builder(Nothing).runtime(WAIT.0).wait_timeout(Some(WAIT.1));
        let idle = idle.max_size(1).build().expect("a runtime is set");
        let [a, b] = Runtime::new().expect("a runtime").block_on(async {
            let (mut ours, mut floor) = (Vec::new(), Vec::new());
            one(&mut pool.get().await.expect("a connection")).await;
            checkouts(&pool, 1).await;
            checkouts(&idle, 1).await;
            for _ in 0..ROUNDS {
                ours.push(checkouts(&pool, CHECKOUTS).await);
                floor.push(checkouts(&idle, CHECKOUTS).await);
            }
            [ours, floor].map(median)
        });
        Row {
            what: String::new(),
            ours: time(a),
            peer: String::new(),
            floor: format!("{} (a manager that does nothing)", time(b)),
            ratio: format!("{} more than the floor", time(a.saturating_sub(b))),
        }
    }

    /// Connections are cleaned on return, and, in a pool of deadpool's own objects, at the
    /// checkout.
    fn throughput(&self) -> Row {
        const TURNS: usize = 21;
        let connector = self.connector();
        let ours = connector.pool_builder().max_size(4).build();
        let peer = managed::Pool::<Manager>::builder(Manager::new(connector))
            .runtime(WAIT.0)
            .wait_timeout(Some(WAIT.1))
            .max_size(4)
            .build()
            .expect("a runtime is set");
        let requests = || self.emulator.azure_sql().counters().requests;
        let (a, b, each) = Runtime::new().expect("a runtime").block_on(async {
            let (mut a, mut b, mut sent) = (Vec::new(), Vec::new(), 0);
            for turn in 0..=TURNS {
                let before = requests();
                let time_of_ours = uses(&ours).await;
                let requests = requests() - before;
                let time_of_peer = uses(&peer).await;
                // The first turn connects.
                if turn > 0 {
                    a.push(time_of_ours);
                    b.push(time_of_peer);
                    sent += requests;
                }
            }
            let each = sent as f64 / f64::from(USES * TASKS) / TURNS as f64;
            (median(a), median(b), each)
        });
        Row {
            what: String::new(),
            ours: format!("{} for one, {each:.2} round trips", time(a)),
            peer: format!("{} (cleaned at the checkout)", time(b)),
            floor: String::new(),
            ratio: format!("{:.2} of the peer", over(a, b)),
        }
    }

    fn clean(&self) -> Row {
        const CHECKOUTS: u32 = 5;
        let (pool, connector) = (self.pool(Recycling::Clean), self.connector());
        let requests = || self.emulator.azure_sql().counters().requests;
        let ([a, b], each) = on_one_thread().block_on(async {
            let mut bare = connector.connect().await.expect("a connection");
            let (mut ours, mut floor, mut sent) = (Vec::new(), Vec::new(), 0);
            for _ in 0..ROUNDS {
                let before = requests();
                let start = Instant::now();
                for _ in 0..CHECKOUTS {
                    one(&mut pool.get().await.expect("a connection")).await;
                }
                ours.push(start.elapsed() / CHECKOUTS);
                sent += requests() - before;
                let start = Instant::now();
                for _ in 0..CHECKOUTS {
                    one(&mut bare).await;
                }
                floor.push(start.elapsed() / CHECKOUTS);
            }
            let each = sent as f64 / f64::from(CHECKOUTS) / ROUNDS as f64;
            ([ours, floor].map(median), each)
        });
        Row {
            what: String::new(),
            ours: format!("{}, {each:.2} round trips", time(a)),
            peer: String::new(),
            floor: format!("{} (one query)", time(b)),
            ratio: format!("{:.2} of the floor", over(a, b)),
        }
    }
}

async fn checkouts<M, W>(pool: &managed::Pool<M, W>, count: u32) -> Duration
where
    M: managed::Manager,
    W: From<managed::Object<M>>,
{
    let get = async || drop(pool.get().await.unwrap_or_else(|_| panic!("no connection")));
    let start = Instant::now();
    for _ in 0..count {
        get().await;
    }
    start.elapsed() / count
}

/// The number of concurrent tasks, and how often each task uses the pool.
const TASKS: u32 = 8;
const USES: u32 = 50;

/// The time per use, over all tasks.
async fn uses<W>(pool: &managed::Pool<Manager, W>) -> Duration
where
    W: From<managed::Object<Manager>> + std::ops::DerefMut<Target = Connection> + Send + 'static,
{
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let pool = pool.clone();
        tasks.spawn(async move {
            for _ in 0..USES {
                one(&mut pool.get().await.expect("a connection")).await;
            }
        });
    }
    tasks.join_all().await;
    start.elapsed() / (TASKS * USES)
}

async fn one(client: &mut azure_sql::Client) {
    let answer = client.simple_query("SELECT @@TRANCOUNT").await.expect("an answer");
    answer.into_row().await.expect("an answer");
}

async fn connect_stock(config: &tiberius::Config) -> Client<Compat<TcpStream>> {
    let tcp = TcpStream::connect(config.get_addr()).await.expect("a connection");
    tcp.set_nodelay(true).expect("a socket");
    Client::connect(config.clone(), tcp.compat_write()).await.expect("a login")
}

/// The roots that stock tiberius reads on every connect, with the emulator's authority.
fn system_roots_and(authority: &Path) -> tempfile::NamedTempFile {
    let places = [
        std::env::var("SSL_CERT_FILE").unwrap_or_default(),
        "/etc/ssl/certs/ca-certificates.crt".into(),
        "/etc/pki/tls/certs/ca-bundle.crt".into(),
        "/etc/ssl/cert.pem".into(),
    ];
    let roots = places.iter().find_map(|place| fs::read_to_string(place).ok());
    let authority = fs::read_to_string(authority).expect("the emulator's authority");
    let both = format!("{}\n{authority}", roots.expect("the system has roots"));
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), both).expect("a file");
    file
}

struct Nothing;

impl managed::Manager for Nothing {
    type Type = ();
    type Error = std::convert::Infallible;

    async fn create(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn recycle(
        &self,
        (): &mut (),
        _: &managed::Metrics,
    ) -> managed::RecycleResult<Self::Error> {
        Ok(())
    }
}
