//! PgBouncer in front of PostgreSQL. It requests the token as a plain-text password over TLS,
//! compares it with its user list, and logs in with it.

use std::{fmt::Write, process::Command};

use tokio::net::TcpStream;

use super::{
    daemon::{Daemon, Home, program},
    front::PostgresService,
};

pub struct PgBouncer(Daemon);

impl PgBouncer {
    /// Starts a PgBouncer that accepts these roles with these tokens.
    pub async fn start(server: &PostgresService, roles: &[(&str, &str)]) -> Self {
        Self::start_with("", server, roles).await
    }

    /// Starts a PgBouncer with `more` settings, one per line.
    pub async fn start_with(more: &str, server: &PostgresService, roles: &[(&str, &str)]) -> Self {
        let home = Home::new();
        server
            .authority()
            .issue(&["localhost", "127.0.0.1"])
            .unwrap()
            .write_to(home.path())
            .unwrap();
        for file in ["server.crt", "server.key"] {
            home.own(&home.path().join(file), 0o600);
        }
        let authority = home.write("ca.pem", &server.authority().pem());
        home.write("users", &users(roles));
        let settings = format!(
            "[databases]
             * = host=127.0.0.1 port={}
             [pgbouncer]
             listen_addr = 127.0.0.1
             unix_socket_dir =
             pidfile = {folder}/pid
             auth_type = plain
             auth_file = {folder}/users
             client_tls_sslmode = require
             client_tls_key_file = {folder}/server.key
             client_tls_cert_file = {folder}/server.crt
             server_tls_sslmode = verify-full
             server_tls_ca_file = {}
             server_login_retry = 1
             query_wait_timeout = 5
             {more}
             ",
            server.port(),
            authority.display(),
            folder = home.path().display(),
        );
        let daemon = Daemon::start(
            home,
            "",
            |home, port| {
                let settings = format!("{settings}\nlisten_port = {port}\n");
                let settings: Vec<_> = settings.lines().map(str::trim_start).collect();
                let file = home.write("pgbouncer.ini", &settings.join("\n"));
                vec![program("pgbouncer").display().to_string(), file.display().to_string()]
            },
            |_, port| async move { TcpStream::connect(("127.0.0.1", port)).await.is_ok() },
        )
        .await;
        Self(daemon)
    }

    pub fn port(&self) -> u16 {
        self.0.port
    }

    pub fn log(&self) -> String {
        self.0.home.log()
    }

    /// Accepts only these roles with these tokens from now on.
    pub async fn reload(&self, roles: &[(&str, &str)]) {
        // Replaces the file: PgBouncer ignores a change of the same length in the same second.
        let new = self.0.home.write("users.new", &users(roles));
        std::fs::rename(&new, new.with_file_name("users")).unwrap();
        let reloads = || self.log().matches("got SIGHUP").count();
        let before = reloads();
        let pid = std::fs::read_to_string(self.0.home.path().join("pid")).unwrap();
        let sent = Command::new("kill").args(["-HUP", pid.trim()]).status().unwrap();
        assert!(sent.success());
        while reloads() == before {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

fn users(roles: &[(&str, &str)]) -> String {
    roles.iter().fold(String::new(), |mut lines, (role, token)| {
        writeln!(lines, "\"{role}\" \"{token}\"").unwrap();
        lines
    })
}
