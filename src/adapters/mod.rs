//! The connectors under other pools than deadpool's, and another driver, each behind a feature.
//!
//! | feature | module | databases | a refused login is tried again with a newer token | sessions between borrowers |
//! |---|---|---|---|---|
//! | `bb8` | [`bb8`] | both | yes | as in the pools here |
//! | `diesel-async` | [`diesel`] | PostgreSQL | yes | as in the pools here |
//! | `sqlx` | [`sqlx`] | PostgreSQL | no: sqlx connects by itself | cleaned, too |
//! | `unstable-mssql-tds` | [`mssql_tds`] | Azure SQL, by Microsoft's driver | yes | as in the pools here; outside of semantic versioning |
//!
//! What sits on sqlx takes the pool of [`sqlx`]: `examples/sea-orm` shows it with
//! `SeaORM`. Crates that take a token or a password from a trait of theirs need no adapter:
//! [`seams`](crate::manual::seams).

#[cfg(all(feature = "bb8", any(feature = "azure-sql", feature = "postgres")))]
pub mod bb8;
#[cfg(feature = "diesel-async")]
pub mod diesel;
#[cfg(feature = "unstable-mssql-tds")]
pub mod mssql_tds;
#[cfg(feature = "sqlx")]
pub mod sqlx;
