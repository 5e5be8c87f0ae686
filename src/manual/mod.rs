//! The manual: what to do where, and what happens when, with the numbers.
//!
//! A login has failed: [`troubleshooting`]. Where the program runs: [`local`],
//! [`app_service`], [`containers`], [`machines`], [`ci`]. What it does there: [`tokens`],
//! [`connections`], [`security`], [`limits`]; what to watch:
//! [`telemetry`](crate::telemetry). You have tiberius, deadpool-postgres,
//! bb8-tiberius or sqlx already: [`migrating`].
//!
//! What is said of Azure is said with the title of the page on Microsoft Learn that says
//! so. Commands stand as they were written; none has been run against Azure here.

#[doc = include_str!("app_service.md")]
pub mod app_service {}
#[doc = include_str!("ci.md")]
pub mod ci {}
#[doc = include_str!("connections.md")]
pub mod connections {}
#[cfg_attr(not(doctest), doc = include_str!("cookbook.md"))]
pub mod cookbook {}
#[doc = include_str!("containers.md")]
pub mod containers {}
#[doc = include_str!("figures.md")]
pub mod figures {}
#[doc = include_str!("limits.md")]
pub mod limits {}
#[doc = include_str!("local.md")]
pub mod local {}
#[doc = include_str!("machines.md")]
pub mod machines {}
#[doc = include_str!("migrating.md")]
pub mod migrating {}
#[doc = include_str!("security.md")]
pub mod security {}
#[doc = include_str!("tokens.md")]
#[doc = include_str!("fleet.svg")]
pub mod tokens {}
#[doc = include_str!("troubleshooting.md")]
pub mod troubleshooting {}
