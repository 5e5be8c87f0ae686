//! The errors of typical first mistakes, as `main` prints them, on the page for troubleshooting.
#![cfg(all(target_os = "linux", feature = "azure-sql", feature = "postgres"))]

use std::{
    error::Error,
    fmt::{Debug, Write},
    path::Path,
    sync::Arc,
};

use entra_pool::{
    azure_sql,
    credential::{DefaultCredential, Environment},
    postgres,
    token::{Identity, Token, TokenCredential, TokenRequest},
};
use entra_pool_emulator::{
    azure_cli::{AzureCliMode, AzureCliStandIn},
    azure_sql::ServerError,
    emulator::Emulator,
    jwt::{Principal, PrincipalKind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

const START: &str = "# The first five mistakes\n";

const INTRODUCTION: &str = "
Rust prints these errors if a checkout fails in a `main` that returns
`Result<(), Box<dyn std::error::Error>>`. The checkout is
`pool.get().await.map_err(azure_sql::Error::from)?` or
`pool.get().await.map_err(postgres::Error::from)?`. The first line names the server and the reason,
and usually what to do. Each `caused by:` begins a cause. In the first example, the advice is in the
causes. That example was recorded with `AZURE_TOKEN_CREDENTIALS=dev`. Without this setting, its list
also contains the service principal, workload identity and managed identity.
";

fn as_the_app(url: String) -> String {
    url.replace("shop-identity@", "shop-app@")
}

/// Formats an error as `main` prints it.
fn printed(error: impl Into<Box<dyn Error>>) -> String {
    format!("Error: {:?}", error.into())
}

/// Formats the error with `.map_err(postgres::Error::from)`, or `azure_sql::Error::from`; without
/// it, the text also contains the type names of deadpool and tokio-postgres.
fn printed_of_pool<P: Debug, E: From<P> + Error + 'static>(error: P) -> String {
    let without = format!("{error:?}");
    let text = printed(E::from(error));
    assert!(without.contains(text.strip_prefix("Error: ").unwrap()), "{without}");
    text
}

struct World {
    emulator: Emulator,
    az: AzureCliStandIn,
}

impl World {
    /// Returns the errors of Azure SQL and of PostgreSQL for this identity.
    async fn errors(&self, identity: &Identity, change: impl Fn(String) -> String) -> [String; 2] {
        let sql = change(format!("{};ConnectRetryCount=0", self.emulator.azure_sql_string()));
        let sql = azure_sql::pool_with(identity, &sql).unwrap().get().await;
        let url = change(as_the_app(self.emulator.postgres_url()));
        let pg = postgres::pool_with(identity, &url).unwrap();
        let sql = printed_of_pool::<_, azure_sql::Error>(sql.err().unwrap());
        let pg = printed_of_pool::<_, postgres::Error>(pg.get().await.err().unwrap());
        [sql, pg].map(|text| self.with_example_names(&text))
    }

    /// Returns the error if a PostgreSQL server answers a login with this error.
    async fn rejected(&self, code: &str, message: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let body = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        let answer = [b"E", &length[..], body.as_bytes()].concat();
        let certificate = self.emulator.authority().issue(&["localhost"]).unwrap();
        let tls = TlsAcceptor::from(certificate.server_config().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                socket.read_exact(&mut [0; 8]).await.unwrap();
                socket.write_all(b"S").await.unwrap();
                let mut stream = tls.accept(socket).await.unwrap();
                stream.read_u8().await.unwrap();
                stream.write_all(&answer).await.unwrap();
                stream.flush().await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        });
        let own = self.emulator.postgres().addr().port();
        let url = self.emulator.postgres_url().replace(&own.to_string(), &port.to_string());
        let pool = postgres::pool_with(&Identity::new(Fixed), &as_the_app(url)).unwrap();
        let error = printed_of_pool::<_, postgres::Error>(pool.get().await.err().unwrap());
        self.with_example_names(&error.replace(&port.to_string(), &own.to_string()))
    }

    /// Replaces names and numbers by those of the example.
    fn with_example_names(&self, text: &str) -> String {
        let sql = self.emulator.azure_sql().addr().port();
        let pg = self.emulator.postgres().addr().port();
        let mut text = text.to_owned();
        for (from, to) in [
            (format!("localhost,{sql}"), "shop.database.windows.net,1433"),
            (format!("localhost:{pg}"), "shop.postgres.database.azure.com:5432"),
            (format!("shpo.invalid,{sql}"), "shpo.database.windows.net,1433"),
            (format!("shpo.invalid:{pg}"), "shpo.postgres.database.azure.com:5432"),
            ("--server SERVER".to_owned(), "--server shop"),
            ("--server-name SERVER".to_owned(), "--server-name shop"),
        ] {
            text = text.replace(&from, to);
        }
        text
    }
}

