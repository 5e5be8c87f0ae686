//! Managed identity on every host: what is asked, what is made of each answer,
//! and what is refused before anything is asked. Time is moved by hand; all
//! that is shown or logged is looked through for secrets.

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
