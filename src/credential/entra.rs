//! The HTTP client that `azure_identity` uses for Entra. Its own client takes up to 20 s for a
//! connection and 60 s for a response, retries eight times, and waits for the whole `Retry-After`.

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use azure_core::{
    error::{Error as AzureError, ErrorKind},
    http::{
        AsyncRawResponse, ExponentialRetryOptions, HttpClient, Request, RetryOptions, Transport,
        headers::RETRY_AFTER,
    },
    time::Duration as AzureDuration,
};

use super::answer::{description, is_json_object};
use crate::token::with_causes;

/// The timeout for name resolution, TCP and TLS together.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);

/// The timeout of one attempt, so that two attempts fit into the 15 s of a connect. A third one does
/// not start if the second one has timed out.
const TRY_LIMIT: Duration = Duration::from_secs(7);

/// Returns options for three attempts. The last starts at most 5 s after the first has failed.
pub(super) fn retries() -> RetryOptions {
    RetryOptions::exponential(ExponentialRetryOptions {
        initial_delay: AzureDuration::milliseconds(200),
        max_retries: 2,
        max_total_elapsed: AzureDuration::seconds(4),
        ..ExponentialRetryOptions::default()
    })
}

/// Returns the transport for the requests of `azure_identity`.
pub(super) fn transport() -> azure_core::Result<Transport> {
    let builder = reqwest::Client::builder().connect_timeout(CONNECT_LIMIT).timeout(TRY_LIMIT);
    let http = builder.redirect(reqwest::redirect::Policy::none()).build().map_err(|error| {
        let message = format!("cannot set up TLS for Entra: {}", with_causes(&error));
        AzureError::with_message(ErrorKind::Credential, message)
    })?;
    Ok(over(Arc::new(http)))
}

pub(super) fn over(http: Arc<dyn HttpClient>) -> Transport {
    Transport::new(Arc::new(Entra(http)))
}

#[derive(Debug)]
struct Entra(Arc<dyn HttpClient>);

#[async_trait]
impl HttpClient for Entra {
    /// Returns a response with a token, or an error that names the host. The pipeline retries
    /// errors of the kind `Connection`.
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let host = request.url().host_str().unwrap_or_default();
        let answer = async { self.0.execute_request(request).await?.try_into_raw_response().await };
        let answer = answer.await.map_err(|error| {
            let cause = error.source().and_then(|cause| cause.downcast_ref::<reqwest::Error>());
            let why = match cause {
                Some(cause) if cause.is_timeout() && !cause.is_connect() => {
                    format!("no response within {TRY_LIMIT:?}")
                }
                // The error's own message contains only the URL.
                Some(cause) => cause.source().map(with_causes).unwrap_or_default(),
                None => with_causes(&error),
            };
            AzureError::with_message(ErrorKind::Connection, format!("cannot reach {host}: {why}"))
        })?;
        let (status, said) = (answer.status(), description(answer.body(), None));
        if status.is_success() && is_json_object(answer.body()) {
            let (status, headers, body) = answer.deconstruct();
            return Ok(AsyncRawResponse::from_bytes(status, headers, body));
        }
        let said = said.unwrap_or_else(|| "no error description; this may be a proxy".to_owned());
        let asks_for_a_pause = answer.headers().get_optional_str(&RETRY_AFTER).is_some();
        let is_transient = matches!(u16::from(status), 408 | 429 | 500..=599);
        let kind = if is_transient && !asks_for_a_pause {
            ErrorKind::Connection
        } else {
            let raw_response = Some(Box::new(answer));
            ErrorKind::HttpResponse { status, error_code: None, raw_response }
        };
        Err(AzureError::with_message(kind, format!("{host} returned {status}: {said}")))
    }
}
