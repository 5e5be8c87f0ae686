//! LIKE, with its sets of characters.

/// Whether `text` is like `pattern`: `%`, `_`, `[a-z]`, `[^a-z]`, and `escape`
/// before any of them; without regard to case.
pub(crate) fn matches(text: &str, pattern: &str, escape: Option<char>) -> bool {
    let lower = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<Vec<char>>();
    let (text, pattern) =
        (lower(text), parse(&lower(pattern), escape.map(|c| c.to_ascii_lowercase())));
    // The last `%`, and where in the text it was tried: enough to go back to.
    let (mut at, mut part) = (0, 0);
    let mut retry = None;
    while at < text.len() {
        match pattern.get(part) {
            Some(Part::Any) => {
                retry = Some((part + 1, at));
                part += 1;
            }
            Some(one) if one.takes(text[at]) => (at, part) = (at + 1, part + 1),
            _ => match &mut retry {
                Some((after, from)) => {
                    *from += 1;
                    (at, part) = (*from, *after);
                }
                None => return false,
            },
        }
    }
    pattern[part..].iter().all(|part| *part == Part::Any)
}

#[derive(Debug, PartialEq)]
enum Part {
    /// `%`
    Any,
    /// `_`
    One,
    Char(char),
    Set {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
}

impl Part {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Char(own) => *own == c,
            Self::Set { ranges, negated } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated
            }
        }
    }
}

fn parse(pattern: &[char], escape: Option<char>) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = pattern;
    while let [first, after @ ..] = rest {
        rest = after;
        let part = match *first {
            c if Some(c) == escape && !after.is_empty() => {
                rest = &after[1..];
                Part::Char(after[0])
            }
            '%' => Part::Any,
            '_' => Part::One,
            '[' => match after.iter().position(|c| *c == ']') {
                Some(end) => {
                    rest = &after[end + 1..];
                    set(&after[..end])
                }
                None => Part::Char('['),
            },
            c => Part::Char(c),
        };
        parts.push(part);
    }
    parts
}

fn set(inside: &[char]) -> Part {
    let (negated, mut rest) = match inside {
        ['^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut ranges = Vec::new();
    while let [from, after @ ..] = rest {
        if let ['-', to, after @ ..] = after {
            ranges.push((*from, *to));
            rest = after;
        } else {
            ranges.push((*from, *from));
            rest = after;
        }
    }
    Part::Set { ranges, negated }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_tsql_has_it() {
        for (text, pattern, expected) in [
            ("Strawberry", "straw%", true),
            ("abc", "a_c", true),
            ("abc", "a_", false),
            ("abcabd", "%ab[d-f]", true),
            ("abcabd", "%ab[^d-f]", false),
            ("100%", "100!%", true),
            ("1000", "100!%", false),
            ("a[b", "a[[]b", true),
            ("", "%", true),
            ("", "_", false),
            ("x", "", false),
        ] {
            assert_eq!(matches(text, pattern, Some('!')), expected, "{text} like {pattern}");
        }
    }

    #[test]
    fn many_wildcards_take_no_forever() {
        assert!(!matches(&"a".repeat(5_000), &format!("{}b", "%a".repeat(500)), None));
    }
}
