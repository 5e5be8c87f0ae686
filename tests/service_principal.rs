//! Applications with their own credential, with the emulator of Entra's token endpoint: from the
//! environment to a query on both databases.
//!
//! The trusted certificates of the HTTP client and the authority come from environment variables,
//! so each test runs itself again in a process with other variables.
#![cfg(all(
    target_os = "linux",
    feature = "azure-identity",
    feature = "azure-sql",
    feature = "postgres"
))]
#![allow(clippy::disallowed_methods)] // Tokens are verified against the real time.

use std::{
    env,
    path::Path,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PKCS1_SHA256};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use entra_pool::{
    azure_sql,
    credential::{self, Application},
    postgres,
    token::{CredentialErrorKind, Identity, Reason, Scope, TokenCredential, TokenRequest},
};
use entra_pool_emulator::{
    emulator::Emulator,
    entra::{Certificate, FederatedCredential},
    jwt::{TENANT_ID, seconds},
};
use serde_json::json;
use tempfile::TempDir;

const INNER: &str = "SERVICE_PRINCIPAL_TEST";
const SQL: &str = "TEST_AZURE_SQL";
const POSTGRES: &str = "TEST_POSTGRES";
const SECRET: &str = "AZURE_CLIENT_SECRET";

/// The emulator and the application's files, in the outer process.
struct World {
    emulator: Emulator,
    folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let emulator = Emulator::start().await.unwrap();
        Self { emulator, folder: tempfile::tempdir().unwrap() }
    }

    /// Registers more credentials for the application, in addition to its secret.
    fn register(&self, add: impl FnOnce(&mut Registration)) {
        let service = self.emulator.service_principal().clone();
        let mut application = Registration::new(service);
        add(&mut application);
        self.emulator.entra().register(application);
    }

    /// Runs the test again with these variables and those of the application, except for the
    /// variables in `without`.
    async fn run(&self, test: &str, without: &[&str], variables: &[(&str, &str)]) {
        let emulator = &self.emulator;
        let service = &emulator.service_principal().name;
        let url = emulator.postgres_url().replace("shop-identity@", &format!("{service}@"));
        let mut child = tokio::process::Command::new(env::current_exe().unwrap());
        child
            .args(["--exact", test, "--nocapture"])
            .env_clear()
            .envs(emulator.service_principal_env())
            .env("SSL_CERT_FILE", emulator.ca_path())
            .env(SQL, format!("{};ConnectRetryCount=0", emulator.azure_sql_string()))
            .env(POSTGRES, url)
            .env(INNER, self.folder.path())
            .envs(variables.iter().copied());
        for name in without {
            child.env_remove(name);
        }
        let output = child.output().await.unwrap();
        let said =
            [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
        assert!(output.status.success() && said[0].contains("1 passed"), "{said:?}");
    }

    fn logins(&self) -> [u64; 2] {
        [self.emulator.azure_sql().counters().logins, self.emulator.postgres().counters().logins]
    }
}

type Registration = entra_pool_emulator::entra::Application;

/// Returns the folder of the application's files, in the inner process.
fn inner() -> Option<std::path::PathBuf> {
    env::var_os(INNER).map(Into::into)
}

/// Checks which user is logged in to both databases.
async fn check_logins(identity: &Identity) {
    let sql = azure_sql::pool_with(identity, &env::var(SQL).unwrap()).unwrap();
    let mut connection = sql.get().await.unwrap();
    let row = connection.query("SELECT SUSER_SNAME()", &[]).await.unwrap();
    let row = row.into_row().await.unwrap().unwrap();
    assert_eq!(row.get::<&str, _>(0), Some("shop-service"));
    let postgres = postgres::pool_with(identity, &env::var(POSTGRES).unwrap()).unwrap();
    let row = postgres.get().await.unwrap().query_one("SELECT current_user", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "shop-service");
}

fn application() -> Application {
    Application::new(TENANT_ID, env::var("AZURE_CLIENT_ID").unwrap()).unwrap()
}

#[tokio::test]
async fn a_client_secret_from_the_environment_logs_in_to_both_databases() {
    if inner().is_some() {
        return check_logins(&Identity::new(credential::from_env().unwrap())).await;
    }
    let world = World::start().await;
    let test = "a_client_secret_from_the_environment_logs_in_to_both_databases";
    world.run(test, &[], &[]).await;
    assert_eq!(world.logins(), [1, 1]);
    assert_eq!(world.emulator.entra().tokens_handed_out(), 2);
}

