//! The keywords of a database: each is a setting, is ignored, or is refused with a reason.

use super::{Mistake, Pairs, is_placeholder};

/// All keywords of a database.
pub(crate) struct Keywords<S: 'static> {
    /// For each keyword: its names, separated by `|`; the setting; and the accepted values, as the
    /// end of a sentence that begins with the keyword.
    pub(crate) settings: &'static [(&'static str, S, &'static str)],
    /// More settings, which have no value of `S`: a Markdown table, which is also their
    /// documentation. The names are in its first column.
    pub(crate) named: &'static str,
    /// Keywords that are not settings: another Markdown table. Its columns are the names, the
    /// values that are ignored (`any`, or a list), and the end of the error for every other value.
    pub(crate) others: &'static str,
    /// The end of the error for an unknown keyword that is not similar to a known one.
    pub(crate) unknown: &'static str,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Known<S> {
    Sets(S),
    Other { ignored: &'static str, why: &'static str },
}

impl<S: Copy + Default> Keywords<S> {
    /// Returns the names and the meaning of each keyword.
    fn rows(&self) -> impl Iterator<Item = (&'static str, Known<S>)> {
        let cells = |line: &'static str| {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            [(); 3].map(|()| cells.next().unwrap_or_default())
        };
        let lines = |table: &'static str| table.lines().filter(|line| line.starts_with("| `"));
        let settings = self.settings.iter().map(|(names, sets, _)| (*names, Known::Sets(*sets)));
        let more = lines(self.named).map(move |line| (cells(line)[0], Known::Sets(S::default())));
        let others = lines(self.others).map(move |line| {
            let [names, ignored, why] = cells(line);
            (names, Known::Other { ignored, why })
        });
        settings.chain(more).chain(others)
    }

    /// Returns all known names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.rows().flat_map(|(names, _)| split(names))
    }

    /// Finds a keyword by any of its names, ignoring case, spaces and `_`. Returns the first name
    /// of a setting, or the matching name of another keyword.
    pub(crate) fn find(&self, name: &str) -> Option<(&'static str, Known<S>)> {
        self.rows().find_map(|(names, known)| {
            let own = split(names).find(|it| is_same(it, name))?;
            match known {
                Known::Sets(_) => Some((split(names).next()?, known)),
                Known::Other { .. } => Some((own, known)),
            }
        })
    }

    pub(crate) fn is_known(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Returns the most similar known name, if it is similar enough for a suggestion.
    pub(crate) fn nearest(&self, name: &str) -> Option<&'static str> {
        let name = normalized(name);
        let (distance, nearest) = self
            .names()
            .map(|known| (strsim::levenshtein(&name, &normalized(known)), known))
            .min_by_key(|(distance, _)| *distance)?;
        (distance <= (name.len() / 3).max(1)).then_some(nearest)
    }

    /// Reads the pairs in order. For each setting, it calls `set` with the first name of the
    /// keyword, the setting, the keyword as written, and the value. A keyword without a value
    /// counts as absent, as in .NET and libpq.
    ///
    /// Returns the mistake of a placeholder, which the caller reports if it finds no other mistake.
    pub(crate) fn apply<E: From<Mistake>>(
        &self,
        pairs: &Pairs,
        mut set: impl FnMut(&'static str, S, &str, &str) -> Result<(), E>,
    ) -> Result<Option<Mistake>, E> {
        let (mut read, mut ignored) = (Vec::<(&str, &str, &str)>::new(), Vec::new());
        let (mut refused, mut placeholder) = (None, None);
        let mut after_secret = false;
        for (keyword, value) in pairs {
            let (name, known) =
                self.find(keyword).ok_or_else(|| self.unknown(keyword, after_secret))?;
            after_secret = may_be_secret(keyword);
            if value.is_empty() {
                continue;
            }
            if let Some((_, first, first_value)) = read.iter().find(|(other, ..)| *other == name) {
                let may_show = !read.iter().any(|(_, keyword, _)| may_be_secret(keyword));
                let shown = |keyword: &str, value: &str| {
                    let value = Some(value).filter(|value| may_show && is_plain(value));
                    value.map_or(keyword.to_owned(), |value| format!("{keyword}={value}"))
                };
                return Err(Mistake::Twice(shown(first, first_value), shown(keyword, value)).into());
            }
            read.push((name, keyword, value));
            if matches!(known, Known::Sets(_)) && is_placeholder(value) {
                let own = if is_one_of(&["Server", "host"], name) { "host name" } else { "value" };
                let problem = format!("has a template's placeholder: write your own {own} there");
                placeholder.get_or_insert_with(|| Mistake::Value(keyword.clone(), problem));
                // `set` must see a secret, because refusing a secret takes precedence.
                if !may_be_secret(keyword) {
                    continue;
                }
            }
            match known {
                Known::Sets(sets) => set(name, sets, keyword, value)?,
                Known::Other { ignored: values, why } if !is_ignored(values, value) => {
                    let expected = match split(values).next() {
                        Some(only) if only != "none" => format!("must be {only}, or be left out: "),
                        _ => String::new(),
                    };
                    let problem = format!("{expected}{why}");
                    match &mut refused {
                        None => refused = Some((keyword.clone(), problem)),
                        // One error names all refused keywords.
                        Some((_, first)) => first.extend(["; ", keyword, " ", &problem]),
                    }
                }
                Known::Other { .. } => ignored.push(name),
            }
        }
        if let Some((keyword, problem)) = refused {
            return Err(Mistake::Value(keyword, problem).into());
        }
        if !ignored.is_empty() {
            let keywords = ignored.join(", ");
            tracing::debug!(keywords, "ignoring keywords that have no effect here");
        }
        Ok(placeholder)
    }

    fn unknown(&self, keyword: &str, after_secret: bool) -> Mistake {
        if after_secret || !is_plain(keyword) {
            let problem = "has an unknown keyword, which is not shown because it may be a piece of \
                           a password (a value with a separator in it must be quoted)";
            return Mistake::Syntax(problem.to_owned());
        }
        let nearest = self.nearest(keyword).map(|nearest| format!(": did you mean '{nearest}'?"));
        let advice = nearest.unwrap_or_else(|| self.unknown.to_owned());
        Mistake::Syntax(format!("has an unknown keyword '{keyword}'{advice}"))
    }
}

/// Splits the names of a setting, or a cell of a table.
fn split(names: &'static str) -> impl Iterator<Item = &'static str> {
    names.split(['|', ',', '`']).map(str::trim).filter(|name| !name.is_empty())
}

fn is_ignored(values: &'static str, value: &str) -> bool {
    values == "any" || split(values).any(|it| is_same(it, value))
}

/// Returns whether the text looks like a name or a number, and not like a part of a secret.
fn is_plain(text: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.');
    text.chars().count() <= 40 && text.chars().all(is_plain)
}

/// Returns whether the value of this keyword may be a secret. The text after it may then be the
/// rest of the secret.
pub(crate) fn may_be_secret(name: &str) -> bool {
    let name = normalized(name);
    ["pass", "pwd", "secret", "token", "assertion", "key"].iter().any(|part| name.contains(part))
}

pub(crate) fn is_same(one: &str, other: &str) -> bool {
    letters(one).eq(letters(other))
}

pub(crate) fn is_one_of(names: &[&str], value: &str) -> bool {
    names.iter().any(|name| is_same(name, value))
}

fn normalized(text: &str) -> String {
    letters(text).collect()
}

fn letters(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|c| !c.is_whitespace() && *c != '_').map(|c| c.to_ascii_lowercase())
}
