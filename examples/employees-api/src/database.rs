use std::borrow::Cow;

use entra_pool::azure_sql::{
    Pool,
    tiberius::{Row, error::Error},
};
use examples_common::{
    Problem,
    rows::{one, value},
};

use crate::{
    employee::{Employee, NewEmployee},
    salary::Salary,
};

pub(crate) async fn create(pool: &Pool, employee: NewEmployee) -> Result<Employee, Problem> {
    let mut connection = pool.get().await?;
    let row = connection
        .query(
            "INSERT INTO dbo.Employees (Name, Position, Salary) OUTPUT INSERTED.ID \
             VALUES (@P1, @P2, @P3)",
            &[&employee.name, &employee.position, &employee.salary.numeric()],
        )
        .await?
        .into_row()
        .await?;
    Ok(Employee { id: value(&one(row)?, 0)?, data: employee })
}

pub(crate) async fn list(pool: &Pool) -> Result<Vec<Employee>, Problem> {
    let mut connection = pool.get().await?;
    let rows = connection
        .query("SELECT TOP (1000) ID, Name, Position, Salary FROM dbo.Employees ORDER BY ID", &[])
        .await?
        .into_first_result()
        .await?;
    Ok(rows.iter().map(employee).collect::<Result<_, _>>()?)
}

pub(crate) async fn get(pool: &Pool, id: i32) -> Result<Option<Employee>, Problem> {
    let mut connection = pool.get().await?;
    let row = connection
        .query("SELECT ID, Name, Position, Salary FROM dbo.Employees WHERE ID = @P1", &[&id])
        .await?
        .into_row()
        .await?;
    Ok(row.as_ref().map(employee).transpose()?)
}

fn employee(row: &Row) -> Result<Employee, Error> {
    let text = |column| value::<&str>(row, column).map(str::to_owned);
    let salary = Salary::from_numeric(value(row, 3)?)
        .ok_or(Error::Conversion(Cow::Borrowed("the salary does not fit the column")))?;
    let data = NewEmployee { name: text(1)?, position: text(2)?, salary };
    Ok(Employee { id: value(row, 0)?, data })
}
