//! Text of strangers (response bodies, a command's stderr), made fit for an
//! error message: one line, not long, no secrets.

/// Characters of an excerpt at most.
const LIMIT: usize = 400;

/// `text` on one line, shortened, without `secret` and without what looks like
/// a token: a server may echo what it was sent.
pub(super) fn excerpt(text: &str, secret: Option<&str>) -> String {
    let text = match secret {
        Some(secret) if !secret.is_empty() => text.replace(secret, "[redacted]"),
        _ => text.to_owned(),
    };
    let mut line = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&without_tokens(word));
        if line.len() > 4 * LIMIT {
            break;
        }
    }
    match line.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A JWT's header is JSON, and `{"` in base64 is `eyJ`.
fn without_tokens(word: &str) -> std::borrow::Cow<'_, str> {
    match word.find("eyJ") {
        Some(start) => format!("{}[redacted]", &word[..start]).into(),
        None => word.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::excerpt;

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt(" a\r\n\tb \u{1b}[31mc\n", None), "a b [31mc");
        let long = excerpt(&"é".repeat(10_000), None);
        assert_eq!(long.chars().count(), 401);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn an_excerpt_has_no_secrets() {
        let text = "header was s3cret, token \"eyJhbGciOi.eyJh.sig\" and done";
        assert_eq!(
            excerpt(text, Some("s3cret")),
            "header was [redacted], token \"[redacted] and done"
        );
    }
}
