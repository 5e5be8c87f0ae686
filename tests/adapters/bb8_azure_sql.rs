//! bb8's pool on Azure SQL.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use entra_pool::{
    adapters::bb8::{self, azure_sql::Pool, bb8::ErrorSink},
    azure_sql::{Client, Connector, Error, Manager, Recycling},
    connect::RetireReason,
    credential::{Environment, ManagedIdentity, UserAssignedId},
    token::Identity,
};
use entra_pool_emulator::emulator::Emulator;

use crate::until;

struct Shop {
    emulator: Emulator,
    connector: Connector,
}

impl Shop {
    async fn open() -> Self {
        let emulator = Emulator::start().await.unwrap();
        let id = UserAssignedId::ClientId(emulator.user_assigned().client_id.clone());
        let environment = Environment::from_pairs(emulator.identity().app_service_env());
        let credential =
            ManagedIdentity::user_assigned(id).environment(environment).build().unwrap();
        let config: entra_pool::azure_sql::Config = emulator.azure_sql_string().parse().unwrap();
        let tokens = Identity::new(credential).tokens(config.token_scope().unwrap());
        Self { emulator, connector: Connector::new(config, tokens).unwrap() }
    }

    fn manager(&self) -> Manager {
        Manager::new(self.connector.clone())
    }

    /// A pool of one connection, so that each checkout gets the same one.
    fn pool_of_one(&self, recycling: Recycling) -> Pool {
        let mut manager = self.manager();
        if recycling != Recycling::default() {
            let config = self.connector.config().clone().recycling(recycling);
            let tokens = self.connector.tokens().clone();
            manager = Manager::new(Connector::new(config, tokens).unwrap());
        }
        bb8::azure_sql::builder(&manager).max_size(1).build_unchecked(manager)
    }

    /// A pool of one connection that is not tested at a checkout.
    fn untested_pool_of_one(&self) -> Pool {
        let manager = self.manager();
        let builder = bb8::azure_sql::builder(&manager).max_size(1);
        builder.test_on_check_out(false).build_unchecked(manager)
    }

    fn retired(&self) -> Vec<(RetireReason, u64)> {
        self.connector.report().retired
    }
}

async fn text(client: &mut Client, sql: &str) -> Option<String> {
    let row = client.simple_query(sql).await.unwrap().into_row().await.unwrap().unwrap();
    row.get::<&str, _>(0).map(str::to_owned)
}

async fn run(client: &mut Client, sql: &str) {
    client.simple_query(sql).await.unwrap().into_results().await.unwrap();
}

/// Returns the ID of the session.
async fn session(client: &mut Client) -> String {
    text(client, "SELECT CAST(@@SPID AS nvarchar(10))").await.unwrap()
}

const TENANT: &str = "SELECT CAST(SESSION_CONTEXT(N'tenant') AS nvarchar(20))";

#[tokio::test]
async fn a_session_is_clean_for_the_next_caller() {
    let shop = Shop::open().await;
    for pool in [
        shop.pool_of_one(Recycling::Clean),
        shop.pool_of_one(Recycling::Fast),
        shop.untested_pool_of_one(),
    ] {
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        run(&mut a, "CREATE TABLE #bill (total int)").await;
        run(&mut a, "EXEC sp_set_session_context N'tenant', N'a'").await;
        drop(a);
        let mut b = pool.get().await.unwrap();
        assert_eq!(text(&mut b, TENANT).await, None);
        let bill = b.simple_query("SELECT * FROM #bill").await.map(drop).unwrap_err();
        assert_eq!(bill.code(), Some(208), "the temporary table is gone");
        assert_eq!(session(&mut b).await, first, "the same session");
    }
    assert_eq!(shop.retired(), []);
}

