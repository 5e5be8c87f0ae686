//! A batch's statements, as `sqlparser` reads them.

use sqlparser::{
    ast::Statement,
    dialect::MsSqlDialect,
    keywords::Keyword,
    parser::{Parser, ParserOptions},
    tokenizer::{Token, TokenWithSpan, Tokenizer},
};

use crate::azure_sql::error::ServerError;

/// The most operators in one item: their trees are walked, and dropped, by recursion.
const LONGEST: usize = 200;

/// The most levels of parentheses and nested statements. The parser's own limit is too high for
/// the stack of a thread in debug builds.
const DEEPEST: usize = 24;

/// Words that make a tree deeper, as operators do.
const CHAINED: [Keyword; 6] =
    [Keyword::AND, Keyword::OR, Keyword::NOT, Keyword::UNION, Keyword::IS, Keyword::LIKE];

/// Reads a batch.
pub(crate) fn parse(text: &str) -> Result<Vec<Statement>, ServerError> {
    let dialect = MsSqlDialect {};
    let tokens = Tokenizer::new(&dialect, text)
        .tokenize_with_location()
        .map_err(|error| ServerError::syntax(error.message))?;
    let tokens: Vec<TokenWithSpan> =
        tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    refuse_long_chains(&tokens)?;
    let tokens = with_savepoints(tokens)?;
    let mut options = ParserOptions::new();
    options.require_semicolon_stmt_delimiter = false;
    Parser::new(&dialect)
        .with_options(options)
        .with_recursion_limit(DEEPEST)
        .with_tokens_with_locations(tokens)
        .parse_statements()
        .map_err(|error| {
            let text = error.to_string();
            ServerError::syntax(text.trim_start_matches("sql parser error: "))
        })
}

fn refuse_long_chains(tokens: &[TokenWithSpan]) -> Result<(), ServerError> {
    let (mut depth, mut links) = (0_usize, 0_usize);
    for token in tokens {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::Comma | Token::SemiColon if depth == 0 => links = 0,
            Token::Word(word) => links += usize::from(CHAINED.contains(&word.keyword)),
            Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::Comma
            | Token::Period => {}
            _ => links += 1,
        }
        if links > LONGEST {
            return Err(ServerError::new(
                191,
                15,
                "Some part of your SQL statement is nested too deeply. Rewrite the query or break it up into smaller queries.",
            ));
        }
    }
    Ok(())
}

/// Replaces `SAVE TRANSACTION x` and `ROLLBACK TRANSACTION x` by the SQL that the parser reads:
/// `SAVEPOINT x` and `ROLLBACK TRANSACTION TO x`.
fn with_savepoints(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>, ServerError> {
    let word = |at: usize| match tokens.get(at).map(|token| &token.token) {
        Some(Token::Word(word)) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
        _ => String::new(),
    };
    let mut known = Vec::with_capacity(tokens.len());
    for (at, token) in tokens.iter().enumerate() {
        let before = if at > 0 { word(at - 1) } else { String::new() };
        let in_transaction = |at: usize| matches!(word(at).as_str(), "TRAN" | "TRANSACTION");
        let keyword = |word: &str| TokenWithSpan { token: Token::make_keyword(word), ..*token };
        let ends = ["ROLLBACK", "TRAN", "TRANSACTION", "WORK"].contains(&before.as_str());
        if word(at) == "SAVEPOINT" || (word(at) == "TO" && ends) {
            return Err(ServerError::unsupported(word(at)));
        }
        if word(at) == "SAVE" && in_transaction(at + 1) {
            continue;
        }
        if before == "SAVE" && in_transaction(at) {
            known.push(keyword("SAVEPOINT"));
            continue;
        }
        known.push(token.clone());
        let is_name = |token: &TokenWithSpan| matches!(&token.token, Token::Word(word) if word.keyword == Keyword::NoKeyword);
        if before == "ROLLBACK" && in_transaction(at) && tokens.get(at + 1).is_some_and(is_name) {
            known.push(keyword("TO"));
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_need_no_semicolons() {
        for (text, expected) in [
            ("SELECT 1 SELECT 2", &["SELECT 1", "SELECT 2"][..]),
            (
                "set ansi_nulls on\nset textsize 2147483647\nset transaction isolation level read committed",
                &[
                    "SET ansi_nulls on",
                    "SET textsize 2147483647",
                    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
                ],
            ),
            (
                "SAVE TRAN here ROLLBACK TRAN here; ROLLBACK TRANSACTION SELECT 1",
                &["SAVEPOINT here", "ROLLBACK TO SAVEPOINT here", "ROLLBACK", "SELECT 1"],
            ),
            (
                "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION; SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SELECT @@TRANCOUNT",
                &[
                    "IF @@TRANCOUNT > 0 ROLLBACK;",
                    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
                    "SELECT @@TRANCOUNT",
                ],
            ),
            (
                "IF 1 = 1 BEGIN SELECT 2 SELECT 3 END SELECT 4",
                &["IF 1 = 1 BEGIN SELECT 2; SELECT 3; END", "SELECT 4"],
            ),
            (
                "WAITFOR DELAY '00:00:01' EXEC sp_set_session_context N'k', 1 SELECT 1",
                &["WAITFOR DELAY '00:00:01'", "EXECUTE sp_set_session_context N'k', 1", "SELECT 1"],
            ),
            ("SET @P2 = @P1 + 1 SELECT 1", &["SET @P2 = @P1 + 1", "SELECT 1"]),
            ("-- nothing\n/* at all */ ;", &[]),
        ] {
            let statements = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let statements: Vec<String> = statements.iter().map(ToString::to_string).collect();
            assert_eq!(statements, expected, "{text}");
        }
    }

    #[test]
    fn invalid_statements_are_errors() {
        for text in [
            "SELECT 'open",
            "SELECT (1",
            "IF",
            "BEGIN SELECT 1",
            "SELECT FROM WHERE",
            "frobnicate 1",
        ] {
            assert_eq!(parse(text).unwrap_err().number, 102, "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_before_it_is_parsed() {
        for text in [
            format!("SELECT {}", vec!["1"; 100_000].join("+")),
            format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000)),
            format!("SELECT {} 1", "NOT ".repeat(100_000)),
            format!("SELECT 1 {}", "UNION SELECT 1 ".repeat(100_000)),
            "IF 1=1 ".repeat(100_000),
            "BEGIN ".repeat(100_000),
        ] {
            assert!(parse(&text).is_err());
        }
        let long = vec!["(1, 'a', 2 + 3)"; 5000].join(", ");
        assert!(parse(&format!("INSERT INTO t VALUES {long}")).is_ok());
    }
}
