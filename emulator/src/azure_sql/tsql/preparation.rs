//! A batch's tokens, made ready for the parser.

use sqlparser::{
    keywords::Keyword,
    tokenizer::{Token, TokenWithSpan},
};

use crate::azure_sql::error::ServerError;

/// How deep expressions and how long chains of operators may be: the trees
/// that stand for them are walked, and dropped, by recursion.
const DEEPEST: usize = 200;

/// Separates statements that need no semicolon between them in T-SQL, drops
/// what says how an index is stored, and refuses what nests too deep.
pub(super) fn prepare(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>, ServerError> {
    let mut prepared: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut last_word = Keyword::NoKeyword;
    let mut chains = vec![0_usize];
    let mut update_without_set = false;
    for token in tokens {
        match &token.token {
            Token::Whitespace(_) => continue,
            Token::LParen => chains.push(0),
            Token::RParen if chains.len() > 1 => drop(chains.pop()),
            Token::Comma | Token::SemiColon => *chains.last_mut().unwrap_or(&mut 0) = 0,
            Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::Period => {}
            _ => *chains.last_mut().unwrap_or(&mut 0) += 1,
        }
        if let Token::Word(word) = &token.token {
            let top_level = chains.len() == 1;
            let plain = word.quote_style.is_none();
            match word.keyword {
                Keyword::CLUSTERED
                    if plain
                        && matches!(
                            last_word,
                            Keyword::KEY | Keyword::UNIQUE | Keyword::CREATE
                        ) =>
                {
                    continue;
                }
                Keyword::NoKeyword
                    if word.value.eq_ignore_ascii_case("NONCLUSTERED")
                        && matches!(
                            last_word,
                            Keyword::KEY | Keyword::UNIQUE | Keyword::CREATE
                        ) =>
                {
                    continue;
                }
                Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::JOIN
                | Keyword::IS
                | Keyword::LIKE
                | Keyword::ELSE
                | Keyword::CASE
                | Keyword::IF => {
                    *chains.last_mut().unwrap_or(&mut 0) += 1;
                }
                Keyword::UPDATE if top_level => {
                    update_without_set = true;
                    chains[0] = 0;
                }
                Keyword::INSERT | Keyword::DELETE | Keyword::CREATE | Keyword::DROP
                    if top_level =>
                {
                    chains[0] = 0
                }
                Keyword::SELECT
                    if top_level
                        && !matches!(
                            last_word,
                            Keyword::UNION | Keyword::ALL | Keyword::EXCEPT | Keyword::INTERSECT
                        ) =>
                {
                    chains[0] = 0;
                }
                _ => {}
            }
            let begins = match word.keyword {
                Keyword::BEGIN
                | Keyword::COMMIT
                | Keyword::ROLLBACK
                | Keyword::DECLARE
                | Keyword::EXEC
                | Keyword::EXECUTE
                | Keyword::PRINT
                | Keyword::USE
                | Keyword::THROW => true,
                Keyword::SET if top_level => !std::mem::take(&mut update_without_set),
                _ => ["SAVE", "WAITFOR"].iter().any(|name| word.value.eq_ignore_ascii_case(name)),
            };
            if begins && plain && top_level {
                *chains.last_mut().unwrap_or(&mut 0) = 0;
                prepared.push(TokenWithSpan { token: Token::SemiColon, span: token.span });
            }
            last_word = word.keyword;
        }
        // The parser wants the FROM that T-SQL's DELETE need not have.
        if last_statement_word(&prepared, "DELETE") && chains.len() == 1 {
            let from = is_word(&token.token, "FROM") || is_word(&token.token, "TOP");
            if !from {
                let token_before = Token::make_keyword("FROM");
                prepared.push(TokenWithSpan { token: token_before, span: token.span });
            }
        }
        // The parser takes constants and placeholders only in `FETCH NEXT @n ROWS`.
        let token = match token.token {
            Token::Word(word) if after_fetch(&prepared) && word.value.starts_with('@') => {
                TokenWithSpan { token: Token::Placeholder(word.value), span: token.span }
            }
            _ => token,
        };
        if chains.iter().sum::<usize>() + chains.len() > DEEPEST {
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

fn last_statement_word(tokens: &[TokenWithSpan], word: &str) -> bool {
    tokens.last().is_some_and(|token| is_word(&token.token, word))
}

fn after_fetch(tokens: &[TokenWithSpan]) -> bool {
    let Some([fetch, next]) = tokens.last_chunk() else { return false };
    is_word(&fetch.token, "FETCH")
        && (is_word(&next.token, "NEXT") || is_word(&next.token, "FIRST"))
}

pub(super) fn is_word(token: &Token, expected: &str) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected))
}
