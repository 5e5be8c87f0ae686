//! Azure Arc-enabled servers: "Authenticate against Azure resources with Azure Arc-enabled
//! servers".
//!
//! The client must prove that it can read a file that the agent writes for every request. This
//! also authenticates the agent, because other programs cannot write to its directory.

use std::sync::atomic::Ordering::Relaxed;

use reqwest::header::AUTHORIZATION;

use super::{
    endpoint::{Endpoint, Protocol},
    http::{Answer, Http, HttpError, TRY_LIMIT},
    key_file::{self, Agent, KeyFileError},
    secret::Secret,
    shown,
};
use crate::{
    credential::ConfigError,
    lock::Lock,
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Unavailable},
        Scope,
    },
};

/// The agent's endpoint if no variable names another one.
pub(super) const DEFAULT: &str = "http://127.0.0.1:40342/metadata/identity/oauth2/token";

impl Endpoint {
    /// Returns the agent's endpoint at this URL, with [`AZURE_ARC`](super::protocols::AZURE_ARC) or,
    /// if only its files exist, [`INSTALLED_ARC`](super::protocols::INSTALLED_ARC).
    pub(super) fn azure_arc(
        protocol: &'static Protocol,
        url: &str,
        agent: Agent,
    ) -> Result<Self, ConfigError> {
        let mut endpoint = Self::new(protocol, url, None)?;
        endpoint.agent = Some(agent);
        Ok(endpoint)
    }

    /// Sends the request, and repeats it with the key that the agent requires. A key may be valid
    /// for one request only. It is stored in `sent`, because a later response may also contain it.
    pub(super) async fn ask_agent(
        &self,
        agent: &Agent,
        http: &Http,
        scope: &Scope,
        sent: &Lock<Option<Secret>>,
    ) -> Result<Answer, HttpError> {
        let answer = http.send_once(self.request(scope), TRY_LIMIT).await?;
        self.known.store(true, Relaxed);
        if answer.status.is_success() {
            return Err(KeyFileError::NoChallenge.into());
        }
        if answer.status != 401 {
            return Ok(answer);
        }
        let key = key_file::read(&answer.headers, agent)?;
        let mut request = self.request(scope);
        request.headers_mut().insert(AUTHORIZATION, key.header());
        *sent.lock() = Some(key);
        http.send_once(request, TRY_LIMIT).await
    }

    pub(super) fn no_agent(&self, error: HttpError) -> CredentialError {
        let url = shown(&self.url);
        match error {
            HttpError::KeyFile(error) => {
                let advice = match &error {
                    KeyFileError::Unreadable { .. } if cfg!(windows) => {
                        "; run this program as an administrator, or add its user to the group \
                         \"Hybrid agent extension applications\""
                    }
                    KeyFileError::Unreadable { .. } => {
                        "; add this program's user to the group `himds`, and restart it"
                    }
                    _ => "",
                };
                let name = self.protocol.name;
                let message = format!("cannot get a token from {name} ({url}): {error}{advice}");
                let failed = CredentialError::new(Refused, message);
                match error {
                    KeyFileError::Unreadable { source, .. } => failed.with_source(source),
                    _ => failed,
                }
            }
            HttpError::Unreachable(_) if !self.known.load(Relaxed) => {
                let message = format!(
                    "the Azure Arc agent is installed, but is not listening at {url}: start its \
                     service (`himds`)"
                );
                CredentialError::new(Unavailable, message).with_source(error)
            }
            error => self.unavailable_now(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc, time::Duration};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        clock::ManualClock,
        credential::{
            Environment,
            managed_identity::{
                http::Http,
                protocols::{AZURE_ARC, INSTALLED_ARC},
            },
        },
        token::CredentialErrorKind::Transient,
    };

    #[tokio::test]
    async fn an_installed_agent_that_is_not_listening_is_skipped() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let url = format!("http://{}/token", socket.local_addr().unwrap());
        for (protocol, kind) in [(&INSTALLED_ARC, Unavailable), (&AZURE_ARC, Transient)] {
            let agent = Agent::new(&Environment::default(), Some(Path::new("/nowhere")));
            let arc = Endpoint::azure_arc(protocol, &url, agent).unwrap();
            let clock = ManualClock::new();
            let http = Http::new(&arc.url, None, Arc::new(clock.clone())).unwrap();
            let moves = async {
                // If variables name the agent, it may still be starting.
                for _ in 0..if kind == Transient { 10 } else { 0 } {
                    while clock.sleepers() < 1 || clock.next_wake() != Some(Duration::from_secs(1))
                    {
                        tokio::task::yield_now().await;
                    }
                    clock.advance(Duration::from_secs(1));
                }
            };
            let asking = arc.get_token(&http, &Scope::AZURE_SQL);
            let (error, ()) = tokio::join!(asking, moves);
            let error = error.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
    }

    #[tokio::test]
    async fn an_agent_that_has_responded_before_fails_transiently() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let agent = Agent::new(&Environment::default(), Some(Path::new("/nowhere")));
        let arc = Endpoint::azure_arc(&INSTALLED_ARC, &url, agent).unwrap();
        let http = Http::new(&arc.url, None, Arc::new(ManualClock::new())).unwrap();
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let answer =
                "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            drop(listener);
        };
        let ask = || arc.get_token(&http, &Scope::AZURE_SQL);
        let (refused, ()) = tokio::join!(ask(), answering);
        assert_eq!(refused.unwrap_err().kind(), Refused);
        let error = ask().await.unwrap_err();
        assert_eq!(error.kind(), Transient, "{error}");
    }
}
