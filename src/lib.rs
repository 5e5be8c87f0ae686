// Not a doctest: the README's program needs other crates. examples/cookbook compiles it.
#![cfg_attr(not(doctest), doc = include_str!("../README.md"))]
#![cfg_attr(
    not(all(
        feature = "azure-sql",
        feature = "postgres",
        feature = "azure-identity",
        feature = "bb8",
        feature = "diesel-async",
        feature = "metrics",
        feature = "sqlx",
        feature = "unstable-mssql-tds"
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
// The manual is compiled only by rustdoc. Its examples need the features that `tests/run` enables.
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