#[tokio::test]
async fn a_workload_identity_from_the_environment_logs_in_to_both_databases() {
    if inner().is_some() {
        return check_logins(&Identity::new(credential::from_env().unwrap())).await;
    }
    let world = World::start().await;
    let account = FederatedCredential::of_emulator("system:serviceaccount:default:shop");
    world.register(|application| application.federated.push(account.clone()));
    let file = world.folder.path().join("token");
    let later = SystemTime::now() + Duration::from_secs(3_600);
    world.emulator.entra().write_workload_token(&account, later, &file).unwrap();
    let test = "a_workload_identity_from_the_environment_logs_in_to_both_databases";
    let variables = [("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap())];
    world.run(test, &[SECRET], &variables).await;
    assert_eq!(world.logins(), [1, 1]);
}

/// An assertion as "Microsoft identity platform application authentication certificate
/// credentials" describes it.
fn assertion(folder: &Path, client_id: &str) -> String {
    let authority = env::var("AZURE_AUTHORITY_HOST").unwrap();
    let key = KeyPair::from_pkcs8(&std::fs::read(folder.join("key.der")).unwrap()).unwrap();
    let thumbprint = std::fs::read_to_string(folder.join("thumbprint")).unwrap();
    let part = |value: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!(
        "{}.{}",
        part(json!({"alg": "RS256", "typ": "JWT", "x5t#S256": thumbprint})),
        part(json!({
            "aud": format!("{authority}/{TENANT_ID}/oauth2/v2.0/token"),
            "iss": client_id,
            "sub": client_id,
            "jti": "22222222-3333-4444-5555-666666666666",
            "exp": seconds(SystemTime::now()) + 300,
        }))
    );
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn a_client_assertion_logs_in_to_both_databases() {
    if let Some(folder) = inner() {
        let assertion = move || {
            let assertion = assertion(&folder, &env::var("AZURE_CLIENT_ID").unwrap());
            async move { Ok::<_, std::io::Error>(assertion) }
        };
        return check_logins(&Identity::new(application().client_assertion(assertion))).await;
    }
    let world = World::start().await;
    let size = rcgen::RsaKeySize::_2048;
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate.der());
    let write = |name, contents: &[u8]| {
        std::fs::write(world.folder.path().join(name), contents).unwrap();
    };
    write("key.der", key.serialized_der());
    write("thumbprint", BASE64_URL_SAFE_NO_PAD.encode(hash).as_bytes());
    world.register(|it| it.certificates.push(Certificate::from_pem(&certificate.pem()).unwrap()));
    world.run("a_client_assertion_logs_in_to_both_databases", &[SECRET], &[]).await;
    assert_eq!(world.logins(), [1, 1]);
}

#[cfg(feature = "client-certificate")]
#[tokio::test]
async fn a_client_certificate_logs_in_to_both_databases() {
    if let Some(folder) = inner() {
        let password = Some("p4ssword".to_owned());
        let credential = application().client_certificate(folder.join("id.pfx"), password);
        return check_logins(&Identity::new(credential)).await;
    }
    let world = World::start().await;
    let openssl = |arguments: &str| {
        let mut command = std::process::Command::new("openssl");
        let output = command.current_dir(world.folder.path()).args(arguments.split(' ')).output();
        assert!(output.unwrap().status.success(), "{arguments}");
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=shop");
    openssl("pkcs12 -export -inkey key.pem -in cert.pem -out id.pfx -passout pass:p4ssword");
    let pem = std::fs::read_to_string(world.folder.path().join("cert.pem")).unwrap();
    world.register(|it| it.certificates.push(Certificate::from_pem(&pem).unwrap()));
    world.run("a_client_certificate_logs_in_to_both_databases", &[SECRET], &[]).await;
    assert_eq!(world.logins(), [1, 1]);
}

#[tokio::test]
async fn a_rejection_by_entra_is_shown_with_its_error_code() {
    if inner().is_some() {
        let wrong = application().client_secret("wr0ng-s3cret").unwrap();
        let request = TokenRequest::new(Scope::AZURE_SQL, Reason::Missing);
        let error = wrong.get_token(request).await.unwrap_err();
        assert_eq!(error.kind(), CredentialErrorKind::Refused);
        let shown = format!("{error:?}");
        assert!(shown.contains("AADSTS7000215: Invalid client secret provided"), "{shown}");
        assert!(!shown.contains("wr0ng"), "{shown}");
        return;
    }
    let world = World::start().await;
    world.run("a_rejection_by_entra_is_shown_with_its_error_code", &[], &[]).await;
    assert_eq!(world.emulator.entra().tokens_handed_out(), 0);
}
