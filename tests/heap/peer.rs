//! The process that holds the secrets: identity endpoints, and the files that others
//! would have written.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use entra_pool_emulator::certificates::ServerCertificate;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::scan::Secret;

/// Says to the peer where its files go.
const FOLDER: &str = "ENTRA_POOL_HEAP_FOLDER";

const EXPIRES: &str = "4000000000";

pub struct Peer {
    process: Child,
    folder: TempDir,
    ports: [String; 2],
    thumbprint: String,
}

impl Peer {
    pub fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--nocapture", "--test-threads=1"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let said = lines
            .map(Result::unwrap)
            .find_map(|line| line.find("peer: ").map(|at| line[at + "peer: ".len()..].to_owned()));
        let said = said.expect("it says where it listens");
        let [http, https, thumbprint]: [&str; 3] =
            said.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let ports = [http.to_owned(), https.to_owned()];
        Self { process, folder, ports, thumbprint: thumbprint.to_owned() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn url(&self, scheme: &str, path: &str) -> String {
        let port = &self.ports[usize::from(scheme == "https")];
        format!("{scheme}://127.0.0.1:{port}/{path}")
    }

    pub fn thumbprint(&self) -> String {
        self.thumbprint.clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether this process is the peer.
pub fn is_this() -> bool {
    env::var_os(FOLDER).is_some()
}

fn text(secret: Secret) -> String {
    let mut text = String::new();
    secret.write(&mut text);
    text
}

/// Until it is killed.
pub fn serve() {
    let folder = PathBuf::from(env::var_os(FOLDER).unwrap());
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
    let keys = folder.join("var/opt/azcmagent/tokens");
    fs::create_dir_all(&keys).unwrap();
    fs::write(keys.join("a.key"), text(Secret::ArcKey)).unwrap();
    let realm = keys.join("a.key").display().to_string();

    let certificate = ServerCertificate::self_signed(&["127.0.0.1"]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let https = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let [plain, tls] = [&http, &https].map(|it| it.local_addr().unwrap().port());
        println!("\npeer: {plain} {tls} {}", certificate.thumbprint());
        let acceptor = TlsAcceptor::from(certificate.server_config().unwrap());
        loop {
            let realm = realm.clone();
            tokio::select! {
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

/// One request, one answer.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, realm: String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let carries = |secret| head.contains(&text(secret));
    let token = |secret, more: &str| {
        format!(r#"{{"access_token":"{}","expires_on":"{EXPIRES}"{more}}}"#, text(secret))
    };
    let mut status = "200 OK".to_owned();
    let body = match head.split(['/', '?', ' ']).find(|it| !it.is_empty() && *it != "GET") {
        Some("app-service") => {
            assert!(carries(Secret::AppServiceHeader), "{head}");
            let more = format!(
                r#","refresh_token":"{}","padding":"{}""#,
                text(Secret::AppServiceOther),
                "p".repeat(20_000)
            );
            token(Secret::AppServiceToken, &more)
        }
        Some("fabric") => {
            assert!(carries(Secret::FabricHeader), "{head}");
            token(Secret::FabricToken, "")
        }
        Some("arc") if carries(Secret::ArcKey) => token(Secret::ArcToken, ""),
        Some("arc") => {
            status = format!("401 Unauthorized\r\nwww-authenticate: Basic realm={realm}");
            String::new()
        }
        _ => token(Secret::ImdsToken, ""),
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let _ = stream.read(&mut [0; 1]).await;
}
