//! Hosts × bodies of successful responses.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use entra_pool::{
    clock::Clock,
    credential::ManagedIdentityHost::{AzureArc, Imds},
    token::CredentialErrorKind::{Transient, Unavailable},
};
use entra_pool_emulator::identity::Fault;

use crate::world::{HOSTS, World, assert_asked, assert_says};

const TOKEN: &str = "crafted.t0ken.of-this-test";

/// 2026-01-01 00:00 UTC, the time of the manual clock.
const NOW: u64 = 1_767_225_600;

fn body(fields: &str) -> String {
    format!(r#"{{"access_token":"{TOKEN}","token_type":"Bearer"{fields}}}"#)
}

#[tokio::test]
async fn an_expiry_is_parsed_in_every_form_on_every_host() {
    let mut world = World::new();
    world.secret(TOKEN);
    let at = NOW + 3_600;
    let with_mark = format!("\u{feff}{}", body(&format!(r#","expires_on":{at}"#)));
    let forms = [
        ("a number", body(&format!(r#","expires_on":{at}"#))),
        ("a numeric string", body(&format!(r#","expires_on":"{at}""#))),
        ("a float", body(&format!(r#","expires_on":{at}.7"#))),
        ("a float string", body(&format!(r#","expires_on":"{at}.0""#))),
        ("App Service's date", body(r#","expires_on":"1/1/2026 1:00:00 AM +00:00""#)),
        ("App Service's older date", body(r#","expires_on":"01/01/2026 01:00:00 +00:00""#)),
        ("an RFC 3339 date", body(r#","expires_on":"2026-01-01T02:00:00+01:00""#)),
        ("a lifetime", body(r#","expires_in":3600"#)),
        ("a lifetime in a string", body(r#","expires_in":"3600","expires_on":"""#)),
        ("both", body(&format!(r#","expires_in":"","expires_on":"{at}""#))),
        ("a byte order mark", with_mark),
        ("surrounding blanks", format!("\r\n {} \n", body(&format!(r#","expires_on":{at}"#)))),
    ];
    for host in HOSTS {
        let identity = world.builder(host, None).build().unwrap();
        for (form, body) in &forms {
            world.answer_with(host, Fault::Status(200, body.clone()));
            let outcome = world.ask(&identity, &[]).await;
            let what = format!("{host}: {form}");
            let token = outcome.result.expect(&what);
            assert_eq!(token.secret(), TOKEN, "{what}");
            let expires_on = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
            assert_eq!(token.expires_on(), expires_on, "{what}");
            assert_eq!(token.refresh_on(), None, "{what}");
            assert_eq!(outcome.requests.len(), if host == AzureArc { 2 } else { 1 }, "{what}");
            assert_asked(host, &outcome.requests, None);
        }
    }
    world.finish(72);
}

#[tokio::test]
async fn a_response_without_a_token_is_a_typed_error_on_every_host() {
    let mut world = World::new();
    world.secret(TOKEN);
    let on = r#","expires_on":1767229200"#;
    let answers = [
        ("empty", String::new(), "the response is empty"),
        ("blanks", "  \r\n".to_owned(), "the response is empty"),
        ("HTML", "<!doctype html><p>Sign in".to_owned(), "web page"),
        ("cut off", body(on).replace('}', ""), "truncated"),
        ("text", "ok".to_owned(), "not a JSON object"),
        ("a list", format!("[{}]", body(on)), "not a JSON object"),
        ("10 MB", body(&format!(r#"{on},"x":"{}""#, "x".repeat(10 << 20))), "longer than 65536"),
        ("no token", r#"{"expires_on":1767229200}"#.to_owned(), "access_token is absent"),
        ("an empty token", r#"{"access_token":"","expires_on":1}"#.to_owned(), "token is empty"),
        ("a blank token", r#"{"access_token":" ","expires_on":1}"#.to_owned(), "token is empty"),
        ("a null token", r#"{"access_token":null,"expires_on":1}"#.to_owned(), "token is absent"),
        ("a numeric token", r#"{"access_token":7,"expires_on":1}"#.to_owned(), "not a string"),
        ("no expiry", body(""), "expires_on is absent"),
        ("empty expiries", body(r#","expires_in":"","expires_on":"""#), "expires_on is absent"),
        ("a strange expiry", body(r#","expires_on":"tomorrow""#), "expires_on is neither"),
        ("an old expiry", body(r#","expires_on":-5"#), "expires_on is neither"),
    ];
    for host in HOSTS {
        let identity = world.builder(host, None).build().unwrap();
        for (answer, body, word) in &answers {
            world.answer_with(host, Fault::Status(200, body.clone()));
            let outcome = world.ask(&identity, &[]).await;
            let what = format!("{host}: {answer}");
            let error = outcome.result.expect_err(&what);
            // A body that is not JSON does not come from IMDS.
            let (kind, message) = match *answer {
                "HTML" | "10 MB" if host == Imds => (Unavailable, "is not IMDS"),
                _ => (Transient, "cannot get a token from"),
            };
            assert_says(&what, &error, kind, &[message, word]);
            let cause = error.source().and_then(Error::source).expect(&what);
            assert!(cause.to_string().contains("response"), "{what}: {cause}");
            assert_eq!(outcome.requests.len(), if host == AzureArc { 2 } else { 1 }, "{what}");
            assert_asked(host, &outcome.requests, None);
        }
        // The failures are not cached.
        world.endpoint.recover();
        let outcome = world.ask(&identity, &[]).await;
        let token = outcome.result.unwrap();
        assert_eq!(world.owner(&token), world.own_identity(host), "{host}");
    }
    world.finish(102);
}

#[tokio::test]
async fn a_hosts_refresh_hint_is_passed_on() {
    let mut world = World::new();
    world.secret(TOKEN);
    let now = world.clock.wall();
    for host in HOSTS {
        let identity = world.builder(host, None).build().unwrap();
        for (hint, expected) in [("1800", Some(1_800)), (r#""900""#, Some(900)), (r#""""#, None)] {
            let fields = format!(r#","expires_in":3600,"refresh_in":{hint}"#);
            world.answer_with(host, Fault::Status(200, body(&fields)));
            let token = world.ask(&identity, &[]).await.result.unwrap();
            let expected = expected.map(|seconds| now + Duration::from_secs(seconds));
            assert_eq!(token.refresh_on(), expected, "{host}: {hint}");
        }
    }
    world.finish(18);
}
