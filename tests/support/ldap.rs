//! An LDAP server that decides about PostgreSQL's logins: the server asks for the
//! token in clear and shows it to somebody else, as Azure's does.

use std::path::Path;

use tokio::net::TcpStream;

use super::daemon::{Daemon, Home, program};

pub struct LdapServer(Daemon);

impl LdapServer {
    pub async fn start() -> Self {
        let home = Home::new();
        let folder = home.path().display();
        let settings = format!(
            "include /etc/ldap/schema/core.schema
             pidfile {folder}/pid
             database ldif
             suffix dc=entra
             directory {folder}/entries
             "
        );
        let settings: Vec<_> = settings.lines().map(str::trim_start).collect();
        home.write("slapd.conf", &settings.join("\n"));
        let entries = home.path().join("entries");
        std::fs::create_dir(&entries).unwrap();
        home.own(&entries, 0o700);
        // A copy, as which it may read this folder where AppArmor confines the installed
        // one (Ubuntu). Its tools are itself, by another name.
        let slapd = home.path().join("slapd");
        std::fs::copy(program("slapd"), &slapd).unwrap();
        for tool in ["slapadd", "slapmodify"] {
            std::os::unix::fs::symlink(&slapd, home.path().join(tool)).unwrap();
        }
        let daemon = Daemon::start(
            home,
            "",
            |home, port| {
                let settings = home.path().join("slapd.conf").display().to_string();
                let at = format!("ldap://127.0.0.1:{port}");
                let slapd = home.path().join("slapd").display().to_string();
                [slapd.as_str(), "-d0", "-f", &settings, "-h", &at].map(str::to_owned).into()
            },
            |_, port| async move { TcpStream::connect(("127.0.0.1", port)).await.is_ok() },
        )
        .await;
        let server = Self(daemon);
        server.load(
            "slapadd",
            "dn: dc=entra\nobjectClass: organization\nobjectClass: dcObject\ndc: entra\no: entra\n",
        );
        server
    }

    /// The line for `pg_hba.conf`.
    pub fn rule(&self) -> String {
        format!(
            "hostssl all all 127.0.0.1/32 ldap ldapserver=127.0.0.1 ldapport={} ldapprefix=\"cn=\" ldapsuffix=\",dc=entra\"",
            self.0.port
        )
    }

    /// Somebody who is let in with this token.
    pub fn add(&self, name: &str, token: &str) {
        let entry = format!(
            "dn: cn={name},dc=entra\nobjectClass: person\ncn: {name}\nsn: {name}\nuserPassword: {token}\n"
        );
        self.load("slapadd", &entry);
    }

    /// These tokens, and no others, are good from now on.
    pub fn accept_only<'a>(&self, name: &str, tokens: impl IntoIterator<Item = &'a str>) {
        let mut change =
            format!("dn: cn={name},dc=entra\nchangetype: modify\nreplace: userPassword\n");
        for token in tokens {
            change += &format!("userPassword: {token}\n");
        }
        self.load("slapmodify", &change);
    }

    /// Its entries are files, which it reads when it is asked.
    fn load(&self, tool: &str, ldif: &str) {
        let home = &self.0.home;
        let ldif = home.write("ldif", ldif);
        let settings: &Path = &home.path().join("slapd.conf");
        home.run(home.command(&home.path().join(tool)).arg("-f").arg(settings).arg("-l").arg(ldif));
    }
}
