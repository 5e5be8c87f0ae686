//! The README is short, and the manual quotes the actual messages.

use std::path::Path;

/// Removes the carriage returns that Git adds on Windows.
fn readme() -> String {
    include_str!("../README.md").replace('\r', "")
}

#[test]
fn the_readme_is_short_and_its_code_fits_into_the_width_of_docs_rs() {
    let readme = readme();
    let links = |line: &&str| !(line.starts_with('[') && line.contains("]: https://"));
    let words: usize = readme.lines().filter(links).map(|it| it.split_whitespace().count()).sum();
    assert!(words <= 900, "{words} words");
    for code in readme.split("```").skip(1).step_by(2) {
        for line in code.lines() {
            assert!(line.chars().count() <= 85, "{line}");
        }
    }
}

#[test]
fn every_link_of_the_readme_has_a_target() {
    let readme = readme();
    for (at, _) in readme.match_indices("](") {
        let target = readme[at + 2..].split(')').next().unwrap();
        let exists = Path::new(env!("CARGO_MANIFEST_DIR")).join(target).exists();
        assert!(target.starts_with("https://") || exists, "{target}");
    }
}

/// Returns the crate's sources without comments and tests, with string literals as they are
/// printed, except for the placeholders `{…}`.
fn sources() -> String {
    fn read(folder: &Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("tests.rs") || path.ends_with("tests") {
                continue;
            }
            if path.is_dir() {
                read(&path, all);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let source = std::fs::read_to_string(&path).unwrap().replace('\r', "");
                let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
                let lines = code.split_inclusive('\n');
                all.extend(lines.filter(|line| !line.trim_start().starts_with("//")));
            }
        }
    }
    let mut source = String::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut source);
    // A `\` at a line's end, and the blanks that follow it, are not printed.
    let mut lines = source.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |text, line| text + line.trim_start()).replace("\\\"", "\"")
}

/// Checks the headings of troubleshooting.md that begin with a message (messages of other
/// programs are marked), and the table of events in tokens.md. `…` is a placeholder.
#[test]
fn the_manual_quotes_messages_that_exist() {
    let sources = sources();
    let mut quoted = 0;
    for (page, mark) in [("troubleshooting.md", "## `"), ("tokens.md", "| `")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/manual").join(page);
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(mark) else { continue };
            let message = rest.split('`').next().unwrap();
            for piece in message.split('…').map(str::trim).filter(|piece| piece.len() > 2) {
                assert!(
                    sources.contains(piece),
                    "{page}: no message contains '{piece}' ({message})"
                );
            }
            quoted += 1;
        }
    }
    assert!(quoted > 40, "{quoted}");
}
