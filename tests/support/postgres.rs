//! A PostgreSQL server for tests.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use entra_pool_emulator::certificates::Authority;

use super::{
    daemon::{Daemon, Home, program},
    tokio_postgres::{self, NoTls},
};

/// The database that all tests use.
pub const DATABASE: &str = "restaurant";

/// The role's password must be sent, which may be a token.
const BY_PASSWORD: &str = "hostssl all all 127.0.0.1/32 password";

/// A running server. `pg_hba.conf` has one rule for TCP. Over the Unix socket, the superuser needs
/// no password.
pub struct PostgresServer {
    daemon: Daemon,
    authority: Authority,
}

impl PostgresServer {
    /// Starts a server whose roles log in with their passwords.
    pub async fn start() -> Self {
        Self::start_with_rule(BY_PASSWORD).await
    }

    /// Starts a server with this line in its `pg_hba.conf`.
    pub async fn start_with_rule(rule: &str) -> Self {
        let home = Home::new();
        let authority = Authority::new().unwrap();
        let data = home.path().join("data");
        home.run(
            home.command(&program("initdb"))
                .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"])
                .args(["--no-sync", "--no-instructions", "--pgdata"])
                .arg(&data),
        );
        authority.issue(&["localhost", "127.0.0.1"]).unwrap().write_to(&data).unwrap();
        for file in ["server.crt", "server.key"] {
            home.own(&data.join(file), 0o600);
        }
        home.write(
            "data/pg_hba.conf",
            &format!("local all postgres trust\nlocal all all scram-sha-256\n{rule}\n"),
        );

        let stop =
            format!("'{}' stop --silent --mode=fast -D \"$FOLDER/data\"", pg_ctl().display());
        let daemon = Daemon::start(home, &stop, arguments, |folder, port| async move {
            superuser(&folder, port, "postgres").await.is_ok()
        })
        .await;
        let server = Self { daemon, authority };
        server.sql_in("postgres", &format!("CREATE DATABASE {DATABASE}")).await;
        server
    }

    /// A URL for `user`, with the server's certificate authority and the scope.
    pub fn url(&self, user: &str) -> String {
        self.url_with(user, "")
    }

    /// The same with `more` parameters, each with an `&` before it.
    pub fn url_with(&self, user: &str, more: &str) -> String {
        self.url_at(self.port(), user, more)
    }

    /// The same for another port, such as that of a proxy.
    pub fn url_at(&self, port: u16, user: &str, more: &str) -> String {
        let user = if user.is_empty() { String::new() } else { format!("{user}@") };
        format!(
            "postgres://{user}127.0.0.1:{port}/{DATABASE}?sslrootcert={}&entra_scope=https://ossrdbms-aad.database.windows.net/.default{more}",
            self.ca_file().display()
        )
    }

    /// The connection string for a front: the superuser over the Unix socket.
    pub fn engine_url(&self) -> String {
        let folder = self.daemon.home.path().display();
        format!("host={folder} port={} user=postgres dbname=postgres", self.port())
    }

    pub fn port(&self) -> u16 {
        self.daemon.port
    }

    /// The server's log.
    pub fn log(&self) -> String {
        self.daemon.home.log()
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    pub fn ca_file(&self) -> PathBuf {
        self.authority.path()
    }

    /// Closes all connections and restarts; returns when the server is available again.
    pub async fn restart(&self) {
        self.pg_ctl(&["restart"]).await;
    }

    pub async fn stop(&self) {
        self.pg_ctl(&["stop"]).await;
    }

    async fn pg_ctl(&self, action: &[&str]) {
        let home = &self.daemon.home;
        let mut command = home.command(&pg_ctl());
        command.args(action).args(["--mode=fast", "--wait", "--silent", "-D"]);
        command.arg(home.path().join("data")).arg("-l").arg(home.path().join("log"));
        let mut command: tokio::process::Command = command.into();
        let ended = command.stdin(Stdio::null()).stderr(Stdio::null()).status().await.unwrap();
        assert!(ended.success(), "{}", self.log());
    }

    /// Sets the role's password as the superuser; creates the role if it does not exist.
    pub async fn set_password(&self, role: &str, password: &str) {
        self.sql(&format!(
            "DO $$ BEGIN CREATE ROLE \"{role}\" LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             ALTER ROLE \"{role}\" PASSWORD '{password}'"
        ))
        .await;
    }

    /// Runs SQL as the superuser, over the Unix socket.
    pub async fn sql(&self, sql: &str) {
        self.sql_in(DATABASE, sql).await;
    }

    /// Waits until no backend belongs to `role`.
    pub async fn wait_until_gone(&self, role: &str) {
        self.wait_until(&format!(
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = '{role}'"
        ))
        .await;
    }

    /// Waits until `role` runs `pg_sleep`.
    pub async fn wait_until_busy(&self, role: &str) {
        self.wait_until(&format!(
            "SELECT count(*) > 0 FROM pg_stat_activity
             WHERE usename = '{role}' AND state = 'active' AND wait_event = 'PgSleep'"
        ))
        .await;
    }

    async fn wait_until(&self, sql: &str) {
        for _ in 0..2_000 {
            if self.value(sql).await.as_deref() == Some("t") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("not true within 10 s: {sql}");
    }

    /// Returns one value, as the superuser.
    pub async fn value(&self, sql: &str) -> Option<String> {
        let client = self.superuser(DATABASE).await.unwrap();
        let rows = client.simple_query(sql).await.unwrap();
        rows.into_iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    }

    /// The same in another database.
    pub async fn sql_in(&self, database: &str, sql: &str) {
        self.superuser(database).await.unwrap().batch_execute(sql).await.unwrap();
    }

    async fn superuser(
        &self,
        database: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        superuser(self.daemon.home.path(), self.port(), database).await
    }
}

fn arguments(home: &Home, port: u16) -> Vec<String> {
    let folder = home.path().display();
    let mut arguments = vec![
        program("postgres").display().to_string(),
        format!("-D{folder}/data"),
        format!("-k{folder}"),
        format!("-p{port}"),
    ];
    for setting in [
        "listen_addresses=127.0.0.1",
        "ssl=on",
        "fsync=off",
        "max_connections=600",
        "log_connections=on",
    ] {
        arguments.push(format!("-c{setting}"));
    }
    arguments
}

fn pg_ctl() -> PathBuf {
    program("pg_ctl")
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
