//! Microsoft's driver, mssql-tds, in a pool that logs in with Entra tokens, and a feature that
//! tiberius lacks: bulk copy of typed rows.
//!
//! ```sh
//! cargo run --features unstable-mssql-tds --example mssql_tds -- \
//!     'Server=tcp:NAME.database.windows.net;Database=DATABASE' bulk-copy
//! ```
//!
//! Against the emulator: `cargo run -p entra-pool-emulator` prints the string (and what to export
//! first). The driver trusts the platform's roots only: remove `TrustServerCertificateCA=…` from the
//! string, and set `SSL_CERT_FILE=$EMULATOR_CA`. Leave `bulk-copy` out: the emulator refuses it.

use std::error::Error;

use async_trait::async_trait;
use entra_pool::{
    adapters::mssql_tds::{
        Connector,
        mssql_tds::{
            connection::{
                bulk_copy::{BulkCopy, BulkLoadRow},
                tds_client::{ResultSet, TdsClient},
            },
            core::TdsResult,
            datatypes::{column_values::ColumnValues, sql_string::SqlString},
            message::bulk_load::StreamingBulkLoadWriter,
        },
    },
    azure_sql::Config,
    token::Identity,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // At the level INFO, the driver's spans contain the text of each query.
    tracing_subscriber::fmt().with_env_filter("entra_pool=info,mssql_tds=warn").init();
    let mut arguments = std::env::args().skip(1);
    let string = arguments.next().ok_or("usage: mssql_tds CONNECTION_STRING [bulk-copy]")?;

    let (config, credential) = Config::parse_with_credential(&string)?;
    let tokens = Identity::new(credential).tokens(config.token_scope()?);
    let connector = Connector::new(config, tokens)?;
    // With one connection, so that the next checkout gets the same session.
    let pool = connector.pool_builder().max_size(1).build();

    let mut conn = pool.get().await?;
    println!("logged in as {:?}", first_value(&mut conn, "SELECT SUSER_SNAME()").await?);
    // A transaction that is left open …
    conn.execute("BEGIN TRANSACTION".to_owned(), ()).await?;
    conn.close_query().await?;
    drop(conn);
    // … is rolled back before the next checkout gets the session.
    let mut conn = pool.get().await?;
    println!("open transactions: {:?}", first_value(&mut conn, "SELECT @@TRANCOUNT").await?);

    if arguments.next().as_deref() == Some("bulk-copy") {
        bulk_copy(&mut conn).await?;
    }
    drop(conn);
    println!("{}", connector.report());
    Ok(())
}

async fn first_value(client: &mut TdsClient, sql: &str) -> TdsResult<Option<ColumnValues>> {
    client.execute(sql.to_owned(), ()).await?;
    let row = client.next_row().await?;
    // Without this, the pool closes the connection when it is returned.
    client.close_query().await?;
    Ok(row.into_iter().flatten().next())
}

struct Measurement {
    id: i32,
    place: String,
}

#[async_trait]
impl BulkLoadRow for Measurement {
    async fn write_to_packet(
        &self,
        writer: &mut StreamingBulkLoadWriter<'_>,
        column: &mut usize,
    ) -> TdsResult<()> {
        let place = SqlString::from_utf8_string(self.place.clone());
        for value in [ColumnValues::Int(self.id), ColumnValues::String(place)] {
            writer.write_column_value(*column, &value).await?;
            *column += 1;
        }
        Ok(())
    }
}

/// Copies into a temporary table, which the reset of the session drops.
async fn bulk_copy(client: &mut TdsClient) -> TdsResult<()> {
    let table = "CREATE TABLE #measurement (id int NOT NULL, place nvarchar(50) NOT NULL)";
    client.execute(table.to_owned(), ()).await?;
    client.close_query().await?;
    let rows = (0..100_000).map(|id| Measurement { id, place: format!("place {}", id % 10) });
    let copied = BulkCopy::new(client, "#measurement")
        .batch_size(10_000)
        .write_to_server_zerocopy(rows)
        .await?;
    println!("copied {} rows in {:?}", copied.rows_affected, copied.elapsed);
    Ok(())
}
