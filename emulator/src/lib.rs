#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! [`tenant`] starts the endpoints together. [`identity`] and [`entra`] issue tokens, which
//! [`jwt`] signs. [`front`] provides the logins in front of real engines, and [`network`] a
//! proxy that disturbs connections.
#![cfg_attr(
    feature = "embedded",
    doc = "[`emulator`] starts everything with the embedded stand-ins, [`azure_sql`] and [`postgres`]."
)]
#![deny(missing_docs, unreachable_pub)]
#![allow(clippy::disallowed_methods)] // Servers use the real clock.

/// `Debug` with only the name, for types that hold secrets or are too large to print.
macro_rules! opaque_debug {
    ($type:ident) => {
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type)).finish_non_exhaustive()
            }
        }
    };
}

#[cfg(feature = "embedded")]
pub mod azure_cli;
#[cfg_attr(not(feature = "embedded"), path = "azure_sql/protocol.rs")]
pub mod azure_sql;
pub mod certificates;
#[cfg(feature = "embedded")]
pub mod database;
#[cfg(feature = "embedded")]
pub mod emulator;
pub mod entra;
pub mod front;
mod http;
pub mod identity;
pub mod jwt;
mod listener;
pub mod network;
#[cfg(feature = "embedded")]
pub mod postgres;
pub mod tenant;
mod times;
