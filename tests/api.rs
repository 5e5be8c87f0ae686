//! What users may do with the public types, checked by the compiler.
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

fn shared<T: Send + Sync + 'static>() {}
fn sent<T: Send>(_: T) {}

#[test]
fn what_is_public_goes_between_threads() {
    shared::<Identity>();
    shared::<TokenCache>();
    shared::<Token>();
    shared::<TokenError>();
    shared::<CredentialError>();
    shared::<Arc<dyn TokenCredential>>();
    shared::<ManagedIdentity>();
    shared::<AzureCli>();
    shared::<AzureDeveloperCli>();
    shared::<AzureCoreCredential>();
    shared::<Environment>();

    shared::<azure_sql::Pool>();
    shared::<azure_sql::PooledConnection>();
    shared::<azure_sql::PoolError>();
    shared::<azure_sql::Manager>();
    shared::<azure_sql::Connector>();
    shared::<entra_pool::connect::ConnectorReport>();
    shared::<azure_sql::Connection>();
    shared::<azure_sql::Client>();
    shared::<azure_sql::Transport>();
    shared::<azure_sql::Config>();
    shared::<azure_sql::Error>();

    shared::<postgres::Pool>();
    shared::<postgres::Connector>();
    shared::<entra_pool::connect::ConnectorReport>();
    shared::<postgres::Config>();
    shared::<postgres::Error>();
}

/// Made, and dropped before they have done anything.
#[test]
fn every_future_may_be_awaited_by_a_task_of_its_own() {
    let identity = Identity::new(Never);
    let tokens = identity.tokens(Scope::AZURE_SQL);
    sent(tokens.token());
    sent(tokens.warm_up());
    let old = Token::new("", SystemTime::UNIX_EPOCH);
    sent(tokens.renew(&old));

    let string = "Server=a.database.windows.net";
    let pool = azure_sql::pool_with(&identity, string).unwrap();
    sent(pool.get());
    let connector = azure_sql::Connector::new(string.parse().unwrap(), tokens).unwrap();
    sent(connector.connect());

    let url = "postgres://u@a.postgres.database.azure.com/d";
    let pool = postgres::pool_with(&identity, url).unwrap();
    sent(pool.get());
    let tokens = identity.tokens(Scope::AZURE_POSTGRESQL);
    let connector = postgres::Connector::new(url.parse().unwrap(), tokens).unwrap();
    sent(connector.connect());
}

/// A query's future, too, and the rows that come of it.
#[allow(dead_code)]
async fn a_handler_that_queries(pool: azure_sql::Pool) -> Result<(), azure_sql::PoolError> {
    let mut conn = pool.get().await?;
    let _ = conn.query("SELECT @P1", &[&1]).await;
    let _ = conn.begin_transaction().await;
    Ok(())
}

#[allow(dead_code)]
fn queries_may_be_spawned(pool: azure_sql::Pool) {
    sent(a_handler_that_queries(pool));
}
