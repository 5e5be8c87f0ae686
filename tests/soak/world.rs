//! The servers, the networks to them, and an identity that both databases share.

use std::{sync::Arc, time::Duration};

use entra_pool::{
    azure_sql,
    credential::{Environment, ManagedIdentity, UserAssignedId},
    postgres,
    token::{Identity, Scope},
};
use entra_pool_emulator::{
    azure_sql::{AzureSqlOptions, AzureSqlServer},
    certificates::Authority,
    database::Database,
    identity::{IdentityEndpoint, IdentityOptions},
    jwt::{Directory, Principal, PrincipalKind},
    network::Network,
};

use crate::support::{clock::JumpingClock, credential::issuer, front::PostgresService};

/// Short, so that tokens are often replaced and often expire.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(6);

/// The maximum size of a pool. There are more tasks.
const CONNECTIONS: usize = 8;
/// The maximum lifetime of a connection.
const LIFETIME: Duration = Duration::from_secs(5);
/// The time limit of a connect, which is also the limit for waiting for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(8);
/// The time limit of a request to Azure SQL.
const COMMAND_LIMIT: Duration = Duration::from_secs(4);

pub const ROLE: &str = "soaked";

pub struct World {
    pub clock: JumpingClock,
    pub endpoint: IdentityEndpoint,
    /// Accepts logins or routes them to `elsewhere`; both servers have the same tables.
    pub azure: AzureSqlServer,
    pub elsewhere: AzureSqlServer,
    pub to_azure: Network,
    pub postgres: PostgresService,
    pub to_postgres: Network,
    pub azure_connector: azure_sql::Connector,
    pub postgres_connector: postgres::Connector,
    _authority: Authority,
}

impl World {
    pub async fn new() -> Self {
        let clock = JumpingClock::new();
        let principal = Principal::new(ROLE, PrincipalKind::UserAssigned);
        let issuer = issuer();
        let options = IdentityOptions {
            user_assigned: vec![principal.clone()],
            ..IdentityOptions::default()
        };
        let endpoint = IdentityEndpoint::start(Arc::clone(&issuer), options).unwrap();
        set_token_lifetime(&endpoint, TOKEN_LIFETIME);
        let id = UserAssignedId::ClientId(principal.client_id.clone());
        let credential = ManagedIdentity::user_assigned(id)
            .environment(Environment::default())
            .imds_endpoint(endpoint.imds_endpoint())
            .clock(clock.clone())
            .build()
            .unwrap();
        let identity = Identity::builder(credential).clock(clock.clone()).build();

        let authority = Authority::new().unwrap();
        let directory = Arc::new(Directory::default());
        directory.add(principal.clone());
        let options = AzureSqlOptions::new(
            Arc::clone(&issuer),
            directory,
            Arc::new(Database::new().unwrap()),
            authority.issue(&["localhost"]).unwrap().server_config().unwrap(),
        );
        let azure = AzureSqlServer::start(options.clone()).await.unwrap();
        let elsewhere = AzureSqlServer::start(options).await.unwrap();
        let to_azure = Network::to(azure.addr()).unwrap();
        let config = azure_sql::Config::new("localhost")
            .port(to_azure.addr().port())
            .database("orders")
            .ca_file(authority.path())
            .scope(Scope::AZURE_SQL)
            .connect_timeout(CONNECT_LIMIT)
            .command_timeout(COMMAND_LIMIT)
            .max_lifetime(LIFETIME);
        let tokens = identity.tokens(config.token_scope().unwrap());
        let azure_connector = azure_sql::Connector::new(config, tokens).unwrap();

        let postgres = PostgresService::start().await;
        postgres.create_principal(&principal).await;
        postgres
            .sql(&format!(
                "GRANT ALL ON SCHEMA public TO {ROLE};
                 CREATE TABLE acknowledged (id bigint NOT NULL); GRANT ALL ON acknowledged TO {ROLE};
                 CREATE INDEX by_id ON acknowledged (id)"
            ))
            .await;
        let to_postgres = Network::to(([127, 0, 0, 1], postgres.port()).into()).unwrap();
        let url = postgres.url_at(to_postgres.addr().port(), ROLE, "");
        let config: postgres::Config = url.parse().unwrap();
        let config = config.connect_timeout(CONNECT_LIMIT).max_lifetime(LIFETIME);
        let tokens = identity.tokens(config.token_scope().unwrap());
        let postgres_connector = postgres::Connector::new(config, tokens).unwrap();

        let mut first = azure_connector.connect().await.unwrap();
        let table = "CREATE TABLE acknowledged (id bigint NOT NULL PRIMARY KEY)";
        first.simple_query(table).await.unwrap().into_results().await.unwrap();
        Self {
            clock,
            endpoint,
            azure,
            elsewhere,
            to_azure,
            postgres,
            to_postgres,
            azure_connector,
            postgres_connector,
            _authority: authority,
        }
    }

    /// Builds a pool for each database.
    pub fn pools(&self) -> (azure_sql::Pool, postgres::Pool) {
        let azure = self.azure_connector.pool_builder().max_size(CONNECTIONS).build();
        let connector = &self.postgres_connector;
        let postgres = connector.pool_builder().max_size(CONNECTIONS).build();
        (azure, postgres)
    }

    /// Prints the numbers of logins, retired connections and token requests.
    pub fn print_reports(&self) {
        let azure = self.azure_connector.report();
        println!(
            "Azure SQL: {} logins, {} refused, {} with another token, {} retries; retired: {:?}",
            azure.logins, azure.refused, azure.renewed, azure.retried, azure.retired
        );
        let postgres = self.postgres_connector.report();
        println!(
            "PostgreSQL: {} logins, {} refused, {} with another token, {} retries; retired: {:?}",
            postgres.logins, postgres.refused, postgres.renewed, postgres.retried, postgres.retired
        );
        println!(
            "tokens: {} requests for Azure SQL ({} failed), {} for PostgreSQL ({} failed)",
            azure.token.requests,
            azure.token.failures,
            postgres.token.requests,
            postgres.token.failures
        );
        let [front, elsewhere] = [&self.azure, &self.elsewhere].map(AzureSqlServer::counters);
        println!("Azure SQL's counters: {front:?}; the other server: {} logins", elsewhere.logins);
    }

    /// Returns whether no connections and no timers are left.
    pub fn is_quiet(&self) -> bool {
        let [azure, elsewhere] =
            [&self.azure, &self.elsewhere].map(|server| server.counters().open_connections);
        let [to_azure, to_postgres] =
            [&self.to_azure, &self.to_postgres].map(|network| network.counters().open);
        azure + elsewhere + to_azure + to_postgres == 0 && self.clock.sleepers() == 0
    }
}

/// Sets the lifetime of the tokens that the endpoint issues from now on.
pub fn set_token_lifetime(endpoint: &IdentityEndpoint, lifetime: Duration) {
    let seconds = lifetime.as_secs().try_into().unwrap();
    endpoint.configure_tokens(|tokens| tokens.lifetime_seconds = seconds);
}
