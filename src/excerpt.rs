//! Filters text from peers (messages of database servers, response bodies, the standard error of a
//! command) for use in errors and logs. The result is one short line without secrets.

use std::collections::HashSet;

use zeroize::Zeroizing;

/// The maximum number of characters in an excerpt.
const LIMIT: usize = 400;

/// The maximum number of bytes of a text that are examined. An Entra token is shorter.
const EXAMINED: usize = 16 * 1024;

/// The shortest part of a secret that is removed, in characters, ignoring white space. A shorter
/// secret is removed as a whole.
const PART: usize = 16;

const REDACTED: &str = "[redacted]";

/// Returns `text` on one line and shortened. Removes characters that are invisible or change how
/// others are displayed. Also removes parts of the `secrets`, and any text that looks like a JWT,
/// because a peer may echo the token that it received.
pub(crate) fn excerpt<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let (text, is_cut) = first_part(text);
    let line = line(text, secrets);
    match line.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if is_cut => line + "…",
        None => line,
    }
}

/// Like [`excerpt`], but keeps the end of a long text.
pub(crate) fn excerpt_of_end<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let from = text.len().saturating_sub(EXAMINED);
    let from = (from..=text.len()).find(|from| text.is_char_boundary(*from)).unwrap_or_default();
    let line = line(&text[from..], secrets);
    match line.char_indices().nth_back(LIMIT - 1) {
        Some((start @ 1.., _)) => format!("…{}", &line[start..]),
        _ => line,
    }
}

/// Returns the whole text on one line, without secrets.
fn line<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let (visible, gaps) = visible(text);
    let hidden = hidden(&visible, &gaps, secrets);
    let mut line = String::new();
    for (at, c) in visible.iter().enumerate() {
        let is_continued = at > 0 && hidden[at] && hidden[at - 1];
        if is_continued {
            continue;
        }
        if gaps[at] && at > 0 {
            line.push(' ');
        }
        if hidden[at] {
            line.push_str(REDACTED);
        } else {
            line.push(*c);
        }
    }
    line
}

/// Returns an error that contains text of a peer, with its causes, as an [`excerpt`].
pub(crate) fn excerpt_of<'a>(
    error: &(dyn std::error::Error + 'static),
    secrets: impl IntoIterator<Item = &'a str>,
) -> String {
    excerpt(&crate::token::with_causes(error), secrets)
}

