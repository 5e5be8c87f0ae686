use std::{
    fmt, io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};
use zeroize::Zeroizing;

use super::{
    ConfigError, Environment, InvalidAnswer,
    excerpt::excerpt,
    managed_identity::{date, object, point_in_time, secret},
};
use crate::{
    clock::{Clock, SystemClock, timeout},
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Transient, Unavailable},
        Scope, Token, TokenCredential, TokenRequest,
    },
};

/// Whoever is logged in to the Azure CLI (`az login`): for a developer's
/// machine.
///
/// Runs `az account get-access-token`, which takes about a second, on every
/// call. `az` is found by `PATH`, but never in the current directory. It is
/// killed if it takes longer than the [time
/// limit](AzureCliBuilder::time_limit). Its standard output is never shown.
///
/// - Not installed, or nobody logged in: the error is
///   [`Unavailable`](crate::token::CredentialErrorKind::Unavailable).
/// - It takes too long or has no network:
///   [`Transient`](crate::token::CredentialErrorKind::Transient).
/// - Anything else: [`Refused`](crate::token::CredentialErrorKind::Refused),
///   with what it wrote to its standard error.
///
/// See [`az account get-access-token`](https://learn.microsoft.com/cli/azure/account#az-account-get-access-token).
#[derive(Clone)]
pub struct AzureCli(Arc<Settings>);

struct Settings {
    executable: PathBuf,
    tenant: Option<String>,
    subscription: Option<String>,
    environment: Environment,
    time_limit: Duration,
    clock: Arc<dyn Clock>,
}

/// Builds an [`AzureCli`].
#[derive(Debug)]
#[must_use]
pub struct AzureCliBuilder {
    executable: PathBuf,
    tenant: Option<String>,
    subscription: Option<String>,
    environment: Option<Environment>,
    time_limit: Duration,
    clock: Arc<dyn Clock>,
}

/// Of either stream; more is read and thrown away.
const OUTPUT_LIMIT: usize = 64 * 1024;

/// For the end of the output after the command itself has ended: something
/// that it has started may keep the pipe open for ever.
const GRACE: Duration = Duration::from_millis(500);

impl AzureCli {
    /// `az` as found by `PATH`, with its current account and tenant.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Self::builder().settings()))
    }

    /// Sets what [`new`](Self::new) leaves at its default.
    pub fn builder() -> AzureCliBuilder {
        AzureCliBuilder {
            executable: "az".into(),
            tenant: None,
            subscription: None,
            environment: None,
            time_limit: Duration::from_secs(10),
            clock: Arc::new(SystemClock::new()),
        }
    }
}

impl Default for AzureCli {
    fn default() -> Self {
        Self::new()
    }
}

impl AzureCliBuilder {
    /// The tenant (its ID or domain) to ask for the token. Default: that of
    /// the current account.
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// The subscription (its name or ID) whose account is used. Default: the
    /// current one.
    pub fn subscription(mut self, subscription: impl Into<String>) -> Self {
        self.subscription = Some(subscription.into());
        self
    }

    /// The command. Default: `az`. A path should be absolute: the command does
    /// not run in the current directory.
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.executable = path.into();
        self
    }

    /// The variables that the command gets, its `PATH` among them. Default:
    /// [`Environment::from_process`], read by [`build`](Self::build).
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
        self
    }

    /// How long the command may take. Default: 10 s.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// What waits and measures. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub(super) fn shared_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Checks the settings. Nothing is run.
    ///
    /// # Errors
    ///
    /// A tenant or a subscription that has other characters than these have.
    pub fn build(self) -> Result<AzureCli, ConfigError> {
        if !self.tenant.as_deref().is_none_or(|tenant| is_word(tenant, ".-")) {
            return Err(ConfigError::invalid("tenant", TENANT_EXPECTED));
        }
        if !self.subscription.as_deref().is_none_or(|name| is_word(name, "._- ")) {
            return Err(ConfigError::invalid(
                "subscription",
                "a subscription's ID, or a name of letters, digits, blanks and . _ -",
            ));
        }
        Ok(AzureCli(Arc::new(self.settings())))
    }

    fn settings(self) -> Settings {
        Settings {
            executable: self.executable,
            tenant: self.tenant,
            subscription: self.subscription,
            environment: self.environment.unwrap_or_else(Environment::from_process),
            time_limit: self.time_limit,
            clock: self.clock,
        }
    }
}

