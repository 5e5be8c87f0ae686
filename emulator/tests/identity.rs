//! The identity endpoint, with requests like those of applications over HTTP.
#![allow(clippy::disallowed_methods)] // Uses real sockets and the real clock.

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
            system_assigned: Some(system.clone()),
            user_assigned: vec![shop.clone()],
            ..IdentityOptions::default()
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
async fn app_service_returns_the_token_of_the_selected_identity() {
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
        format!("object_id={}", host.shop.object_id),
        format!("mi_res_id={}", host.shop.resource_id().unwrap()),
    ] {
        let (_, answer) = json(host.app_service(&format!("{SQL}&{selector}"))).await;
        assert_eq!(host.owner(&answer, SQL), host.shop.object_id, "by {selector}");
    }
}

#[tokio::test]
async fn app_service_requires_its_header() {
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
async fn imds_answers_as_in_azure() {
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
async fn imds_refuses_the_same_requests_as_in_azure() {
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
async fn identities_can_be_assigned_and_removed() {
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
    assert_eq!(status, StatusCode::BAD_REQUEST, "two identities are ambiguous");

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
async fn a_token_is_repeated_only_if_configured() {
    let host = Host::start();
    let token = async || json(host.imds(SQL)).await.1["access_token"].clone();
    assert_ne!(token().await, token().await);
    host.endpoint.configure_tokens(|tokens| tokens.repeat_until_expiry = true);
    assert_eq!(token().await, token().await);
    host.endpoint.configure_tokens(|tokens| tokens.lifetime_seconds = -1);
    assert_ne!(token().await, token().await, "an expired token is not kept");
    assert_eq!(host.endpoint.tokens_handed_out(), 6);
}

#[tokio::test]
async fn faults_last_as_long_as_configured() {
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
}

#[tokio::test]
async fn a_silent_endpoint_reads_the_request_and_never_answers() {
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
async fn a_stopped_endpoint_refuses_connections_until_it_restarts() {
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
async fn requests_are_recorded_without_secrets() {
    let host = Host::start();
    json(host.app_service(&format!("{SQL}&client_id={}", host.shop.client_id))).await;
    let [received] = &host.endpoint.received()[..] else {
        panic!("expected one request");
    };
    assert_eq!(received.path, "/msi/token");
    assert_eq!(received.query_value("resource"), Some(SQL));
    assert_eq!(received.query_value("client_id"), Some(host.shop.client_id.as_str()));
    assert_eq!(received.identity_header_is_right, Some(true));
    let secret = &host.endpoint.app_service_env()[1].1;
    assert!(!format!("{:?} {:?}", received, host.endpoint).contains(secret));
}

#[tokio::test]
async fn the_azure_arc_agent_requires_the_key_that_it_has_written() {
    let host = Host::start();
    let [(_, endpoint), (_, imds)] = host.endpoint.azure_arc_env();
    assert!(endpoint.starts_with(&imds));
    let url = format!("{endpoint}?api-version=2020-06-01&resource={SQL}&client_id=ignored");
    let ask = |key: Option<String>| {
        let request = host.http.get(&url).header("Metadata", "true");
        match key {
            Some(key) => request.header("Authorization", format!("Basic {key}")),
            None => request,
        }
    };
    let challenge = async || {
        let answer = ask(None).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        answer.headers()["www-authenticate"].to_str().unwrap().to_owned()
    };
    let path = challenge().await;
    let path = std::path::Path::new(path.strip_prefix("Basic realm=").unwrap());
    assert!(path.starts_with(host.endpoint.azure_arc_root()));
    let key = std::fs::read_to_string(path).unwrap();
    assert_eq!(host.endpoint.azure_arc_keys(), [key.as_str()]);
    assert_eq!(json(ask(Some("guess".to_owned()))).await.0, StatusCode::UNAUTHORIZED);
    let (_, answer) = json(ask(Some(key.clone()))).await;
    assert_eq!(host.owner(&answer, SQL), host.system.object_id, "a selector is ignored");
    assert_eq!(json(ask(Some(key))).await.0, StatusCode::UNAUTHORIZED, "it was used");

    host.endpoint.set_azure_arc_challenge(Some("Basic realm=/etc/shadow".to_owned()));
    assert_eq!(challenge().await, "Basic realm=/etc/shadow");
    assert_eq!(host.endpoint.azure_arc_keys().len(), 1);
    let (status, body) = json(host.http.get(&url)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["error_description"], "Required metadata header not specified");
}

#[tokio::test]
async fn azure_ml_supports_only_client_ids() {
    let host = Host::start();
    let [(_, endpoint), (_, secret)] = host.endpoint.azure_ml_env();
    let ask = |query: String| {
        let url = format!("{endpoint}?api-version=2017-09-01&resource={SQL}{query}");
        host.http.get(url).header("secret", &secret)
    };
    for (query, expected) in [
        (String::new(), &host.system),
        (format!("&clientid={}", host.shop.client_id), &host.shop),
        (format!("&client_id={}", host.shop.client_id), &host.system),
        (format!("&mi_res_id={}", host.shop.resource_id().unwrap()), &host.system),
    ] {
        let (_, answer) = json(ask(query)).await;
        assert_eq!(host.owner(&answer, SQL), expected.object_id);
        assert!(answer["expires_on"].is_u64());
    }
    let (status, answer) = json(ask("&clientid=nobody".to_owned())).await;
    assert_eq!((status, &answer["StatusCode"]), (StatusCode::BAD_REQUEST, &Value::from(400)));
    let (status, _) = json(ask(String::new()).header("secret", "guess")).await;
    assert_eq!(status, StatusCode::OK, "the first of two");
    let (status, _) = json(host.http.get(&endpoint).header("secret", "guess")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn cloud_shell_requires_a_form_and_returns_its_users_token() {
    let host = Host::start();
    let [(_, endpoint)] = host.endpoint.cloud_shell_env();
    let form = |body: String| {
        let request = host.http.post(&endpoint).header("Metadata", "true");
        request.header("content-type", "application/x-www-form-urlencoded").body(body)
    };
    let (_, answer) = json(form(format!("resource={SQL}"))).await;
    assert_eq!(host.owner(&answer, SQL), host.endpoint.cloud_shell_user().object_id);
    assert_eq!(host.endpoint.requests_for(SQL), 1);
    assert_eq!(host.endpoint.received()[0].form, [("resource".to_owned(), SQL.to_owned())]);
    assert_eq!(json(form(String::new())).await.0, StatusCode::BAD_REQUEST);
    let got = host.http.get(format!("{endpoint}?resource={SQL}")).header("Metadata", "true");
    assert_eq!(json(got).await.0, StatusCode::METHOD_NOT_ALLOWED);
    let bare = host.http.post(&endpoint).body(format!("resource={SQL}"));
    assert_eq!(json(bare).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn service_fabrics_certificate_has_the_published_thumbprint() {
    let host = Host::start();
    let [(_, endpoint), (_, secret), (_, thumbprint)] = host.endpoint.service_fabric_env();
    assert!(endpoint.starts_with("https://127.0.0.1:"));
    assert!(thumbprint.len() == 40 && thumbprint.bytes().all(|b| b.is_ascii_hexdigit()));
    let url = format!("{endpoint}?api-version=2019-07-01-preview&resource={SQL}");
    let error = host.http.get(&url).send().await.unwrap_err();
    assert!(error.is_connect(), "the certificate is self-signed");

    let http = reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true);
    let http = http.tls_info(true).build().unwrap();
    let answer = http.get(&url).header("Secret", &secret).send().await.unwrap();
    let tls = answer.extensions().get::<reqwest::tls::TlsInfo>().unwrap();
    let shown = tls.peer_certificate().unwrap().to_owned();
    let sha1 = &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
    let digest = aws_lc_rs::digest::digest(sha1, &shown);
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(digest, thumbprint);
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(host.owner(&answer, SQL), host.system.object_id);
    assert!(answer["expires_on"].is_u64());

    let (status, answer) = json(http.get(&url)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(answer["error"]["message"].is_string());
    host.endpoint.set_system_assigned(None);
    let (status, answer) = json(http.get(&url).header("Secret", &secret)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(answer["error"]["code"], "ManagedIdentityNotFound");
    // The paths of other hosts are not served here.
    let other = url.replace("/metadata/identity/oauth2/token", "/msi/token");
    assert_eq!(json(http.get(other)).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_fault_can_be_delayed_and_can_be_a_redirect() {
    let host = Host::start();
    host.endpoint.fail_after(1, Fault::Redirect(307, "http://127.0.0.1:1/".to_owned()));
    let http = reqwest::Client::builder().no_proxy();
    let http = http.redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let url = format!("{}/metadata/identity/oauth2/token", host.endpoint.imds_endpoint());
    for expected in [StatusCode::BAD_REQUEST, StatusCode::TEMPORARY_REDIRECT] {
        assert_eq!(http.get(&url).send().await.unwrap().status(), expected);
    }
    let answer = http.get(&url).send().await.unwrap();
    assert_eq!(answer.headers()["location"], "http://127.0.0.1:1/");
}
