//! Entra's token endpoint, with requests like MSAL's over HTTPS.
#![allow(clippy::disallowed_methods)] // Uses real sockets and the real clock.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeyPair as RsaKeyPair,
    signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding},
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use entra_pool_emulator::{
    certificates::Authority,
    entra::{Application, Certificate, EntraEndpoint, FederatedCredential, WORKLOAD_ISSUER},
    jwt::{Issuer, Principal, PrincipalKind, Refusal, TENANT_ID, seconds},
};
use serde_json::{Value, json};

const SQL: &str = "https://database.windows.net";
const SCOPE: &str = "https://database.windows.net/.default";
const ADDR: (std::net::Ipv4Addr, u16) = (std::net::Ipv4Addr::LOCALHOST, 0);
const SECRET: &str = "p@ss w:rd&1%";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

struct Entra {
    issuer: Arc<Issuer>,
    endpoint: EntraEndpoint,
    http: reqwest::Client,
    service: Principal,
    key: RsaKeyPair,
    thumbprint: String,
    _authority: Authority,
}

/// A parameter and its value.
type Parameter<'a> = (&'a str, &'a str);

impl Entra {
    fn start() -> Self {
        let authority = Authority::new().unwrap();
        let tls = authority.issue(&["localhost"]).unwrap().server_config().unwrap();
        let issuer = Arc::new(Issuer::new());
        let endpoint = EntraEndpoint::start(Arc::clone(&issuer), tls, ADDR, "localhost").unwrap();
        let service = Principal::new("service", PrincipalKind::ServicePrincipal);
        let (key, certificate) = certificate();
        let thumbprint = {
            let hash = &aws_lc_rs::digest::SHA256;
            BASE64_URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(hash, certificate.der()))
        };
        let application = Application {
            principal: service.clone(),
            secrets: vec!["an older one".to_owned(), SECRET.to_owned()],
            certificates: vec![Certificate::from_pem(&certificate.pem()).unwrap()],
            federated: vec![FederatedCredential::of_emulator("system:serviceaccount:default:shop")],
        };
        endpoint.register(application);
        let ca = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
        Self { issuer, endpoint, http, service, key, thumbprint, _authority: authority }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint.authority_host())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        read(self.http.get(self.url(path))).await
    }

    /// Sends these parameters and the defaults for others. Empty parameters are left out.
    async fn ask(&self, parameters: &[Parameter<'_>]) -> (u16, Value) {
        self.ask_as(TENANT_ID, parameters).await
    }

    async fn ask_as(&self, tenant: &str, parameters: &[Parameter<'_>]) -> (u16, Value) {
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", &self.service.client_id),
            ("scope", SCOPE),
        ];
        form.retain(|(name, _)| !parameters.iter().any(|(other, _)| name == other));
        form.extend(parameters.iter().filter(|(_, value)| !value.is_empty()));
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self
            .http
            .post(self.url(&format!("{tenant}/oauth2/v2.0/token")))
            .header("Content-Type", "application/x-www-form-urlencoded;charset=utf-8")
            .header("client-request-id", "a correlation")
            .body(body);
        read(request).await
    }

    async fn assert(&self, assertion: &str) -> (u16, Value) {
        self.ask(&[("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion)])
            .await
    }

    /// The claims of an assertion by certificate.
    fn claims(&self) -> Value {
        let now = seconds(SystemTime::now());
        json!({
            "aud": self.url(&format!("{TENANT_ID}/oauth2/v2.0/token")),
            "iss": self.service.client_id,
            "sub": self.service.client_id,
            "jti": "1",
            "nbf": now,
            "exp": now + 600,
        })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        sign(&self.key, header, claims)
    }

    fn header(&self) -> Value {
        json!({"alg": "RS256", "typ": "JWT", "x5t#S256": self.thumbprint})
    }

    fn is_service_token(&self, (status, answer): &(u16, Value)) {
        assert_eq!(*status, 200, "{answer}");
        let token = answer["access_token"].as_str().unwrap();
        assert_eq!(self.issuer.verify(token, SQL).unwrap().object_id, self.service.object_id);
    }
}

async fn read(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

fn certificate() -> (RsaKeyPair, rcgen::Certificate) {
    let size = rcgen::RsaKeySize::_2048;
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap();
    let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
    (RsaKeyPair::from_pkcs8(key.serialized_der()).unwrap(), certificate)
}

fn sign(key: &RsaKeyPair, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let padding: &dyn RsaEncoding =
        if header["alg"] == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(padding, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

fn refused((status, answer): (u16, Value), expected: u16, error: &str, code: u32) -> String {
    let description = answer["error_description"].as_str().unwrap().to_owned();
    assert_eq!((status, answer["error"].as_str()), (expected, Some(error)), "{answer}");
    assert_eq!(answer["error_codes"], json!([code]), "{answer}");
    assert!(description.starts_with(&format!("AADSTS{code}: ")), "{description}");
    assert!(!description.contains(SECRET), "{description}");
    description
}

#[tokio::test]
async fn a_client_secret_gets_a_token_of_the_application() {
    let entra = Entra::start();
    let answer = entra.ask(&[("client_secret", SECRET)]).await;
    entra.is_service_token(&answer);
    let (_, answer) = answer;
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!((&answer["expires_in"], &answer["ext_expires_in"]), (&json!(3599), &json!(3599)));
    let token = answer["access_token"].as_str().unwrap();
    let claims: Value = jsonwebtoken::dangerous::insecure_decode(token).unwrap().claims;
    assert_eq!((&claims["idtyp"], &claims["xms_mirid"]), (&json!("app"), &Value::Null));

    for tenant in ["contoso.onmicrosoft.com", "CONTOSO.onmicrosoft.com"] {
        let answer = entra.ask_as(tenant, &[("client_secret", SECRET)]).await;
        entra.is_service_token(&answer);
    }
    assert_eq!(entra.endpoint.tokens_handed_out(), 3);
    assert!(!format!("{:?}", entra.endpoint).contains(SECRET));
}

#[tokio::test]
async fn refusals_have_entras_numbers() {
    let entra = Entra::start();
    let secret = ("client_secret", SECRET);
    for (parameters, status, error, code) in [
        (&[("client_secret", "wrong")][..], 401, "invalid_client", 7_000_215),
        (&[("client_secret", &SECRET[1..])], 401, "invalid_client", 7_000_215),
        (&[], 401, "invalid_client", 7_000_218),
        (&[("client_assertion", "a.b.c")], 401, "invalid_client", 7_000_218),
        (&[secret, ("client_id", TENANT_ID)], 400, "unauthorized_client", 700_016),
        (&[secret, ("client_id", "")], 400, "invalid_request", 900_144),
        (&[secret, ("grant_type", "")], 400, "invalid_request", 900_144),
        (&[secret, ("scope", "")], 400, "invalid_request", 900_144),
        (&[secret, ("grant_type", "password")], 400, "unsupported_grant_type", 70_003),
        (&[secret, ("scope", SQL)], 400, "invalid_scope", 1_002_012),
        (&[secret, ("scope", &format!("{SCOPE} {SCOPE}"))], 400, "invalid_scope", 70_011),
        (&[secret, ("scope", "nobody/.default")], 400, "invalid_resource", 500_011),
    ] {
        refused(entra.ask(parameters).await, status, error, code);
    }
    let answer = entra.ask_as("fabrikam.com", &[secret]).await;
    let description = refused(answer, 400, "invalid_request", 90_002);
    assert!(description.contains("'fabrikam.com'"), "{description}");

    let (_, answer) = entra.ask(&[("client_secret", "wrong")]).await;
    assert_eq!(answer["correlation_id"], "a correlation");
    let uri = answer["error_uri"].as_str().unwrap();
    assert!(uri.starts_with("https://localhost:") && uri.ends_with("/error?code=7000215"), "{uri}");
    let timestamp = answer["timestamp"].as_str().unwrap();
    assert_eq!((timestamp.len(), &timestamp[10..11], &timestamp[19..]), (20, " ", "Z"));
    assert_eq!(answer["trace_id"].as_str().unwrap().len(), 36);
    assert_eq!(entra.endpoint.tokens_handed_out(), 0);
}

#[tokio::test]
async fn a_registered_certificates_key_signs_assertions() {
    let entra = Entra::start();
    let claims = entra.claims();
    for algorithm in ["RS256", "PS256"] {
        let mut header = entra.header();
        header["alg"] = algorithm.into();
        let answer = entra.assert(&entra.sign(&header, &claims)).await;
        entra.is_service_token(&answer);
    }
    for audience in [
        "https://login.microsoftonline.com/contoso.onmicrosoft.com/v2.0".to_owned(),
        entra.url(TENANT_ID),
    ] {
        let mut claims = claims.clone();
        claims["aud"] = audience.into();
        let answer = entra.assert(&entra.sign(&entra.header(), &claims)).await;
        entra.is_service_token(&answer);
    }
    // Thumbprints as azure_identity (Rust) writes them.
    let plain = BASE64_URL_SAFE_NO_PAD.decode(&entra.thumbprint).unwrap();
    let plain = BASE64_STANDARD.encode(plain);
    let header = json!({"alg": "RS256", "typ": "JWT", "x5t#S256": plain});
    entra.is_service_token(&entra.assert(&entra.sign(&header, &claims)).await);
    // Times as MSAL for Python writes them.
    let mut fractions = claims.clone();
    fractions["exp"] = (claims["exp"].as_f64().unwrap() + 0.25).into();
    let answer = entra.assert(&entra.sign(&entra.header(), &fractions)).await;
    entra.is_service_token(&answer);
    let (foreign, _) = certificate();
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        claims
    };
    let now = seconds(SystemTime::now());
    let header = entra.header();
    let other_thumbprint = json!({"alg": "RS256", "x5t": "AAAA"});
    let unsigned = json!({"alg": "none", "x5t#S256": entra.thumbprint});
    let shared = json!({"alg": "HS256", "x5t#S256": entra.thumbprint});
    let of = |name: &str, value: Value| entra.sign(&header, &with(name, value));
    for (assertion, code) in [
        (sign(&foreign, &header, &claims), 700_027),
        (entra.sign(&other_thumbprint, &claims), 700_027),
        (entra.sign(&shared, &claims), 700_027),
        (of("sub", "another".into()), 700_021),
        (of("aud", "https://login.example/x".into()), 700_023),
        (of("aud", entra.url("fabrikam.com/v2.0").into()), 700_023),
        (of("aud", json!(7)), 700_023),
        (of("exp", (now - 301).into()), 700_024),
        (of("nbf", (now + 400).into()), 700_024),
        (of("jti", Value::Null), 50_027),
        (entra.sign(&unsigned, &claims), 50_027),
        ("no JWT".to_owned(), 50_027),
        ("a.b.c".to_owned(), 50_027),
        (of("exp", "soon".into()), 50_027),
    ] {
        refused(entra.assert(&assertion).await, 401, "invalid_client", code);
    }
    assert!(Certificate::from_pem("no PEM").is_err());
}

#[tokio::test]
async fn a_trusted_issuers_token_is_accepted_as_an_assertion() {
    let entra = Entra::start();
    let later = SystemTime::now() + Duration::from_secs(60);
    let shop = FederatedCredential::of_emulator("system:serviceaccount:default:shop");
    let token = entra.endpoint.workload_token(&shop, later);
    entra.is_service_token(&entra.assert(&token).await);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "an older one").unwrap();
    entra.endpoint.write_workload_token(&shop, later, &file).unwrap();
    let written = std::fs::read_to_string(&file).unwrap();
    entra.is_service_token(&entra.assert(&written).await);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    let hour_ago = SystemTime::now() - Duration::from_secs(3_600);
    let with = |change: fn(&mut FederatedCredential)| {
        let mut other = shop.clone();
        change(&mut other);
        entra.endpoint.workload_token(&other, later)
    };
    let forged = EntraEndpoint::workload_token(&Entra::start().endpoint, &shop, later);
    for (assertion, code) in [
        (with(|it| it.issuer = "https://github.example".into()), 700_211),
        (with(|it| it.audience = "api://other".into()), 700_212),
        (with(|it| it.subject = "system:serviceaccount:default:Shop".into()), 700_213),
        (entra.endpoint.workload_token(&shop, hour_ago), 700_024),
        (forged, 700_027),
    ] {
        refused(entra.assert(&assertion).await, 401, "invalid_client", code);
    }
    // A client assertion is not an access token.
    assert_eq!(entra.issuer.verify(&token, "api://AzureADTokenExchange"), Err(Refusal::Signature));
}

#[tokio::test]
async fn an_application_can_trust_the_keys_of_other_issuers() {
    let entra = Entra::start();
    let (key, _) = certificate();
    let component = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let public = aws_lc_rs::signature::KeyPair::public_key(&key);
    let keys = json!({"keys": [{
        "kty": "RSA",
        "n": component(public.modulus().big_endian_without_leading_zero()),
        "e": component(public.exponent().big_endian_without_leading_zero()),
    }]});
    let github =
        |keys: &str| FederatedCredential::new("https://github.example", "repo:shop:ref:main", keys);
    assert!(github("no JSON").is_err());
    let github = github(&keys.to_string()).unwrap();
    let identity = Principal::new("shop-identity", PrincipalKind::UserAssigned);
    let federated = vec![github.clone()];
    entra.endpoint.register(Application { federated, ..Application::new(identity.clone()) });
    let claims = json!({
        "iss": github.issuer,
        "sub": github.subject,
        "aud": github.audience,
        "exp": seconds(SystemTime::now()) + 60,
    });
    let assertion = sign(&key, &json!({"alg": "RS256"}), &claims);
    let id = ("client_id", identity.client_id.as_str());
    let kind = ("client_assertion_type", ASSERTION_TYPE);
    let parameters = [id, kind, ("client_assertion", assertion.as_str())];
    let (status, answer) = entra.ask(&parameters).await;
    assert_eq!(status, 200, "{answer}");
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(entra.issuer.verify(token, SQL).unwrap().object_id, identity.object_id);
    let (other, _) = certificate();
    let forged = sign(&other, &json!({"alg": "RS256"}), &claims);
    let parameters = [id, kind, ("client_assertion", forged.as_str())];
    refused(entra.ask(&parameters).await, 401, "invalid_client", 700_027);
    // The public key as a shared secret: a well-known attack.
    let confused = sign(&key, &json!({"alg": "HS256"}), &claims);
    let parameters = [id, kind, ("client_assertion", confused.as_str())];
    refused(entra.ask(&parameters).await, 401, "invalid_client", 700_027);
}

#[tokio::test]
async fn msal_finds_its_discovery_documents() {
    let entra = Entra::start();
    let (status, document) =
        entra.get("contoso.onmicrosoft.com/v2.0/.well-known/openid-configuration").await;
    assert_eq!(status, 200);
    assert_eq!(document["issuer"], entra.url(&format!("{TENANT_ID}/v2.0")));
    let token_endpoint = entra.url("contoso.onmicrosoft.com/oauth2/v2.0/token");
    assert_eq!(document["token_endpoint"], token_endpoint);
    let keys = entra.http.get(document["jwks_uri"].as_str().unwrap());
    let (_, keys) = read(keys).await;

    // The keys verify the issued tokens.
    let (_, answer) = entra.ask(&[("client_secret", SECRET)]).await;
    let token = answer["access_token"].as_str().unwrap();
    let id = jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_value(keys).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(keys.find(&id).unwrap()).unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    validation.set_audience(&[SQL]);
    jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap();

    let (_, instances) = entra.get("common/discovery/instance?api-version=1.1").await;
    let host = entra.endpoint.authority_host();
    let host = host.strip_prefix("https://").unwrap();
    assert_eq!(instances["metadata"][0]["preferred_network"], host);

    for (path, status) in [
        ("fabrikam.com/v2.0/.well-known/openid-configuration", 400),
        ("", 404),
        ("favicon.ico", 404),
        (&format!("{TENANT_ID}/oauth2/v2.0/token"), 404),
        (&format!("{TENANT_ID}/oauth2/v2.0/authorize"), 404),
    ] {
        assert_eq!(entra.get(path).await.0, status, "{path}");
    }
    assert_eq!(WORKLOAD_ISSUER, FederatedCredential::of_emulator("a").issuer);
}

#[tokio::test]
async fn authorities_and_keys_can_be_kept() {
    let folder = tempfile::tempdir().unwrap();
    let first =
        (Authority::kept_in(folder.path()).unwrap(), Issuer::kept_in(folder.path()).unwrap());
    let service = Principal::new("service", PrincipalKind::ServicePrincipal);
    let token = first.1.sign(&service, SQL, SystemTime::now() + Duration::from_secs(60), 0);
    let again =
        (Authority::kept_in(folder.path()).unwrap(), Issuer::kept_in(folder.path()).unwrap());
    assert_eq!(first.0.pem(), again.0.pem());
    assert_eq!(again.1.verify(&token, SQL).unwrap().object_id, service.object_id);

    // A client that trusts the first certificate also trusts the new servers.
    let tls = again.0.issue(&["localhost"]).unwrap().server_config().unwrap();
    let endpoint = EntraEndpoint::start(Arc::new(again.1), tls, ADDR, "localhost").unwrap();
    let ca = reqwest::Certificate::from_pem(first.0.pem().as_bytes()).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
    let url = format!("{}/common/discovery/instance", endpoint.authority_host());
    assert!(http.get(url).send().await.unwrap().status().is_success());

    drop(first);
    for name in ["ca.key", "token.key"] {
        let path = folder.path().join(name);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::fs::write(&path, "nothing").unwrap();
    }
    let error = Authority::kept_in(folder.path()).unwrap_err().to_string();
    assert!(error.contains("ca.key is not a P-256 key in PEM: delete it"), "{error}");
    let error = Issuer::kept_in(folder.path()).unwrap_err().to_string();
    assert!(error.contains("token.key is not a P-256 key in PEM: delete it"), "{error}");
}
