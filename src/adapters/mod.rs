//! The connectors under other pools than deadpool's, each behind a feature of
//! its name.
//!
//! | feature | module | databases | a refused login is tried again with a newer token | sessions between borrowers |
//! |---|---|---|---|---|
//! | `bb8` | [`bb8`] | both | yes | as in the pools here |
//! | `diesel-async` | [`diesel`] | PostgreSQL | yes | as in the pools here |
//! | `sqlx` | [`sqlx`] | PostgreSQL | no: sqlx connects by itself | cleaned, too |
//!
//! What sits on sqlx takes the pool of [`sqlx`]: `examples/sea-orm` shows it with
//! `SeaORM`.

#[cfg(all(feature = "bb8", any(feature = "azure-sql", feature = "postgres")))]
pub mod bb8;
#[cfg(feature = "diesel-async")]
pub mod diesel;
#[cfg(feature = "unstable-mssql-tds")]
pub mod mssql_tds;
#[cfg(feature = "sqlx")]
pub mod sqlx;
