//! Searches a process's memory for copies of secrets after everything that held them was dropped.
//! Only the copies that SECURITY.md excludes may remain.
//!
//! The test runs in a separate process and searches its own memory, including freed blocks. A
//! secret gets there only through the code under test: each is computed from a number, byte by
//! byte, and the servers, scripts and files that hold secrets belong to another process.
#![cfg(all(
    target_os = "linux",
    feature = "azure-sql",
    feature = "azure-identity",
    feature = "postgres"
))]
#![allow(clippy::disallowed_methods)] // The servers run in real time.

#[path = "heap/peer.rs"]
mod peer;
#[path = "heap/scan.rs"]
mod scan;

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use entra_pool::{
    azure_sql, credential,
    credential::{AzureCli, AzureDeveloperCli, Environment, ManagedIdentity},
    postgres,
    token::{CredentialError, Identity, Reason, Scope, Token, TokenCredential, TokenRequest},
};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

use peer::Peer;
use scan::{Scanner, Secret};

const TENANT: &str = "contoso.onmicrosoft.com";
const CLIENT: &str = "11111111-2222-3333-4444-555555555555";

/// Every secret, and the text before or after its copies in buffers of the HTTP client, TLS and
/// the drivers, which this crate does not control.
const SECRETS: &[(Secret, &[&str])] = &[
    (Secret::Environment, &[]),
    (Secret::Pipelines, &[]),
    (Secret::AdoNet, &[]),
    (Secret::AdoNetQuoted, &[]),
    (Secret::Url, &[]),
    (Secret::UrlParameter, &[]),
    (Secret::Jdbc, &[]),
    (Secret::PostgresUrl, &[]),
    (Secret::PostgresParameter, &[]),
    (Secret::PostgresPairs, &[]),
    (Secret::Given, &[]),
    #[cfg(feature = "client-certificate")]
    (Secret::Certificate, &[]),
    #[cfg(feature = "client-certificate")]
    (Secret::CertificatePassword, &[]),
    (Secret::AzToken, &[]),
    (Secret::AzOther, &[]),
    (Secret::AzdToken, &[]),
    (Secret::AppServiceHeader, &["x-identity-header: "]),
    (Secret::AppServiceToken, &["\r\n\r\n{"]),
    (Secret::AppServiceOther, &["\r\n\r\n{"]),
    (Secret::ArcKey, &["authorization: Basic "]),
    (Secret::ArcToken, &["\r\n\r\n{"]),
    (Secret::FabricHeader, &["secret: "]),
    (Secret::FabricToken, &["\r\n\r\n{"]),
    (Secret::ImdsToken, &["\r\n\r\n{"]),
    (Secret::Password, &["&client_secret=", "&grant_type="]),
    (Secret::TokenFile, &["client_assertion=", "&client_assertion_type="]),
    (Secret::Assertion, &["client_assertion=", "&client_assertion_type="]),
    (Secret::SystemAccessToken, &["Bearer "]),
    (Secret::EntraToken, &["\r\n\r\n{", "\",\"expires_on\""]),
    (Secret::AzureSqlToken, &[]),
    // PasswordMessage: its type and its length.
    (Secret::PostgresToken, &["p\0\0\u{4}\u{1}"]),
];

/// How many copies of other crates have no known text next to them: their own strings, and
/// buffers whose first bytes malloc has overwritten. These are the maximums with glibc 2.36;
/// another allocator may leave more.
const BARE: &[(Secret, usize)] = &[
    // azure_core's `Secret`.
    (Secret::Password, 1),
    (Secret::TokenFile, 1),
    (Secret::SystemAccessToken, 1),
    // The token that azure_identity returns, and the token that it caches.
    (Secret::EntraToken, 2),
    // The password in tokio-postgres's `Config`, and two buffers of its password message.
    (Secret::PostgresToken, 3),
];

/// Returns `before`, the secret and `after`, in a buffer that does not grow.
fn with(before: &str, secret: Secret, after: &str) -> Zeroizing<String> {
    let length = before.len() + scan::LENGTH + after.len();
    let mut text = Zeroizing::new(String::with_capacity(length));
    text.push_str(before);
    secret.write(&mut text);
    text.push_str(after);
    text
}

