//! The code of the README and of the manual's cookbook, as documentation tests.

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub mod readme {}

#[cfg(doctest)]
#[doc = include_str!("../../../src/manual/cookbook.md")]
pub mod cookbook {}