#[tokio::test]
async fn an_open_transaction_is_rolled_back_before_the_next_checkout() {
    let shop = Shop::open().await;
    let open = "SELECT CAST(@@TRANCOUNT AS nvarchar(10))";
    // The connection is closed when it is returned.
    let untested = shop.untested_pool_of_one();
    for (pool, count) in [(shop.pool_of_one(Recycling::Clean), 1), (untested.clone(), 2)] {
        let mut a = pool.get().await.unwrap();
        a.begin_transaction().await.unwrap();
        drop(a);
        until(|| pool.state().connections == 0).await;
        assert_eq!(shop.retired(), [(RetireReason::TransactionOpen, count)]);
        assert_eq!(text(&mut pool.get().await.unwrap(), open).await.as_deref(), Some("0"));
    }

    // A transaction that the driver does not see is rolled back by the cleaning. Without the
    // cleaning, the first request fails.
    let hidden = "SELECT 1; BEGIN TRANSACTION";
    let pool = shop.pool_of_one(Recycling::Clean);
    run(&mut pool.get().await.unwrap(), hidden).await;
    assert_eq!(text(&mut pool.get().await.unwrap(), open).await.as_deref(), Some("0"));
    let pool = untested;
    run(&mut pool.get().await.unwrap(), hidden).await;
    let mut b = pool.get().await.unwrap();
    assert!(b.simple_query("SELECT 1").await.is_err());
    drop(b);
    assert_eq!(text(&mut pool.get().await.unwrap(), open).await.as_deref(), Some("0"));
    assert_eq!(shop.retired(), [(RetireReason::TransactionOpen, 3)]);
}

#[tokio::test]
async fn the_response_of_a_cancelled_query_does_not_reach_the_next_caller() {
    let shop = Shop::open().await;
    for (pool, retired) in
        [(shop.pool_of_one(Recycling::Clean), 1), (shop.untested_pool_of_one(), 2)]
    {
        let mut a = pool.get().await.unwrap();
        let first = session(&mut a).await;
        let behaviour = shop.emulator.azure_sql().behaviour();
        behaviour.delay_queries(Duration::from_secs(3_600));
        let sent = shop.emulator.azure_sql().counters().requests;
        tokio::select! {
            answer = a.simple_query("SELECT 1") => panic!("{:?}", answer.map(drop)),
            () = until(|| shop.emulator.azure_sql().counters().requests > sent) => {}
        }
        behaviour.delay_queries(Duration::ZERO);
        drop(a);
        assert_ne!(session(&mut pool.get().await.unwrap()).await, first);
        assert_eq!(shop.retired(), [(RetireReason::Unsettled, retired)]);
        assert_eq!(pool.state().statistics.connections_closed_broken, 1);
    }
}

#[tokio::test]
async fn a_connection_that_the_server_has_closed_is_not_checked_out() {
    let shop = Shop::open().await;
    let pool = shop.pool_of_one(Recycling::Clean);
    let first = session(&mut pool.get().await.unwrap()).await;
    shop.emulator.azure_sql().cut_connections().await;
    until(|| shop.emulator.azure_sql().counters().open_connections == 0).await;
    assert_ne!(session(&mut pool.get().await.unwrap()).await, first);
    assert_eq!(shop.retired(), [(RetireReason::Closed, 1)]);
}

/// Keeps the errors that bb8 does not return to callers.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<Error>>>);

impl ErrorSink<Error> for Kept {
    fn sink(&self, error: Error) {
        self.0.lock().unwrap().push(error);
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<Error>> {
        Box::new(self.clone())
    }
}

#[tokio::test]
async fn a_refused_login_is_reported_to_the_error_sink_and_not_retried() {
    let shop = Shop::open().await;
    shop.emulator.directory().remove("shop-identity");
    let (kept, manager) = (Kept::default(), shop.manager());
    let pool =
        bb8::azure_sql::builder(&manager).error_sink(kept.boxed_clone()).build_unchecked(manager);
    tokio::select! {
        connection = pool.get() => panic!("{:?}", connection.map(drop)),
        () = until(|| !kept.0.lock().unwrap().is_empty()) => {}
    }
    let errors = kept.0.lock().unwrap();
    assert!(matches!(errors.as_slice(), [Error::LoginRefused(_)]), "{errors:?}");
    assert_eq!(shop.emulator.azure_sql().counters().refused_logins, 1);
    assert_eq!(pool.state().connections, 0);
}
