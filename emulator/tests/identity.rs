//! The identity endpoint, asked over HTTP as applications ask it.
#![allow(clippy::disallowed_methods)] // Real sockets, real time.

use std::{sync::Arc, time::Duration};

use entra_pool_emulator::{
    identity::{Fault, IdentityEndpoint, IdentityOptions},
    jwt::{Issuer, Principal, PrincipalKind, Refusal},
};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;

const SQL: &str = "https://database.windows.net";
const OSSRDBMS: &str = "https://ossrdbms-aad.database.windows.net";

struct Host {
    issuer: Arc<Issuer>,
    endpoint: IdentityEndpoint,
    http: reqwest::Client,
    system: Principal,
    shop: Principal,
}

impl Host {
    fn start() -> Self {
        let system = Principal::new("vm-1", PrincipalKind::SystemAssigned);
        let shop = Principal::new("shop-identity", PrincipalKind::UserAssigned);
        let issuer = Arc::new(Issuer::new());
        let options = IdentityOptions {
            port: 0,
            system_assigned: Some(system.clone()),
            user_assigned: vec![shop.clone()],
        };
        let endpoint = IdentityEndpoint::start(Arc::clone(&issuer), options).unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { issuer, endpoint, http, system, shop }
    }

    fn imds(&self, query: &str) -> RequestBuilder {
        let base = self.endpoint.imds_endpoint();
        let url = format!(
            "{base}/metadata/identity/oauth2/token?api-version=2018-02-01&resource={query}"
        );
        self.http.get(url).header("Metadata", "true")
    }

    fn app_service(&self, query: &str) -> RequestBuilder {
        let [(_, endpoint), (_, header)] = self.endpoint.app_service_env();
        let url = format!("{endpoint}?api-version=2019-08-01&resource={query}");
        self.http.get(url).header("X-IDENTITY-HEADER", header)
    }

    fn owner(&self, answer: &Value, audience: &str) -> String {
        let token = answer["access_token"].as_str().unwrap();
        self.issuer.verify(token, audience).unwrap().object_id
    }
}

async fn json(request: RequestBuilder) -> (StatusCode, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap())
}

#[tokio::test]
async fn app_service_gives_the_token_of_the_identity_selected() {
    let host = Host::start();
    let (status, answer) = json(host.app_service(SQL)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(host.owner(&answer, SQL), host.system.object_id);
    assert_eq!(answer["resource"], SQL);
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["client_id"], host.system.client_id);
    let token = answer["access_token"].as_str().unwrap();
    let verified = host.issuer.verify(token, SQL).unwrap();
    assert_eq!(
        answer["expires_on"].as_str().unwrap(),
        entra_pool_emulator::jwt::seconds(verified.expires_on).to_string()
    );

    for selector in [
        format!("client_id={}", host.shop.client_id),
        format!("principal_id={}", host.shop.object_id.to_uppercase()),
        format!("mi_res_id={}", host.shop.resource_id().unwrap()),
    ] {
        let (_, answer) = json(host.app_service(&format!("{SQL}&{selector}"))).await;
        assert_eq!(host.owner(&answer, SQL), host.shop.object_id, "by {selector}");
    }
}

#[tokio::test]
async fn app_service_wants_its_header() {
    let host = Host::start();
    let (_, endpoint) = &host.endpoint.app_service_env()[0];
    let url = format!("{endpoint}?api-version=2019-08-01&resource={SQL}");
    let (missing, _) = json(host.http.get(&url)).await;
    let wrong = host.http.get(&url).header("X-IDENTITY-HEADER", "guess");
    let (wrong, body) = json(wrong).await;
    assert_eq!((missing, wrong), (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED));
    assert_eq!(body["statusCode"], 401);
    let seen: Vec<_> = host.endpoint.received();
    assert_eq!(seen[0].identity_header_is_right, None);
    assert_eq!(seen[1].identity_header_is_right, Some(false));
}