/// Returns the secret as an owned string.
fn own(secret: Secret) -> String {
    std::mem::take(&mut *with("", secret, ""))
}

fn environment<const N: usize>(
    plain: [(&str, &str); N],
    name: &str,
    secret: Secret,
) -> Environment {
    let plain = plain.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Environment::from_pairs(plain.into_iter().chain([(name.to_owned(), own(secret))]))
}

async fn request_token(credential: &dyn TokenCredential, secret: Secret) {
    let request = TokenRequest::new(Scope::AZURE_SQL, Reason::Missing);
    let token = credential.get_token(request).await.unwrap();
    assert!(secret.is(token.secret()), "{secret:?}");
}

async fn assert_refused(credential: &dyn TokenCredential) {
    let request = TokenRequest::new(Scope::AZURE_SQL, Reason::Missing);
    let error = credential.get_token(request).await.unwrap_err();
    assert!(error.to_string().contains("401"), "{error}");
}

/// For each secret, the most copies found in one scan, and how many of them this crate made.
struct Found {
    scanner: Scanner,
    most: Vec<(usize, usize)>,
}

impl Found {
    /// Searches for these secrets now, before freed memory is reused.
    fn look(&mut self, wanted: &[Secret]) {
        self.scanner.scan();
        for ((secret, others), most) in SECRETS.iter().zip(&mut self.most) {
            if !wanted.contains(secret) {
                continue;
            }
            let (mut all, mut unmarked) = (0, 0);
            for hit in self.scanner.hits.iter().filter(|hit| hit.secret == *secret) {
                all += 1;
                unmarked += usize::from(!others.iter().any(|text| hit.is_next_to(text)));
            }
            let bare = BARE.iter().find(|(bare, _)| bare == secret).map_or(0, |(_, most)| *most);
            *most = (most.0.max(all), most.1.max(unmarked.saturating_sub(bare)));
        }
    }
}

fn environments(found: &mut Found) {
    let principal = [("AZURE_TENANT_ID", "contoso.onmicrosoft.com"), ("AZURE_CLIENT_ID", CLIENT)];
    let of_env = environment(principal, "AZURE_CLIENT_SECRET", Secret::Environment);
    let credential =
        credential::DefaultCredential::new().environment(of_env.clone()).build().unwrap();
    drop((of_env, credential));
    found.look(&[Secret::Environment]);

    let pipeline = [
        ("AZURE_TOKEN_CREDENTIALS", "AzurePipelinesCredential"),
        ("AZURESUBSCRIPTION_TENANT_ID", "contoso.onmicrosoft.com"),
        ("AZURESUBSCRIPTION_CLIENT_ID", CLIENT),
        ("AZURESUBSCRIPTION_SERVICE_CONNECTION_ID", "66666666-7777"),
        ("SYSTEM_OIDCREQUESTURI", "https://dev.azure.com/contoso"),
    ];
    let of_env = environment(pipeline, "SYSTEM_ACCESSTOKEN", Secret::Pipelines);
    drop(credential::DefaultCredential::new().environment(of_env).build().unwrap());
    found.look(&[Secret::Pipelines]);
}

fn connection_strings(found: &mut Found) {
    let ado = format!(
        "Server=shop.database.windows.net;Authentication=Active Directory Service Principal;\
         User Id={CLIENT}@contoso.onmicrosoft.com;Password="
    );
    let quoted = format!("{ado}\"");
    let method = "Authentication=ActiveDirectoryServicePrincipal";
    let user = format!("{CLIENT}%40contoso.onmicrosoft.com");
    let url = format!("mssql://{user}:");
    let after_secret = format!("@shop.database.windows.net?{method}");
    let parameter = format!("mssql://shop.database.windows.net?{method}&User+Id={user}&Password=");
    let jdbc = format!(
        "jdbc:sqlserver://shop.database.windows.net;{method};\
         user={CLIENT}@contoso.onmicrosoft.com;password={{"
    );
    for (before, secret, after) in [
        (&ado, Secret::AdoNet, ";Encrypt=Strict"),
        (&quoted, Secret::AdoNetQuoted, "\""),
        (&url, Secret::Url, &after_secret),
        (&parameter, Secret::UrlParameter, ""),
        (&jdbc, Secret::Jdbc, "}"),
    ] {
        drop(azure_sql::Config::parse_with_credential(&with(before, secret, after)).unwrap());
        found.look(&[secret]);
    }
    for (before, secret, after) in [
        ("postgres://u:", Secret::PostgresUrl, "@h/d"),
        ("postgres://u@h/d?password=", Secret::PostgresParameter, ""),
        ("host=h password='", Secret::PostgresPairs, "'"),
    ] {
        assert!(with(before, secret, after).parse::<postgres::Config>().is_err());
        found.look(&[secret]);
    }
}

