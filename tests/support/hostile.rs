//! Texts that a hostile or broken peer may send, and checks of what is shown and logged.
#![allow(dead_code)] // Not every file uses all of it.

use std::error::Error;

/// Texts of a peer that knows `secret`, with a name for each.
pub fn texts(secret: &str) -> Vec<(&'static str, String)> {
    let signature = secret.rsplit('.').next().unwrap();
    let lines: Vec<_> = signature.as_bytes().chunks(10).map(String::from_utf8_lossy).collect();
    vec![
        ("control characters", "no\0\u{7}\u{8}\u{7f}\u{9b}31m".to_owned()),
        ("escape sequences", "no \u{1b}[2J\u{1b}]0;owned\u{7}".to_owned()),
        ("bidi", "no \u{202e}txet\u{2066}\u{200b}\u{feff}\u{61c}\u{ad}".to_owned()),
        ("a separate line", "no\r\nFORGED line\u{2028}FORGED".to_owned()),
        // Less than a server may send before the login is complete.
        ("6 KB", "no".repeat(3_000)),
        ("the secret", format!("no: {secret} is not it")),
        ("the signature", format!("no: signature {signature} is wrong")),
        ("16 characters", format!("no: '{}'", &signature[signature.len().saturating_sub(16)..])),
        ("the signature in lines", format!("no: {}", lines.join("\r\n"))),
        ("the signature with invisible characters", format!("no: {}", lines.join("\u{200b}"))),
    ]
}

/// All forms in which an error and its sources can be shown.
pub fn shown(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut shown = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        shown.extend([error.to_string(), format!("{error:#}")]);
        // `Debug` has one line for each cause, the alternate form has more.
        let debug = format!("{error:?}");
        shown.extend(debug.split("\ncaused by: ").map(str::to_owned));
        shown.push(format!("{error:#?}").replace('\n', " "));
        next = error.source();
    }
    shown
}

/// Checks that `text` is one short line of visible characters, without 16 successive characters of
/// `secret`, even if spaces separate them.
pub fn assert_fit(what: &str, text: &str, secret: &str) {
    let is_odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    assert!(!text.chars().any(is_odd), "{what}: {text:?}");
    assert!(text.chars().count() < 8_000, "{what}: {} characters", text.len());
    assert_no_part(what, text, secret);
}

/// Checks that `text` contains no 16 successive characters of `secret`.
pub fn assert_no_part(what: &str, text: &str, secret: &str) {
    let text: String = text.split_whitespace().collect();
    for part in secret.as_bytes().windows(16.min(secret.len())) {
        let part = std::str::from_utf8(part).unwrap();
        if let Some(place) = text.find(part) {
            panic!("{what}: a part of the secret: {:.400}", &text[place..]);
        }
    }
}

/// Checks a log in the same way.
pub fn assert_log_fit(what: &str, log: &str, secret: &str) {
    // The emulator logs the texts that it sends.
    for line in log.lines().filter(|line| !line.contains("entra_pool_emulator")) {
        assert!(!line.trim_start().starts_with("FORGED"), "{what}: {line}");
        assert!(!line.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\0']), "{what}: {line:?}");
        assert_no_part(what, line, secret);
    }
}
