//! Each promise of SECURITY.md and of `manual::security` has tests that SECURITY.md names.

use std::{collections::BTreeMap, fs, path::Path};

const SECURITY: &str = include_str!("../SECURITY.md");
const MANUAL: &str = include_str!("../src/manual/security.md");

/// Returns the titles of the promises in a text: list items that begin in bold.
fn promises(text: &str) -> Vec<&str> {
    let items = text.lines().filter_map(|line| line.strip_prefix("- **"));
    items.map(|item| item.split_once(".**").expect("the title ends with a dot").0).collect()
}

/// Returns the rows of SECURITY.md's last table: a promise, and the tests that check it.
fn table() -> BTreeMap<&'static str, Vec<&'static str>> {
    let (_, rows) =
        SECURITY.split_once("| promise | tests |\n|---|---|\n").expect("the table exists");
    let cells = rows.lines().take_while(|line| line.starts_with('|')).map(|line| {
        let mut cells = line.trim_matches('|').splitn(2, '|').map(str::trim);
        let promise = cells.next().expect("the row has a promise");
        let tests = cells.next().expect("the row has tests").split(", ");
        (promise, tests.map(|test| test.trim_matches('`')).collect())
    });
    cells.collect()
}

/// Collects the names of all test functions in `folder` and its subfolders.
fn tests(folder: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            tests(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let lines: Vec<_> = source.lines().map(str::trim).collect();
            for (at, _) in lines.iter().enumerate().filter(|(_, line)| is_test(line)) {
                let function = lines[at..].iter().find_map(|line| line.split_once("fn "));
                let name = function.and_then(|(_, rest)| rest.split_once('('));
                names.extend(name.map(|(name, _)| name.to_owned()));
            }
        }
    }
}

fn is_test(line: &str) -> bool {
    line.starts_with("#[test]") || line.starts_with("#[tokio::test")
}

#[test]
fn each_promise_has_tests_and_each_test_exists() {
    let mut existing = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["src", "tests"] {
        tests(&root.join(folder), &mut existing);
    }
    let table = table();
    assert_eq!(
        promises(SECURITY),
        in_order(&table),
        "a promise without a row, or a row without a promise"
    );
    for (promise, tests) in &table {
        for test in tests {
            assert!(existing.iter().any(|name| name == test), "{promise}: no test {test}");
        }
    }
    for promise in promises(MANUAL) {
        assert!(
            table.contains_key(promise),
            "SECURITY.md lacks a promise of the manual: {promise}"
        );
    }
}

/// Returns the table's promises in the order of SECURITY.md.
fn in_order(table: &BTreeMap<&'static str, Vec<&'static str>>) -> Vec<&'static str> {
    let mut promises: Vec<_> = table.keys().copied().collect();
    promises.sort_by_key(|promise| SECURITY.find(promise));
    promises
}

#[test]
fn the_crate_has_no_unsafe_code() {
    let manifest = include_str!("../Cargo.toml");
    assert!(manifest.contains("\n[workspace.lints.rust]\nunsafe_code = \"forbid\"\n"));
    assert!(manifest.contains("\n[lints]\nworkspace = true\n"));
}

/// `Trust::Any…` accepts any certificate, and only these methods select it.
#[test]
fn only_methods_named_dangerous_accept_any_certificate() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/azure_sql/config");
    let mut found = 0;
    for entry in fs::read_dir(config).unwrap().map(Result::unwrap) {
        let Ok(source) = fs::read_to_string(entry.path()) else { continue };
        let lines: Vec<_> = source.lines().collect();
        for (at, _) in lines.iter().enumerate().filter(|(_, line)| line.contains("= Trust::Any")) {
            let function = lines[..at].iter().rev().find(|line| line.contains("fn ")).unwrap();
            assert!(function.contains("fn dangerous_"), "{function}");
            found += 1;
        }
    }
    assert!(found >= 2, "the methods were moved: {found} found");
}
