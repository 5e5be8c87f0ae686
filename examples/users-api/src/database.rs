use entra_pool::azure_sql::{Pool, tiberius::Row};
use examples_common::{
    Problem,
    rows::{one, value},
};

use crate::user::{NewUser, User};

pub(crate) async fn create(pool: &Pool, user: NewUser) -> Result<User, Problem> {
    let NewUser { first_name, last_name } = user;
    let mut connection = pool.get().await?;
    let row = connection
        .query(
            "INSERT INTO dbo.Users (FirstName, LastName) OUTPUT INSERTED.Id VALUES (@P1, @P2)",
            &[&first_name, &last_name],
        )
        .await?
        .into_row()
        .await?;
    Ok(User { id: value(&one(row)?, 0)?, first_name, last_name })
}

/// The first `limit` users with an ID above `after`, by ID.
pub(crate) async fn list(pool: &Pool, after: i32, limit: i32) -> Result<Vec<User>, Problem> {
    let mut connection = pool.get().await?;
    let rows = connection
        .query(
            "SELECT TOP (@P1) Id, FirstName, LastName FROM dbo.Users WHERE Id > @P2 ORDER BY Id",
            &[&limit, &after],
        )
        .await?
        .into_first_result()
        .await?;
    rows.iter().map(user).collect()
}

pub(crate) async fn get(pool: &Pool, id: i32) -> Result<Option<User>, Problem> {
    let mut connection = pool.get().await?;
    let row = connection
        .query("SELECT Id, FirstName, LastName FROM dbo.Users WHERE Id = @P1", &[&id])
        .await?
        .into_row()
        .await?;
    row.as_ref().map(user).transpose()
}

fn user(row: &Row) -> Result<User, Problem> {
    let name = |column| value::<&str>(row, column).map(str::to_owned);
    Ok(User { id: value(row, 0)?, first_name: name(1)?, last_name: name(2)? })
}
