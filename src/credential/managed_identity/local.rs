//! What endpoints have in common that Azure puts beside the program: a URL, and
//! mostly a secret, in variables that say that it is there.

use reqwest::{Method, Request, Url};

use super::{
    endpoint_url, exhausted,
    host::Selector,
    http::{Answer, HttpError},
    retry::Retry,
    secret::Secret,
    shown,
};
use crate::{
    credential::{ConfigError, answer},
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Transient},
        Scope, Token,
    },
};

pub(super) struct Local {
    who: &'static str,
    url: Url,
    retry: &'static Retry,
    secret: Option<Secret>,
}

/// A refusal that no later try betters.
pub(super) struct Refusal {
    pub(super) status: u16,
    /// What it says, in brackets behind a blank; or nothing.
    pub(super) reason: String,
}

impl Local {
    /// `who` for messages; `setting` is where the URL comes from.
    pub(super) fn new(
        who: &'static str,
        setting: &'static str,
        url: &str,
        retry: &'static Retry,
    ) -> Result<Self, ConfigError> {
        Ok(Self { who, url: endpoint_url(setting, url)?, retry, secret: None })
    }

    /// The same with the secret that every request carries.
    pub(super) fn with_secret(
        mut self,
        setting: &'static str,
        secret: &str,
    ) -> Result<Self, ConfigError> {
        let secret = Secret::new("", secret)
            .ok_or_else(|| ConfigError::invalid(setting, "a value for an HTTP header"))?;
        self.secret = Some(secret);
        Ok(self)
    }

    pub(super) fn who(&self) -> &'static str {
        self.who
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn retry(&self) -> &'static Retry {
        self.retry
    }

    /// The request that most of them want. `secret_header`: where the secret
    /// goes.
    pub(super) fn request(
        &self,
        api_version: &str,
        scope: &Scope,
        selector: Option<(&str, &str)>,
        secret_header: &'static str,
    ) -> Request {
        let url = super::token_url(&self.url, api_version, scope, selector);
        let mut request = Request::new(Method::GET, url);
        if let Some(secret) = &self.secret {
            request.headers_mut().insert(secret_header, secret.header());
        }
        request
    }

    /// The token of an answer. `explain` says what a refusal means on this
    /// host, and what to do about it.
    pub(super) fn token(
        &self,
        answer: Result<Answer, HttpError>,
        explain: impl FnOnce(&Refusal) -> Option<String>,
    ) -> Result<Token, CredentialError> {
        let answer = answer.map_err(|error| self.no_answer(error))?;
        if answer.status.is_success() {
            return answer::token(&answer.body, answer.asked_at)
                .map_err(|error| self.no_answer(HttpError::Unusable(error)));
        }
        let secret = answer.sent.as_ref().or(self.secret.as_ref());
        let reason = answer::description(&answer.body, secret.map(Secret::text));
        if self.retry.passes(answer.status) {
            return Err(exhausted(self.who, &answer, reason));
        }
        let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        let refusal = Refusal { status: answer.status.as_u16(), reason };
        let message = explain(&refusal).unwrap_or_else(|| {
            let (url, reason) = (shown(&self.url), refusal.reason);
            format!("{} ({url}) answered {}{reason}", self.who, answer.status)
        });
        Err(CredentialError::new(Refused, message))
    }

    /// The variables say that it is there: it may be back soon.
    pub(super) fn no_answer(&self, error: HttpError) -> CredentialError {
        let message = format!("{} ({}) gave no token", self.who, shown(&self.url));
        CredentialError::new(Transient, message).with_source(error)
    }
}

/// "identity … is not assigned to …", for a refusal of a selected identity.
pub(super) fn not_assigned(selector: &Selector, to: &str, refusal: &Refusal) -> String {
    format!(
        "identity {} is not assigned to {to}{}; assign it, or name one that is",
        selector.id, refusal.reason
    )
}
