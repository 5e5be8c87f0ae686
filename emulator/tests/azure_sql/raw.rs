//! A client that sends the bytes of other drivers.
#![allow(dead_code)] // Each test binary uses a part.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(crate) const LOGIN7: u8 = 16;
pub(crate) const RPC: u8 = 3;
pub(crate) const BATCH: u8 = 1;
pub(crate) const TRANSACTION: u8 = 14;
pub(crate) const FED_AUTH_TOKEN: u8 = 8;

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A client's TLS for TDS 8.0.
pub(crate) fn strict(
    ca: &Path,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"tds/8.0".to_vec()];
    config
}

/// TDS 8.0: TLS first, then messages that a test writes.
pub(crate) async fn connect(server: SocketAddr, ca: &Path) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(server).await.unwrap();
    let connector = TlsConnector::from(Arc::new(strict(ca, rustls::DEFAULT_VERSIONS)));
    connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
}

/// A server that clients log in to.
pub(crate) trait Target {
    async fn connect(&self) -> Box<dyn Stream>;
    fn valid_token(&self) -> String;
}

pub(crate) struct Raw(Box<dyn Stream>);

pub(crate) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// LOGIN7 for the database `orders` with this FEDAUTH feature.
pub(crate) fn login7(fed_auth: &[u8]) -> Vec<u8> {
    const FIXED: usize = 94;
    let database = utf16("orders");
    let mut login = vec![0; FIXED];
    login[4..8].copy_from_slice(&0x7400_0004_u32.to_le_bytes());
    login[27] = 0x10;
    let mut data = (FIXED as u32 + 4 + database.len() as u32).to_le_bytes().to_vec();
    let offset = |login: &mut [u8], at: usize, start: usize, length: u16| {
        login[at..at + 2].copy_from_slice(&(start as u16).to_le_bytes());
        login[at + 2..at + 4].copy_from_slice(&length.to_le_bytes());
    };
    offset(&mut login, 56, FIXED, 4);
    offset(&mut login, 68, FIXED + 4, 6);
    data.extend(database);
    data.push(2);
    data.extend((fed_auth.len() as u32).to_le_bytes());
    data.extend(fed_auth);
    data.push(0xff);
    login.extend(data);
    let length = (login.len() as u32).to_le_bytes();
    login[..4].copy_from_slice(&length);
    login
}

/// FEDAUTH with a token in it: library SecurityToken, with the echo.
pub(crate) fn security_token(token: &str) -> Vec<u8> {
    let token = utf16(token);
    [&[0x03][..], &(token.len() as u32).to_le_bytes(), &token].concat()
}

/// The message that answers FEDAUTHINFO.
pub(crate) fn token_message(token: &str) -> Vec<u8> {
    let token = utf16(token);
    let lengths = [token.len() as u32 + 4, token.len() as u32].map(u32::to_le_bytes);
    [lengths.concat(), token].concat()
}

/// ALL_HEADERS with the transaction's descriptor.
pub(crate) fn headers(transaction: u64) -> Vec<u8> {
    let mut bytes = [22_u32.to_le_bytes(), 18_u32.to_le_bytes()].concat();
    bytes.extend(2_u16.to_le_bytes());
    bytes.extend(transaction.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes
}

impl Raw {
    /// A connection whose PRELOGIN has been answered.
    pub(crate) async fn hello(target: &impl Target) -> Self {
        let mut raw = Self(target.connect().await);
        // VERSION, ENCRYPTION (not supported), FEDAUTHREQUIRED.
        let mut prelogin = vec![0, 0, 16, 0, 6, 1, 0, 22, 0, 1, 6, 0, 23, 0, 1, 0xff];
        prelogin.extend([18, 6, 0, 0, 0, 0, 2, 1]);
        raw.send(18, &prelogin).await;
        assert!(raw.answer().await.ends_with(&[0, 1]), "no MARS, FEDAUTHREQUIRED");
        raw
    }

    /// A session.
    pub(crate) async fn session(target: &impl Target) -> Self {
        let mut raw = Self::hello(target).await;
        raw.send(LOGIN7, &login7(&security_token(&target.valid_token()))).await;
        assert!(contains(&raw.answer().await, &[0xae, 2, 0, 0, 0, 0, 0xff]), "FEATUREEXTACK");
        raw
    }

    pub(crate) async fn send(&mut self, kind: u8, payload: &[u8]) {
        self.send_with(kind, 0, payload).await;
    }

    /// With these status bits in the first packet.
    pub(crate) async fn send_with(&mut self, kind: u8, bits: u8, payload: &[u8]) {
        let parts = payload.chunks(4000);
        let last = parts.len().saturating_sub(1);
        for (index, part) in parts.enumerate() {
            let status = u8::from(index == last) | if index == 0 { bits } else { 0 };
            let length = (part.len() as u16 + 8).to_be_bytes();
            let header = [kind, status, length[0], length[1], 0, 0, 1, 0];
            // If the server has closed the connection, reading the answer shows it.
            drop(self.0.write_all(&[&header[..], part].concat()).await);
        }
        drop(self.0.flush().await);
    }

    /// Sends a message without its end.
    pub(crate) async fn send_open(&mut self, kind: u8, payload: &[u8]) {
        let header = [kind, 0, 0, payload.len() as u8 + 8, 0, 0, 1, 0];
        self.0.write_all(&[&header[..], payload].concat()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// The next message's payload; empty if the server closes the connection.
    pub(crate) async fn answer(&mut self) -> Vec<u8> {
        let mut payload = Vec::new();
        loop {
            let mut header = [0; 8];
            let read = timeout(Duration::from_secs(60), self.0.read_exact(&mut header));
            if read.await.expect("an answer arrives within 60 s").is_err() {
                return payload;
            }
            assert_eq!(header[0], 4);
            let start = payload.len();
            let length = usize::from(u16::from_be_bytes([header[2], header[3]])) - 8;
            payload.resize(start + length, 0);
            self.0.read_exact(&mut payload[start..]).await.unwrap();
            if header[1] & 1 != 0 {
                return payload;
            }
        }
    }

    pub(crate) async fn ask(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        self.send(kind, payload).await;
        self.answer().await
    }
}

pub(crate) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The number and the text of an answer's first token, which is an error.
pub(crate) fn error(answer: &[u8]) -> (i32, String) {
    assert_eq!(answer.first(), Some(&0xaa), "{answer:?}");
    let number = i32::from_le_bytes(answer[3..7].try_into().unwrap());
    let units = usize::from(u16::from_le_bytes([answer[9], answer[10]]));
    let text: Vec<u16> = answer[11..11 + units * 2]
        .chunks(2)
        .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
        .collect();
    (number, String::from_utf16(&text).unwrap())
}
