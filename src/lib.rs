//! Connection pools for Azure SQL and Azure Database for PostgreSQL that log in
//! with Microsoft Entra tokens: the machine's own identity gets a short-lived
//! token, and the token is the password.
//!
//! ```no_run
//! # #[cfg(feature = "azure-sql")]
//! # async fn azure_sql() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = entra_pool::azure_sql::connect(
//!     "Server=tcp:shop.database.windows.net;Database=orders;Authentication=Active Directory Default")?;
//! let mut conn = pool.get().await?;                     // dereferences to tiberius::Client
//! let rows = conn.query("SELECT Column2 FROM TestTable", &[]).await?.into_first_result().await?;
//! # Ok(())
//! # }
//! ```
//!
//! ```no_run
//! # #[cfg(feature = "postgres")]
//! # async fn postgres() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = entra_pool::postgres::connect("postgres://shop-identity@shop.postgres.database.azure.com/restaurant")?;
//! let client = pool.get().await?;                       // a deadpool_postgres::Client
//! let rows = client.query("SELECT name FROM restaurant", &[]).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The same lines work on a laptop (`az login`), in CI (service principal, workload
//! identity) and in Azure (managed identity).
//!
//! Where things are, in the order of a request:
//!
//! - [`azure_sql`] and [`postgres`]: configuration, [`Connector`](azure_sql::Connector)
//!   (dials and logs in), and the pools, which are deadpool's own.
//! - [`token`]: an [`Identity`](token::Identity) has one
//!   [`TokenCache`](token::TokenCache) for each scope, shared by any number of pools.
//! - [`credential`]: who asks for the token: managed identity, Azure CLI, whatever
//!   `azure_identity` has, or a [`TokenCredential`](token::TokenCredential) of yours.
//! - [`clock`]: time, injected.
//!
//! With every part in hand:
//!
//! ```no_run
//! # #[cfg(feature = "azure-sql")]
//! # fn parts(id: String) -> Result<(), Box<dyn std::error::Error>> {
//! use entra_pool::{azure_sql, credential::{ManagedIdentity, UserAssignedId}, token::Identity};
//!
//! let identity  = Identity::new(ManagedIdentity::user_assigned(UserAssignedId::ClientId(id)).build()?);
//! let config: azure_sql::Config = "Server=tcp:shop.database.windows.net;Database=orders".parse()?;
//! let tokens    = identity.tokens(config.token_scope().clone());
//! let connector = azure_sql::Connector::new(config, tokens)?;                             // dials and logs in; no pool
//! let pool      = azure_sql::builder(azure_sql::Manager::new(connector.clone())).max_size(16).build()?;
//! println!("{:?}", connector.report());                                                   // logins, retirements, token
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
//! | `bb8`, `diesel-async`, `sqlx` | no | [`adapters`]: other pools than deadpool's; `sqlx` needs Rust 1.94 |
//! | `chrono`, `time`, `uuid`, `rust_decimal`, `bigdecimal`, `serde_json` | no | these crates' types as parameters and columns, where the drivers have them |
//!
//! Managed identity and the Azure CLIs need none of them.
#![cfg_attr(
    not(all(
        feature = "azure-sql",
        feature = "postgres",
        feature = "azure-identity",
        feature = "bb8",
        feature = "diesel-async",
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
pub mod credential;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod token;

mod cloud;
#[cfg(feature = "_tls")]
mod tls;

pub use cloud::Cloud;
#[cfg(feature = "_tls")]
pub use tls::TlsConfigError;
