//! README and the crate's page show the same code: the page's compiles.

/// The Rust blocks of a Markdown text, without lines that rustdoc hides.
fn blocks(markdown: &str, opening: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in markdown.lines() {
        match &mut block {
            None if line == opening => block = Some(String::new()),
            None => {}
            Some(_) if line == "```" => blocks.extend(block.take()),
            Some(text) if line != "#" && !line.starts_with("# ") => {
                text.push_str(line);
                text.push('\n');
            }
            Some(_) => {}
        }
    }
    blocks
}

#[test]
fn readme_shows_what_compiles_on_the_crates_page() {
    let page: String = include_str!("../src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line)))
        .collect();
    let (readme, page) =
        (blocks(include_str!("../README.md"), "```rust"), blocks(&page, "```no_run"));
    assert_eq!(readme.len(), 3);
    assert_eq!(readme, page);
}