/// Returns this crate's own text, which contains names from peers, on one line and without
/// invisible characters. Its length is not limited.
#[cfg(any(feature = "azure-sql", feature = "postgres"))]
pub(crate) fn printable(text: &str) -> String {
    let visible: String = text.chars().filter(|c| !is_format(*c)).collect();
    visible.split(is_gap).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn first_part(text: &str) -> (&str, bool) {
    let end = (0..=text.len().min(EXAMINED)).rev().find(|end| text.is_char_boundary(*end));
    let end = end.unwrap_or_default();
    (&text[..end], end < text.len())
}

/// Returns the visible characters, and for each whether white space precedes it. The buffer is
/// allocated once: growing it would leave a copy in memory, and the text may contain a secret.
fn visible(text: &str) -> (Zeroizing<Vec<char>>, Vec<bool>) {
    let mut visible = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut gaps = Vec::with_capacity(text.len());
    let mut gap = false;
    for c in text.chars().filter(|c| !is_format(*c)) {
        if is_gap(c) {
            gap = true;
        } else {
            visible.push(c);
            gaps.push(std::mem::take(&mut gap));
        }
    }
    (visible, gaps)
}

/// Whether this is white space or a control character.
fn is_gap(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

/// Whether this character is invisible or changes the direction of others: Unicode's category Cf
/// (without the signs of Arabic numbers), variation selectors, and letters that look like blanks.
fn is_format(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Returns for each character whether it must be hidden.
fn hidden<'a>(
    visible: &[char],
    gaps: &[bool],
    secrets: impl IntoIterator<Item = &'a str>,
) -> Vec<bool> {
    let mut hidden = vec![false; visible.len()];
    for secret in secrets {
        let (secret, _) = self::visible(secret);
        let part = secret.len().min(PART);
        if part == 0 {
            continue;
        }
        let parts: HashSet<&[char]> = secret.windows(part).collect();
        for (at, window) in visible.windows(part).enumerate() {
            if parts.contains(window) {
                hidden[at..at + part].fill(true);
            }
        }
    }
    // A JWT's header is JSON, and `{"` in base64 is `eyJ`.
    let token_length = |from: usize| {
        let rest = visible.iter().zip(gaps).skip(from).enumerate();
        rest.take_while(|(at, (c, gap))| {
            (*at == 0 || !**gap) && (c.is_ascii_alphanumeric() || "-_.".contains(**c))
        })
        .count()
    };
    let mut at = 0;
    while at + 3 <= visible.len() {
        let broken = gaps[at + 1] || gaps[at + 2];
        if visible[at..at + 3] != ['e', 'y', 'J'] || (broken && token_length(at + 2) < PART) {
            at += 1;
            continue;
        }
        // Hides up to the end of the word, and further if the token continues on another line.
        let begun = at + 3;
        while at < visible.len() && (at < begun || !gaps[at] || token_length(at) >= PART) {
            hidden[at] = true;
            at += 1;
        }
    }
    hidden
}

#[cfg(test)]
mod tests {
    use super::{excerpt, excerpt_of_end};

    const TOKEN: &str =
        "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwcyJ9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbi0xMjM0";

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt(" a\r\n\tb \u{1b}[31mc\n", None), "a b [31mc");
        assert_eq!(excerpt("a\u{202e}b\u{200b}c\u{2028}d\u{9b}e\0", None), "abc d e");
        let long = excerpt(&"é".repeat(1 << 20), None);
        assert_eq!(long.chars().count(), 401);
        assert!(long.ends_with('…'));
        let whole = "é".repeat(400);
        assert_eq!(excerpt(&whole, None), whole);
    }

    #[test]
    fn the_end_of_a_long_text_is_kept_without_the_rest_of_a_secret() {
        assert_eq!(excerpt_of_end(" a\n b ", None), "a b");
        let long = excerpt_of_end(&("é".repeat(1 << 20) + " the error"), None);
        assert!(long.starts_with('…') && long.ends_with("é the error"), "{long}");
        assert_eq!(long.chars().count(), 401);
        let whole = "é".repeat(400);
        assert_eq!(excerpt_of_end(&whole, None), whole);
        // The token begins before the kept part.
        let token = format!("{TOKEN}{}", "x".repeat(600));
        let said = excerpt_of_end(&format!("{token} the error"), None);
        assert_eq!(said, "[redacted] the error");
    }

    #[test]
    fn an_excerpt_has_no_secrets() {
        let text = "header was s3cret, token \"eyJhbGciOi.eyJh.sig\" and done";
        assert_eq!(
            excerpt(text, Some("s3cret")),
            "header was [redacted], token \"[redacted] and done"
        );
    }

    #[test]
    fn an_excerpt_has_no_16_characters_in_a_row_of_the_secret() {
        let signature = TOKEN.rsplit('.').next().unwrap();
        let apart: Vec<_> = signature.as_bytes().chunks(7).map(String::from_utf8_lossy).collect();
        for (said, left) in [
            (signature, "[redacted]"),
            (&signature[3..19], "[redacted]"),
            (&signature[3..18], &signature[3..18]),
            (&apart.join("\r\n"), "[redacted]"),
            (&apart.join("\u{200b}"), "[redacted]"),
            (&apart.join(" \u{1b} "), "[redacted]"),
            (&apart.join("\u{fe0f}"), "[redacted]"),
        ] {
            let text = format!("no: '{said}' is wrong");
            assert_eq!(excerpt(&text, Some(TOKEN)), format!("no: '{left}' is wrong"));
        }
        // Text that follows a token without a space is also removed.
        let whole = excerpt(&format!("no: '{TOKEN}' is wrong"), Some(TOKEN));
        assert_eq!(whole, "no: '[redacted] is wrong");
        assert_eq!(excerpt("all is well", Some("")), "all is well");
    }

    #[test]
    fn text_that_looks_like_a_token_is_removed_even_if_the_token_is_unknown() {
        let lines: Vec<_> = TOKEN.as_bytes().chunks(20).map(String::from_utf8_lossy).collect();
        for said in [TOKEN, &lines.join("\n"), &format!("e y\n{}", &TOKEN[2..])] {
            let line = excerpt(&format!("no: {said}"), None);
            assert!(line.starts_with("no: [redacted]"), "{line}");
            assert!(line.len() < "no: [redacted] ".len() + 16, "{line}");
        }
        assert_eq!(excerpt("they joined, hey Joe", None), "they joined, hey Joe");
    }
}
