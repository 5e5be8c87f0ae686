//! A token's claims: whatever the text is, they are read or not, without a
//! panic, and nothing of the secret is in `Debug`.
#![no_main]

use std::time::SystemTime;

use entra_pool::token::Token;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let token = Token::new(text, SystemTime::UNIX_EPOCH);
    if let Some(claims) = token.claims() {
        // What is read is text, and can be shown.
        let _ = (claims.principal_name(), format!("{claims:?}"));
    }
});
