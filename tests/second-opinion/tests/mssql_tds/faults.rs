//! A server, a network or a borrower that fails, at each point of a connection.

use std::time::{Duration, Instant};

use entra_pool::{
    adapters::mssql_tds::{
        Connector, PooledConnection, is_transient, mssql_tds::error::Error as DriverError,
    },
    azure_sql::{Config, Encrypt, Error},
    connect::{RetireReason, Stage},
    token::{Identity, Scope},
};
use entra_pool_emulator::{
    azure_sql::{Fault, Stage as At},
    network::Network,
};
use tokio::{io::AsyncWriteExt, net::TcpListener, time::timeout};

use crate::{
    HOUR, Shop, credential::TestCredential, logins::without_pauses, number, retired, rows, run,
    session, sessions::assert_clean, text, until,
};

#[tokio::test]
async fn a_server_that_stalls_in_any_stage_reaches_the_deadline() {
    let shop = Shop::open().await;
    for encrypt in [Encrypt::Mandatory, Encrypt::Strict] {
        for at in [At::Accept, At::Prelogin, At::Tls, At::Login, At::LoginAnswer] {
            let port = shop.server.addr().port();
            let connector =
                shop.connector_to(port, "Connect Timeout=7", |config| config.encrypt(encrypt));
            shop.identity.tokens(Scope::AZURE_SQL).warm_up().await.unwrap();
            let faults = shop.counters().faults;
            shop.server.behaviour().disturb(1, at, Fault::Stall);
            let connecting = connector.connect();
            tokio::pin!(connecting);
            tokio::select! {
                done = &mut connecting => panic!("{encrypt:?} {at:?}: {done:?}"),
                () = until(|| shop.counters().faults > faults && shop.clock.sleepers() == 1) => {}
            }
            shop.clock.advance(Duration::from_secs(7));
            let error = connecting.await.unwrap_err();
            let Error::TimedOut { stage, .. } = error else { panic!("{error:?}") };
            assert_eq!(stage, Stage::Driver);
            until(|| shop.counters().open_connections == 0).await;
        }
    }
}

#[tokio::test]
async fn a_connection_that_breaks_in_any_stage_is_retried_if_the_server_is_known() {
    let shop = Shop::open().await;
    for encrypt in [Encrypt::Mandatory, Encrypt::Strict] {
        let port = shop.server.addr().port();
        let connector = shop.connector_to(port, "", |config| config.encrypt(encrypt));
        drop(connector.connect().await.unwrap());
        for at in [At::Accept, At::Prelogin, At::Tls, At::Login, At::LoginAnswer] {
            let faults = shop.counters().faults;
            shop.server.behaviour().disturb(1, at, Fault::Cut);
            let connected = without_pauses(&shop, &connector).await;
            assert!(connected.is_ok(), "{encrypt:?} {at:?}: {connected:?}");
            assert_eq!(shop.counters().faults, faults + 1, "{encrypt:?} {at:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_never_stops_sending_reaches_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let flood = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = {
            let listener = listener.into_std().unwrap();
            let _guard = runtime.enter();
            TcpListener::from_std(listener).unwrap()
        };
        runtime.block_on(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut packet = vec![0u8; 4096];
            packet[..8].copy_from_slice(&[4, 0, 0x10, 0, 0, 0, 1, 0]);
            while socket.write_all(&packet).await.is_ok() {}
        });
    });
    let config: Config = format!(
        "Server=localhost,{port};Connect Timeout=2;ConnectRetryCount=0;Entra Scope={}",
        Scope::AZURE_SQL
    )
    .parse()
    .unwrap();
    let identity = Identity::new(TestCredential::new("shop-identity", 1_500));
    let connector = Connector::new(config, identity.tokens(Scope::AZURE_SQL)).unwrap();
    let began = Instant::now();
    let error = connector.connect().await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    flood.join().unwrap();
}

