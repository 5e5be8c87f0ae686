//! What tests of several files share. Not every file uses all of it.
#![allow(dead_code, clippy::disallowed_methods)] // A server lives in real time.

pub mod credential;
pub mod postgres;
