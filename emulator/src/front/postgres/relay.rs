//! Relays bytes in both directions after the login.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Four TLS records: the engine's socket is drained while the client's is written.
const BUFFER: usize = 64 * 1024;

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
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
    }
}
