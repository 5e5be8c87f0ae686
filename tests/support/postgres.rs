//! A PostgreSQL server of the test's own: made in a temporary folder, on a port
//! that the system chose, gone with the test process.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use entra_pool::postgres::tokio_postgres::{self, NoTls};
use entra_pool_emulator::certificates::Authority;
use tempfile::TempDir;

/// The database that all tests use.
pub const DATABASE: &str = "restaurant";

/// A running server. `hostssl` with `password` is the only way in over TCP;
/// the Unix socket trusts everybody.
pub struct PostgresServer {
    folder: TempDir,
    authority: Authority,
    port: u16,
    /// Ends the server when its standard input ends, which it also does when
    /// this process is killed.
    keeper: Child,
}

/// `TempDir` cannot tidy up in a process that was killed, nor in a static: the
/// keeper does, unless it is told to leave things as they are.
const KEEPER: &str = r#"
    "$@" < /dev/null &
    word=
    read -r word
    kill -INT $!
    wait $!
    [ -n "$word" ] || rm -rf "$FOLDER"
"#;

/// Who the server runs as; it refuses to be root.
#[derive(Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl PostgresServer {
    pub async fn start() -> Self {
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("entra-pool-pg-").tempdir().unwrap();
        let account = unprivileged(folder.path());
        let authority = Authority::new().unwrap();
        let data = folder.path().join("data");
        let initdb = command(&programs.join("initdb"), account)
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"])
            .args(["--no-sync", "--no-instructions", "--pgdata"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));

        authority.issue(&["localhost", "127.0.0.1"]).unwrap().write_to(&data).unwrap();
        fs::set_permissions(data.join("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let rules = "local all all trust\nhostssl all all 127.0.0.1/32 password\n";
        fs::write(data.join("pg_hba.conf"), rules).unwrap();
        if let Some(account) = account {
            for file in ["server.crt", "server.key", "pg_hba.conf"] {
                chown(data.join(file), Some(account.uid), Some(account.gid)).unwrap();
            }
        }

        // Between choosing a port and using it, somebody else may take it.
        let mut server = None;
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut keeper = launch(&programs, account, folder.path(), port);
            match ready(folder.path(), port).await {
                Ok(()) => {
                    server = Some((keeper, port));
                    break;
                }
                Err(log) => eprintln!("the server did not start on port {port}: {log}"),
            }
            keeper.stdin.take().unwrap().write_all(b"leave\n").unwrap();
            keeper.wait().unwrap();
        }
        let (keeper, port) = server.expect("the server starts on one of five ports");
        let server = Self { folder, authority, port, keeper };
        server.sql_in("postgres", &format!("CREATE DATABASE {DATABASE}")).await;
        server
    }

    /// A URL for `user`, with the server's authority and the scope in it.
    pub fn url(&self, user: &str) -> String {
        self.url_with(user, "")
    }

    /// The same with `more` parameters, each with an `&` before it.
    pub fn url_with(&self, user: &str, more: &str) -> String {
        let user = if user.is_empty() { String::new() } else { format!("{user}@") };
        format!(
            "postgres://{user}127.0.0.1:{}/{DATABASE}?sslrootcert={}&entra_scope=https://ossrdbms-aad.database.windows.net/.default{more}",
            self.port,
            self.ca_file().display()
        )
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub fn ca_file(&self) -> PathBuf {
        self.authority.path()
    }

    /// Makes the role, or sets its password, as a superuser.
    pub async fn set_password(&self, role: &str, password: &str) {
        self.sql(&format!(
            "DO $$ BEGIN CREATE ROLE \"{role}\" LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             ALTER ROLE \"{role}\" PASSWORD '{password}'"
        ))
        .await;
    }

    /// Runs SQL as a superuser, over the Unix socket.
    pub async fn sql(&self, sql: &str) {
        self.sql_in(DATABASE, sql).await;
    }

    /// One value, as a superuser.
    pub async fn value(&self, sql: &str) -> Option<String> {
        let client = self.superuser(DATABASE).await.unwrap();
        let rows = client.simple_query(sql).await.unwrap();
        rows.into_iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    }

    async fn sql_in(&self, database: &str, sql: &str) {
        self.superuser(database).await.unwrap().batch_execute(sql).await.unwrap();
    }

    async fn superuser(
        &self,
        database: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        superuser(self.folder.path(), self.port, database).await
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Where PostgreSQL's programs lie: in PATH, or where Debian has them.
fn programs() -> PathBuf {
    let in_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).find(|folder| folder.join("initdb").exists())
    });
    let debian = || {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
        let mut folders: Vec<PathBuf> =
            versions.filter_map(|version| Some(version.ok()?.path().join("bin"))).collect();
        folders.sort();
        folders.into_iter().rev().find(|folder| folder.join("initdb").exists())
    };
    in_path.or_else(debian).expect(
        "PostgreSQL's server programs (initdb, postgres) are neither in PATH nor in /usr/lib/postgresql: tests/run installs them",
    )
}

/// Where this process is root: somebody who is not, and owns `folder` now.
fn unprivileged(folder: &Path) -> Option<Account> {
    if fs::metadata(folder).unwrap().uid() != 0 {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let account = |name: &str| {
        let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(Account { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    };
    let account = account("postgres").or_else(|| account("nobody")).expect("there is a nobody");
    chown(folder, Some(account.uid), Some(account.gid)).unwrap();
    Some(account)
}

fn command(program: &Path, account: Option<Account>) -> Command {
    let mut command = Command::new(program);
    command.env("TZ", "UTC").env("LC_ALL", "C").current_dir("/");
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

/// Starts the server under a keeper that ends it, by its id, when this process
/// lets go of the keeper's standard input.
fn launch(programs: &Path, account: Option<Account>, folder: &Path, port: u16) -> Child {
    let log = fs::File::create(folder.join("log")).unwrap();
    command(Path::new("/bin/sh"), account)
        .args(["-c", KEEPER, "keeper"])
        .arg(programs.join("postgres"))
        .arg("-D")
        .arg(folder.join("data"))
        .args(["-p", &port.to_string()])
        .arg("-k")
        .arg(folder)
        .args(["-c", "listen_addresses=127.0.0.1", "-c", "ssl=on", "-c", "fsync=off"])
        .args(["-c", "max_connections=200", "-c", "log_connections=on"])
        .env("FOLDER", folder)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

async fn ready(folder: &Path, port: u16) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(60);
    let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
    while Instant::now() < until {
        // The log says early what the socket would never.
        if log().contains("could not bind") {
            break;
        }
        if superuser(folder, port, "postgres").await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(log())
}

async fn superuser(
    folder: &Path,
    port: u16,
    database: &str,
) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::Config::new()
        .host_path(folder)
        .port(port)
        .user("postgres")
        .dbname(database)
        .connect(NoTls)
        .await?;
    tokio::spawn(async move {
        let _: Result<(), tokio_postgres::Error> = connection.await;
    });
    Ok(client)
}
