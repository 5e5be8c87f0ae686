//! The process that holds the secrets: identity endpoints, and files that other programs would
//! have written.

use std::{env, fs, os::unix::fs::PermissionsExt, path::PathBuf, pin::pin};

use entra_pool_emulator::emulator::Emulator;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    process::Command,
};
use tokio_rustls::TlsAcceptor;

use crate::{TENANT, scan::Secret};

/// The environment variable that passes the files and servers to the searched process.
const PEER: &str = "ENTRA_POOL_HEAP_PEER";

const EXPIRES: &str = "4000000000";

/// The files and servers of the process that holds the secrets, for the searched process.
pub struct Peer {
    folder: PathBuf,
    ports: [String; 2],
    thumbprint: String,
    pub azure_sql: String,
    pub postgres: String,
}

impl Peer {
    /// Returns `None` if this process is the peer.
    pub fn of_this_process() -> Option<Self> {
        let peer = env::var(PEER).ok()?;
        let [folder, http, https, thumbprint, azure_sql, postgres]: [String; 6] =
            peer.lines().map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
        let (folder, ports) = (folder.into(), [http, https]);
        Some(Self { folder, ports, thumbprint, azure_sql, postgres })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn url(&self, scheme: &str, path: &str) -> String {
        let port = &self.ports[usize::from(scheme == "https")];
        format!("{scheme}://127.0.0.1:{port}/{path}")
    }

    pub fn thumbprint(&self) -> String {
        self.thumbprint.clone()
    }
}

fn text(secret: Secret) -> String {
    let mut text = String::new();
    secret.write(&mut text);
    text
}

/// Runs this test again in the process to be searched, and answers its requests.
pub fn serve() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let script = |name: &str, output: String| {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\ncat <<'END'\n{output}\nEND\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let (token, other) = (text(Secret::AzToken), text(Secret::AzOther));
    script(
        "az",
        format!(r#"{{"accessToken":"{token}","expires_on":{EXPIRES},"idToken":"{other}"}}"#),
    );
    let token = text(Secret::AzdToken);
    script("azd", format!(r#"{{"token":"{token}","expiresOn":"2090-01-01T00:00:00Z"}}"#));
    let key = text(Secret::Certificate);
    fs::write(folder.join("identity.pem"), format!("-----BEGIN PRIVATE KEY-----\n{key}\n"))
        .unwrap();
    fs::write(folder.join("federated-token"), text(Secret::TokenFile)).unwrap();
    let keys = folder.join("var/opt/azcmagent/tokens");
    fs::create_dir_all(&keys).unwrap();
    fs::write(keys.join("a.key"), text(Secret::ArcKey)).unwrap();
    let realm = keys.join("a.key").display().to_string();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let emulator = Emulator::start().await.unwrap();
        for secret in [Secret::AzureSqlToken, Secret::PostgresToken] {
            emulator.issuer().accept(&text(secret), emulator.user_assigned());
        }
        let certificate = emulator.authority().issue(&["127.0.0.1"]).unwrap();
        let acceptor = TlsAcceptor::from(certificate.server_config().unwrap());
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let https = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let [plain, tls] = [&http, &https].map(|it| it.local_addr().unwrap().port());
        let peer = [
            folder.display().to_string(),
            plain.to_string(),
            tls.to_string(),
            certificate.thumbprint(),
            emulator.azure_sql_string(),
            emulator.postgres_url(),
        ];
        // azure_identity verifies Entra's certificate with the system's roots, and reads the
        // pipeline's endpoint from the process's environment.
        let searched = Command::new(env::current_exe().unwrap())
            .args(["--nocapture", "--test-threads=1"])
            .env(PEER, peer.join("\n"))
            .env("SSL_CERT_FILE", emulator.ca_path())
            .env("AZURE_AUTHORITY_HOST", format!("https://127.0.0.1:{tls}"))
            .env("SYSTEM_OIDCREQUESTURI", format!("https://127.0.0.1:{tls}/oidc"))
            .kill_on_drop(true)
            .output();
        let mut searched = pin!(searched);
        loop {
            let realm = realm.clone();
            tokio::select! {
                output = &mut searched => {
                    let output = output.unwrap();
                    for text in [output.stdout, output.stderr] {
                        println!("{}", String::from_utf8_lossy(&text));
                    }
                    return assert!(output.status.success());
                }
                accepted = http.accept() => {
                    tokio::spawn(answer(accepted.unwrap().0, realm));
                }
                accepted = https.accept() => {
                    let (socket, acceptor) = (accepted.unwrap().0, acceptor.clone());
                    tokio::spawn(async move {
                        answer(acceptor.accept(socket).await.unwrap(), realm).await;
                    });
                }
            }
        }
    });
}

/// Reads one request and answers it.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, realm: String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let mut head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut form = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut form).await.unwrap();
    head.push_str(&String::from_utf8(form).unwrap());
    let contains = |secret| head.contains(&text(secret));
    let token = |secret, more: &str| {
        format!(r#"{{"access_token":"{}","expires_on":"{EXPIRES}"{more}}}"#, text(secret))
    };
    let mut status = "200 OK".to_owned();
    let body = match head.split(['/', '?', ' ']).skip(1).find(|it| !it.is_empty()) {
        Some("app-service") => {
            assert!(contains(Secret::AppServiceHeader), "{head}");
            let more = format!(
                r#","refresh_token":"{}","padding":"{}""#,
                text(Secret::AppServiceOther),
                "p".repeat(20_000)
            );
            token(Secret::AppServiceToken, &more)
        }
        Some("fabric") => {
            assert!(contains(Secret::FabricHeader), "{head}");
            token(Secret::FabricToken, "")
        }
        Some("arc") if contains(Secret::ArcKey) => token(Secret::ArcToken, ""),
        Some("arc") => {
            status = format!("401 Unauthorized\r\nwww-authenticate: Basic realm={realm}");
            String::new()
        }
        Some(TENANT) if contains(Secret::Password) => {
            token(Secret::EntraToken, r#","token_type":"Bearer","expires_in":3599"#)
        }
        // A token in the response would overwrite memory that is searched for copies.
        Some(TENANT | "oidc") => {
            let proofs = [Secret::TokenFile, Secret::Assertion, Secret::SystemAccessToken];
            assert!(proofs.into_iter().any(contains), "{head}");
            "401 Unauthorized".clone_into(&mut status);
            r#"{"error":"invalid_client","error_description":"AADSTS: 401","error_codes":[]}"#
                .to_owned()
        }
        _ => token(Secret::ImdsToken, ""),
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let _ = stream.read(&mut [0; 1]).await;
}