#[tokio::test]
async fn a_server_without_encryption_gets_no_token() {
    let server = second_opinion::Server::start_unencrypted().await;
    let config: Config =
        format!("Server=localhost,{};Entra Scope={}", server.port(), Scope::AZURE_SQL)
            .parse()
            .unwrap();
    let identity = Identity::new(TestCredential::new("shop-identity", 1_500));
    let connector = Connector::new(config, identity.tokens(Scope::AZURE_SQL)).unwrap();
    let error = connector.connect().await.unwrap_err();
    assert!(matches!(error, Error::UnexpectedProtocol { .. }), "{error:?}");
    assert!(server.seen().await.is_empty());
}

/// The driver does not look at an idle socket, so only a request detects it.
#[tokio::test]
async fn the_first_request_fails_if_the_server_closed_the_connection_within_a_second() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one();
    drop(pool.get().await.unwrap());
    shop.server.cut_connections().await;
    until(|| shop.counters().open_connections == 0).await;
    let mut b = pool.get().await.unwrap();
    let error = rows(&mut b, "SELECT 1").await.unwrap_err();
    assert!(matches!(error, DriverError::ConnectionClosed(_) | DriverError::Io(_)), "{error:?}");
    assert!(is_transient(&error));
    drop(b);
    assert_eq!(number(&mut pool.get().await.unwrap(), "SELECT 1").await, 1);
    assert_eq!(retired(&connector), [(RetireReason::Closed, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrower_that_panics_leaves_nothing() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one();
    let first = session(&mut pool.get().await.unwrap()).await;
    let borrower = pool.clone();
    let panicked = tokio::spawn(async move {
        let mut a = borrower.get().await.unwrap();
        run(&mut a, "CREATE TABLE #bill (total int); BEGIN TRANSACTION").await;
        panic!("as the test has it");
    });
    assert!(panicked.await.unwrap_err().is_panic());
    let mut b = pool.get().await.unwrap();
    assert_clean(&mut b).await;
    assert_eq!(session(&mut b).await, first);
    assert_eq!(retired(&connector), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_closed_if_its_pool_was_closed_or_resized_meanwhile() {
    let shop = Shop::open().await;
    for close in [true, false] {
        let (pool, _) = shop.pool_of_one();
        let mut a = pool.get().await.unwrap();
        run(&mut a, "BEGIN TRANSACTION").await;
        if close {
            pool.close()
        } else {
            pool.resize(0)
        }
        drop(a);
        until(|| shop.counters().open_connections == 0).await;
        assert_eq!(pool.status().size, 0);
    }
}

#[test]
fn a_connection_that_is_dropped_outside_of_a_runtime_is_cleaned_at_the_next_checkout() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (shop, pool, a) = runtime.block_on(async {
        let shop = Shop::open().await;
        let (pool, _) = shop.pool_of_one();
        let mut a: PooledConnection = pool.get().await.unwrap();
        run(&mut a, "CREATE TABLE #bill (total int)").await;
        (shop, pool, a)
    });
    std::thread::scope(|scope| {
        scope.spawn(move || drop(a));
    });
    let a = runtime.block_on(async {
        let mut a = pool.get().await.unwrap();
        assert_clean(&mut a).await;
        run(&mut a, "BEGIN TRANSACTION").await;
        a
    });
    std::thread::scope(|scope| {
        scope.spawn(move || drop(a));
    });
    assert_eq!(pool.status().size, 0);
    runtime.block_on(until(|| shop.counters().open_connections == 0));
}

#[test]
fn a_connection_of_a_runtime_that_was_shut_down_is_replaced() {
    let build = || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    };
    let servers = build();
    let shop = servers.block_on(Shop::open());
    let (pool, connector) = shop.pool_of_one();
    let first = build();
    let borrower = pool.clone();
    first.block_on(async move {
        number(&mut borrower.get().await.unwrap(), "SELECT 1").await;
        until(|| borrower.status().available == 1).await;
    });
    drop(first);
    shop.clock.advance(Duration::from_secs(1));
    build().block_on(async {
        assert_eq!(number(&mut pool.get().await.unwrap(), "SELECT 1").await, 1);
    });
    assert_eq!(retired(&connector), [(RetireReason::Closed, 1)]);
}

#[tokio::test]
async fn the_smallest_and_the_largest_packets_carry_a_login() {
    let shop = Shop::open().await;
    shop.emulator.identity().configure_tokens(|tokens| tokens.length = 8_000);
    for size in [512, 32_767] {
        let connector = shop.connector(&format!("Packet Size={size}"));
        let mut client = connector.connect().await.unwrap();
        let long = "x".repeat(9_000);
        assert_eq!(text(&mut client, &format!("SELECT '{long}'")).await.unwrap().len(), 9_000);
        assert_eq!(client.packet_size(), size);
    }
}

#[tokio::test]
async fn a_reset_that_is_not_acknowledged_ends_the_connection() {
    let shop = Shop::open().await;
    let (pool, connector) = shop.pool_of_one();
    let mut a = pool.get().await.unwrap();
    let first = session(&mut a).await;
    drop(a);
    shop.server.behaviour().acknowledge_resets(false);
    let mut b = pool.get().await.unwrap();
    assert_ne!(session(&mut b).await, first);
    assert_eq!(retired(&connector), [(RetireReason::ResetNotAcknowledged, 1)]);
}

#[tokio::test]
async fn an_address_of_ipv6_is_dialled() {
    let config: Config =
        format!("Server=::1,1;ConnectRetryCount=0;Entra Scope={}", Scope::AZURE_SQL)
            .parse()
            .unwrap();
    let identity = Identity::new(TestCredential::new("shop-identity", 1_500));
    let connector = Connector::new(config, identity.tokens(Scope::AZURE_SQL)).unwrap();
    let error = connector.connect().await.unwrap_err();
    assert!(matches!(error, Error::Dial { .. }), "{error:?}");
}

#[tokio::test]
async fn the_beginning_of_a_dropped_request_is_not_run() {
    let shop = Shop::open().await;
    let mut other = shop.connector("").connect().await.unwrap();
    run(&mut other, "CREATE TABLE orders (id int)").await;
    // Its first packets are a valid batch, and the whole is not.
    let comment = "x".repeat(6_000_000);
    let sql = format!("INSERT INTO orders VALUES (1) --{comment}\n this is not SQL (");
    for size in [512, 8_000, 32_767] {
        let network = Network::to(shop.server.addr()).unwrap();
        let more = format!("Packet Size={size}");
        let connector = shop.connector_to(network.addr().port(), &more, |config| config);
        let pool = connector.pool_builder().max_size(1).build();
        let mut a = pool.get().await.unwrap();
        network.hold();
        let running = timeout(Duration::from_millis(50), a.execute(sql.clone(), ())).await;
        assert!(running.is_err(), "{running:?}");
        network.release();
        drop(a);
        assert_eq!(number(&mut pool.get().await.unwrap(), "SELECT 4711").await, 4711);
        assert_eq!(retired(&connector), [(RetireReason::Closed, 1)]);
        assert_eq!(number(&mut other, "SELECT COUNT(*) FROM orders").await, 0, "{size}");
    }
}

#[tokio::test]
async fn the_pool_is_maintained() {
    let shop = Shop::open().await;
    let port = shop.server.addr().port();
    let connector = shop.connector_to(port, "Min Pool Size=2;Connection Lifetime=0", |config| {
        config.maintenance(true).idle_timeout(HOUR / 6)
    });
    let pool = connector.pool_builder().max_size(4).build();
    drop(pool.get().await.unwrap());
    for (pause, reasons) in [(HOUR / 7_200, vec![]), (HOUR / 6, vec![(RetireReason::Idle, 2)])] {
        until(|| shop.clock.sleepers() > 0).await;
        shop.clock.advance(pause);
        until(|| retired(&connector) == reasons && pool.status().available == 2).await;
    }
    pool.close();
    until(|| shop.counters().open_connections == 0).await;
}
