//! Stand-ins for the Azure CLI and the Azure Developer CLI: an executable `az` or `azd` in
//! a temporary folder.
//!
//! They understand `az account get-access-token --output json --scope SCOPE
//! [--tenant T] [--subscription S]` and `azd auth token --output json
//! [--no-prompt] --scope SCOPE [--tenant-id T]`, for the [`SCOPES`], and log their
//! arguments. Each is a shell script (on Windows, a batch file) that prints tokens of the
//! [`Issuer`] that were signed beforehand. It prints the same token again, like the CLIs,
//! which have caches.
//!
//! They have no other command and no `--query`.

use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    certificates::write_private,
    jwt::{Issuer, Principal, TENANT_ID, seconds},
};

/// The scopes that the stand-ins have tokens for.
pub const SCOPES: [&str; 7] = [
    "https://database.windows.net/.default",
    "https://database.usgovcloudapi.net/.default",
    "https://database.chinacloudapi.cn/.default",
    "https://ossrdbms-aad.database.windows.net/.default",
    "https://ossrdbms-aad.database.usgovcloudapi.net/.default",
    "https://ossrdbms-aad.database.chinacloudapi.cn/.default",
    "https://storage.azure.com/.default",
];

/// The usual lifetime of a user's token.
const LIFETIME: Duration = Duration::from_secs(75 * 60);

/// Separates the working directory and the arguments in the log.
const SEPARATOR: char = '\u{1f}';

#[cfg(unix)]
const SCRIPT: &str = include_str!("script.sh");
#[cfg(windows)]
const SCRIPT: &str = include_str!("script.cmd");

/// The differences between the two CLIs.
#[derive(Debug, PartialEq, Eq)]
struct Tool {
    name: &'static str,
    command: &'static str,
    tenant_option: &'static str,
    login: &'static str,
    /// The format of errors. With `--output json`, `azd` also prints errors as JSON.
    error: &'static str,
}

const AZ: Tool = Tool {
    name: "az",
    command: "account get-access-token",
    tenant_option: "--tenant",
    login: "Please run 'az login' to setup account.",
    error: "ERROR: %s",
};

const AZD: Tool = Tool {
    name: "azd",
    command: "auth token",
    tenant_option: "--tenant-id",
    login: "not logged in, run `azd auth login` to login",
    error: r#"{"type":"consoleMessage","timestamp":"2026-01-01T00:00:00Z","data":{"message":"\\nERROR: %s\\n"}}"#,
};

/// How `az` or `azd` behaves when it is run. The scripts use these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AzureCliMode {
    /// Prints a token.
    LoggedIn,
    /// Asks for `az login` or `azd auth login`: exit status 1.
    LoggedOut,
    /// Fails for another reason: exit status 1.
    Broken,
    /// Does not return.
    Hanging,
    /// Prints something that is not JSON: exit status 0.
    Garbage,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The working directory.
    pub working_directory: PathBuf,
    /// The arguments, from `account` or `auth` on.
    pub arguments: Vec<String>,
}

/// An `az` or `azd` that can be run; its folder is removed with this value.
#[derive(Debug)]
pub struct AzureCliStandIn {
    tool: &'static Tool,
    issuer: Arc<Issuer>,
    principal: Principal,
    folder: TempDir,
}

impl AzureCliStandIn {
    /// Writes an `az`, logged in as `principal`; tokens live for 75 minutes.
    ///
    /// # Errors
    ///
    /// The temporary folder cannot be written.
    pub fn new(issuer: Arc<Issuer>, principal: Principal) -> io::Result<Self> {
        Self::of(&AZ, issuer, principal)
    }

    /// Writes an `azd`, logged in as `principal`; tokens live for 75 minutes.
    ///
    /// # Errors
    ///
    /// The temporary folder cannot be written.
    pub fn azure_developer_cli(issuer: Arc<Issuer>, principal: Principal) -> io::Result<Self> {
        Self::of(&AZD, issuer, principal)
    }

    fn of(tool: &'static Tool, issuer: Arc<Issuer>, principal: Principal) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("entra-pool-az-").tempdir()?;
        let cli = Self { tool, issuer, principal, folder };
        cli.set_mode(AzureCliMode::LoggedIn)?;
        cli.set_epoch(true)?;
        cli.install()?;
        Ok(cli)
    }

    /// The path of the executable. Its folder can be put first in `PATH`.
    pub fn executable(&self) -> PathBuf {
        let path = self.folder.path().join(self.tool.name);
        if cfg!(windows) { path.with_extension("cmd") } else { path }
    }

    /// Sets the behaviour from the next call on.
    ///
    /// # Errors
    ///
    /// The temporary folder cannot be written.
    pub fn set_mode(&self, mode: AzureCliMode) -> io::Result<()> {
        self.replace("mode", &format!("{mode:?}\n"))
    }

