//! Stand-ins for the Azure CLI and the Azure Developer CLI: an executable `az`
//! or `azd` in a folder of its own.
//!
//! They understand `az account get-access-token --output json --scope SCOPE
//! [--tenant T] [--subscription S]` and `azd auth token --output json
//! [--no-prompt] --scope SCOPE [--tenant-id T]`, for the scopes of both databases
//! in all clouds, and write down how they were called. Each is a shell script (on
//! Windows, a batch file) that prints what was signed beforehand, so it needs
//! nothing but the shell: real tokens of the [`Issuer`], the same ones until
//! [`refresh`](AzureCliStandIn::refresh), as the CLIs' own caches have it.
//!
//! They are not the CLIs: they know no other command and no `--query`.

use std::{
    fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde_json::json;
use tempfile::TempDir;

use crate::jwt::{Issuer, Principal, TENANT_ID, seconds};

/// The scopes that it has tokens for.
pub const SCOPES: [&str; 7] = [
    "https://database.windows.net/.default",
    "https://database.usgovcloudapi.net/.default",
    "https://database.chinacloudapi.cn/.default",
    "https://ossrdbms-aad.database.windows.net/.default",
    "https://ossrdbms-aad.database.usgovcloudapi.net/.default",
    "https://ossrdbms-aad.database.chinacloudapi.cn/.default",
    "https://storage.azure.com/.default",
];

/// The subscription that is selected.
pub const SUBSCRIPTION_ID: &str = "9d2b6c1e-0000-4000-8000-5f0c3a6a9f11";

/// Between the working directory and the arguments in the log.
const SEPARATOR: char = '\u{1f}';

/// Which of the two CLIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    /// `az`.
    Azure,
    /// `azd`.
    AzureDeveloper,
}

/// What `az` or `azd` does when it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AzureCliMode {
    /// Gives a token.
    LoggedIn,
    /// Gives a token after so long.
    Slow(Duration),
    /// Asks for `az login` or `azd auth login`: exit status 1.
    LoggedOut,
    /// Fails otherwise: exit status 1.
    Broken,
    /// Does not come back.
    Hanging,
    /// Prints something that is no JSON: exit status 0.
    Garbage,
}

/// How it was called, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// Where it was run.
    pub working_directory: PathBuf,
    /// What it was run with, from `account` or `auth` on.
    pub arguments: Vec<String>,
}

/// An `az` or `azd` that can be run; its folder goes when this value does.
pub struct AzureCliStandIn {
    tool: Tool,
    issuer: Arc<Issuer>,
    principal: Principal,
    folder: TempDir,
    tokens: Mutex<Tokens>,
}

struct Tokens {
    lifetime: Duration,
    with_epoch: bool,
}

impl AzureCliStandIn {
    /// Writes an `az`, logged in as `principal`; tokens live for 75 minutes, as
    /// users' do.
    ///
    /// # Errors
    ///
    /// The temporary folder cannot be written.
    pub fn new(issuer: Arc<Issuer>, principal: Principal) -> io::Result<Self> {
        Self::of(Tool::Azure, issuer, principal)
    }

    /// The same with an `azd`.
    ///
    /// # Errors
    ///
    /// The temporary folder cannot be written.
    pub fn azure_developer_cli(issuer: Arc<Issuer>, principal: Principal) -> io::Result<Self> {
        Self::of(Tool::AzureDeveloper, issuer, principal)
    }

