//! Sessions through the front.

use std::time::Duration;

use futures::{SinkExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Service, attacks, text};

#[tokio::test]
async fn copy_works_in_both_directions() {
    let service = Service::start().await;
    let client = service.connect(&service.principal("shop-copy")).await;
    client.batch_execute("CREATE TEMPORARY TABLE dish (name text)").await.unwrap();
    let sink = client.copy_in("COPY dish FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    for _ in 0..100 {
        let lines = format!("{}\n", "x".repeat(999)).repeat(100);
        sink.send(bytes::Bytes::from(lines)).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 10_000);
    let out = client.copy_out("COPY dish TO STDOUT").await.unwrap();
    let length = out.try_fold(0, async |sum, bytes| Ok(sum + bytes.len())).await.unwrap();
    assert_eq!(length, 10_000_000);
}

#[tokio::test]
async fn a_cancel_request_stops_the_query() {
    let service = Service::start().await;
    let client = service.connect(&service.principal("shop-cancel")).await;
    let cancel = client.cancel_token();
    let running = client.query("SELECT pg_sleep(60)", &[]);
    let cancelling = async {
        service.engine.wait_until_busy("shop-cancel").await;
        let tls = MakeRustlsConnect::new(super::client_tls(service.engine));
        cancel.cancel_query(tls).await.unwrap();
    };
    let (ended, ()) = tokio::join!(running, cancelling);
    assert_eq!(super::sqlstate(&ended.unwrap_err()).0, "57014");
    assert_eq!(text(&client, "SELECT 'alive'").await, "alive");
}

/// Older clients send cancel requests without TLS.
#[tokio::test]
async fn a_cancel_request_without_tls_stops_the_query() {
    let service = Service::start().await;
    let shop = service.principal("shop-cancel-plain");
    let (mut stream, answer) = attacks::log_in(&service, &shop).await;
    stream.write_all(b"Q\0\0\0\x18SELECT pg_sleep(60)\0").await.unwrap();
    service.engine.wait_until_busy("shop-cancel-plain").await;
    let key_data = answer.windows(5).position(|bytes| bytes == b"K\0\0\0\x0c").unwrap();
    let request = [b"\0\0\0\x10\x04\xd2\x16\x2e", &answer[key_data + 5..][..8]].concat();
    let mut cancel = tokio::net::TcpStream::connect(service.front.addr()).await.unwrap();
    cancel.write_all(&request).await.unwrap();
    // The front closes the connection after the engine has.
    assert_eq!(cancel.read(&mut [0; 1]).await.unwrap(), 0);
    let mut answer = Vec::new();
    while !answer.ends_with(b"Z\0\0\0\x05I") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
    }
    assert!(String::from_utf8_lossy(&answer).contains("C57014"), "{answer:?}");
}

#[tokio::test]
async fn a_client_that_stops_sending_gets_its_answer() {
    let service = Service::start().await;
    let shop = service.principal("shop-half");
    let (mut stream, _) = attacks::log_in(&service, &shop).await;
    stream.write_all(b"Q\0\0\0\x18SELECT pg_sleep(.1)\0").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"C\0\0\0\rSELECT 1\0Z\0\0\0\x05I"), "{answer:?}");
    service.wait_until_idle("shop-half").await;
}

#[tokio::test]
async fn a_session_terminated_by_the_engine_closes_with_its_message() {
    let service = Service::start().await;
    let client = service.connect(&service.principal("shop-ended")).await;
    service
        .engine
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'shop-ended'")
        .await;
    let closed = tokio::time::timeout(Duration::from_secs(10), async {
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    closed.await.expect("the client notices the close");
    service.wait_until_idle("shop-ended").await;
}
