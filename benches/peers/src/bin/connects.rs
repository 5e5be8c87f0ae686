//! Connects to Azure SQL COUNT times, one after the other, and prints the time and the allocations
//! of one connect. Meant for a profiler, with the server in another process:
//!
//! ```sh
//! entra-pool-emulator -- perf record --call-graph dwarf target/release/connects 2000
//! entra-pool-emulator -- strace -c -f target/release/connects 2000
//! ```

#[path = "../../../ratios/src/allocations.rs"]
mod allocations;

use std::{env, error::Error, time::Instant};

use entra_pool::azure_sql;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let count = env::args().nth(1).map_or(Ok(1000), |count| count.parse::<u32>())?;
    let pool = azure_sql::pool_from_env()?;
    let connector = pool.manager().connector().clone();
    // The first connect requests the token and a TLS ticket.
    connector.connect().await?;
    let (started, allocated) = (Instant::now(), allocations::so_far());
    for _ in 0..count {
        connector.connect().await?;
    }
    let allocations = (allocations::so_far() - allocated) as f64 / f64::from(count);
    println!("{:?} and {allocations:.1} allocations each", started.elapsed() / count);
    Ok(())
}