    fn of(tool: Tool, issuer: Arc<Issuer>, principal: Principal) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("entra-pool-az-").tempdir()?;
        let tokens = Tokens { lifetime: Duration::from_secs(75 * 60), with_epoch: true };
        let cli = Self { tool, issuer, principal, folder, tokens: Mutex::new(tokens) };
        cli.set_mode(AzureCliMode::LoggedIn)?;
        cli.refresh()?;
        script::install(tool, cli.folder.path(), &cli.executable())?;
        Ok(cli)
    }

    /// The executable; its folder may go in front of `PATH`.
    pub fn executable(&self) -> PathBuf {
        self.folder.path().join(script::name(self.tool))
    }

    /// Says what it does from the next call on.
    ///
    /// # Errors
    ///
    /// The temporary folder cannot be written.
    pub fn set_mode(&self, mode: AzureCliMode) -> io::Result<()> {
        let mode = match mode {
            AzureCliMode::LoggedIn => "logged-in 0".to_owned(),
            AzureCliMode::Slow(delay) => format!("logged-in {}", delay.as_secs_f64()),
            AzureCliMode::LoggedOut => "logged-out 0".to_owned(),
            AzureCliMode::Broken => "broken 0".to_owned(),
            AzureCliMode::Hanging => "hanging 0".to_owned(),
            AzureCliMode::Garbage => "garbage 0".to_owned(),
        };
        self.replace("mode", &format!("{mode}\n"))
    }

    /// How long new tokens live; signs new ones.
    ///
    /// # Errors
    ///
    /// The temporary folder cannot be written.
    pub fn set_token_lifetime(&self, lifetime: Duration) -> io::Result<()> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).lifetime = lifetime;
        self.refresh()
    }

    /// Whether `expires_on` is in the answer, which versions before 2.54.0
    /// of `az` lack; signs new tokens.
    ///
    /// # Errors
    ///
    /// The temporary folder cannot be written.
    pub fn set_epoch(&self, with_epoch: bool) -> io::Result<()> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).with_epoch = with_epoch;
        self.refresh()
    }

    /// Signs a new token for every scope.
    ///
    /// # Errors
    ///
    /// The temporary folder cannot be written.
    pub fn refresh(&self) -> io::Result<()> {
        for (number, scope) in SCOPES.iter().enumerate() {
            self.replace(&format!("{number}.json"), &self.answer(scope)?)?;
        }
        Ok(())
    }

    /// How it was called so far, oldest first.
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

    fn answer(&self, scope: &str) -> io::Result<String> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let resource = scope.strip_suffix("/.default").unwrap_or(scope);
        let expires_on = SystemTime::now() + tokens.lifetime;
        let token = self.issuer.sign(&self.principal, resource, expires_on, 2_000);
        if self.tool == Tool::AzureDeveloper {
            let answer = json!({"token": token, "expiresOn": utc(seconds(expires_on))?});
            return Ok(format!("{answer:#}\n"));
        }
        let mut answer = json!({
            "accessToken": token,
            "expiresOn": local_time(seconds(expires_on))?,
            "subscription": SUBSCRIPTION_ID,
            "tenant": TENANT_ID,
            "tokenType": "Bearer",
        });
        if tokens.with_epoch {
            answer["expires_on"] = seconds(expires_on).into();
        }
        Ok(format!("{answer:#}\n"))
    }

    /// In one step: a script that runs beside sees the old file or the new.
    fn replace(&self, name: &str, content: &str) -> io::Result<()> {
        let file = tempfile::NamedTempFile::new_in(self.folder.path())?;
        std::fs::write(file.path(), content)?;
        file.persist(self.folder.path().join(name))?;
        Ok(())
    }
}

impl fmt::Debug for AzureCliStandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureCliStandIn")
            .field("executable", &self.executable())
            .field("principal", &self.principal.name)
            .finish_non_exhaustive()
    }
}

/// Local time without an offset, as `expiresOn` of `az` has it. SQLite knows the
/// time zone, which the `time` crate does not tell in a process with threads.
fn local_time(epoch: u64) -> io::Result<String> {
    date_time("SELECT datetime(?1, 'unixepoch', 'localtime') || '.000000'", epoch)
}

/// RFC 3339, as `expiresOn` of `azd` is.
fn utc(epoch: u64) -> io::Result<String> {
    date_time("SELECT strftime('%Y-%m-%dT%H:%M:%SZ', ?1, 'unixepoch')", epoch)
}

fn date_time(sql: &str, epoch: u64) -> io::Result<String> {
    let sqlite = rusqlite::Connection::open_in_memory().map_err(io::Error::other)?;
    sqlite.query_row(sql, [epoch.cast_signed()], |row| row.get(0)).map_err(io::Error::other)
}

#[cfg(unix)]
mod script {
    use std::process::Command;

    use super::{Path, SCOPES, TENANT_ID, Tool, io};

    pub(super) fn name(tool: Tool) -> &'static str {
        match tool {
            Tool::Azure => "az",
            Tool::AzureDeveloper => "azd",
        }
    }

    pub(super) fn install(tool: Tool, folder: &Path, executable: &Path) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(executable, text(tool, folder))?;
        std::fs::set_permissions(executable, std::fs::Permissions::from_mode(0o755))?;
        // A file open for writing cannot be run, and a process forked in
        // another thread meanwhile holds it open until its own exec. Once it
        // has run, nobody does.
        loop {
            match Command::new(executable).arg("--version").output() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
                ran => return ran.map(drop),
            }
        }
    }

    fn text(tool: Tool, folder: &Path) -> String {
        let folder = folder.display().to_string().replace('\'', r"'\''");
        let scopes: String = SCOPES
            .iter()
            .enumerate()
            .map(|(number, scope)| format!("  '{scope}') answer={number}.json ;;\n"))
            .collect();
        SCRIPT
            .replace("@TOOL@", if tool == Tool::Azure { AZURE } else { AZURE_DEVELOPER })
            .replace("@FOLDER@", &folder)
            .replace("@TENANT@", TENANT_ID)
            .replace("@SCOPES@", &scopes)
    }

    const AZURE: &str = r#"command='account get-access-token' tenant_option=--tenant
login="Please run 'az login' to setup account."
fail() { printf '%s\n' "ERROR: $2" >&2; exit "$1"; }"#;

    // With --output json, messages are JSON, too.
    const AZURE_DEVELOPER: &str = r#"command='auth token' tenant_option=--tenant-id
login='not logged in, run `azd auth login` to login'
fail() {
  printf '{"type":"consoleMessage","timestamp":"2026-01-01T00:00:00Z","data":{"message":"\\nERROR: %s\\n"}}\n' "$2" >&2
  exit "$1"
}"#;

    const SCRIPT: &str = r#"#!/bin/sh
