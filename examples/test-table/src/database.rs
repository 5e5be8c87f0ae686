use entra_pool::azure_sql::Pool;
use examples_common::Problem;

/// Makes the table and its two rows, where they are not there yet.
pub(crate) const SETUP: &str = include_str!("../setup.sql");

/// `Column2` of every row.
pub(crate) async fn column_2(pool: &Pool) -> Result<Vec<Option<String>>, Problem> {
    let mut connection = pool.get().await?;
    let rows = connection
        .query("SELECT Column2 FROM dbo.TestTable ORDER BY Column1", &[])
        .await?
        .into_first_result()
        .await?;
    rows.iter().map(|row| Ok(row.try_get::<&str, _>(0)?.map(str::to_owned))).collect()
}
