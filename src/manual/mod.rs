//! The manual: how to set up each host, and how the crate behaves, with the numbers.
//!
//! - If a login fails: [`whoami`] finds the step that fails, [`troubleshooting`] has the messages.
//! - Programs to copy: [`cookbook`]. The same identity for Redis, DataFusion or another driver:
//!   [`seams`].
//! - Set up the host that the program runs on: [`local`], [`app_service`], [`containers`],
//!   [`machines`], [`ci`].
//! - How the crate behaves: [`tokens`], [`connections`], [`security`], [`limits`]. What to
//!   monitor: [`telemetry`](crate::telemetry). How fast it is: [`figures`].
//! - Migrate from tiberius, deadpool-postgres, bb8-tiberius or sqlx: [`migrating`].
//!
//! The steps of a checkout, from the pool to a token and back:
//!
#![doc = include_str!("request.svg")]
//!
//! Titles in quotes are pages on Microsoft Learn, the sources of statements about Azure. The
//! commands have not been run against Azure.

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
#[doc = include_str!("seams.md")]
pub mod seams {}
#[doc = include_str!("security.md")]
pub mod security {}
#[doc = include_str!("tokens.md")]
#[doc = include_str!("fleet.svg")]
pub mod tokens {}
#[doc = include_str!("troubleshooting.md")]
pub mod troubleshooting {}
#[doc = include_str!("whoami.md")]
pub mod whoami {}
