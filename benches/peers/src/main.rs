//! Compares entra-pool with other drivers and pools: connect and log in, and a warm checkout with
//! a query. All verify the server's certificate, and use the same server and the same token.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml` prints two tables.

mod azure_sql;
mod measure;
mod postgres;
#[path = "../../../tests/support/mod.rs"]
mod support;

fn main() {
    // Two cryptography crates of rustls are linked, and some peers use the default provider.
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("the first provider");
    azure_sql::tables();
    postgres::tables();
}
