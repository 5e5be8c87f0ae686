//! entra-pool next to other drivers and pools: connect and log in, and a warm checkout with a
//! query. All verify the server's certificate, and all ask the same server with the same token.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml` prints two tables.

mod azure_sql;
mod measure;
mod postgres;
#[path = "../../../tests/support/mod.rs"]
mod support;

fn main() {
    // Two crates of rustls' cryptography are linked: some peers ask for the default.
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("it is the first");
    azure_sql::tables();
    postgres::tables();
}
