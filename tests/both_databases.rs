//! The API that both databases share: a macro instantiates each test for both modules.
#![cfg(all(feature = "azure-sql", feature = "postgres"))]
#![allow(clippy::disallowed_methods)] // Servers and runtimes run in real time.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use entra_pool::{
    credential::{Environment, ManagedIdentity, UserAssignedId},
    token::Identity,
};
use entra_pool_emulator::{
    emulator::Emulator,
    front::{Fault, Stage},
    network::Network,
};
use storm::served_in_a_storm;
use tokio::runtime::{Builder, Runtime};

#[path = "support/storm.rs"]
mod storm;

/// The emulator, on a separate runtime that outlives the runtimes of the tests.
fn emulator() -> &'static Emulator {
    static EMULATOR: OnceLock<(Runtime, Emulator)> = OnceLock::new();
    let start = || {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let emulator = runtime.block_on(Emulator::start()).unwrap();
        (runtime, emulator)
    };
    // On a separate thread, because the caller may be in a runtime.
    let (_, emulator) = EMULATOR.get_or_init(|| std::thread::spawn(start).join().unwrap());
    emulator
}

fn identity() -> Identity {
    identity_of(emulator())
}

fn identity_of(emulator: &Emulator) -> Identity {
    let id = UserAssignedId::ClientId(emulator.user_assigned().client_id.clone());
    let environment = Environment::from_pairs(emulator.identity().app_service_env());
    let credential = ManagedIdentity::user_assigned(id).environment(environment);
    Identity::new(credential.build().unwrap())
}

