//! Tests against a simulated Entra in this process: the request for each proof, and the
//! replacement of a rejected token.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use azure_core::http::{AsyncRawResponse, Body, HttpClient, Request, StatusCode, headers::Headers};

use super::*;
use crate::token::{
    CredentialError, CredentialErrorKind::Refused, Reason, Scope, Token, TokenCredential,
    TokenRequest,
};

const TENANT: &str = "contoso.onmicrosoft.com";
const CLIENT_ID: &str = "11111111-2222-3333-4444-555555555555";
const SECRET: &str = "s3cret-of-the-shop";
const ASSERTION: &str = "eyJassertion.of.the-shop";
const ACCESS_TOKEN: &str = "s3cret-of-the-pipeline";
const REQUEST_URI: &str = "https://dev.azure.com/contoso/oidctoken";
const CONNECTION: &str = "66666666-7777-8888-9999-000000000000";

/// A request of an application: its URL, form and authorization.
#[derive(Debug, Clone)]
struct Sent {
    url: String,
    form: HashMap<String, String>,
    authorization: Option<String>,
}

/// A simulated Entra. It returns a new token for every request, until `refusal` is set.
#[derive(Debug, Default)]
struct Entra {
    sent: Mutex<Vec<Sent>>,
    tokens: AtomicU64,
    refusal: Mutex<Option<StatusCode>>,
    /// The description in the response of a refusal.
    says: Mutex<Option<String>>,
}

