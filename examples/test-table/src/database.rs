use entra_pool::azure_sql::Pool;
use examples_common::{Problem, rows::value};

/// The number of rows on a page.
const PAGE: i32 = 50;

/// A page of `Column2`.
pub(crate) struct Values {
    pub(crate) values: Vec<Option<String>>,
    /// `Column1` of the next page's first row.
    pub(crate) next: Option<i32>,
}

/// `Column2` of the rows from `Column1 = from` on.
pub(crate) async fn column_2(pool: &Pool, from: i32) -> Result<Values, Problem> {
    let mut connection = pool.get().await?;
    let mut rows = connection
        .query(
            "SELECT TOP (@P1) Column1, Column2 FROM dbo.TestTable WHERE Column1 >= @P2 ORDER BY Column1",
            &[&(PAGE + 1), &from],
        )
        .await?
        .into_first_result()
        .await?;
    // The query returns one more row than a page has: the first row of the next page.
    let next = if rows.len() > PAGE as usize { rows.pop() } else { None };
    let next = next.map(|row| value(&row, 0)).transpose()?;
    let values = rows.iter().map(|row| Ok(row.try_get::<&str, _>(1)?.map(str::to_owned)));
    Ok(Values { values: values.collect::<Result<_, Problem>>()?, next })
}
