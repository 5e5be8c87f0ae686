//! Tests with a real PostgreSQL, as a role whose password is the token.

use entra_pool::{
    credential::{DefaultCredential, Environment},
    token::{Identity, Scope},
};
use examples_test_support::{Application, World};
use serde_json::{Value, json};

use crate::{PROGRAM, SALES, support::postgres::PostgresServer};

pub(crate) struct Postgres {
    pub(crate) server: PostgresServer,
    world: World,
}

impl Postgres {
    pub(crate) async fn start() -> Self {
        let world = World::start().await;
        let endpoint = world.emulator.identity();
        // The application gets the same token as this test.
        endpoint.configure_tokens(|tokens| tokens.repeat_until_expiry = true);
        let environment = Environment::from_pairs(endpoint.app_service_env());
        let identity =
            Identity::new(DefaultCredential::new().environment(environment).build().unwrap());
        let token = identity.tokens(Scope::AZURE_POSTGRESQL).token().await.unwrap();
        let server = PostgresServer::start().await;
        let role = &world.emulator.system_assigned().name;
        server.set_password(role, token.secret()).await;
        server.sql(include_str!("../../setup.postgres.sql")).await;
        let script = include_str!("../../grant.postgres.sql");
        let grant = &script[script.find("GRANT").unwrap()..];
        server.sql(&grant.replace("NAME-OF-THE-APP", role)).await;
        Self { server, world }
    }

    /// The application in App Service, with the system-assigned identity.
    pub(crate) async fn application(&self, query: &str) -> Application {
        let mut environment = self.world.emulator.identity().app_service_env().to_vec();
        let role = &self.world.emulator.system_assigned().name;
        let url = self.server.url_with(role, "&connect_timeout=2");
        environment.push(("AZURE_POSTGRESQL_CONNECTIONSTRING", url));
        environment.push(("REPORT_DATABASE", "postgresql".to_owned()));
        environment.push(("REPORT_QUERY", query.to_owned()));
        Application::start(PROGRAM, environment).await
    }
}

#[tokio::test]
async fn a_real_postgresql_server_returns_the_same_report() {
    let postgres = Postgres::start().await;
    let application = postgres.application("").await;
    assert_eq!(application.get("/report/csv").await.text, SALES);
    assert_eq!(application.get("/ready").await.status, 200);

    postgres.server.stop().await;
    application.get("/report/csv").await.problem(503);
    postgres.server.restart().await;
    assert_eq!(application.recovers("/report/csv").await.text, SALES);

    let query = "SELECT true AS b, 1::smallint AS i2, (-7)::bigint AS i8, 4294967295::oid AS o, \
        0.5::real AS f4, 0.25::double precision AS f8, (-0.05)::numeric(38, 2) AS d, \
        (1::numeric / 4) AS free, 'NaN'::numeric::text AS nan, 'é'::bpchar AS c, '{\"a\":1}'::jsonb AS j, \
        '6f9619ff-8b86-d011-b42d-00c04fc964ff'::uuid AS id, '\\xc0ff'::bytea AS raw, \
        '2026-02-28'::date AS day, '23:59:59.123456'::time AS t, '0001-01-01'::timestamp AS ts, \
        '2026-11-25T01:30:00+02'::timestamptz AS tz, NULL::numeric(9, 3) AS nothing";
    let row = postgres.application(query).await.get("/report/json").await.json()[0].clone();
    let expected = [
        ("b", json!(true)),
        ("i2", json!(1)),
        ("i8", json!(-7)),
        ("o", json!(u32::MAX)),
        ("f4", json!(0.5)),
        ("f8", json!(0.25)),
        ("d", json!(-0.05)),
        ("free", json!("0.25000000000000000000")),
        ("nan", json!("NaN")),
        ("c", json!("é")),
        ("j", json!("{\"a\": 1}")),
        ("id", json!("6f9619ff-8b86-d011-b42d-00c04fc964ff")),
        ("raw", json!("c0ff")),
        ("day", json!("2026-02-28")),
        ("t", json!("23:59:59.123456")),
        ("ts", json!("0001-01-01T00:00:00")),
        ("tz", json!("2026-11-24T23:30:00Z")),
        ("nothing", Value::Null),
    ];
    for (name, value) in expected {
        assert_eq!(row[name], value, "{name}: {row}");
    }

    for (query, said) in [
        ("SELECT ARRAY[1, 2] AS list", "column list: the type _int4 is not supported"),
        ("SELECT 'infinity'::date AS day", "column day: Arrow cannot hold this value of type date"),
        (
            "SELECT 'NaN'::numeric(9, 2) AS sum",
            "column sum: Arrow cannot hold this value of type numeric",
        ),
        ("DELETE FROM sales", "permission denied for table sales"),
    ] {
        let application = postgres.application(query).await;
        application.get("/report/csv").await.problem(500);
        application.has_logged(said).await;
    }
}

#[tokio::test]
async fn an_incomplete_response_is_not_mistaken_for_a_complete_one() {
    let postgres = Postgres::start().await;
    let query = "SELECT 1 / (4500 - n) AS share FROM generate_series(1, 10000) AS n";
    let application = postgres.application(query).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/report/csv", application.address());
    let mut answer = client.get(&url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut lines = 0;
    let broken = loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => lines += chunk.iter().filter(|byte| **byte == b'\n').count(),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(broken && lines <= 4_001, "{lines}");
    application.has_logged("division by zero").await;

    // The program does not wait for a reader that disconnected, and its rows do not reach others.
    let application = postgres.application("SELECT n FROM generate_series(1, 300000) AS n").await;
    let url = format!("{}/report/csv", application.address());
    for _ in 0..3 {
        let mut answer = client.get(&url).send().await.unwrap();
        assert!(answer.chunk().await.unwrap().unwrap().starts_with(b"n\n1\n2\n"));
    }
    let whole = application.get("/report/csv").await;
    assert_eq!(whole.text.lines().count(), 300_001);
}