pub(super) const TENANT_EXPECTED: &str =
    "a tenant's ID or domain: letters, digits and . -, not starting with -";

/// Letters, digits and these; not to be taken for an option.
pub(super) fn is_word(text: &str, others: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

#[async_trait]
impl TokenCredential for AzureCli {
    fn name(&self) -> String {
        "Azure CLI".into()
    }

    async fn get_token(&self, request: TokenRequest) -> Result<Token, CredentialError> {
        let settings = &*self.0;
        // On Windows a shell is involved: see `command`.
        if !is_word(request.scope.as_str(), "._:/-") {
            let message = format!("the Azure CLI is not run with {:?} as a scope", request.scope);
            return Err(CredentialError::new(Refused, message));
        }
        let clock = settings.clock.as_ref();
        match timeout(clock, settings.time_limit, settings.run(&request.scope)).await {
            // The child is killed by being dropped.
            Err(_) => Err(CredentialError::new(
                Transient,
                format!(
                    "the Azure CLI has not answered within {:?} and was ended; `az account \
                     get-access-token` should take a second or two",
                    settings.time_limit
                ),
            )),
            Ok(Err(error)) => Err(cannot_run(error)),
            Ok(Ok(output)) if output.status.success() => token(&output.stdout).map_err(|error| {
                let message = "the Azure CLI answered with something that is not a token; does \
                               `az account get-access-token --output json` work?";
                CredentialError::new(Refused, message).with_source(error)
            }),
            Ok(Ok(output)) => Err(failure(&output)),
        }
    }
}

struct Output {
    status: ExitStatus,
    stdout: Zeroizing<Vec<u8>>,
    stderr: Zeroizing<Vec<u8>>,
}

impl Settings {
    fn command(&self, scope: &Scope) -> Command {
        let mut command;
        if cfg!(windows) {
            // `az` is a batch file there, which only the shell runs. Everything
            // that goes to it has been checked for characters it minds.
            command = Command::new("cmd");
            command.arg("/C").arg(&self.executable);
            command.current_dir(self.environment.get("SYSTEMROOT").unwrap_or(r"C:\Windows"));
        } else {
            command = Command::new(&self.executable);
            command.current_dir("/bin");
        }
        command.args(["account", "get-access-token", "--output", "json", "--scope"]);
        command.arg(scope.as_str());
        if let Some(tenant) = &self.tenant {
            command.args(["--tenant", tenant]);
        }
        if let Some(subscription) = &self.subscription {
            command.args(["--subscription", subscription]);
        }
        command.env_clear().envs(self.environment.iter());
        // `expiresOn` is local time without a zone: let that be UTC.
        command.env("TZ", "UTC");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    async fn run(&self, scope: &Scope) -> io::Result<Output> {
        let mut child = self.command(scope).spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        // Made large enough at once: a buffer that grows leaves copies behind.
        let mut stdout = Zeroizing::new(Vec::with_capacity(OUTPUT_LIMIT + 1));
        let mut stderr = Zeroizing::new(Vec::new());
        let status = {
            let reading = async {
                tokio::join!(read(out, &mut stdout), read(err, &mut stderr));
            };
            tokio::pin!(reading);
            // While it runs it must be read from, or it waits for that.
            let early = tokio::select! {
                () = &mut reading => None,
                status = child.wait() => Some(status),
            };
            match early {
                None => child.wait().await?,
                Some(status) => {
                    let _ = timeout(self.clock.as_ref(), GRACE, reading).await;
                    status?
                }
            }
        };
        Ok(Output { status, stdout, stderr })
    }
}

/// Reads to the end, of which the first [`OUTPUT_LIMIT`] bytes and one more
/// are kept. A stream that breaks has ended.
async fn read(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut chunk = Zeroizing::new(vec![0; 4096]);
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        let room = (OUTPUT_LIMIT + 1).saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..length.min(room)]);
    }
}

