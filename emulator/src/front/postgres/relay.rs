//! Relays bytes in both directions after the login.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// Relays until the engine closes or either side fails. A client that only stops sending
/// still gets its answers. When the engine stops sending, the session has ended.
pub(super) async fn relay(
    client: impl AsyncRead + AsyncWrite,
    engine: impl AsyncRead + AsyncWrite,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_engine, mut to_engine) = tokio::io::split(engine);
    let mut requests = std::pin::pin!(copy(&mut from_client, &mut to_engine));
    let mut answers = std::pin::pin!(copy(&mut from_engine, &mut to_client));
    tokio::select! {
        ended = &mut answers => return ended,
        ended = &mut requests => ended?,
    }
    answers.await
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    tokio::io::copy(from, to).await?;
    to.shutdown().await
}
