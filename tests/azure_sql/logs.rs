//! What is logged: the truth about TLS, and never a token.

use std::{
    cell::RefCell,
    io::{self, Write},
    sync::Once,
};

use entra_pool::azure_sql::{Error, Recycling};
use tracing_subscriber::{
    Layer, filter::dynamic_filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::{Shop, login_failed, number, pool, refused};

thread_local! {
    /// What this thread logs, while it is captured. A test's runtime is its thread.
    static CAPTURED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Everything that is logged by this thread from now on, down to TRACE, that
/// of the `log` crate (rustls) included.
pub(crate) fn capture() -> Capture {
    static SUBSCRIBER: Once = Once::new();
    SUBSCRIBER.call_once(|| {
        let wanted = dynamic_filter_fn(|_, _| CAPTURED.with_borrow(Option::is_some));
        let lines = fmt::layer().with_ansi(false).with_writer(|| ToThread);
        tracing_subscriber::registry().with(lines.with_filter(wanted)).init();
    });
    CAPTURED.set(Some(Vec::new()));
    Capture
}

pub(crate) struct Capture;

impl Capture {
    pub(crate) fn text(&self) -> String {
        CAPTURED.with_borrow(|captured| {
            String::from_utf8_lossy(captured.as_deref().unwrap_or_default()).into_owned()
        })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        CAPTURED.set(None);
    }
}

struct ToThread;

impl Write for ToThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        CAPTURED.with_borrow_mut(|captured| {
            if let Some(captured) = captured {
                captured.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// No token, as text or as bytes in text. Every JWT begins with `eyJ`; most of
/// the emulator's is padding, so that any longer piece of one has that.
pub(crate) fn assert_no_token(text: &str) {
    for piece in ["eyJ", "cHBwcHBwcHBw"] {
        let bytes = |each: &dyn Fn(u8) -> String, between: &str| {
            piece.bytes().map(each).collect::<Vec<_>>().join(between)
        };
        let forms = [
            piece.to_owned(),
            bytes(&|byte| format!("{byte}"), ", "),
            bytes(&|byte| format!("{byte}"), ", 0, "),
            bytes(&|byte| format!("{byte:02x}"), ""),
            bytes(&|byte| format!("{byte:02x}"), "00"),
            bytes(&|byte| format!("{}", char::from(byte)), "\\0"),
            bytes(&|byte| format!("{}", char::from(byte)), "\\x00"),
            bytes(&|byte| format!("{}", char::from(byte)), "\0"),
        ];
        for form in forms {
            if let Some(place) = text.find(&form) {
                let line = text[..place].rfind('\n').map_or(0, |end| end + 1);
                panic!("a token: {:.300}", &text[line..]);
            }
        }
    }
}

#[test]
fn a_token_would_be_found() {
    let token = "eyJ0eXAi";
    for text in [
        format!("token={token}"),
        format!("{:?}", token.as_bytes()),
        format!("{:?}", token.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()),
        "cHBwcHBwcHBwcHBw".to_owned(),
    ] {
        assert!(std::panic::catch_unwind(|| assert_no_token(&text)).is_err(), "{text}");
    }
}

#[tokio::test]
async fn no_token_is_logged_whatever_happens() {
    let shop = Shop::open().await;
    let capture = capture();
    let connector = shop.connector("");
    let pool = pool(&connector, 2, Recycling::Verified);
    let mut first = pool.get().await.unwrap();
    assert_eq!(number(&mut first, "SELECT 1").await, 1);
    shop.server().behaviour().fail_logins(1, login_failed());
    drop(pool.get().await.unwrap());
    drop(pool.get().await.unwrap());
    shop.emulator.directory().remove("shop-identity");
    assert!(matches!(refused(&connector).await, Error::LoginRefused(_)));
    let token = shop.identity.tokens(entra_pool::token::Scope::AZURE_SQL).token().await.unwrap();
    let shown = format!("{pool:?} {connector:?} {first:?} {:?} {token:?}", connector.report());
    assert_no_token(&shown);

    let logged = capture.text();
    assert!(logged.contains("TRACE"), "the finest level was on");
    assert!(logged.contains("token fetched"), "our own events are there");
    assert!(logged.contains("rustls"), "those of the log crate, too");
    assert_no_token(&logged);
    assert!(!logged.contains(&token.secret()[..20]));
}

#[tokio::test]
async fn the_log_tells_the_tls_there_is_and_not_that_there_is_none() {
    let shop = Shop::open().await;
    let capture = capture();
    let mut connection = shop.connector("").connect().await.unwrap();
    assert_eq!(number(&mut connection, "SELECT 1").await, 1);
    let logged = capture.text();
    let line = logged.lines().find(|line| line.contains("logging in over TLS")).unwrap();
    assert!(line.contains("TLSv1_3") && line.contains("TLS13_AES_256_GCM_SHA384"), "{line}");
    assert!(logged.contains("tiberius"), "the driver's other events are there");
    assert!(!logged.to_lowercase().contains("unencrypted"), "{logged}");
    assert!(!logged.contains(" WARN "), "{logged}");
}
