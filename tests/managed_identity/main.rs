//! Managed identities on every host: the requests, the handling of each response, and settings that
//! are rejected before any request. The clock is manual. All text that is shown or logged is
//! searched for secrets.

mod answers;
mod azure_arc;
mod bad_input;
mod hostile;
#[path = "../support/hostile.rs"]
mod hostile_texts;
mod refusals;
mod selectors;
#[path = "../support/waiting.rs"]
mod waiting;
mod world;
