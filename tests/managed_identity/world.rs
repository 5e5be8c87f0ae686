//! An endpoint for the protocols of all hosts, a manual clock, and all text that was shown.

use std::{
    fmt::Write as _,
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use entra_pool::{
    clock::ManualClock,
    credential::{
        Environment, ManagedIdentity, ManagedIdentityBuilder, ManagedIdentityHost, UserAssignedId,
    },
    token::{
        CredentialError, CredentialErrorKind, Reason, Scope, Token, TokenCredential, TokenRequest,
    },
};
use entra_pool_emulator::{
    identity::{Fault, IdentityEndpoint, IdentityOptions, Received},
    jwt::{Issuer, Principal, PrincipalKind},
};

use crate::waiting::{until, with_causes};

use ManagedIdentityHost::{AppService, AzureArc, AzureMl, CloudShell, Imds, ServiceFabric};

pub(crate) const HOSTS: [ManagedIdentityHost; 6] =
    [AppService, ServiceFabric, AzureArc, AzureMl, CloudShell, Imds];
pub(crate) const RESOURCE: &str = "https://database.windows.net";

pub(crate) struct World {
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) endpoint: IdentityEndpoint,
    pub(crate) clock: ManualClock,
    pub(crate) system: Principal,
    pub(crate) user: Principal,
    /// Texts that must not be shown or logged.
    secrets: Vec<String>,
    shown: String,
    cases: usize,
    log: Log,
    _guard: tracing::subscriber::DefaultGuard,
}

/// The outcome of a token request.
pub(crate) struct Outcome {
    pub(crate) result: Result<Token, CredentialError>,
    pub(crate) requests: Vec<Received>,
}

impl World {
    pub(crate) fn new() -> Self {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        let issuer = Arc::new(Issuer::new());
        let system = Principal::new("shop-app", PrincipalKind::SystemAssigned);
        let user = Principal::new("shop-identity", PrincipalKind::UserAssigned);
        let options = IdentityOptions {
            system_assigned: Some(system.clone()),
            user_assigned: vec![user.clone()],
            ..IdentityOptions::default()
        };
        let endpoint = IdentityEndpoint::start(issuer.clone(), options).unwrap();
        let [_, (_, secret)] = endpoint.app_service_env();
        World {
            issuer,
            endpoint,
            clock: ManualClock::new(),
            system,
            user,
            secrets: vec![secret],
            shown: String::new(),
            cases: 0,
            log,
            _guard: guard,
        }
    }

    /// The variables that the host sets.
    pub(crate) fn variables(&self, host: ManagedIdentityHost) -> Vec<(&'static str, String)> {
        match host {
            AppService => self.endpoint.app_service_env().into(),
            ServiceFabric => self.endpoint.service_fabric_env().into(),
            AzureArc => self.endpoint.azure_arc_env().into(),
            AzureMl => self.endpoint.azure_ml_env().into(),
            CloudShell => self.endpoint.cloud_shell_env().into(),
            _ => vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", self.endpoint.imds_endpoint())],
        }
    }

    pub(crate) fn builder(
        &self,
        host: ManagedIdentityHost,
        id: Option<&UserAssignedId>,
    ) -> ManagedIdentityBuilder {
        self.builder_with(self.variables(host), id)
    }

