//! A token's claims: parsing any text succeeds or fails without a panic, and
//! `Debug` shows nothing of the secret.
#![no_main]

use std::time::SystemTime;

use entra_pool::token::Token;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let token = Token::new(text, SystemTime::UNIX_EPOCH);
    if let Some(claims) = token.claims() {
        // The parsed claims are text, and can be shown.
        let _ = (claims.principal_name(), format!("{claims:?}"));
    }
});
