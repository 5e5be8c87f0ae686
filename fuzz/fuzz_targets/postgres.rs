//! What goes over a PostgreSQL connection, whatever it is, is followed without a panic and to the
//! same end however the network cuts it.
//!
//! The input: a number of lengths, the lengths of the pieces, then what is sent.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((count, rest)) = input.split_first() else { return };
    let (lengths, sent) = rest.split_at(usize::from(*count % 16).min(rest.len()));
    entra_pool::postgres::follows_alike(sent, lengths);
});
