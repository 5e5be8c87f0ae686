//! Tests with a real PostgreSQL, as a role whose password is the token.

use entra_pool::token::Scope;
use examples_test_support::{Application, World};

use crate::{
    PROGRAM,
    forms::{add_restaurant, page},
    support::postgres::PostgresServer,
    visit::{pages_are_complete, visit},
};

#[tokio::test]
async fn a_real_postgresql_runs_all_statements() {
    let world = World::start().await;
    // The application gets the same token as this test.
    world.emulator.identity().configure_tokens(|tokens| tokens.repeat_until_expiry = true);
    let token = world.identity.tokens(Scope::AZURE_POSTGRESQL).token().await.unwrap();
    let role = &world.emulator.user_assigned().name;
    let server = PostgresServer::start().await;
    server.set_password(role, token.secret()).await;
    server.sql(include_str!("../../setup.sql")).await;
    // As in grant.sql; the role exists already.
    server.sql(&grants().replace("restaurants-identity", role)).await;

    let photos = tempfile::tempdir().unwrap();
    let mut environment = world.emulator.env();
    let url = server.url_with(role, "&connect_timeout=2");
    environment.push(("AZURE_POSTGRESQL_CONNECTIONSTRING", url));
    environment.push(("PHOTOS_FOLDER", photos.path().join("new").display().to_string()));
    let application = Application::start(PROGRAM, environment).await.as_browser();
    visit(&application).await;
    assert_eq!(photos.path().join("new").read_dir().unwrap().count(), 1);

    server.stop().await;
    page(&application.get("/").await, 503);
    server.restart().await;
    application.recovers("/").await;
    page(&add_restaurant(&application, "O'Neill", "it's fish").await, 200);
    pages_are_complete(&application).await;
}

fn grants() -> &'static str {
    let script = include_str!("../../grant.sql");
    &script[script.find("GRANT").unwrap()..]
}
