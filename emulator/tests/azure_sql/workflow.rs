//! Logins by drivers that get their token after FEDAUTHINFO.

use std::time::{Duration, SystemTime};

use entra_pool_emulator::azure_sql::STS_URL;

use crate::{
    AUDIENCE, Setup,
    raw::{
        FED_AUTH_TOKEN, LOGIN7, Raw, contains, error, login7, security_token, token_message, utf16,
    },
};

/// The information in FEDAUTHINFO, by its identifiers.
fn info(answer: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let number = |at: usize| u32::from_le_bytes(answer[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!(answer[0], 0xee);
    assert_eq!(number(1), answer.len() - 5, "nothing follows the token");
    (0..number(5))
        .map(|index| {
            let option = 9 + index * 9;
            let (length, start) = (number(option + 1), 5 + number(option + 5));
            (answer[option], answer[start..start + length].to_vec())
        })
        .collect()
}

#[tokio::test]
async fn every_workflow_of_the_drivers_logs_in() {
    let setup = Setup::new().await;
    for (driver, workflow, end) in
        [("msodbcsql", 1, "\0"), ("tedious", 2, ""), ("mssql-tds", 3, "")]
    {
        let mut raw = Raw::hello(&setup).await;
        let answer = raw.ask(LOGIN7, &login7(&[0x05, workflow])).await;
        assert_eq!(info(&answer), [(1, utf16(STS_URL)), (2, utf16(AUDIENCE))], "{driver}");
        let token = setup.token(2200) + end;
        let answer = raw.ask(FED_AUTH_TOKEN, &token_message(&token)).await;
        assert!(contains(&answer, &utf16("Microsoft SQL Server")), "{driver}: LOGINACK");
        assert!(contains(&answer, &[0xae, 2, 0, 0, 0, 0, 0xff]), "{driver}: FEATUREEXTACK");
    }
    assert_eq!(setup.server.counters().logins, 3);
}

#[tokio::test]
async fn every_workflow_refuses_the_same_tokens() {
    let setup = Setup::new().await;
    let past = SystemTime::now() - Duration::from_secs(1);
    let expired = setup.issuer.sign(&setup.shop, AUDIENCE, past, 0);
    let failed = "Login failed for user '<token-identified principal>'.";
    for (token, why) in [
        (expired, " Token is expired."),
        (String::new(), ""),
        ("x.y.z".into(), ""),
        (setup.token(64 << 10), " Token is too long."),
        (setup.token(200 << 10), " Token is too long."),
    ] {
        let mut raw = Raw::hello(&setup).await;
        raw.ask(LOGIN7, &login7(&[0x05, 2])).await;
        let answer = raw.ask(FED_AUTH_TOKEN, &token_message(&token)).await;
        assert_eq!(error(&answer), (18456, format!("{failed}{why}")));
        assert!(raw.answer().await.is_empty(), "the connection is closed");
        let mut raw = Raw::hello(&setup).await;
        let answer = raw.ask(LOGIN7, &login7(&security_token(&token))).await;
        assert_eq!(error(&answer), (18456, format!("{failed}{why}")));
    }
    assert_eq!(setup.server.counters().refused_logins, 10);
}

#[tokio::test]
async fn a_message_other_than_the_token_closes_the_connection() {
    let setup = Setup::new().await;
    let token = token_message(&setup.token(0));
    for (kind, payload) in [
        (LOGIN7, login7(&[0x05, 2])),
        (1, utf16("SELECT 1")),
        (FED_AUTH_TOKEN, vec![]),
        (FED_AUTH_TOKEN, vec![0xff; 8]),
        (FED_AUTH_TOKEN, token[..token.len() - 2].to_vec()),
        (FED_AUTH_TOKEN, vec![0; 2 << 20]),
    ] {
        let mut raw = Raw::hello(&setup).await;
        raw.ask(LOGIN7, &login7(&[0x05, 2])).await;
        // A message without content still has a packet.
        let payload = if payload.is_empty() { vec![0] } else { payload };
        assert!(raw.ask(kind, &payload).await.is_empty(), "message of type {kind}");
    }
    for workflow in [vec![0x05], vec![0x05, 0], vec![0x05, 4], vec![0x04, 1], vec![0x07, 1]] {
        let mut raw = Raw::hello(&setup).await;
        assert!(raw.ask(LOGIN7, &login7(&workflow)).await.is_empty(), "{workflow:?}");
    }
    let counters = setup.server.counters();
    assert_eq!((counters.logins, counters.refused_logins), (0, 0));
}

#[tokio::test]
async fn the_connection_of_a_silent_client_is_closed() {
    let setup =
        Setup::with(|options| options.endpoint.login_timeout = Duration::from_millis(1500)).await;
    let mut before_login = Raw::hello(&setup).await;
    let mut before_token = Raw::hello(&setup).await;
    before_token.ask(LOGIN7, &login7(&[0x05, 1])).await;
    let mut half = Raw::hello(&setup).await;
    half.ask(LOGIN7, &login7(&[0x05, 1])).await;
    half.send_open(FED_AUTH_TOKEN, &[1, 2, 3]).await;
    for raw in [&mut before_login, &mut before_token, &mut half] {
        assert!(raw.answer().await.is_empty());
    }
}