    pub(crate) fn builder_with(
        &self,
        variables: Vec<(&'static str, String)>,
        id: Option<&UserAssignedId>,
    ) -> ManagedIdentityBuilder {
        let builder = match id {
            None => ManagedIdentity::system_assigned(),
            Some(id) => ManagedIdentity::user_assigned(id.clone()),
        };
        builder
            .environment(Environment::from_pairs(variables))
            .azure_arc_root(self.endpoint.azure_arc_root())
            .clock(self.clock.clone())
    }

    /// The emulator responds with `fault` to the request that would otherwise return a token.
    pub(crate) fn answer_with(&self, host: ManagedIdentityHost, fault: Fault) {
        let challenges = usize::from(host == AzureArc);
        self.endpoint.fail_after(challenges, fault);
    }

    /// Requests a token, and advances the clock over exactly these pauses.
    pub(crate) async fn ask(&mut self, identity: &ManagedIdentity, pauses: &[u64]) -> Outcome {
        let before = self.endpoint.received().len();
        let request = TokenRequest::new(Scope::AZURE_SQL, Reason::Missing);
        let (result, ()) = tokio::join!(identity.get_token(request), self.pass(pauses));
        assert_eq!(self.clock.sleepers(), 0);
        self.cases += 1;
        // Writing to a string cannot fail.
        let _ = writeln!(self.shown, "{identity:?} {}", identity.name());
        match &result {
            Ok(token) => {
                self.shown += &format!("{token:?}\n");
                self.secret(token.secret());
            }
            Err(error) => self.shown += &format!("{} {error:?}\n", with_causes(error)),
        }
        let requests = self.endpoint.received().split_off(before);
        for request in &requests {
            assert_eq!(request.user_agent.as_deref(), Some(USER_AGENT));
        }
        Outcome { result, requests }
    }

    /// Advances the clock over these pauses, one after the other.
    pub(crate) async fn pass(&self, pauses: &[u64]) {
        for pause in pauses {
            let pause = Duration::from_secs(*pause);
            until(|| self.clock.next_wake() == Some(pause)).await;
            self.clock.advance(pause);
        }
    }

    /// From now on, this text must not be shown or logged.
    pub(crate) fn secret(&mut self, secret: &str) {
        self.secrets.push(secret.to_owned());
    }

    pub(crate) fn owner(&self, token: &Token) -> String {
        self.issuer.verify(token.secret(), RESOURCE).unwrap().object_id
    }

    /// The object ID of a host's token if no identity is selected.
    pub(crate) fn own_identity(&self, host: ManagedIdentityHost) -> String {
        if host == CloudShell {
            self.endpoint.cloud_shell_user().object_id
        } else {
            self.system.object_id.clone()
        }
    }

    /// The directory that the Azure Arc agent writes its keys to.
    pub(crate) fn arc_keys(&self) -> PathBuf {
        self.endpoint.azure_arc_root().join(if cfg!(windows) {
            "AzureConnectedMachineAgent/Tokens"
        } else {
            "var/opt/azcmagent/tokens"
        })
    }

    /// Searches all text that was shown or logged for secrets. `cases` is the least number of token
    /// requests.
    pub(crate) fn finish(mut self, cases: usize) {
        assert!(self.cases >= cases, "{} cases", self.cases);
        self.secrets.extend(self.endpoint.azure_arc_keys());
        let logged = String::from_utf8(self.log.0.lock().unwrap().clone()).unwrap();
        assert!(cases == 0 || !logged.is_empty());
        for secret in &self.secrets {
            assert!(!self.shown.contains(secret), "{secret} is shown: {}", self.shown);
            assert!(!logged.contains(secret), "{secret} is logged");
        }
    }
}

const USER_AGENT: &str = concat!("entra-pool/", env!("CARGO_PKG_VERSION"));

/// Checks that every request is exactly what the host expects. `selector` is the parameter of a
/// user-assigned identity.
#[track_caller]
pub(crate) fn assert_asked(
    host: ManagedIdentityHost,
    requests: &[Received],
    selector: Option<(&str, &str)>,
) {
    for request in requests {
        let api_version = match host {
            AppService => Some("2019-08-01"),
            ServiceFabric => Some("2019-07-01-preview"),
            AzureArc => Some("2020-06-01"),
            AzureMl => Some("2017-09-01"),
            CloudShell => None,
            _ => Some("2018-02-01"),
        };
        let mut parameters: Vec<_> =
            api_version.map(|version| ("api-version", version)).into_iter().collect();
        parameters.push(("resource", RESOURCE));
        parameters.extend(selector);
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        let (query, form) = if host == CloudShell {
            (owned(&[]), owned(&parameters))
        } else {
            (owned(&parameters), owned(&[]))
        };
        let metadata = matches!(host, AzureArc | CloudShell | Imds).then(|| "true".to_owned());
        let expected = Received {
            method: if host == CloudShell { "POST" } else { "GET" }.to_owned(),
            path: path(host).to_owned(),
            query,
            form,
            metadata,
            identity_header_is_right: (host == AppService).then_some(true),
            secret_is_right: matches!(host, ServiceFabric | AzureMl).then_some(true),
            // Checked by the tests for Azure Arc.
            key_is_right: request.key_is_right,
            user_agent: Some(USER_AGENT.to_owned()),
            over_tls: host == ServiceFabric,
        };
        assert_eq!(*request, expected, "{host}");
        assert!(host == AzureArc || request.key_is_right.is_none(), "{host}");
    }
}

fn path(host: ManagedIdentityHost) -> &'static str {
    match host {
        AppService => "/msi/token",
        AzureArc => "/arc/metadata/identity/oauth2/token",
        AzureMl => "/ml/msi/token",
        CloudShell => "/oauth2/token",
        _ => "/metadata/identity/oauth2/token",
    }
}

#[track_caller]
pub(crate) fn assert_says(
    what: &str,
    error: &CredentialError,
    kind: CredentialErrorKind,
    words: &[&str],
) {
    let text = with_causes(error);
    assert_eq!(error.kind(), kind, "{what}: {text}");
    for word in words {
        assert!(text.contains(word), "{what}: {word:?} is not in {text:?}");
    }
    assert!(text.len() < 2_000, "{what}: {text}");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
