//! What a hostile or broken peer may write, and what must not come of it.
#![allow(dead_code)] // Not every file uses all of it.

use std::error::Error;

/// Texts of a peer that has seen `secret`, by name.
pub fn texts(secret: &str) -> Vec<(&'static str, String)> {
    let signature = secret.rsplit('.').next().unwrap();
    let lines: Vec<_> = signature.as_bytes().chunks(10).map(String::from_utf8_lossy).collect();
    vec![
        ("control characters", "no\0\u{7}\u{8}\u{7f}\u{9b}31m".to_owned()),
        ("escape sequences", "no \u{1b}[2J\u{1b}]0;owned\u{7}".to_owned()),
        ("bidi", "no \u{202e}txet\u{2066}\u{200b}\u{feff}\u{61c}\u{ad}".to_owned()),
        ("a line of its own", "no\r\nFORGED line\u{2028}FORGED".to_owned()),
        // Within what a server may send until the login is complete.
        ("6 KB", "no".repeat(3_000)),
        ("the secret", format!("no: {secret} is not it")),
        ("the signature", format!("no: signature {signature} is wrong")),
        ("16 characters", format!("no: '{}'", &signature[signature.len().saturating_sub(16)..])),
        ("the signature in lines", format!("no: {}", lines.join("\r\n"))),
        ("the signature with what is not seen", format!("no: {}", lines.join("\u{200b}"))),
    ]
}

/// Everything that can be shown of an error: it and its sources in all forms.
pub fn shown(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut shown = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        shown.extend([error.to_string(), format!("{error:#}")]);
        // Debug has a line for each cause, pretty Debug more.
        let debug = format!("{error:?}");
        shown.extend(debug.split("\ncaused by: ").map(str::to_owned));
        shown.push(format!("{error:#?}").replace('\n', " "));
        next = error.source();
    }
    shown
}

/// That `text` is one line of what can be read, not long, and without any 16 characters
/// in a row of `secret`, even if it was pulled apart.
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

/// That `text` holds no 16 characters in a row of `secret`.
pub fn assert_no_part(what: &str, text: &str, secret: &str) {
    let text: String = text.split_whitespace().collect();
    for part in secret.as_bytes().windows(16.min(secret.len())) {
        let part = std::str::from_utf8(part).unwrap();
        if let Some(place) = text.find(part) {
            panic!("{what}: a part of the secret: {:.400}", &text[place..]);
        }
    }
}

/// That nothing of the kind is in what was logged.
pub fn assert_log_fit(what: &str, log: &str, secret: &str) {
    // The emulator logs what it was told to say.
    for line in log.lines().filter(|line| !line.contains("entra_pool_emulator")) {
        assert!(!line.trim_start().starts_with("FORGED"), "{what}: {line}");
        assert!(!line.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\0']), "{what}: {line:?}");
        assert_no_part(what, line, secret);
    }
}