#[tokio::test]
async fn imds_answers_as_it_does_in_azure() {
    let host = Host::start();
    let (status, answer) = json(host.imds(OSSRDBMS)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(host.owner(&answer, OSSRDBMS), host.system.object_id);
    assert_eq!(answer["expires_in"], "86399");
    assert!(answer["not_before"].as_str().unwrap().parse::<u64>().is_ok());
    assert!(answer.get("refresh_in").is_none());
    let length = answer["access_token"].as_str().unwrap().len();
    assert!(length.abs_diff(2_000) <= 6, "{length}");

    for selector in [
        format!("client_id={}", host.shop.client_id),
        format!("object_id={}", host.shop.object_id),
        format!("msi_res_id={}", host.shop.resource_id().unwrap()),
    ] {
        let (_, answer) = json(host.imds(&format!("{SQL}&{selector}"))).await;
        assert_eq!(host.owner(&answer, SQL), host.shop.object_id, "by {selector}");
    }
}

#[tokio::test]
async fn imds_refuses_what_it_refuses_in_azure() {
    let host = Host::start();
    let unassigned = json(host.imds(&format!("{SQL}&client_id=nobody"))).await;
    assert_eq!(unassigned.0, StatusCode::BAD_REQUEST);
    assert_eq!(unassigned.1["error"], "invalid_request");
    assert_eq!(unassigned.1["error_description"], "Identity not found");

    let two = format!("{SQL}&client_id={}&object_id={}", host.shop.client_id, host.shop.object_id);
    assert_eq!(json(host.imds(&two)).await.0, StatusCode::BAD_REQUEST);

    for resource in ["", "database", "https://database.windows.net/.default"] {
        let (status, _) = json(host.imds(resource)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{resource}");
    }

    let base = host.endpoint.imds_endpoint();
    let probe = format!("{base}/metadata/identity/oauth2/token?api-version=2018-02-01");
    let (status, body) = json(host.http.get(probe)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["error_description"], "Required metadata header not specified");
    let (status, _) = json(host.http.get(format!("{base}/metadata/instance"))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn identities_come_and_go() {
    let host = Host::start();
    host.endpoint.set_system_assigned(None);
    let (_, answer) = json(host.imds(SQL)).await;
    assert_eq!(
        host.owner(&answer, SQL),
        host.shop.object_id,
        "the only identity is the default on a virtual machine"
    );
    let (status, _) = json(host.app_service(SQL)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "but not on App Service");

    let other = Principal::new("other", PrincipalKind::UserAssigned);
    host.endpoint.assign(other.clone());
    let (status, _) = json(host.imds(SQL)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "two: which one?");

    host.endpoint.unassign(&host.shop.name);
    let (_, answer) = json(host.imds(SQL)).await;
    assert_eq!(host.owner(&answer, SQL), other.object_id);
}

#[tokio::test]
async fn tokens_are_as_configured() {
    let host = Host::start();
    host.endpoint.configure_tokens(|tokens| {
        tokens.lifetime_seconds = 3_600;
        tokens.length = 8_000;
        tokens.refresh_in = Some(1_800);
        tokens.audience = Some("https://graph.microsoft.com".to_owned());
    });
    let (_, answer) = json(host.imds(SQL)).await;
    assert_eq!(answer["expires_in"], "3599");
    assert_eq!(answer["refresh_in"], "1800");
    let token = answer["access_token"].as_str().unwrap();
    assert!(token.len().abs_diff(8_000) <= 6);
    assert_eq!(
        host.issuer.verify(token, SQL),
        Err(Refusal::Audience("https://graph.microsoft.com".to_owned()))
    );

    host.endpoint.configure_tokens(|tokens| {
        tokens.audience = None;
        tokens.lifetime_seconds = -60;
    });
    let expired = host.endpoint.issue(&host.shop, SQL);
    assert_eq!(host.issuer.verify(&expired, SQL), Err(Refusal::Expired));
}

#[tokio::test]
async fn a_token_is_repeated_only_when_told() {
    let host = Host::start();
    let token = async || json(host.imds(SQL)).await.1["access_token"].clone();
    assert_ne!(token().await, token().await);
    host.endpoint.configure_tokens(|tokens| tokens.repeat_until_expiry = true);
    assert_eq!(token().await, token().await);
    host.endpoint.configure_tokens(|tokens| tokens.lifetime_seconds = -1);
    assert_ne!(token().await, token().await, "an expired one is not kept");
    assert_eq!(host.endpoint.tokens_handed_out(), 6);
}

#[tokio::test]
async fn faults_last_as_long_as_told() {
    let host = Host::start();
    host.endpoint.fail_next(2, Fault::Status(503, r#"{"error":"busy"}"#.to_owned()));
    for expected in [503, 503, 200] {
        assert_eq!(json(host.imds(SQL)).await.0, expected);
    }
    host.endpoint.fail(Fault::Throttled(Some(7)));
    for _ in 0..3 {
        let answer = host.imds(SQL).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(answer.headers()["retry-after"], "7");
    }
    host.endpoint.recover();
    assert_eq!(json(host.imds(SQL)).await.0, StatusCode::OK);

    for (fault, start) in [
        (Fault::Html, "<!doctype html>"),
        (Fault::TruncatedJson, "{\"token_type\""),
        (Fault::EmptyBody, ""),
    ] {
        host.endpoint.fail_next(1, fault);
        let answer = host.imds(SQL).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let body = answer.text().await.unwrap();
        assert!(body.starts_with(start) && (start.is_empty() == body.is_empty()));
        assert!(serde_json::from_str::<Value>(&body).is_err());
    }
}

#[tokio::test]
async fn silence_takes_the_request_and_never_answers() {
    let host = Host::start();
    host.endpoint.fail(Fault::Silence);
    let request = host.imds(SQL).timeout(Duration::from_millis(50));
    assert!(request.send().await.unwrap_err().is_timeout());
    assert_eq!(host.endpoint.requests(), 1);
}

#[tokio::test]
async fn latency_is_added_to_every_answer() {
    let host = Host::start();
    host.endpoint.set_latency(Duration::from_millis(30));
    let start = std::time::Instant::now();
    json(host.imds(SQL)).await;
    assert!(start.elapsed() >= Duration::from_millis(30));
}

#[tokio::test]
async fn an_endpoint_that_went_away_refuses_connections_until_it_is_back() {
    let host = Host::start();
    let addr = host.endpoint.addr();
    assert_eq!(json(host.imds(SQL)).await.0, StatusCode::OK);
    host.endpoint.go_away().await.unwrap();
    assert!(host.imds(SQL).send().await.unwrap_err().is_connect());
    host.endpoint.go_away().await.unwrap();
    host.endpoint.come_back().unwrap();
    host.endpoint.come_back().unwrap();
    assert_eq!(host.endpoint.addr(), addr);
    assert_eq!(json(host.imds(SQL)).await.0, StatusCode::OK);
    assert_eq!(host.endpoint.requests(), 2);
}

#[tokio::test]
async fn held_requests_are_counted_and_wait() {
    let host = Host::start();
    host.endpoint.hold();
    let first = tokio::spawn(host.imds(SQL).send());
    let second = tokio::spawn(host.imds(OSSRDBMS).send());
    host.endpoint.wait_for_requests(2).await;
    assert_eq!(host.endpoint.tokens_handed_out(), 0);
    assert_eq!(host.endpoint.requests_for(SQL), 1);
    assert_eq!(host.endpoint.requests_for(OSSRDBMS), 1);
    assert!(!first.is_finished() && !second.is_finished());
    host.endpoint.release();
    assert!(first.await.unwrap().unwrap().status().is_success());
    assert!(second.await.unwrap().unwrap().status().is_success());
}

#[tokio::test]
async fn requests_are_written_down_without_secrets() {
    let host = Host::start();
    json(host.app_service(&format!("{SQL}&client_id={}", host.shop.client_id))).await;
    let [received] = &host.endpoint.received()[..] else {
        panic!("one request was made");
    };
    assert_eq!(received.path, "/msi/token");
    assert_eq!(received.query_value("resource"), Some(SQL));
    assert_eq!(received.query_value("client_id"), Some(host.shop.client_id.as_str()));
    assert_eq!(received.identity_header_is_right, Some(true));
    let secret = &host.endpoint.app_service_env()[1].1;
    assert!(!format!("{:?} {:?}", received, host.endpoint).contains(secret));
}
