use std::{io, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use tokio::{
    net::TcpListener,
    signal,
    sync::oneshot,
    time::{sleep, timeout},
};
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::Level;

use crate::{
    cross_origin,
    problem::{self, Problem},
    settings::Listen,
};

/// What requests under way, and then the pool, have to end in. App Service sends
/// SIGKILL 5 s after SIGTERM (`WEBSITES_CONTAINER_STOP_TIME_LIMIT`).
const GRACE: Duration = Duration::from_secs(4);

/// Serves `router` until SIGTERM or Ctrl-C; lets the requests under way end, and runs
/// `close`, which is for the pool. Logs `listening on http://HOST:PORT`.
///
/// Around the router: each request is logged, its answer begins in time or is 503, every
/// answer that is an error is a [`Problem`], and a request that another site makes a browser
/// send changes nothing here (cross-site request forgery): it gets 403.
///
/// # Errors
///
/// The address is taken, or signals cannot be heard.
pub async fn serve(
    router: Router,
    listen: Listen,
    close: impl Future<Output = ()>,
) -> io::Result<()> {
    let stop = stop()?;
    let listener = TcpListener::bind(listen.address).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    let (stopping, stopped) = oneshot::channel();
    let server = axum::serve(listener, around(router, listen.request_timeout))
        .with_graceful_shutdown(async {
            stop.await;
            tracing::info!("stopping");
            // Nobody hears it only if the server has ended.
            let _ = stopping.send(());
        });
    let too_late = async {
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
        sleep(GRACE).await;
    };
    let ending = async {
        server.await?;
        close.await;
        io::Result::Ok(())
    };
    tokio::select! {
        ended = ending => {
            tracing::info!("stopped");
            ended
        }
        () = too_late => {
            tracing::warn!("stopped: what was under way after {GRACE:?} is given up");
            Ok(())
        }
    }
}

fn around(router: Router, request_timeout: Duration) -> Router {
    let router = router
        .layer(from_fn_with_state(request_timeout, within_limit))
        .layer(from_fn(cross_origin::refused))
        .layer(from_fn(problem::told));
    router.layer(
        TraceLayer::new_for_http()
            // Without the query, which may hold a secret: callers of Functions put their
            // key there.
            .make_span_with(|request: &Request| {
                tracing::info_span!("request", method = %request.method(), path = request.uri().path())
            })
            .on_response(DefaultOnResponse::new().level(Level::INFO))
            // Told by what made a problem of it.
            .on_failure(()),
    )
}

async fn within_limit(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            tracing::warn!("a request took more than {limit:?}");
            Problem::unavailable("this took too long").into_response()
        }
    }
}

/// Ends with the first signal to stop; listens from now on, not from when it is polled.
#[cfg(unix)]
fn stop() -> io::Result<impl Future<Output = ()>> {
    use signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        if signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    })
}
