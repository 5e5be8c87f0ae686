//! Auto traits of the public types and futures, checked by the compiler.
#![cfg(all(feature = "azure-sql", feature = "postgres"))]

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use entra_pool::{
    azure_sql,
    credential::{AzureCli, AzureCoreCredential, AzureDeveloperCli, Environment, ManagedIdentity},
    postgres,
    token::{
        CredentialError, Identity, Scope, Token, TokenCache, TokenCredential, TokenError,
        TokenRequest,
    },
};

#[derive(Debug)]
struct Never;

#[async_trait]
impl TokenCredential for Never {
    fn name(&self) -> String {
        "never".into()
    }

    async fn get_token(&self, _: TokenRequest) -> Result<Token, CredentialError> {
        Ok(Token::new("", SystemTime::UNIX_EPOCH))
    }
}

fn assert_send_and_sync<T: Send + Sync + 'static>() {}
fn assert_send<T: Send>(_: T) {}

#[test]
fn public_types_can_be_shared_between_threads() {
    assert_send_and_sync::<Identity>();
    assert_send_and_sync::<TokenCache>();
    assert_send_and_sync::<Token>();
    assert_send_and_sync::<TokenError>();
    assert_send_and_sync::<CredentialError>();
    assert_send_and_sync::<Arc<dyn TokenCredential>>();
    assert_send_and_sync::<ManagedIdentity>();
    assert_send_and_sync::<AzureCli>();
    assert_send_and_sync::<AzureDeveloperCli>();
    assert_send_and_sync::<AzureCoreCredential>();
    assert_send_and_sync::<Environment>();

    assert_send_and_sync::<azure_sql::Pool>();
    assert_send_and_sync::<azure_sql::PooledConnection>();
    assert_send_and_sync::<azure_sql::PoolError>();
    assert_send_and_sync::<azure_sql::Manager>();
    assert_send_and_sync::<azure_sql::Connector>();
    assert_send_and_sync::<entra_pool::connect::ConnectorReport>();
    assert_send_and_sync::<azure_sql::Connection>();
    assert_send_and_sync::<azure_sql::Client>();
    assert_send_and_sync::<azure_sql::Transport>();
    assert_send_and_sync::<azure_sql::Config>();
    assert_send_and_sync::<azure_sql::Error>();

    assert_send_and_sync::<postgres::Pool>();
    assert_send_and_sync::<postgres::Connector>();
    assert_send_and_sync::<entra_pool::connect::ConnectorReport>();
    assert_send_and_sync::<postgres::Config>();
    assert_send_and_sync::<postgres::Error>();
}

/// Creates the futures and drops them without polling.
#[test]
fn every_future_can_be_spawned() {
    let identity = Identity::new(Never);
    let tokens = identity.tokens(Scope::AZURE_SQL);
    assert_send(tokens.token());
    assert_send(tokens.warm_up());
    let old = Token::new("", SystemTime::UNIX_EPOCH);
    assert_send(tokens.renew(&old));

    let string = "Server=a.database.windows.net";
    let pool = azure_sql::pool_with(&identity, string).unwrap();
    assert_send(pool.get());
    let connector = azure_sql::Connector::new(string.parse().unwrap(), tokens).unwrap();
    assert_send(connector.connect());

    let url = "postgres://u@a.postgres.database.azure.com/d";
    let pool = postgres::pool_with(&identity, url).unwrap();
    assert_send(pool.get());
    let tokens = identity.tokens(Scope::AZURE_POSTGRESQL);
    let connector = postgres::Connector::new(url.parse().unwrap(), tokens).unwrap();
    assert_send(connector.connect());
}

/// Futures of queries, and their rows, must also be `Send`.
#[allow(dead_code)]
async fn handler_with_queries(pool: azure_sql::Pool) -> Result<(), azure_sql::PoolError> {
    let mut conn = pool.get().await?;
    let _ = conn.query("SELECT @P1", &[&1]).await;
    let _ = conn.begin_transaction().await;
    Ok(())
}

#[allow(dead_code)]
fn queries_can_be_spawned(pool: azure_sql::Pool) {
    assert_send(handler_with_queries(pool));
}