#[async_trait]
impl HttpClient for Entra {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let Body::Bytes(body) = request.body() else { panic!("expected a form as the body") };
        let authorization = request.headers().get_optional_str(&"authorization".into());
        self.sent.lock().unwrap().push(Sent {
            url: request.url().to_string(),
            form: url::form_urlencoded::parse(body).into_owned().collect(),
            authorization: authorization.map(str::to_owned),
        });
        let refusal = *self.refusal.lock().unwrap();
        let (status, body) = if request.url().host_str() == Some("dev.azure.com") {
            (StatusCode::Ok, format!(r#"{{"oidcToken":"{ASSERTION}"}}"#))
        } else if refusal == Some(StatusCode::Ok) {
            (StatusCode::Ok, "<html>Sign in to the network</html>".to_owned())
        } else if let Some(status) = refusal {
            let says = self.says.lock().unwrap().clone();
            let says = serde_json::to_string(&says.unwrap_or("AADSTS7000215: no".into())).unwrap();
            (status, format!(r#"{{"error_codes":[7000215],"error_description":{says}}}"#))
        } else {
            let number = self.tokens.fetch_add(1, Ordering::Relaxed);
            let body = format!(
                r#"{{"token_type":"Bearer","expires_in":3599,"access_token":"token {number}"}}"#
            );
            (StatusCode::Ok, body)
        };
        Ok(AsyncRawResponse::from_bytes(status, Headers::new(), body))
    }
}

impl Entra {
    fn application(self: &Arc<Self>) -> Application {
        let mut application = Application::named(
            &Environment::default(),
            None,
            ("tenant", TENANT),
            ("client_id", CLIENT_ID),
        )
        .unwrap();
        application.http = Some(self.clone());
        application
    }

    fn last(&self) -> Sent {
        self.sent.lock().unwrap().last().unwrap().clone()
    }

    fn requests(&self) -> usize {
        self.sent.lock().unwrap().len()
    }
}

async fn ask(credential: &AzureCoreCredential, reason: Reason) -> Result<Token, CredentialError> {
    credential.get_token(TokenRequest::new(Scope::AZURE_SQL, reason)).await
}

/// Checks that the token is cached, and replaced after a server has refused it.
async fn replaces_a_rejected_token(credential: &AzureCoreCredential) {
    for (reason, token) in [
        (Reason::Missing, "token 0"),
        (Reason::Missing, "token 0"),
        (Reason::Rejected, "token 1"),
        (Reason::Missing, "token 1"),
        (Reason::Expiring, "token 2"),
    ] {
        assert_eq!(ask(credential, reason).await.unwrap().secret(), token, "{reason:?}");
    }
    for secret in [SECRET, ASSERTION, ACCESS_TOKEN, "token 0"] {
        assert!(!format!("{credential:?}{}", credential.name()).contains(secret));
    }
}

fn shown(error: &CredentialError) -> String {
    format!("{error} {error:?}")
}

#[tokio::test]
async fn a_client_secret_is_sent_to_the_authority_of_the_cloud() {
    let entra = Arc::new(Entra::default());
    replaces_a_rejected_token(&entra.application().client_secret(SECRET).unwrap()).await;
    let sent = entra.last();
    assert_eq!(
        sent.url,
        "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token"
    );
    for (field, value) in [
        ("client_id", CLIENT_ID),
        ("client_secret", SECRET),
        ("grant_type", "client_credentials"),
        ("scope", "https://database.windows.net/.default"),
    ] {
        assert_eq!(sent.form[field], value, "{field}");
    }
    for (cloud, authority) in [
        (Cloud::UsGovernment, "https://login.microsoftonline.us/"),
        (Cloud::China, "https://login.chinacloudapi.cn/"),
    ] {
        let shop = entra.application().cloud(cloud).client_secret(SECRET).unwrap();
        ask(&shop, Reason::Missing).await.unwrap();
        assert!(entra.last().url.starts_with(authority), "{cloud:?}");
    }
}

#[tokio::test]
async fn a_refusal_names_the_application_without_its_secret() {
    let entra = Arc::new(Entra::default());
    let credential = entra.application().client_secret(SECRET).unwrap();
    *entra.refusal.lock().unwrap() = Some(StatusCode::Unauthorized);
    let error = ask(&credential, Reason::Missing).await.unwrap_err();
    assert_eq!(error.kind(), Refused);
    let shown = shown(&error);
    assert!(shown.contains(CLIENT_ID) && shown.contains("AADSTS7000215"), "{shown}");
    assert!(!shown.contains(SECRET), "{shown}");
    // The error is not cached.
    *entra.refusal.lock().unwrap() = None;
    ask(&credential, Reason::Missing).await.unwrap();
}

#[tokio::test]
async fn a_workload_identity_sends_the_content_of_its_file() {
    let entra = Arc::new(Entra::default());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, ASSERTION).unwrap();
    replaces_a_rejected_token(&entra.application().workload_identity(&file).unwrap()).await;
    assert_eq!(entra.last().form["client_assertion"], ASSERTION);
    assert_eq!(entra.last().form["client_id"], CLIENT_ID);
}

#[tokio::test]
async fn an_unusable_token_file_is_named_and_no_request_is_sent() {
    let entra = Arc::new(Entra::default());
    let folder = tempfile::tempdir().unwrap();
    let [missing, empty, blank] =
        ["missing", "empty", "blank"].map(|name| folder.path().join(name));
    std::fs::write(&empty, "").unwrap();
    std::fs::write(&blank, " \n").unwrap();
    for (file, problem) in [
        (&missing, "cannot be read"),
        (&empty, "is empty"),
        (&blank, "is empty"),
        (&folder.path().to_owned(), "cannot be read"),
    ] {
        let credential = entra.application().workload_identity(file).unwrap();
        let error = ask(&credential, Reason::Missing).await.unwrap_err();
        assert_eq!(error.kind(), Refused);
        let shown = shown(&error);
        assert!(shown.contains("token_file: the file ") && shown.contains(problem), "{shown}");
        // Once the file exists, it is used.
        if file == &missing {
            std::fs::write(file, ASSERTION).unwrap();
            ask(&credential, Reason::Missing).await.unwrap();
            std::fs::remove_file(file).unwrap();
        }
    }
    assert_eq!(entra.requests(), 1);
    assert!(entra.application().workload_identity("").is_err());
}

#[tokio::test]
async fn after_a_refusal_the_token_file_is_read_again() {
    let entra = Arc::new(Entra::default());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "old").unwrap();
    let credential = entra.application().workload_identity(&file).unwrap();
    *entra.refusal.lock().unwrap() = Some(StatusCode::Unauthorized);
    ask(&credential, Reason::Missing).await.unwrap_err();
    *entra.refusal.lock().unwrap() = None;
    std::fs::write(&file, "new").unwrap();
    ask(&credential, Reason::Missing).await.unwrap();
    assert_eq!(entra.last().form["client_assertion"], "new");
}

#[cfg(feature = "client-certificate")]
#[tokio::test]
async fn the_certificates_key_signs_the_assertion() {
    let entra = Arc::new(Entra::default());
    let folder = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let mut command = std::process::Command::new("openssl");
        let output = command.current_dir(folder.path()).args(arguments.split(' ')).output();
        assert!(output.unwrap().status.success(), "{arguments}");
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=shop");
    openssl("pkcs12 -export -inkey key.pem -in cert.pem -out id.pfx -passout pass:p4ssword");
    let of = |name: &str, password: Option<&str>| {
        let file = folder.path().join(name);
        entra.application().client_certificate(file, password.map(str::to_owned))
    };
    replaces_a_rejected_token(&of("id.pfx", Some("p4ssword"))).await;
    assert_eq!(entra.last().form["client_assertion"].split('.').count(), 3);
    let requests = entra.requests();
    std::fs::write(folder.path().join("empty.pfx"), "").unwrap();
    for (name, password, problem) in [
        ("missing.pfx", None, "cannot be read"),
        ("empty.pfx", None, "is empty"),
        ("cert.pem", None, "is PEM, not PKCS#12"),
        ("id.pfx", Some("wr0ng"), "its password is wrong"),
        ("id.pfx", None, "its password is wrong"),
    ] {
        let error = ask(&of(name, password), Reason::Missing).await.unwrap_err();
        assert_eq!(error.kind(), Refused);
        let shown = shown(&error);
        assert!(shown.contains("file: the file ") && shown.contains(problem), "{shown}");
        assert!(!shown.contains("wr0ng"), "{shown}");
    }
    assert_eq!(entra.requests(), requests);
}

#[tokio::test]
async fn every_token_request_gets_a_new_client_assertion() {
    let entra = Arc::new(Entra::default());
    let asked = Arc::new(AtomicU64::new(0));
    let counter = asked.clone();
    let credential = entra.application().client_assertion(move || {
        let number = counter.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, std::io::Error>(format!("{ASSERTION} {number}")) }
    });
    replaces_a_rejected_token(&credential).await;
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    assert_eq!(entra.last().form["client_assertion"], format!("{ASSERTION} 2"));
}

