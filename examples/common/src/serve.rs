use std::{io, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    net::TcpListener,
    signal,
    time::{sleep, timeout},
};
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::Level;

use crate::{
    html,
    problem::{self, Problem},
    settings::Listen,
};

/// How long running requests, and then the pool, may take to finish. App Service sends SIGKILL
/// 5 s after SIGTERM (`WEBSITES_CONTAINER_STOP_TIME_LIMIT`).
const GRACE: Duration = Duration::from_secs(4);

/// Serves `router` until SIGTERM or Ctrl-C. Then waits for running requests, and runs `close`,
/// which closes the pool. Logs `listening on http://HOST:PORT`.
///
/// Adds the style sheet of the pages to the router. Logs every request. A request whose response
/// does not begin in time gets 503. Every error is a [`Problem`].
///
/// # Errors
///
/// The address is in use, or signals cannot be received.
pub async fn serve(
    router: Router,
    listen: Listen,
    close: impl Future<Output = ()>,
) -> io::Result<()> {
    let (stop_serving, stop_waiting) = (stop()?, stop()?);
    let listener = TcpListener::bind(listen.address).await.map_err(|error| {
        let text = format!("cannot listen on {} (LISTEN): {error}", listen.address);
        io::Error::new(error.kind(), text)
    })?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    let router = around(router, listen.request_timeout);
    let server = axum::serve(listener, router).with_graceful_shutdown(stop_serving);
    let too_late = async {
        stop_waiting.await;
        tracing::info!("stopping");
        sleep(GRACE).await;
    };
    let ending = async {
        server.await?;
        close.await;
        io::Result::Ok(())
    };
    tokio::select! {
        // In this order, so that a request to stop is logged before its effect.
        biased;
        () = too_late => {
            tracing::warn!("stopped: requests were still running after {GRACE:?}");
            Ok(())
        }
        ended = ending => {
            tracing::info!("stopped");
            ended
        }
    }
}

fn around(router: Router, request_timeout: Duration) -> Router {
    let router = router
        .route("/style.css", get(html::style))
        .layer(from_fn_with_state(request_timeout, within_limit))
        .layer(from_fn(problem::explained));
    router.layer(
        TraceLayer::new_for_http()
            // Without the query, because callers of Functions send their key in it.
            .make_span_with(|request: &Request| {
                tracing::info_span!("request", method = %request.method(), path = request.uri().path())
            })
            .on_response(DefaultOnResponse::new().level(Level::INFO))
            // The error was logged when it became a problem document.
            .on_failure(()),
    )
}

async fn within_limit(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            tracing::warn!("a request took longer than {limit:?}");
            Problem::unavailable("the request took too long: try again in a moment").into_response()
        }
    }
}

/// Waits for Ctrl-C, or for the platform's request to stop.
fn stop() -> io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    #[cfg(windows)]
    let mut terminate = signal::windows::ctrl_close()?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = signal::ctrl_c() => {}
        }
    })
}
