//! All endpoints and stand-ins together, as a library.

use std::collections::BTreeMap;

use entra_pool_emulator::{emulator::Emulator, front::postgres::AUDIENCE};

#[tokio::test]
async fn variables_urls_and_certificates_are_consistent() {
    let emulator = Emulator::start().await.unwrap();
    let env: BTreeMap<_, _> = emulator.env().into_iter().collect();
    let url = format!(
        "{}?api-version=2019-08-01&resource={AUDIENCE}&client_id={}",
        env["IDENTITY_ENDPOINT"], env["AZURE_CLIENT_ID"]
    );
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer =
        http.get(url).header("X-IDENTITY-HEADER", &env["IDENTITY_HEADER"]).send().await.unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let token = answer["access_token"].as_str().unwrap();
    let owner = emulator.issuer().verify(token, AUDIENCE).unwrap();
    assert_eq!(emulator.directory().by_token(&owner).as_ref(), Some(emulator.user_assigned()));

    let url = url::Url::parse(&emulator.postgres_url()).unwrap();
    let parameters: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
    assert_eq!(url.username(), emulator.user_assigned().name);
    assert_eq!(url.port(), Some(emulator.postgres().addr().port()));
    assert_eq!(parameters["entra_scope"], format!("{AUDIENCE}/.default"));
    let pem = std::fs::read_to_string(&parameters["sslrootcert"]).unwrap();
    assert_eq!(pem, emulator.authority().pem());
}

#[tokio::test]
async fn its_service_principal_gets_a_token() {
    let emulator = Emulator::start().await.unwrap();
    let env: BTreeMap<_, _> = emulator.service_principal_env().into_iter().collect();
    let ca = reqwest::Certificate::from_pem(emulator.authority().pem().as_bytes()).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
    let (host, tenant) = (&env["AZURE_AUTHORITY_HOST"], &env["AZURE_TENANT_ID"]);
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "client_credentials")
        .append_pair("client_id", &env["AZURE_CLIENT_ID"])
        .append_pair("client_secret", &env["AZURE_CLIENT_SECRET"])
        .append_pair("scope", &format!("{AUDIENCE}/.default"))
        .finish();
    let answer = http
        .post(format!("{host}/{tenant}/oauth2/v2.0/token"))
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(form);
    let answer = answer.send().await.unwrap().text().await.unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let token = answer["access_token"].as_str().unwrap();
    let owner = emulator.issuer().verify(token, AUDIENCE).unwrap();
    let known = emulator.directory().by_token(&owner);
    assert_eq!(known.as_ref(), Some(emulator.service_principal()));
    assert!(!format!("{emulator:?}").contains(&env["AZURE_CLIENT_SECRET"]));
}