fn tokens(found: &mut Found) {
    let token = Token::new(own(Secret::Given), SystemTime::now());
    let token = token.with_refresh_on(Some(SystemTime::now()));
    assert!(Secret::Given.is(token.secret()));
    drop(token);
    found.look(&[Secret::Given]);
}

#[cfg(feature = "client-certificate")]
async fn certificate(peer: &Peer, found: &mut Found) {
    let id = credential::Application::new("contoso.onmicrosoft.com", CLIENT).unwrap();
    let password = own(Secret::CertificatePassword);
    let credential = id.client_certificate(peer.path("identity.pem"), Some(password));
    let request = TokenRequest::new(Scope::AZURE_SQL, Reason::Missing);
    let error = credential.get_token(request).await.unwrap_err();
    assert!(error.to_string().contains("is PEM"), "{error}");
    drop(credential);
    found.look(&[Secret::Certificate, Secret::CertificatePassword]);
}

async fn requests(peer: &Peer, found: &mut Found) {
    #[cfg(feature = "client-certificate")]
    certificate(peer, found).await;
    let az = AzureCli::builder().executable(peer.path("az")).build().unwrap();
    request_token(&az, Secret::AzToken).await;
    found.look(&[Secret::AzToken, Secret::AzOther]);
    let azd = AzureDeveloperCli::builder().executable(peer.path("azd")).build().unwrap();
    request_token(&azd, Secret::AzdToken).await;
    found.look(&[Secret::AzdToken]);

    let managed = |environment| {
        let builder = ManagedIdentity::system_assigned().environment(environment);
        builder.azure_arc_root(peer.path("")).build().unwrap()
    };
    let url = peer.url("http", "app-service");
    let app_service = [("IDENTITY_ENDPOINT", url.as_str())];
    let app_service = environment(app_service, "IDENTITY_HEADER", Secret::AppServiceHeader);
    let identity = Identity::new(managed(app_service));
    let token = identity.tokens(Scope::AZURE_SQL).token().await.unwrap();
    assert!(Secret::AppServiceToken.is(token.secret()));
    drop((token, identity));
    found.look(&[Secret::AppServiceHeader, Secret::AppServiceToken, Secret::AppServiceOther]);

    let (url, thumbprint) = (peer.url("https", "fabric"), peer.thumbprint());
    let fabric =
        [("IDENTITY_ENDPOINT", url.as_str()), ("IDENTITY_SERVER_THUMBPRINT", thumbprint.as_str())];
    let fabric = environment(fabric, "IDENTITY_HEADER", Secret::FabricHeader);
    request_token(&managed(fabric), Secret::FabricToken).await;
    found.look(&[Secret::FabricHeader, Secret::FabricToken]);

    let url = peer.url("http", "arc");
    let arc = [("IDENTITY_ENDPOINT", url.as_str()), ("IMDS_ENDPOINT", "http://127.0.0.1:1")];
    request_token(&managed(Environment::from_pairs(arc)), Secret::ArcToken).await;
    found.look(&[Secret::ArcKey, Secret::ArcToken]);

    let url = peer.url("http", "");
    let imds = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", url.as_str())];
    request_token(&managed(Environment::from_pairs(imds)), Secret::ImdsToken).await;
    found.look(&[Secret::ImdsToken]);
}

