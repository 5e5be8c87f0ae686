//! A batch's tokens, made ready for the parser.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::azure_sql::error::ServerError;

/// How long chains of operators may be: the trees that stand for them are walked, and dropped,
/// by recursion. Parentheses are counted by the parser.
const LONGEST: usize = 200;

/// Separates statements that need no semicolon between them in T-SQL, and refuses what nests
/// too deep.
pub(super) fn prepare(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>, ServerError> {
    let mut prepared: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let (mut depth, mut links) = (0_usize, 0_usize);
    let mut after_table = false;
    let mut update_without_set = false;
    for token in tokens {
        match &token.token {
            Token::Whitespace(_) => continue,
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::Comma | Token::SemiColon if depth == 0 => links = 0,
            Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::Comma
            | Token::Period => {}
            Token::Word(word) if word.quote_style.is_some() => {}
            Token::Word(word) => {
                let begins = depth == 0 && begins(&word.value, after_table);
                let belongs = word.value.eq_ignore_ascii_case("SET")
                    && std::mem::take(&mut update_without_set);
                if begins && !belongs {
                    links = 0;
                    update_without_set = word.value.eq_ignore_ascii_case("UPDATE");
                    prepared.push(TokenWithSpan { token: Token::SemiColon, span: token.span });
                }
                let word = word.value.to_ascii_uppercase();
                links += usize::from(CHAINED.contains(&word.as_str()));
                after_table = word == "TABLE";
            }
            _ => links += 1,
        }
        if links > LONGEST {
            return Err(ServerError::new(
                191,
                15,
                "Some part of your SQL statement is nested too deeply. Rewrite the query or break it up into smaller queries.",
            ));
        }
        prepared.push(token);
    }
    Ok(prepared)
}

/// Words that make a tree deeper.
const CHAINED: &[&str] =
    &["AND", "OR", "NOT", "UNION", "EXCEPT", "INTERSECT", "JOIN", "IS", "LIKE", "CASE", "BETWEEN"];

/// Whether a word begins a statement wherever it stands outside of parentheses.
fn begins(word: &str, after_table: bool) -> bool {
    const WORDS: [&str; 18] = [
        "BEGIN", "COMMIT", "ROLLBACK", "SAVE", "DECLARE", "EXEC", "EXECUTE", "PRINT", "USE",
        "THROW", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER", "SET", "WAITFOR",
    ];
    // `DROP TABLE IF EXISTS`
    (word.eq_ignore_ascii_case("IF") && !after_table)
        || WORDS.iter().any(|own| word.eq_ignore_ascii_case(own))
}

pub(super) fn is_word(token: &Token, expected: &str) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected))
}