macro_rules! both_databases {
    ($module:ident, $string:ident, $query:expr) => {
        mod $module {
            use entra_pool::{
                connect::{ConnectorReport, RetireReason, Stage},
                $module::{
                    self, Config, ConfigError, Connector, Error, Pool, PoolBuilder, PoolError,
                    PooledConnection, Recycling,
                },
            };

            use super::*;

            fn string() -> String {
                emulator().$string().to_string()
            }

            fn connector() -> Connector {
                $module::connector_with(&identity(), &string()).unwrap()
            }

            async fn query(pool: &Pool) -> Result<i32, Box<dyn std::error::Error>> {
                let mut connection: PooledConnection = pool.get().await?;
                ($query)(&mut connection).await
            }

            /// The table 'One vocabulary' of the manual: each row compiles for both modules.
            #[tokio::test]
            async fn both_databases_have_the_same_vocabulary() {
                // One line.
                let _: fn(&str) -> Result<Pool, Error> = $module::pool;
                let _: fn(&str) -> Result<Connector, Error> = $module::connector;
                let _: fn(&Identity, &str) -> Result<Connector, Error> = $module::connector_with;
                let pool: Pool = $module::pool_with(&identity(), &string()).unwrap();
                assert_eq!(query(&pool).await.unwrap(), 1);
                // In separate steps, with the settings.
                let config: Config = string().parse::<Config>().unwrap();
                let config: Config = config
                    .recycling(Recycling::Fast)
                    .recycling(Recycling::Clean)
                    .max_lifetime(Duration::from_secs(600))
                    .idle_timeout(Duration::from_secs(60))
                    .keepalive(Duration::from_secs(60))
                    .tcp_user_timeout(Duration::from_secs(60))
                    .connect_timeout(Duration::from_secs(10))
                    .min_size(1)
                    .max_size(3)
                    .maintenance(true)
                    .tls(tls(roots()));
                let tokens = identity().tokens(config.token_scope().unwrap());
                let connector: Connector = Connector::new(config, tokens).unwrap();
                // The connector.
                drop(connector.connect().await.unwrap());
                assert_eq!(connector.pool().status().max_size, 3);
                let builder: PoolBuilder = connector.pool_builder().max_size(2);
                let pool: Pool = builder.wait_timeout(None).build();
                let warm: Result<(), PoolError> = connector.warm_up(&pool, 2).await;
                warm.unwrap();
                assert_eq!((pool.status().size, pool.status().max_size), (2, 2));
                let report: ConnectorReport = connector.report();
                assert_eq!((report.logins, report.to_string().is_empty()), (3, false));
                assert!(report.retired.iter().all(|(_, count): &(RetireReason, u64)| *count == 0));
                let (_, _): (&Config, _) = (connector.config(), connector.tokens());
                assert!(connector.pool_name().starts_with("localhost:"));
                $module::close_and_wait(&pool).await;
                // Errors.
                let error: ConfigError = "x".parse::<Config>().err().unwrap();
                let error: Error = error.into();
                assert!(!error.is_transient() && !matches!(error, Error::LoginRefused { .. }));
                let _ = $module::is_transient;
                assert_eq!(Stage::Tls.to_string(), "in the TLS handshake");
            }

            #[tokio::test]
            async fn the_applications_tls_configuration_verifies_the_server() {
                let config: Config = string().parse().unwrap();
                let connect = async |config: Config| {
                    let tokens = identity().tokens(config.token_scope().unwrap());
                    Connector::new(config, tokens).unwrap().connect().await.map(drop)
                };
                // The last setting applies.
                let trusting = config.clone().ca_file("/nowhere").tls(tls(roots()));
                connect(trusting).await.unwrap();
                let distrusting = config.tls(tls(rustls::RootCertStore::empty()));
                let error = connect(distrusting).await.unwrap_err();
                assert!(matches!(error, Error::Tls { .. }), "{error:?}");
            }

            #[tokio::test]
            async fn two_pools_on_one_connector_do_not_disturb_each_other() {
                let connector = connector();
                let builder = || connector.pool_builder().max_size(1);
                let (one, other) = (builder().build(), builder().build());
                let lent = one.get().await.unwrap();
                assert_eq!(query(&other).await.unwrap(), 1);
                assert_eq!(connector.report().logins, 2, "both pools are counted");
                let waiting = tokio::spawn({
                    let one = one.clone();
                    async move { one.get().await.map(drop).is_ok() }
                });
                // Closing one pool does not close the other.
                $module::close_and_wait(&other).await;
                assert_eq!(other.status().size, 0);
                drop(lent);
                assert!(waiting.await.unwrap());
                assert_eq!(query(&one).await.unwrap(), 1);
                assert_eq!(connector.report().logins, 2);
            }

            /// A login takes 200 ms.
            #[test]
            fn callers_with_less_time_than_a_login_takes_get_connections() {
                for threads in [1, 2] {
                    let runtime = match threads {
                        1 => Builder::new_current_thread().enable_all().build().unwrap(),
                        _ => Builder::new_multi_thread().enable_all().build().unwrap(),
                    };
                    let own = own_emulator(Duration::from_millis(200));
                    let (network, string) = own.behind_a_network(&own.emulator.$string());
                    runtime.block_on(async {
                        // Without the round trip of a cleaning, which may also take too long.
                        let config = string.parse::<Config>().unwrap().recycling(Recycling::Fast);
                        let tokens = own.identity().tokens(config.token_scope().unwrap());
                        let connector = Connector::new(config, tokens).unwrap();
                        let pool = connector.pool_builder().max_size(4).build();
                        let open = async || network.counters().open;
                        let get = {
                            let pool = pool.clone();
                            move || {
                                let pool = pool.clone();
                                async move { pool.get().await.is_ok() }
                            }
                        };
                        let (served, most) = served_in_a_storm(30, get, open).await;
                        let report = connector.report();
                        println!("{threads} threads: {served} served, {most} open, {report}");
                        assert!(served > 400, "{served} of 12,000");
                        assert!(report.adopted > 0);
                        assert!(most <= 4, "{most} connections");
                        drop((pool, connector));
                        ended(&network).await;
                    });
                }
            }

            #[cfg(target_os = "linux")]
            #[tokio::test]
            async fn sockets_have_the_configured_keepalive_and_timeout() {
                let tokens = || connector().tokens().clone();
                let second = Duration::from_secs;
                let config = || string().parse::<Config>().unwrap();
                let name = connector().pool_name().to_owned();
                let port = name.rsplit(':').next().unwrap().split('/').next().unwrap();
                let port = port.parse().unwrap();
                for (config, expected) in [
                    (config(), Some((30, 10, 3, 30_000))),
                    (
                        config().keepalive(second(47)).tcp_user_timeout(second(11)),
                        Some((47, 15, 3, 11_000)),
                    ),
                    // The nearest value that the system accepts.
                    (
                        config().keepalive(Duration::MAX).tcp_user_timeout(Duration::MAX),
                        Some((32_767, 10_922, 3, 32_767_000)),
                    ),
                    (
                        config().keepalive(Duration::from_nanos(1)).tcp_user_timeout(second(9)),
                        Some((1, 1, 3, 9_000)),
                    ),
                    (config().keepalive(None).tcp_user_timeout(None), None),
                ] {
                    let pool = Connector::new(config, tokens()).unwrap().pool();
                    assert_eq!(query(&pool).await.unwrap(), 1);
                    let sockets = sockets_to(port);
                    assert!(sockets.contains(&expected), "{expected:?} in {sockets:?}");
                }
            }

            #[test]
            fn logins_without_callers_are_cancelled_when_the_pool_is_closed_or_resized() {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                for size in [0, 1] {
                    let own = own_emulator(Duration::from_secs(2));
                    let (network, string) = own.behind_a_network(&own.emulator.$string());
                    runtime.block_on(async {
                        let connector = $module::connector_with(&own.identity(), &string).unwrap();
                        let pool = connector.pool_builder().max_size(3).build();
                        let get = || tokio::time::timeout(Duration::from_millis(300), pool.get());
                        let (one, two, three) = tokio::join!(get(), get(), get());
                        assert!(one.is_err() && two.is_err() && three.is_err());
                        assert_eq!(network.counters().open, 3, "the logins continue");
                        match size {
                            0 => pool.close(),
                            _ => pool.resize(size),
                        }
                        let ended = async {
                            while network.counters().open != size as u64 {
                                tokio::time::sleep(Duration::from_millis(10)).await;
                            }
                        };
                        let ended = tokio::time::timeout(Duration::from_secs(5), ended).await;
                        ended.expect("the logins are cancelled");
                    });
                }
            }

            /// As in a program whose tests share a pool, and each have a runtime.
            #[test]
            fn a_static_pool_works_on_consecutive_runtimes() {
                static POOL: OnceLock<Pool> = OnceLock::new();
                let pool = POOL.get_or_init(|| connector().pool_builder().max_size(2).build());
                for threads in [1, 2, 1, 2] {
                    let runtime = match threads {
                        1 => Builder::new_current_thread().enable_all().build().unwrap(),
                        _ => Builder::new_multi_thread().enable_all().build().unwrap(),
                    };
                    for _ in 0..3 {
                        assert_eq!(runtime.block_on(query(pool)).unwrap(), 1, "{threads} threads");
                    }
                }
                assert!(pool.status().size <= 2);
            }
        }
    };
}