fn token(stdout: &[u8]) -> Result<Token, InvalidAnswer> {
    if stdout.len() > OUTPUT_LIMIT {
        return Err(InvalidAnswer::TooLong { limit: OUTPUT_LIMIT });
    }
    let mut object = object(stdout)?;
    let mut secret = secret(&mut object, "accessToken")?;
    // Without it: Azure CLI older than 2.54.0.
    let expires_on = object.get("expires_on").and_then(point_in_time);
    let token = Token::new(std::mem::take(&mut *secret), std::time::SystemTime::UNIX_EPOCH);
    let expires_on = expires_on
        .or_else(|| token.claims()?.expires_on)
        .or_else(|| object.get("expiresOn").and_then(Value::as_str).and_then(date))
        .ok_or(InvalidAnswer::Field {
            field: "expires_on",
            problem: "absent or not understood, and so is expiresOn",
        })?;
    Ok(Token::new(token.secret(), expires_on))
}

fn not_installed() -> CredentialError {
    let message = "the Azure CLI is not installed, or not in PATH; see \
                   https://learn.microsoft.com/cli/azure/install-azure-cli";
    CredentialError::new(Unavailable, message)
}

fn cannot_run(error: io::Error) -> CredentialError {
    if error.kind() == io::ErrorKind::NotFound {
        return not_installed();
    }
    CredentialError::new(Unavailable, "the Azure CLI (az) cannot be run").with_source(error)
}

fn failure(output: &Output) -> CredentialError {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let any = |marks: &[&str]| marks.iter().any(|mark| stderr.contains(mark));
    // 127: of a shell; 9009: of cmd.
    if matches!(output.status.code(), Some(127 | 9009))
        || any(&["is not recognized as an internal"])
    {
        return not_installed();
    }
    let said = excerpt(&stderr, None);
    let said = if said.is_empty() { String::new() } else { format!(" (it says: {said})") };
    if any(&["az login", "az account set"]) {
        let message = format!("nobody is logged in to the Azure CLI: run `az login`{said}");
        return CredentialError::new(Unavailable, message);
    }
    let network = [
        "Connection aborted",
        "Connection refused",
        "Connection reset",
        "ConnectionError",
        "Failed to establish a new connection",
        "Max retries exceeded",
        "Name or service not known",
        "Read timed out",
        "Temporary failure in name resolution",
        "getaddrinfo failed",
        "timed out",
    ];
    // Ended by a signal, it has no code.
    let passes = output.status.code().is_none() || any(&network);
    let kind = if passes { Transient } else { Refused };
    CredentialError::new(kind, format!("the Azure CLI failed with {}{said}", output.status))
}

impl fmt::Debug for AzureCli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureCli")
            .field("executable", &self.0.executable)
            .field("tenant", &self.0.tenant)
            .field("subscription", &self.0.subscription)
            .field("time_limit", &self.0.time_limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn expiry(json: &str) -> Result<u64, InvalidAnswer> {
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        token(json.as_bytes()).map(|token| since(token.expires_on()).as_secs())
    }

    #[test]
    fn the_expiry_is_the_epoch_else_the_tokens_own_else_the_local_time() {
        let all = r#"{"accessToken":"e30.eyJleHAiOjIwMDB9.c2ln","expires_on":1000,"expiresOn":"1970-01-01 01:00:00.000000"}"#;
        assert_eq!(expiry(all), Ok(1000));
        let old = r#"{"accessToken":"e30.eyJleHAiOjIwMDB9.c2ln","expiresOn":"1970-01-01 01:00:00.000000"}"#;
        assert_eq!(expiry(old), Ok(2000));
        let opaque = r#"{"accessToken":"opaque","expiresOn":"1970-01-01 01:00:00.000000"}"#;
        assert_eq!(expiry(opaque), Ok(3600));
        for neither in
            [r#"{"accessToken":"opaque"}"#, r#"{"accessToken":"opaque","expiresOn":"x"}"#]
        {
            assert!(matches!(expiry(neither), Err(InvalidAnswer::Field { .. })), "{neither}");
        }
    }

    #[test]
    fn nothing_that_could_be_an_option_or_a_command_is_passed_on() {
        for bad in ["", "-x", "a b", "a&b", "a;b", "$(x)", "a\"b", "a\nb", "é"] {
            assert!(AzureCli::builder().tenant(bad).build().is_err(), "{bad:?}");
            if bad != "a b" {
                assert!(AzureCli::builder().subscription(bad).build().is_err(), "{bad:?}");
            }
        }
        assert!(AzureCli::builder().tenant("contoso.onmicrosoft.com").build().is_ok());
        assert!(AzureCli::builder().subscription("My Team_1.0-test").build().is_ok());
    }
}