#[tokio::test]
async fn without_a_client_assertion_no_request_is_sent() {
    let entra = Arc::new(Entra::default());
    let fails = entra.application().client_assertion(|| async {
        Err::<String, _>(std::io::Error::other(format!("got {ASSERTION} for it")))
    });
    let error = ask(&fails, Reason::Missing).await.unwrap_err();
    let shown = shown(&error);
    assert!(shown.contains("cannot get a client assertion: got [redacted]"), "{shown}");
    assert!(!shown.contains(ASSERTION), "{shown}");
    let empty =
        entra.application().client_assertion(|| async { Ok::<_, std::io::Error>(" ".to_owned()) });
    let error = ask(&empty, Reason::Missing).await.unwrap_err();
    assert!(error.to_string().contains("assertion is empty"), "{error}");
    assert_eq!(entra.requests(), 0);
}

/// Runs the test again in a separate process with this variable, which `azure_identity` reads from
/// the process's environment. Returns whether this is that process.
async fn in_a_pipeline(test: &str) -> bool {
    const VARIABLE: &str = "SYSTEM_OIDCREQUESTURI";
    if std::env::var(VARIABLE).as_deref() == Ok(REQUEST_URI) {
        return true;
    }
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    let output = child.args([test, "--nocapture"]).env(VARIABLE, REQUEST_URI).output();
    let output = output.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

#[tokio::test]
async fn a_service_connection_exchanges_the_pipelines_token() {
    if !in_a_pipeline("a_service_connection_exchanges_the_pipelines_token").await {
        return;
    }
    let entra = Arc::new(Entra::default());
    let credential = entra.application().azure_pipelines(CONNECTION, ACCESS_TOKEN).unwrap();
    replaces_a_rejected_token(&credential).await;
    assert_eq!(entra.last().form["client_assertion"], ASSERTION);
    let sent = entra.sent.lock().unwrap();
    let asked = sent.iter().find(|sent| sent.url.starts_with(REQUEST_URI)).unwrap();
    assert!(asked.url.contains(&format!("serviceConnectionId={CONNECTION}")), "{}", asked.url);
    assert_eq!(asked.authorization.as_deref(), Some(&*format!("Bearer {ACCESS_TOKEN}")));
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_of_an_application_is_logged_or_shown() {
    if !in_a_pipeline("no_secret_of_an_application_is_logged_or_shown").await {
        return;
    }
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let entra = Arc::new(Entra::default());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, ASSERTION).unwrap();
    let mut texts = Vec::new();
    for credential in [
        entra.application().client_secret(SECRET).unwrap(),
        entra.application().workload_identity(&file).unwrap(),
        entra.application().azure_pipelines(CONNECTION, ACCESS_TOKEN).unwrap(),
        entra
            .application()
            .client_assertion(|| async { Ok::<_, std::io::Error>(ASSERTION.to_owned()) }),
    ] {
        let token = ask(&credential, Reason::Missing).await.unwrap();
        texts.push(format!("{credential:?} {token:?}"));
        *entra.refusal.lock().unwrap() = Some(StatusCode::Unauthorized);
        texts.push(shown(&ask(&credential, Reason::Rejected).await.unwrap_err()));
        *entra.refusal.lock().unwrap() = None;
    }
    texts.push(String::from_utf8(captured.0.lock().unwrap().clone()).unwrap());
    let text = texts.join("\n");
    assert!(text.contains("AADSTS7000215"), "{text}");
    for secret in [SECRET, ASSERTION, ACCESS_TOKEN, "token 0", "token 1", "token 2", "token 3"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}

#[test]
fn the_variables_of_a_pipeline_are_checked_before_any_request() {
    let all = [
        ("AZURESUBSCRIPTION_TENANT_ID", TENANT),
        ("AZURESUBSCRIPTION_CLIENT_ID", CLIENT_ID),
        ("AZURESUBSCRIPTION_SERVICE_CONNECTION_ID", CONNECTION),
        ("SYSTEM_ACCESSTOKEN", ACCESS_TOKEN),
        ("SYSTEM_OIDCREQUESTURI", REQUEST_URI),
    ];
    let of = |variables: &[(&str, &str)]| {
        let environment = Environment::from_pairs(variables.iter().copied());
        Application::azure_pipelines_of(&environment, None)
    };
    assert!(of(&all).unwrap().name().contains(CONNECTION));
    for (index, (name, _)) in all.iter().enumerate() {
        let mut without = all;
        without[index].1 = "";
        let error = of(&without).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name} is not set, but Azure Pipelines")), "{error}");
        // Every variable is validated, except the token.
        let mut odd = all;
        odd[index].1 = "http://a b$(x)";
        match of(&odd) {
            Ok(_) => assert_eq!(*name, "SYSTEM_ACCESSTOKEN"),
            Err(error) => assert!(error.to_string().starts_with(name), "{error}"),
        }
    }
}

#[test]
fn an_invalid_setting_of_an_application_is_refused_and_named() {
    let environment = Environment::default();
    let of = |tenant: &str, id: &str| {
        Application::named(&environment, None, ("tenant", tenant), ("client_id", id))
    };
    assert!(of(TENANT, CLIENT_ID).unwrap().client_secret("").is_err());
    for bad in ["", "-x", "a b", "a/../b?", "a&b", "$(x)", "a\nb", "é"] {
        let error = of(bad, CLIENT_ID).unwrap_err().to_string();
        assert!(error.starts_with("tenant must be"), "{error}");
        let error = of(TENANT, bad).unwrap_err().to_string();
        assert!(error.starts_with("client_id must be"), "{error}");
    }
}

#[test]
fn the_authority_comes_from_the_program_or_else_the_variables_or_else_the_cloud() {
    let of = |authority: &str, cloud| {
        let variables = [
            ("AZURE_TENANT_ID", TENANT),
            ("AZURE_CLIENT_ID", CLIENT_ID),
            ("AZURE_AUTHORITY_HOST", authority),
        ];
        let names = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"];
        let environment = Environment::from_pairs(variables);
        Application::from_environment(&environment, cloud, names, "this")
    };
    for (variable, cloud, authority) in [
        ("", None, "https://login.microsoftonline.com"),
        ("", Some(Cloud::UsGovernment), "https://login.microsoftonline.us"),
        ("https://login.example/", Some(Cloud::China), "https://login.example/"),
        ("login.microsoftonline.us", None, "https://login.microsoftonline.us"),
    ] {
        assert_eq!(of(variable, cloud).unwrap().authority, authority, "{variable} {cloud:?}");
    }
    let ours = of("https://login.example", None).unwrap().cloud(Cloud::China);
    assert_eq!(ours.authority, Cloud::China.authority_host());
    for bad in ["http://login.example", "https://", "https://u:p4ss@login.example", "ftp://x"] {
        let error = of(bad, None).unwrap_err().to_string();
        assert!(error.starts_with("AZURE_AUTHORITY_HOST must be an https://"), "{error}");
        assert!(!error.contains("p4ss"), "{error}");
    }
}

#[tokio::test]
async fn entras_errors_are_shown_without_control_characters_and_parts_of_the_proof() {
    let secret = "Zx8Q~0123456789abcdefghijklmnopqrstuvwxyz";
    let assertion = format!("eyJhbGci.eyJzdWIi.{secret}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, &assertion).unwrap();
    let given = assertion.clone();
    for (proof, credential) in [
        ("secret", {
            let entra = Arc::new(Entra::default());
            (entra.application().client_secret(secret).unwrap(), entra)
        }),
        ("file", {
            let entra = Arc::new(Entra::default());
            (entra.application().workload_identity(&file).unwrap(), entra)
        }),
        ("assertion", {
            let entra = Arc::new(Entra::default());
            let assertion = move || {
                let given = given.clone();
                async move { Ok::<_, std::io::Error>(given) }
            };
            (entra.application().client_assertion(assertion), entra)
        }),
    ] {
        let (credential, entra) = credential;
        *entra.refusal.lock().unwrap() = Some(StatusCode::Unauthorized);
        for said in [
            secret.to_owned(),
            secret[9..25].to_owned(),
            format!("{} {}", &secret[..20], &secret[20..]),
            assertion.clone(),
            "\u{1b}[31m\u{202e}\u{9b}\r\nFORGED".to_owned(),
            "x".repeat(1 << 20),
        ] {
            *entra.says.lock().unwrap() = Some(said);
            let error = ask(&credential, Reason::Missing).await.unwrap_err();
            // Debug has a line for each cause.
            let debug = [format!("{error:?}"), format!("{error:#?}")];
            let mut shown = debug.map(|text| text.replace("\ncaused by: ", " ")).to_vec();
            let mut next: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = next {
                shown.push(error.to_string());
                next = error.source();
            }
            for text in shown {
                let odd = |c: char| c.is_control() || c == '\u{202e}';
                assert!(!text.contains(odd) && text.len() < 8_000, "{proof}: {text:.300?}");
                let text: String = text.split_whitespace().collect();
                for part in secret.as_bytes().windows(16) {
                    let part = std::str::from_utf8(part).unwrap();
                    assert!(!text.contains(part), "{proof}: {part} in {text}");
                }
            }
        }
    }
}

/// In these cases, Entra cannot be reached, or a proxy responds instead.
#[tokio::test]
async fn if_entra_cannot_be_reached_the_error_names_it_and_the_cause_within_the_connect_timeout() {
    let of = |authority: &str| {
        let environment = Environment::from_pairs([("AZURE_AUTHORITY_HOST", authority)]);
        let names = (("tenant", TENANT), ("client_id", CLIENT_ID));
        Application::named(&environment, None, names.0, names.1).unwrap()
    };
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let refusing = format!("https://{}", socket.local_addr().unwrap());
    for (authority, words) in [
        (refusing.as_str(), ["cannot reach 127.0.0.1", "Connection refused"]),
        ("https://login.invalid", ["cannot reach login.invalid", "dns error"]),
    ] {
        let clock = crate::clock::SystemClock::new();
        let credential = of(authority).client_secret(SECRET).unwrap();
        let error = ask(&credential, Reason::Missing).await.unwrap_err();
        assert_eq!(error.kind(), crate::token::CredentialErrorKind::Transient);
        let shown = error.to_string();
        assert!(words.iter().all(|word| shown.contains(word)), "{shown}");
        assert!(!shown.contains("retr"), "{shown}");
        assert!(crate::clock::Clock::monotonic(&clock) < std::time::Duration::from_secs(15));
    }
    let entra = Arc::new(Entra::default());
    *entra.refusal.lock().unwrap() = Some(StatusCode::Unauthorized);
    let credential = entra.application().client_secret(SECRET).unwrap();
    let said = ask(&credential, Reason::Missing).await.unwrap_err().to_string();
    let expected = format!(
        "service principal {CLIENT_ID}: login.microsoftonline.com returned 401: AADSTS7000215: no"
    );
    assert_eq!(said, expected);
    *entra.refusal.lock().unwrap() = Some(StatusCode::ServiceUnavailable);
    let before = entra.requests();
    let error = ask(&credential, Reason::Missing).await.unwrap_err();
    assert_eq!(error.kind(), crate::token::CredentialErrorKind::Transient);
    assert!(error.to_string().contains("login.microsoftonline.com returned 503"), "{error}");
    assert_eq!(entra.requests() - before, 3);
    // A sign-in portal responds with success to every request.
    *entra.refusal.lock().unwrap() = Some(StatusCode::Ok);
    let error = ask(&credential, Reason::Missing).await.unwrap_err();
    for words in ["login.microsoftonline.com returned 200", "may be a proxy"] {
        assert!(error.to_string().contains(words), "{error:?}");
    }
}
