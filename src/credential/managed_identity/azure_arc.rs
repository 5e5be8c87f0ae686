//! Azure Arc, machines of one's own: "Authenticate against Azure resources with
//! Azure Arc-enabled servers".
//!
//! Whoever asks must show that it may read a file which the agent writes for
//! every request. This also shows who answers: others cannot write there.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use reqwest::{Url, header::AUTHORIZATION};

pub(super) use super::key_file::Agent;
use super::{
    Endpoint, ManagedIdentityHost,
    host::Selector,
    http::{Answer, Http, HttpError, TRY_LIMIT},
    key_file::{self, KeyFileError},
    local::Local,
    protocols::AZURE_ARC,
    secret::Secret,
    shown,
};
use crate::{
    credential::ConfigError,
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Unavailable},
        Scope, Token,
    },
};

/// Where the agent listens if no variable names another endpoint.
pub(super) const DEFAULT: &str = "http://127.0.0.1:40342/metadata/identity/oauth2/token";

pub(super) struct AzureArc {
    local: Local,
    agent: Agent,
    /// Whether variables tell of it, or it has answered: if not, a file alone does.
    known: AtomicBool,
}

impl AzureArc {
    /// `known`: whether variables name it. Otherwise, only a file shows that it is installed.
    pub(super) fn new(url: &str, agent: Agent, known: bool) -> Result<Self, ConfigError> {
        let local = Local::new(&AZURE_ARC, url, None)?;
        Ok(Self { local, agent, known: AtomicBool::new(known) })
    }

    /// Both requests: a key may be valid for one answer only. It is left in `sent`.
    async fn ask(
        &self,
        http: &Http,
        scope: &Scope,
        sent: &Mutex<Option<Secret>>,
    ) -> Result<Answer, HttpError> {
        let request = || self.local.request(scope, None);
        let answer = http.send_once(request(), TRY_LIMIT).await?;
        self.known.store(true, Ordering::Relaxed);
        if answer.status.is_success() {
            return Err(KeyFileError::NoChallenge.into());
        }
        if answer.status != 401 {
            return Ok(answer);
        }
        let key = key_file::read(&answer.challenges, &self.agent)?;
        let mut request = request();
        request.headers_mut().insert(AUTHORIZATION, key.header());
        *sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        http.send_once(request, TRY_LIMIT).await
    }

    fn no_key(&self, error: KeyFileError) -> CredentialError {
        let advice = match &error {
            KeyFileError::Unreadable { .. } if cfg!(windows) => {
                "; run this program as an administrator, or add its user to the group \"Hybrid \
                 agent extension applications\""
            }
            KeyFileError::Unreadable { .. } => {
                "; add this program's user to the group `himds`, and start it anew"
            }
            _ => "",
        };
        let url = shown(self.local.url());
        let message = format!("no token from {} ({url}): {error}{advice}", AZURE_ARC.who);
        CredentialError::new(Refused, message).with_source(error)
    }
}

#[async_trait]
impl Endpoint for AzureArc {
    fn host(&self) -> ManagedIdentityHost {
        ManagedIdentityHost::AzureArc
    }

    fn url(&self) -> &Url {
        self.local.url()
    }

    /// A machine has no identity but its own.
    async fn get_token(
        &self,
        http: &Http,
        _: Option<&Selector>,
        scope: &Scope,
    ) -> Result<Token, CredentialError> {
        let sent = Mutex::new(None);
        let one_try = || self.ask(http, scope, &sent);
        let answer = match http.repeat(one_try, &AZURE_ARC.retry).await {
            Ok(answer) => {
                let sent = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
                Ok(Answer { sent, ..answer })
            }
            Err(HttpError::KeyFile(error)) => return Err(self.no_key(error)),
            Err(error @ HttpError::Unreachable(_)) if !self.known.load(Ordering::Relaxed) => {
                let message = format!(
                    "the Azure Arc agent is installed here, but does not listen at {}; start it \
                     (service `himds`)",
                    shown(self.url())
                );
                return Err(CredentialError::new(Unavailable, message).with_source(error));
            }
            Err(error) => Err(error),
        };
        self.local.token(answer, None)
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        clock::ManualClock, credential::Environment, token::CredentialErrorKind::Transient,
    };

    #[tokio::test]
    async fn an_agent_that_is_installed_but_does_not_listen_is_gone_past() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let url = format!("http://{}/token", socket.local_addr().unwrap());
        for (told_of, kind) in [(false, Unavailable), (true, Transient)] {
            let agent = Agent::new(&Environment::default(), Some(Path::new("/nowhere")));
            let arc = AzureArc::new(&url, agent, told_of).unwrap();
            let http = Http::new(arc.url(), None, Arc::new(ManualClock::new())).unwrap();
            let error = arc.get_token(&http, None, &Scope::AZURE_SQL).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
    }

    #[tokio::test]
    async fn an_agent_that_has_answered_once_is_away_for_a_while_only() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let agent = Agent::new(&Environment::default(), Some(Path::new("/nowhere")));
        let arc = AzureArc::new(&url, agent, false).unwrap();
        let http = Http::new(arc.url(), None, Arc::new(ManualClock::new())).unwrap();
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let answer =
                "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            drop(listener);
        };
        let ask = || arc.get_token(&http, None, &Scope::AZURE_SQL);
        let (refused, ()) = tokio::join!(ask(), answering);
        assert_eq!(refused.unwrap_err().kind(), Refused);
        let error = ask().await.unwrap_err();
        assert_eq!(error.kind(), Transient, "{error}");
    }
}