/// Starts an emulator for one test, whose logins take this long.
fn own_emulator(login: Duration) -> OwnEmulator {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let emulator = runtime.block_on(Emulator::start()).unwrap();
    emulator.azure_sql().behaviour().delay_logins(login);
    let delay = Fault::Delay(login);
    emulator.postgres().behaviour().disturb(usize::MAX, Stage::Login, delay);
    OwnEmulator { runtime, emulator }
}

struct OwnEmulator {
    runtime: Runtime,
    emulator: Emulator,
}

impl OwnEmulator {
    /// Starts a relay that counts connections, and returns it with a string that uses it.
    fn behind_a_network(&self, string: &str) -> (Network, String) {
        let _entered = self.runtime.enter();
        let (azure_sql, postgres) = (self.emulator.azure_sql(), self.emulator.postgres());
        let mut addr = [azure_sql.addr(), postgres.addr()].into_iter();
        let addr = addr.find(|addr| string.contains(&addr.port().to_string())).unwrap();
        let network = Network::to(addr).unwrap();
        let string = string.replace(&addr.port().to_string(), &network.addr().port().to_string());
        (network, string)
    }

    fn identity(&self) -> Identity {
        identity_of(&self.emulator)
    }
}

/// Waits until no socket and no task is left.
async fn ended(network: &Network) {
    let ended = async {
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        while network.counters().open > 0 || tasks() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("all sockets and tasks end");
}

/// Returns the keepalive's time, interval and retries, and the user timeout in milliseconds, of
/// this process's sockets that are connected to `port`; `None` for a socket without keepalive.
#[cfg(target_os = "linux")]
fn sockets_to(port: u16) -> Vec<Option<(u64, u64, u32, u128)>> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

    let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let of = |descriptor: std::fs::DirEntry| {
        let number = descriptor.file_name().to_str()?.parse().ok()?;
        let copy = pidfd_getfd(&this, number, PidfdGetfdFlags::empty()).ok()?;
        let socket = socket2::SockRef::from(&copy);
        if socket.peer_addr().ok()?.as_socket()?.port() != port {
            return None;
        }
        let times = || {
            Some((
                socket.tcp_keepalive_time().unwrap().as_secs(),
                socket.tcp_keepalive_interval().unwrap().as_secs(),
                socket.tcp_keepalive_retries().unwrap(),
                socket.tcp_user_timeout().unwrap()?.as_millis(),
            ))
        };
        Some(if socket.keepalive().unwrap() { times() } else { None })
    };
    descriptors.filter_map(|descriptor| of(descriptor.unwrap())).collect()
}

/// The keywords mean the same as in libpq.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_keywords_of_libpq_configure_the_sockets_of_postgresql() {
    let url = emulator().postgres_url().to_string();
    let port = url.split("localhost:").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    for (more, expected) in [
        (
            "keepalives_idle=50&keepalives_interval=7&keepalives_count=5&tcp_user_timeout=12000",
            Some((50, 7, 5, 12_000)),
        ),
        ("keepalives_idle=53&keepalives_retries=4", Some((53, 17, 4, 30_000))),
        ("keepalives_idle=99999&keepalives_count=999", Some((32_767, 10_922, 127, 30_000))),
        ("keepalives=0", None),
    ] {
        let pool = entra_pool::postgres::pool_with(&identity(), &format!("{url}&{more}")).unwrap();
        drop(pool.get().await.unwrap());
        let sockets = sockets_to(port);
        assert!(sockets.contains(&expected), "{more}: {expected:?} in {sockets:?}");
    }
}

fn tls(roots: rustls::RootCertStore) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

fn roots() -> rustls::RootCertStore {
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(emulator().ca_path()).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    roots
}

both_databases!(azure_sql, azure_sql_string, async |client: &mut PooledConnection| {
    let row = client.simple_query("SELECT 1").await?.into_row().await?;
    Ok(row.and_then(|row| row.get::<i32, _>(0)).unwrap_or_default())
});

both_databases!(postgres, postgres_url, async |client: &mut PooledConnection| {
    Ok(client.query_one("SELECT 1", &[]).await?.get::<_, i32>(0))
});
