//! Runs the applications' statements with mssql-tds and a given token.

use std::env::var;

use mssql_tds::{
    connection::{
        client_context::{ClientContext, TdsAuthenticationMethod},
        tds_client::{ResultSet, TdsClient},
    },
    connection_provider::tds_connection_provider::TdsConnectionProvider,
    core::{EncryptionSetting, TdsResult},
    datatypes::{column_values::ColumnValues, sql_string::SqlString, sqltypes::SqlType},
    message::parameters::rpc_parameters::{RpcParameter, StatusFlags},
};

async fn rows(
    client: &mut TdsClient,
    sql: &str,
    parameters: Vec<SqlType>,
) -> TdsResult<Vec<Vec<ColumnValues>>> {
    if parameters.is_empty() {
        client.execute(sql.to_owned(), ()).await?;
    } else {
        let parameters = parameters.into_iter().enumerate().map(|(index, value)| {
            RpcParameter::new(Some(format!("@P{}", index + 1)), StatusFlags::NONE, value)
        });
        client.execute_sp_executesql(sql.to_owned(), parameters.collect(), ()).await?;
    }
    let mut found = Vec::new();
    if client.on_rows() {
        while let Some(row) = client.next_row().await? {
            found.push(row);
        }
    }
    client.close_query().await?;
    Ok(found)
}

fn text(value: &str) -> SqlType {
    SqlType::NVarchar(Some(SqlString::from_utf8_string(value.to_owned())), 4000)
}

fn texts(rows: &[Vec<ColumnValues>], column: usize) -> Vec<String> {
    rows.iter()
        .map(|row| match &row[column] {
            ColumnValues::String(text) => text.to_utf8_string(),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn number(rows: &[Vec<ColumnValues>]) -> i32 {
    match rows[0][0] {
        ColumnValues::Int(number) => number,
        ref other => panic!("{other:?}"),
    }
}

async fn client(encryption: EncryptionSetting) -> TdsResult<TdsClient> {
    let mut context = ClientContext::default();
    context.tds_authentication_method = TdsAuthenticationMethod::AccessToken;
    context.access_token = Some(var("TOKEN").expect("the script sets it"));
    context.database = "orders".into();
    context.encryption_options.mode = encryption;
    let server = format!("tcp:localhost,{}", var("PORT").expect("the script sets it"));
    TdsConnectionProvider {}.create_client(context, &server, None).await
}

#[tokio::main]
async fn main() -> TdsResult<()> {
    // TDS 8.0 first.
    for encryption in [EncryptionSetting::Strict, EncryptionSetting::On] {
        let mut client = client(encryption).await?;
        let user = rows(&mut client, "SELECT SUSER_SNAME()", vec![]).await?;
        assert_eq!(texts(&user, 0), [var("EXPECTED_USER").expect("the script sets it")]);
        let page = "SELECT Column2 FROM dbo.TestTable ORDER BY Column1";
        assert_eq!(texts(&rows(&mut client, page, vec![]).await?, 0), ["Hello", "Entra"]);
        let sales = "SELECT id, item, amount, sold_on FROM sales ORDER BY id";
        let sales = rows(&mut client, sales, vec![]).await?;
        assert_eq!(texts(&sales, 1)[1], "Café crème");
        assert!(matches!(sales[2][2], ColumnValues::Null));

        let create =
            "INSERT INTO dbo.Users (FirstName, LastName) OUTPUT INSERTED.Id VALUES (@P1, @P2)";
        let id = number(&rows(&mut client, create, vec![text("Zoë"), text("Lovelace")]).await?);
        let list =
            "SELECT TOP (@P1) Id, FirstName, LastName FROM dbo.Users WHERE Id > @P2 ORDER BY Id";
        let after = vec![SqlType::Int(Some(10)), SqlType::Int(Some(id - 1))];
        assert_eq!(texts(&rows(&mut client, list, after).await?, 1), ["Zoë"]);
        let get = "SELECT Id, FirstName, LastName FROM dbo.Users WHERE Id = @P1";
        let found = rows(&mut client, get, vec![SqlType::Int(Some(id))]).await?;
        assert_eq!(texts(&found, 2), ["Lovelace"]);
        let hire = "INSERT INTO dbo.Employees (Name, Position, Salary) OUTPUT INSERTED.ID \
                    VALUES (@P1, @P2, @P3)";
        let employee = vec![text("Radia Perlman"), text("Engineer"), SqlType::Int(Some(70_000))];
        let id = number(&rows(&mut client, hire, employee).await?);
        let get = "SELECT Name, Salary FROM dbo.Employees WHERE ID = @P1";
        let found = rows(&mut client, get, vec![SqlType::Int(Some(id))]).await?;
        assert_eq!(texts(&found, 0), ["Radia Perlman"]);
        // The driver closes a connection whose reset is not acknowledged.
        rows(&mut client, "CREATE TABLE #mine (n int)", vec![]).await?;
        client.prepare_reset_connection(false);
        assert_eq!(number(&rows(&mut client, "SELECT 1 AS n", vec![]).await?), 1);
        assert!(rows(&mut client, "SELECT n FROM #mine", vec![]).await.is_err());
    }
    println!("all statements");
    Ok(())
}