/// A token of the application `shop-app`, with fixed claims.
#[derive(Debug)]
struct Fixed;

#[async_trait::async_trait]
impl TokenCredential for Fixed {
    fn name(&self) -> String {
        "the test".into()
    }

    async fn get_token(
        &self,
        request: TokenRequest,
    ) -> Result<Token, entra_pool::token::CredentialError> {
        use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
        let (id, audience) =
            ("5e8b5b3c-0b1f-4d55-9c2e-6f1f1a7d2c10", request.scope.resource().to_owned());
        let name = "/x/providers/Microsoft.ManagedIdentity/userAssignedIdentities/shop-app";
        let claims = format!(
            r#"{{"aud":"{audience}","appid":"{id}","oid":"{id}","tid":"{id}","xms_mirid":"{name}"}}"#
        );
        let token = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let expires_on = std::time::UNIX_EPOCH + std::time::Duration::from_secs(4_102_444_800);
        Ok(Token::new(token, expires_on))
    }
}

/// An identity on a machine without a managed identity, with a logged-out Azure CLI.
fn logged_out(az: &AzureCliStandIn) -> Identity {
    az.set_mode(AzureCliMode::LoggedOut).unwrap();
    let path = az.executable().parent().unwrap().display().to_string();
    let environment =
        Environment::from_pairs([("AZURE_TOKEN_CREDENTIALS", "dev".to_owned()), ("PATH", path)]);
    Identity::new(DefaultCredential::new().environment(environment).build().unwrap())
}

/// Returns the whole section.
async fn section() -> String {
    let emulator = Emulator::start().await.unwrap();
    let developer = Principal::new("dev@contoso.com", PrincipalKind::User);
    let az = AzureCliStandIn::new(Arc::clone(emulator.issuer()), developer).unwrap();
    let world = World { emulator, az };
    // The servers do not know this application.
    world.emulator.directory().remove("shop-app");
    let known = || Identity::new(Fixed);
    let unchanged = |string: String| string;
    let firewall = ServerError::new(
        40615,
        14,
        "Cannot open server 'shop' requested by the login. Client with IP address '203.0.113.7' is not allowed to access the server.",
    );
    let missing = ServerError::new(
        4060,
        11,
        "Cannot open database \"odrers\" requested by the login. The login failed.",
    );
    let mut page = format!("{START}{INTRODUCTION}");
    let sql = world.emulator.azure_sql().behaviour();
    for title in
        ["No identity", "A wrong host name", "The firewall", "A missing user", "A missing database"]
    {
        let errors = match title {
            "No identity" => world.errors(&logged_out(&world.az), unchanged).await,
            "A wrong host name" => {
                world.errors(&known(), |string| string.replace("localhost", "shpo.invalid")).await
            }
            "The firewall" => {
                sql.fail_logins(1, firewall.clone());
                let [sql, _] = world.errors(&known(), unchanged).await;
                [sql, world.rejected("28000", "no pg_hba.conf entry for host \"203.0.113.7\", user \"shop-app\", database \"orders\", SSL encryption").await]
            }
            "A missing user" => {
                let [sql, _] = world.errors(&known(), unchanged).await;
                [sql, world.rejected("28000", "role \"shop-app\" does not exist").await]
            }
            _ => {
                sql.fail_logins(1, missing.clone());
                let [sql, _] = world.errors(&known(), unchanged).await;
                [sql, world.rejected("3D000", "database \"odrers\" does not exist").await]
            }
        };
        let [sql, pg] = errors;
        for text in [&sql, &pg] {
            assert!(text.lines().count() <= 15, "{title}: {text}");
            assert!(
                text.contains('`') || text.contains("pgaadauth") || text.contains("CREATE USER"),
                "{title}: no command in {text}"
            );
        }
        write!(
            page,
            "\n## {title}\n\n```text\n{sql}\n```\n\nOn PostgreSQL:\n\n```text\n{pg}\n```\n"
        )
        .unwrap();
    }
    page
}

/// `ENTRA_POOL_BLESS=1` writes the section to the page.
#[tokio::test]
async fn the_manual_shows_the_first_mistakes_as_main_prints_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/manual/troubleshooting.md");
    let manual = std::fs::read_to_string(&path).unwrap().replace('\r', "");
    let (before, rest) = manual.split_once(START).expect("the section exists");
    let (old, after) = rest.split_once("\n# ").expect("another section follows");
    let new = section().await;
    if std::env::var_os("ENTRA_POOL_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{new}\n# {after}")).unwrap();
        return;
    }
    assert_eq!(format!("{START}{old}"), new, "set ENTRA_POOL_BLESS=1 to update the page");
}