# A stand-in for the Azure CLI or the Azure Developer CLI. Shell built-ins only, but for sleep.
folder='@FOLDER@'
[ "$1" = --version ] && { printf '2.77.0 (stand-in)\n'; exit 0; }
separator=$(printf '\037')
line=$PWD
for argument in "$@"; do line=$line$separator$argument; done
printf '%s\n' "$line" >> "$folder/invocations"

@TOOL@

read -r mode delay < "$folder/mode"
case $mode in
  logged-out) fail 1 "$login" ;;
  broken) fail 1 "The command failed with an unexpected error. Here is the traceback:" ;;
  garbage) printf '%s\n' "WARNING: You have 2 updates available."; exit 0 ;;
  hanging) PATH=$PATH:/bin:/usr/bin; exec sleep 3600 ;;
esac

[ "$1 $2" = "$command" ] || fail 2 "'$1 $2' is misspelled or not recognized by the system."
shift 2
scope= tenant= output=
while [ $# -gt 0 ]; do
  case $1 in
    --no-prompt) [ "$command" = 'auth token' ] || fail 2 "unrecognized arguments: $1"; shift; continue ;;
    --scope) scope=$2 ;;
    "$tenant_option") tenant=$2 ;;
    --output|-o) output=$2 ;;
    --subscription) [ "$command" != 'auth token' ] || fail 2 "unknown flag: $1" ;;
    *) fail 2 "unrecognized arguments: $1" ;;
  esac
  [ $# -ge 2 ] || fail 2 "argument $1: expected one argument"
  shift 2
done
[ "$output" = json ] || fail 2 "argument --output: this stand-in knows json only"
[ -z "$tenant" ] || [ "$tenant" = '@TENANT@' ] || fail 1 "AADSTS90002: Tenant '$tenant' not found."
case $scope in
@SCOPES@  *) fail 1 "AADSTS500011: The resource principal named $scope was not found in the tenant." ;;
esac
[ "$delay" = 0 ] || { PATH=$PATH:/bin:/usr/bin; sleep "$delay"; }
while IFS= read -r line; do printf '%s\n' "$line"; done < "$folder/$answer"
"#;
}

#[cfg(windows)]
mod script {
    use super::{Path, SCOPES, TENANT_ID, Tool, io};

    pub(super) fn name(tool: Tool) -> &'static str {
        match tool {
            Tool::Azure => "az.cmd",
            Tool::AzureDeveloper => "azd.cmd",
        }
    }

    pub(super) fn install(tool: Tool, folder: &Path, executable: &Path) -> io::Result<()> {
        let scopes: String = SCOPES
            .iter()
            .enumerate()
            .map(|(number, scope)| {
                format!("if \"%scope%\"==\"{scope}\" set answer={number}.json\r\n")
            })
            .collect();
        let (command, login) = match tool {
            Tool::Azure => ("account get-access-token", "Please run 'az login' to setup account."),
            Tool::AzureDeveloper => ("auth token", "not logged in, run `azd auth login` to login"),
        };
        let text = SCRIPT
            .replace("@COMMAND@", command)
            .replace("@LOGIN@", login)
            .replace('\n', "\r\n")
            .replace("@FOLDER@", &folder.display().to_string())
            .replace("@TENANT@", TENANT_ID)
            .replace("@SCOPES@", &scopes)
            .replace("@SEPARATOR@", &super::SEPARATOR.to_string());
        std::fs::write(executable, text)
    }

    const SCRIPT: &str = r#"@echo off
setlocal
set "line=%CD%"
set scope=
set tenant=
set answer=
for %%a in (%*) do call set "line=%%line%%@SEPARATOR@%%~a"
>>"@FOLDER@\invocations" echo %line%
for /f "usebackq tokens=1,2" %%m in ("@FOLDER@\mode") do set mode=%%m& set delay=%%n
if "%mode%"=="logged-out" 1>&2 echo ERROR: @LOGIN@& exit /b 1
if "%mode%"=="broken" 1>&2 echo ERROR: The command failed with an unexpected error.& exit /b 1
if "%mode%"=="garbage" echo WARNING: You have 2 updates available.& exit /b 0
if "%mode%"=="hanging" ping -n 3600 127.0.0.1 >nul
if not "%1 %2"=="@COMMAND@" 1>&2 echo ERROR: '%1 %2' is misspelled.& exit /b 2
shift & shift
:next
if "%~1"=="" goto read
if "%~1"=="--scope" set "scope=%~2"
if "%~1"=="--tenant" set "tenant=%~2"
if "%~1"=="--tenant-id" set "tenant=%~2"
if "%~1"=="--no-prompt" shift & goto next
shift & shift
goto next
:read
if not "%tenant%"=="" if not "%tenant%"=="@TENANT@" 1>&2 echo ERROR: AADSTS90002: Tenant '%tenant%' not found.& exit /b 1
@SCOPES@if "%answer%"=="" 1>&2 echo ERROR: AADSTS500011: The resource principal named %scope% was not found.& exit /b 1
if not "%delay%"=="0" powershell -NoProfile -Command "Start-Sleep -Seconds %delay%"
type "@FOLDER@\%answer%"
"#;
}
