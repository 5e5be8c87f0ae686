//! Adapters for other pools than deadpool's, and for another driver. Each adapter has its own
//! feature.
//!
//! | feature | module | databases | retries a refused login with a newer token | sessions between borrowers |
//! |---|---|---|---|---|
//! | `bb8` | [`bb8`] | both | yes | as in the pools here |
//! | `diesel-async` | [`diesel`] | PostgreSQL | yes | as in the pools here |
//! | `sqlx` | [`sqlx`] | PostgreSQL | no: sqlx connects by itself | cleaned |
//! | `unstable-mssql-tds` | [`mssql_tds`] | Azure SQL, with Microsoft's driver | yes | as in the pools here. Not covered by semantic versioning |
//!
//! Crates on top of sqlx use the pool of [`sqlx`]: see `examples/sea-orm` for `SeaORM`. Crates that
//! get a token or a password through their own trait do not need an adapter: see
//! [`seams`](crate::manual::seams).

#[cfg(all(feature = "bb8", any(feature = "azure-sql", feature = "postgres")))]
pub mod bb8;
#[cfg(feature = "diesel-async")]
pub mod diesel;
#[cfg(feature = "unstable-mssql-tds")]
pub mod mssql_tds;
#[cfg(feature = "sqlx")]
pub mod sqlx;
