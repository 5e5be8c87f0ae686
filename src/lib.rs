//! Connection pools for **Azure SQL** and **Azure Database for PostgreSQL** that log
//! in with Microsoft Entra tokens: the machine's own identity gets a short-lived
//! token, and the token is the password. No secret to store, none to rotate.
//!
//! `cargo add entra-pool`, `cargo add tokio --features full`, and in an `async fn` that
//! returns a `Result`:
//!
//! ```no_run
//! # #[cfg(feature = "azure-sql")]
//! # async fn azure_sql() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = entra_pool::azure_sql::pool(
//!     "Server=tcp:shop.database.windows.net;Database=orders;Authentication=Active Directory Default")?;
//! let mut conn = pool.get().await?;   // dereferences to tiberius::Client
//! let rows = conn.query("SELECT Column2 FROM TestTable", &[]).await?
//!     .into_first_result().await?;
//! # Ok(())
//! # }
//! ```
//!
//! ```no_run
//! # #[cfg(feature = "postgres")]
//! # async fn postgres() -> Result<(), Box<dyn std::error::Error>> {
//! use entra_pool::postgres;
//!
//! let pool = postgres::pool("postgres://shop.postgres.database.azure.com/restaurant")?;
//! let client = pool.get().await.map_err(postgres::Error::from)?;   // a deadpool_postgres::Client
//! let rows = client.query("SELECT name FROM restaurant", &[]).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The same lines work on a laptop (`az login`), in CI (service principal, workload
//! identity) and in Azure (managed identity); but on PostgreSQL the URL must name the role
//! (`postgres://ROLE@shop…`) where the token does not: it has the name of a user-assigned
//! identity or of a person, and not that of an application, a system-assigned identity or a
//! group.
//!
//! # Let the identity in
//!
//! Once, as the server's Entra administrator. Azure SQL, in the database:
//!
//! ```sql
//! CREATE USER [shop-identity] FROM EXTERNAL PROVIDER;
//! ALTER ROLE db_datareader ADD MEMBER [shop-identity];
//! ```
//!
//! PostgreSQL, in the database `postgres`; then, in the program's own, `GRANT` as to any role:
//!
//! ```sql
//! SELECT * FROM pgaadauth_create_principal('shop-identity', false, false);
//! ```
//!
//! # Which identity
//!
//! `pool` takes the identity that the connection string names, else that of the
//! environment, in this order: service principal (`AZURE_TENANT_ID`,
//! `AZURE_CLIENT_ID` and `AZURE_CLIENT_SECRET` or `AZURE_CLIENT_CERTIFICATE_PATH`),
//! workload identity (`AZURE_FEDERATED_TOKEN_FILE`), managed identity (App Service,
//! Functions, Container Apps, virtual machines, AKS nodes, Azure Arc, Azure ML,
//! Service Fabric, Cloud Shell; `AZURE_CLIENT_ID` chooses a user-assigned one), Azure
//! CLI, Azure Developer CLI. The first that works is kept. `AZURE_TOKEN_CREDENTIALS`
//! narrows it to `prod` (the first three), `dev` (the last two) or one name. The cloud,
//! and with it who is asked, follows from the database's host.
//!
//! # The way of a request
//!
#![doc = include_str!("manual/request.svg")]
//!
//! Until the last 30 seconds of a token nobody waits for the next, whatever the identity
//! endpoint does.
//!
//! # What it takes care of
//!
//! - **[Tokens].** One identity is shared by any number of pools; each scope has one
//!   token cache. An ageing token is replaced beside its use, long before its end. A
//!   failed refresh backs off and is told; no error sticks.
//! - **[Connections].** A refused token is renewed and the login tried once more, if the
//!   provider has another one. What passes by itself (a serverless database that wakes
//!   up, a failover, a connection that breaks) is tried again with jittered pauses,
//!   within one time limit for all of a connect; when that is over, the error names the
//!   stage it ended in.
//! - **Sessions.** What one borrower leaves behind (temporary tables, `SET` options,
//!   `SESSION_CONTEXT`, PostgreSQL's roles, open transactions, half-read queries) does
//!   not reach the next. On Azure SQL, `conn.transaction()` returns a guard; without
//!   `commit`, the pool rolls back when the connection is returned. What a reset leaves
//!   alone is said under [Limits].
//! - **[Security].** A token is only ever sent over TLS to a server whose certificate
//!   was verified. Tokens are in no error, log or `Debug`, and the crate's own
//!   copies are overwritten in memory when they are dropped.
//! - **Connection strings.** The strings of the portal and of other drivers are read: on Azure SQL
//!   those of ADO.NET, ODBC, JDBC, Prisma and go-mssqldb; on PostgreSQL URLs and those of libpq,
//!   Npgsql and pgjdbc. `pool_from_env` reads the variables of Service Connector and App Service.
//!   Unknown, contradictory and unsafe keywords are refused by name, with the alternative.
//! - **[Errors][Troubleshooting].** A login that stays refused names the principal, its
//!   tenant and audience, and the statement that would let it in.
//!
//! # The layers
//!
//! Each is of use without those above it.
//!
//! | layer | what it does |
//! |---|---|
//! | `Pool` | deadpool's own type, on PostgreSQL deadpool-postgres' own: sizes, time limits, hooks and `status` are what you know. `Connector::warm_up` connects before the first request, `close_and_wait` ends the pool after the last. In its place: bb8, diesel-async, sqlx ([`adapters`]) |
//! | `Connector` | of [`azure_sql`] or [`postgres`]: dials, verifies, logs in; `report()` counts logins, retries and why connections were retired |
//! | [`token`] | an `Identity` has one `TokenCache` for each scope |
//! | [`credential`] | who asks for the token: managed identity, Azure CLI, whatever `azure_identity` has, or a `TokenCredential` of yours |
//! | [`telemetry`] | what is told while it runs: spans, events and metrics, with OpenTelemetry's names |
//! | [`clock`] | time, injected: tests move it instead of waiting |
//!
//! With every part in hand:
//!
//! ```no_run
//! # #[cfg(feature = "azure-sql")]
//! # fn parts(id: String) -> Result<(), Box<dyn std::error::Error>> {
//! use entra_pool::{azure_sql, credential::{ManagedIdentity, UserAssignedId}, token::Identity};
//!
//! let credential = ManagedIdentity::user_assigned(UserAssignedId::ClientId(id)).build()?;
//! let identity = Identity::new(credential);
//! let config: azure_sql::Config = "Server=shop.database.windows.net;Database=orders".parse()?;
//! let tokens = identity.tokens(config.token_scope()?);
//! let connector = azure_sql::Connector::new(config, tokens)?;   // dials and logs in; no pool
//! let pool = connector.pool_builder().max_size(16).build();
//! println!("{}", connector.report());                           // logins, retirements, token
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | default | what it brings |
//! |---|---|---|
//! | `azure-sql` | yes | [`azure_sql`], over tiberius |
//! | `postgres` | yes | [`postgres`], over tokio-postgres and deadpool-postgres |
//! | `azure-identity` | yes | service principal, workload identity, Azure Pipelines, client assertion, from `azure_identity`; the largest part of a cold build |
//! | `client-certificate` | no | service principal with a certificate (PKCS#12), from `azure_identity`: links OpenSSL, whose headers must be installed |
//! | `bb8` | no | `adapters::bb8`: bb8's pool in place of deadpool's, on both databases |
//! | `diesel-async` | no | `adapters::diesel`: diesel-async's deadpool and bb8 pools, on PostgreSQL |
//! | `sqlx` | no | `adapters::sqlx`: sqlx's `PgPool`, and what sits on it (`SeaORM`); needs Rust 1.94 |
//! | `metrics` | no | counters, gauges and histograms of tokens, logins and pools, through the `metrics` facade: see [`telemetry`] |
//! | `test-util` | no | for tests: `clock::ManualClock`, a clock that stands until it is moved, and others |
//! | `chrono`, `time`, `uuid`, `rust_decimal`, `bigdecimal`, `serde_json` | no | these crates' types as parameters and columns: `chrono` and `time` on both databases, `uuid` and `serde_json` on PostgreSQL, `rust_decimal` and `bigdecimal` on Azure SQL (`uuid` is always there) |
//!
//! Managed identity and the Azure CLIs need none of them. The crate needs Rust 1.88 or
//! newer, and runs in tokio.
//!
//! # Where to go next
//!
//! A login fails: [Troubleshooting] has the messages as its headings. Where it runs:
//! [on a developer's machine][local], [App Service and Functions][app-service],
//! [Container Apps and AKS][containers], [virtual machines and Azure Arc][machines],
//! [CI][ci]. How it works, with the numbers: [Tokens], [Connections], [Security],
//! [Limits]. What to watch: [`telemetry`]. From tiberius, deadpool-postgres, bb8-tiberius
//! or sqlx: [Migrating].
//!
//! [Tokens]: manual::tokens
//! [Connections]: manual::connections
//! [Security]: manual::security
//! [Limits]: manual::limits
//! [Troubleshooting]: manual::troubleshooting
//! [Migrating]: manual::migrating
//! [local]: manual::local
//! [app-service]: manual::app_service
//! [containers]: manual::containers
//! [machines]: manual::machines
//! [ci]: manual::ci
//! [`adapters`]: adapters
//! [`azure_sql`]: azure_sql
//! [`postgres`]: postgres
//! [`token`]: token
//! [`telemetry`]: telemetry
//! [`credential`]: credential
//! [`clock`]: clock
#![cfg_attr(
    not(all(
        feature = "azure-sql",
        feature = "postgres",
        feature = "azure-identity",
        feature = "bb8",
        feature = "diesel-async",
        feature = "metrics",
        feature = "sqlx"
    )),
    allow(rustdoc::broken_intra_doc_links)
)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(missing_docs, unreachable_pub)]
#![warn(clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::module_name_repetitions)]

#[cfg(feature = "_adapters")]
pub mod adapters;
#[cfg(feature = "azure-sql")]
pub mod azure_sql;
pub mod clock;
#[cfg(any(feature = "azure-sql", feature = "postgres"))]
pub mod connect;
pub mod credential;
// Text: nothing of it is compiled for users. Its examples want what `tests/run` has on.
#[cfg(all(
    doc,
    any(
        not(doctest),
        all(
            feature = "azure-sql",
            feature = "postgres",
            feature = "azure-identity",
            feature = "bb8",
            feature = "diesel-async",
            feature = "sqlx"
        )
    )
))]
pub mod manual;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod telemetry;
pub mod token;

mod cloud;
mod excerpt;
mod limited;
mod lock;
#[cfg(any(feature = "azure-sql", feature = "postgres"))]
mod pasted;
mod single_task;
mod tls;

pub use cloud::Cloud;
#[cfg(any(feature = "azure-sql", feature = "postgres"))]
pub use tls::TlsConfigError;
