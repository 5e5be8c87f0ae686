//! README and the crate's page are one text; the manual quotes what is really said.

use std::path::Path;

const LIB: &str = include_str!("../src/lib.rs");

/// Git on Windows ends lines in its own way.
fn readme() -> String {
    include_str!("../README.md").replace('\r', "")
}

/// The crate's page as it reads in README: without the lines that rustdoc hides, the
/// drawing as a picture, links to docs.rs.
fn page() -> String {
    let mut page = String::new();
    let mut in_code = false;
    for line in LIB.lines() {
        let line = match line.strip_prefix("//!") {
            Some(text) => text.strip_prefix(' ').unwrap_or(text).to_owned(),
            None => match included(line) {
                Some(file) => picture(file),
                None => continue,
            },
        };
        let shown = match (in_code, line.as_str()) {
            (true, hidden) if hidden == "#" || hidden.starts_with("# ") => continue,
            (false, "```no_run") => "```rust".to_owned(),
            (false, heading) if heading.starts_with("# ") => format!("#{heading}"),
            _ => link(&line).unwrap_or(line.clone()),
        };
        in_code ^= line.starts_with("```");
        page.push_str(&shown);
        page.push('\n');
    }
    page
}

fn included(line: &str) -> Option<&str> {
    line.strip_prefix("#![doc = include_str!(\"")?.strip_suffix("\")]")
}

fn picture(file: &str) -> String {
    let path = format!("src/{file}");
    let svg = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path)).unwrap();
    let title = svg.split_once("<title").unwrap().1.split(['>', '<']).nth(1).unwrap();
    format!("![{title}]({path})")
}

/// `[label]: module::path` with the page on docs.rs.
fn link(line: &str) -> Option<String> {
    let (label, path) = line.strip_prefix('[')?.split_once("]: ")?;
    let page = path.replace("::", "/");
    Some(format!("[{label}]: https://docs.rs/entra-pool/latest/entra_pool/{page}/index.html"))
}

/// A text's sections, each with its heading; first, what stands before them.
fn sections(text: &str) -> Vec<&str> {
    let mut starts = vec![0];
    starts.extend(text.match_indices("\n## ").map(|(at, _)| at + 1));
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| text[*start..end].trim_end()).collect()
}

fn heading(section: &str) -> &str {
    section.lines().next().unwrap_or_default()
}

#[test]
fn every_section_of_the_crates_page_is_in_the_readme_word_for_word() {
    let page = format!("# entra-pool\n\n{}", page());
    let readme = readme();
    let readme = sections(&readme);
    let mut at = 0;
    for section in sections(&page) {
        let found = readme[at..].iter().position(|other| heading(other) == heading(section));
        let found = found.unwrap_or_else(|| panic!("in this place: {}", heading(section)));
        assert_eq!(readme[at + found], section, "README (left) and src/lib.rs differ");
        at += found + 1;
    }
}

#[test]
fn no_link_of_the_readme_is_without_a_target() {
    let readme = readme();
    for (at, _) in readme.match_indices("](") {
        let target = readme[at + 2..].split(')').next().unwrap();
        let is_here = Path::new(env!("CARGO_MANIFEST_DIR")).join(target).exists();
        assert!(target.starts_with("https://") || is_here, "{target}");
    }
}

/// The crate's sources, comments and tests aside, with their texts as they are printed but
/// for what is put in for `{…}`.
fn said_by_us() -> String {
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

/// In troubleshooting, headings that begin with a message are of this crate, others name
/// who says it; in tokens, the table of events. `…` stands for what differs.
#[test]
fn the_manual_quotes_messages_that_exist() {
    let said = said_by_us();
    let mut quoted = 0;
    for (page, mark) in [("troubleshooting.md", "## `"), ("tokens.md", "| `")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/manual").join(page);
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(mark) else { continue };
            let message = rest.split('`').next().unwrap();
            for piece in message.split('…').map(str::trim).filter(|piece| piece.len() > 2) {
                assert!(said.contains(piece), "{page}: nobody says '{piece}' ({message})");
            }
            quoted += 1;
        }
    }
    assert!(quoted > 40, "{quoted}");
}