    /// Signs a new token for every scope, and sets whether the output of `az` contains
    /// `expires_on`, which versions before 2.54.0 lack.
    ///
    /// # Errors
    ///
    /// The temporary folder cannot be written.
    pub fn set_epoch(&self, with_epoch: bool) -> io::Result<()> {
        for (number, scope) in SCOPES.iter().enumerate() {
            self.replace(&format!("{number}.json"), &self.answer(scope, with_epoch)?)?;
        }
        Ok(())
    }

    /// The calls so far, oldest first.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn invocations(&self) -> io::Result<Vec<Invocation>> {
        let log = match std::fs::read_to_string(self.folder.path().join("invocations")) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            log => log?,
        };
        let calls = log.lines().map(|line| {
            let mut parts = line.split(SEPARATOR);
            Invocation {
                working_directory: parts.next().unwrap_or_default().into(),
                arguments: parts.map(str::to_owned).collect(),
            }
        });
        Ok(calls.collect())
    }

    fn answer(&self, scope: &str, with_epoch: bool) -> io::Result<String> {
        let resource = scope.strip_suffix("/.default").unwrap_or(scope);
        let expires_on = SystemTime::now() + LIFETIME;
        let token = self.issuer.sign(&self.principal, resource, expires_on, 2_000);
        let epoch = seconds(expires_on);
        if *self.tool == AZD {
            let expires_on = date_time("%Y-%m-%dT%H:%M:%SZ", "+0 hours", epoch)?;
            return Ok(format!("{:#}\n", json!({"token": token, "expiresOn": expires_on})));
        }
        let mut answer = json!({
            "accessToken": token,
            "expiresOn": date_time("%Y-%m-%d %H:%M:%S.000000", "localtime", epoch)?,
            "subscription": "9d2b6c1e-0000-4000-8000-5f0c3a6a9f11",
            "tenant": TENANT_ID,
            "tokenType": "Bearer",
        });
        if with_epoch {
            answer["expires_on"] = epoch.into();
        }
        Ok(format!("{answer:#}\n"))
    }

    /// Replaces a file in one step: a script that runs at the same time reads the old file
    /// or the new one.
    fn replace(&self, name: &str, content: &str) -> io::Result<()> {
        write_private(&self.folder.path().join(name), content.as_bytes())
    }

    fn install(&self) -> io::Result<()> {
        let quote = |text: &str| match cfg!(windows) {
            true => text.to_owned(),
            false => text.replace('\'', r"'\''"),
        };
        let scope = |number, scope| match cfg!(windows) {
            true => format!("if \"%scope%\"==\"{scope}\" set answer={number}.json\n"),
            false => format!("  '{scope}') answer={number}.json ;;\n"),
        };
        let scopes = SCOPES.iter().enumerate().map(|(number, one)| scope(number, one));
        let script = SCRIPT
            .replace("@COMMAND@", self.tool.command)
            .replace("@TENANT_OPTION@", self.tool.tenant_option)
            .replace("@LOGIN@", &quote(self.tool.login))
            .replace("@ERROR@", self.tool.error)
            .replace("@FOLDER@", &quote(&self.folder.path().display().to_string()))
            .replace("@TENANT@", TENANT_ID)
            .replace("@SCOPES@", &scopes.collect::<String>())
            .replace("@SEPARATOR@", &SEPARATOR.to_string());
        let script = if cfg!(windows) { script.replace('\n', "\r\n") } else { script };
        std::fs::write(self.executable(), script)?;
        #[cfg(unix)]
        self.make_executable()?;
        Ok(())
    }

    #[cfg(unix)]
    fn make_executable(&self) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let executable = self.executable();
        std::fs::set_permissions(&executable, std::fs::Permissions::from_mode(0o755))?;
        // A file open for writing cannot be run, and a process that another thread forks in
        // the meantime holds it open until its exec. After one run, no process does.
        loop {
            match std::process::Command::new(&executable).output() {
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {}
                ran => break ran.map(drop)?,
            }
        }
        std::fs::remove_file(self.folder.path().join("invocations"))
    }
}

/// Formats a date and time. SQLite knows the local time zone, which the `time` crate does not
/// return in a process with threads. `expiresOn` is local time in `az` and UTC in `azd`.
fn date_time(format: &str, offset: &str, epoch: u64) -> io::Result<String> {
    let sqlite = rusqlite::Connection::open_in_memory().map_err(io::Error::other)?;
    let sql = "SELECT strftime(?1, ?2, 'unixepoch', ?3)";
    let parameters = (format, epoch.cast_signed(), offset);
    sqlite.query_row(sql, parameters, |row| row.get(0)).map_err(io::Error::other)
}
