//! Captures the log of a test, and searches it for tokens.

use std::{
    cell::RefCell,
    io::{self, Write},
    sync::Once,
};

use tracing_subscriber::{
    Layer, filter::dynamic_filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

thread_local! {
    /// The log of this thread while it is captured. A test's runtime runs on its thread.
    static CAPTURED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Captures everything that this thread logs from now on, at all levels, including events of the
/// `log` crate (rustls).
pub fn capture() -> Capture {
    static SUBSCRIBER: Once = Once::new();
    SUBSCRIBER.call_once(|| {
        let wanted = dynamic_filter_fn(|_, _| CAPTURED.with_borrow(Option::is_some));
        let lines = fmt::layer().with_ansi(false).with_writer(|| ToThread);
        tracing_subscriber::registry().with(lines.with_filter(wanted)).init();
    });
    CAPTURED.set(Some(Vec::new()));
    Capture
}

pub struct Capture;

impl Capture {
    pub fn text(&self) -> String {
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

/// Checks that there is no token, as text or as bytes in text. Every JWT begins with `eyJ`. Most of
/// the emulator's tokens is padding, which any longer piece of a token contains.
pub fn assert_no_token(text: &str) {
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
            // UTF-16 in the text of a hex dump, which has 8 characters on a line.
            bytes(&|byte| format!("{}", char::from(byte)), ".")[..5].to_owned(),
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
fn assert_no_token_finds_a_token() {
    let token = "eyJ0eXAi";
    for text in [
        format!("token={token}"),
        format!("{:?}", token.as_bytes()),
        format!("{:?}", token.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()),
        "cHBwcHBwcHBwcHBw".to_owned(),
        "63 00 48 00  42 00 77 00  63 00 48 00  42 00 77 00   c.H.B.w.c.H.B.w.".to_owned(),
    ] {
        assert!(std::panic::catch_unwind(|| assert_no_token(&text)).is_err(), "{text}");
    }
}