/// Tests each way in which an application proves its identity to Entra.
async fn applications(peer: &Peer, found: &mut Found) {
    let id = credential::Application::new(TENANT, CLIENT).unwrap();
    let credential = id.clone().client_secret(own(Secret::Password)).unwrap();
    request_token(&credential, Secret::EntraToken).await;
    drop(credential);
    found.look(&[Secret::Password, Secret::EntraToken]);

    let credential = id.clone().workload_identity(peer.path("federated-token")).unwrap();
    assert_refused(&credential).await;
    drop(credential);
    found.look(&[Secret::TokenFile]);

    let assertion = || async { Ok::<_, Infallible>(own(Secret::Assertion)) };
    let credential = id.clone().client_assertion(assertion);
    assert_refused(&credential).await;
    drop(credential);
    found.look(&[Secret::Assertion]);

    let credential = id.azure_pipelines("66666666-7777", own(Secret::SystemAccessToken)).unwrap();
    assert_refused(&credential).await;
    drop(credential);
    found.look(&[Secret::SystemAccessToken]);
}

/// A credential that returns this secret as the token.
#[derive(Debug)]
struct Fixed(Secret);

#[async_trait]
impl TokenCredential for Fixed {
    fn name(&self) -> String {
        "a token".to_owned()
    }

    async fn get_token(&self, _: TokenRequest) -> Result<Token, CredentialError> {
        Ok(Token::new(own(self.0), SystemTime::now() + Duration::from_secs(3600)))
    }
}

async fn logins(peer: &Peer, found: &mut Found) {
    let identity = Identity::new(Fixed(Secret::AzureSqlToken));
    let pool = azure_sql::pool_with(&identity, &peer.azure_sql).unwrap();
    let mut client = pool.get().await.unwrap();
    client.simple_query("SELECT 1").await.unwrap().into_results().await.unwrap();
    drop((client, pool, identity));
    tasks_ended().await;
    found.look(&[Secret::AzureSqlToken]);

    let identity = Identity::new(Fixed(Secret::PostgresToken));
    let pool = postgres::pool_with(&identity, &peer.postgres).unwrap();
    let client = pool.get().await.unwrap();
    client.simple_query("SELECT 1").await.unwrap();
    drop((client, pool, identity));
    tasks_ended().await;
    found.look(&[Secret::PostgresToken]);
}

/// A connection's task ends soon after the connection is dropped.
async fn tasks_ended() {
    while Handle::current().metrics().num_alive_tasks() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn only_the_copies_of_a_secret_that_security_md_excludes_are_left_in_memory() {
    let Some(peer) = Peer::of_this_process() else { return peer::serve() };
    let mut found = Found { scanner: Scanner::new(), most: vec![(0, 0); SECRETS.len()] };
    // Controls: the scanner finds copies that were not zeroised.
    let leaked = own(Secret::Control);
    let wide: Vec<u16> = with("", Secret::ControlWide, "").encode_utf16().collect();
    drop(with("", Secret::ControlZeroised, ""));
    drop(own(Secret::ControlDropped));
    found.scanner.scan();
    let copies = |secret| found.scanner.hits.iter().filter(|hit| hit.secret == secret).count();
    let found_each = [Secret::Control, Secret::ControlWide, Secret::ControlDropped].map(copies);
    assert!(found_each.iter().all(|copies| *copies > 0), "{found_each:?}");
    assert_eq!(copies(Secret::ControlZeroised), 0);
    drop((leaked, wide));

    environments(&mut found);
    connection_strings(&mut found);
    tokens(&mut found);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let exchanges = async {
            requests(&peer, &mut found).await;
            applications(&peer, &mut found).await;
            logins(&peer, &mut found).await;
        };
        tokio::time::timeout(Duration::from_secs(60), exchanges).await.unwrap();
    });
    drop(runtime);

    let mut left = Vec::new();
    for ((secret, _), (all, own_copies)) in SECRETS.iter().zip(&found.most) {
        println!("{secret:?}: {all} copies, {own_copies} of them made by this crate");
        if *own_copies > 0 {
            left.push(format!("{secret:?}"));
        }
    }
    assert!(left.is_empty(), "copies are left of {}", left.join(", "));
}
