//! Token requests, and waiting for their effects. Not every file uses all of it.
#![allow(dead_code)]

use std::error::Error;

use entra_pool::token::{CredentialError, Reason, Scope, Token, TokenCredential, TokenRequest};

pub async fn ask(credential: &dyn TokenCredential) -> Result<Token, CredentialError> {
    credential.get_token(TokenRequest::new(Scope::AZURE_SQL, Reason::Missing)).await
}

/// The error and its causes on one line, as in a log.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(this) = cause {
        text += &format!(": {this}");
        cause = this.source();
    }
    text
}

/// Runs all other tasks until the condition is true.
pub async fn until(condition: impl Fn() -> bool) {
    for _ in 0..20_000_000_u32 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the condition never became true");
}
