//! The bytes of a PostgreSQL connection: any bytes are tracked without a panic, and with the same
//! result for every way in which the network splits them.
//!
//! The input: the number of pieces, the lengths of the pieces, then the bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((count, rest)) = input.split_first() else { return };
    let (lengths, sent) = rest.split_at(usize::from(*count % 16).min(rest.len()));
    entra_pool::postgres::follows_alike(sent, lengths);
});
