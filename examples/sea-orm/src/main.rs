//! SeaORM on Azure Database for PostgreSQL.
//!
//! ```sh
//! cargo run --package sea-orm-example -- \
//!     'postgres://ROLE@NAME.postgres.database.azure.com/DATABASE'
//! ```
//!
//! The database needs a table: `CREATE TABLE dish (id serial PRIMARY KEY, name text NOT NULL)`.

use std::error::Error;

use entra_pool::{
    adapters::sqlx::{Pool, options},
    postgres::{self, Connector},
};
use sea_orm::{ActiveModelTrait, EntityTrait, QueryOrder, Set, SqlxPostgresConnector};

mod dish {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "dish")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i32,
        pub name: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("entra_pool=info").init();
    let url = std::env::args().nth(1).ok_or("usage: sea-orm-example URL")?;
    let connector = postgres::connector(&url)?;
    for dish in cook(&connector, "soup").await? {
        println!("{}: {}", dish.id, dish.name);
    }
    Ok(())
}

/// Adds a dish. Returns all dishes.
async fn cook(connector: &Connector, name: &str) -> Result<Vec<dish::Model>, Box<dyn Error>> {
    // The pool refreshes the token, so it must live as long as SeaORM uses it.
    let pool = Pool::new(connector, options(connector).max_connections(4)).await?;
    let db = SqlxPostgresConnector::from_sqlx_postgres_pool((*pool).clone());

    dish::ActiveModel { name: Set(name.to_owned()), ..Default::default() }.insert(&db).await?;
    let dishes = dish::Entity::find().order_by_asc(dish::Column::Id).all(&db).await?;
    pool.close().await;
    Ok(dishes)
}

#[cfg(test)]
#[path = "../../../tests/support/mod.rs"]
mod support;

#[cfg(test)]
#[tokio::test]
async fn sea_orm_uses_the_pool() {
    let server = support::postgres::PostgresServer::start().await;
    let credential = support::credential::TestCredential::new("cook", 2_000);
    server.set_password("cook", &credential.secret()).await;
    let table = "CREATE TABLE dish (id serial PRIMARY KEY, name text NOT NULL); \
                 GRANT ALL ON dish, dish_id_seq TO cook";
    server.sql(table).await;
    let config: postgres::Config = server.url("cook").parse().unwrap();
    let tokens = entra_pool::token::Identity::new(credential).tokens(config.token_scope().unwrap());
    let connector = Connector::new(config, tokens).unwrap();
    for (name, dishes) in [("soup", 1), ("bread", 2)] {
        let cooked = cook(&connector, name).await.unwrap();
        assert_eq!(cooked.len(), dishes);
        assert_eq!(cooked[dishes - 1].name, name);
    }
}
