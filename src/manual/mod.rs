//! The manual: how to set up each host, and how the crate behaves, with the numbers.
//!
//! - A login failed: [`whoami`] finds the step that fails, and [`troubleshooting`] has the messages.
//! - Programs to copy: [`cookbook`]. The same identity for Redis, DataFusion or another driver:
//!   [`seams`].
//! - Set up the place where the program runs: [`local`], [`app_service`], [`containers`],
//!   [`machines`], [`ci`].
//! - How the crate behaves there: [`tokens`], [`connections`], [`security`], [`limits`]. What to
//!   monitor: [`telemetry`](crate::telemetry). How fast it is: [`figures`].
//! - You already use tiberius, deadpool-postgres, bb8-tiberius or sqlx: [`migrating`].
//!
//! How a request for a connection flows, from the checkout to a token and back:
//!
#![doc = include_str!("request.svg")]
//!
//! A title in quotes is that of the page on Microsoft Learn that a statement about Azure comes
//! from. The commands have not been run against Azure.

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
