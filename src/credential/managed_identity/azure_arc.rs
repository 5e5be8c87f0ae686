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
use reqwest::header::AUTHORIZATION;

pub(super) use super::key_file::Agent;
use super::{
    Ask, Endpoint,
    http::{Answer, HttpError, TRY_LIMIT},
    key_file::{self, KeyFileError},
    local::Local,
    protocols::AZURE_ARC,
    retry::Retry,
    secret::Secret,
    shown,
};
use crate::{
    credential::ConfigError,
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Unavailable},
        Token,
    },
};

/// Where the agent listens if no variable names another endpoint.
pub(super) const DEFAULT: &str = "http://127.0.0.1:40342/metadata/identity/oauth2/token";

pub(super) struct AzureArc {
    local: Local,
    agent: Agent,
    retry: Retry,
    /// Whether variables name it, or it has answered. Otherwise only a file announces it.
    known: AtomicBool,
}

impl AzureArc {
    /// `known`: whether variables name it. Otherwise, only a file shows that it is installed.
    pub(super) fn new(url: &str, agent: Agent, known: bool) -> Result<Self, ConfigError> {
        let local = Local::new(&AZURE_ARC, url, None)?;
        let retry = if known { AZURE_ARC.retry } else { Retry::INSTALLED };
        Ok(Self { local, agent, retry, known: AtomicBool::new(known) })
    }

    /// Both requests: a key may be valid for one answer only. It is left in `sent`.
    async fn ask(&self, ask: &Ask<'_>, sent: &Mutex<Option<Secret>>) -> Result<Answer, HttpError> {
        let request = || self.local.request(ask);
        let answer = ask.http.send_once(request(), TRY_LIMIT).await?;
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
        ask.http.send_once(request, TRY_LIMIT).await
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
        let url = shown(&self.local.url);
        let message = format!("no token from {} ({url}): {error}{advice}", AZURE_ARC.who);
        let failed = CredentialError::new(Refused, message);
        match error {
            KeyFileError::Unreadable { source, .. } => failed.with_source(source),
            _ => failed,
        }
    }
}

#[async_trait]
impl Endpoint for AzureArc {
    fn local(&self) -> &Local {
        &self.local
    }

    async fn get_token(&self, ask: Ask<'_>) -> Result<Token, CredentialError> {
        // A machine has no identity but its own.
        let ask = Ask { selector: None, ..ask };
        let sent = Mutex::new(None);
        let one_try = || self.ask(&ask, &sent);
        let answer = match ask.http.repeat(one_try, &self.retry).await {
            Ok(answer) => {
                let sent = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
                Ok(Answer { sent, ..answer })
            }
            Err(HttpError::KeyFile(error)) => return Err(self.no_key(error)),
            Err(error @ HttpError::Unreachable(_)) if !self.known.load(Ordering::Relaxed) => {
                let message = format!(
                    "the Azure Arc agent is installed here, but does not listen at {}; start it \
                     (service `himds`)",
                    shown(&self.local.url)
                );
                return Err(CredentialError::new(Unavailable, message).with_source(error));
            }
            Err(error) => Err(error),
        };
        self.local.token(answer, &ask, |error| self.local.no_answer(error))
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc, time::Duration};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        clock::ManualClock,
        credential::{Environment, managed_identity::http::Http},
        token::{CredentialErrorKind::Transient, Scope},
    };

    #[tokio::test]
    async fn an_agent_that_is_installed_but_does_not_listen_is_gone_past() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let url = format!("http://{}/token", socket.local_addr().unwrap());
        for (told_of, kind) in [(false, Unavailable), (true, Transient)] {
            let agent = Agent::new(&Environment::default(), Some(Path::new("/nowhere")));
            let arc = AzureArc::new(&url, agent, told_of).unwrap();
            let clock = ManualClock::new();
            let http = Http::new(&arc.local.url, None, Arc::new(clock.clone())).unwrap();
            let moves = async {
                // Variables name an agent that starts.
                for _ in 0..if told_of { 10 } else { 0 } {
                    while clock.sleepers() < 1 || clock.next_wake() != Some(Duration::from_secs(1))
                    {
                        tokio::task::yield_now().await;
                    }
                    clock.advance(Duration::from_secs(1));
                }
            };
            let asking =
                arc.get_token(Ask { http: &http, selector: None, scope: &Scope::AZURE_SQL });
            let (error, ()) = tokio::join!(asking, moves);
            let error = error.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
    }

    #[tokio::test]
    async fn an_agent_that_has_answered_once_is_away_for_a_while_only() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let agent = Agent::new(&Environment::default(), Some(Path::new("/nowhere")));
        let arc = AzureArc::new(&url, agent, false).unwrap();
        let http = Http::new(&arc.local.url, None, Arc::new(ManualClock::new())).unwrap();
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let answer =
                "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            drop(listener);
        };
        let ask = || arc.get_token(Ask { http: &http, selector: None, scope: &Scope::AZURE_SQL });
        let (refused, ()) = tokio::join!(ask(), answering);
        assert_eq!(refused.unwrap_err().kind(), Refused);
        let error = ask().await.unwrap_err();
        assert_eq!(error.kind(), Transient, "{error}");
    }
}
