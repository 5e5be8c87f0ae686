//! A batch's statements. Queries and definitions are `sqlparser`'s; what
//! controls the session is read here, since T-SQL needs no semicolons and has
//! statements of its own.

use sqlparser::{
    ast,
    dialect::MsSqlDialect,
    keywords::Keyword,
    parser::{Parser, ParserError},
    tokenizer::{Token, Tokenizer},
};

use super::preparation::{is_word, prepare};
use crate::azure_sql::error::ServerError;

/// A statement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Statement {
    /// A query, a change or a definition.
    Sql(Box<ast::Statement>),
    If {
        condition: Box<ast::Expr>,
        then: Vec<Statement>,
        otherwise: Vec<Statement>,
    },
    Block(Vec<Statement>),
    Begin(String),
    Commit,
    Rollback(String),
    Save(String),
    Isolation(u8),
    Set {
        options: Vec<String>,
        value: String,
    },
    /// `SET @variable =`.
    Assign {
        variable: String,
        value: Box<ast::Expr>,
    },
    /// `EXEC sp_set_session_context`.
    SetContext {
        key: Box<ast::Expr>,
        value: Box<ast::Expr>,
    },
    /// `WAITFOR DELAY`.
    Wait(Box<ast::Expr>),
    Throw {
        number: Box<ast::Expr>,
        message: Box<ast::Expr>,
    },
    Use(String),
}

/// Reads a batch.
pub(crate) fn parse(text: &str) -> Result<Vec<Statement>, ServerError> {
    let dialect = MsSqlDialect {};
    let tokens = Tokenizer::new(&dialect, text)
        .tokenize_with_location()
        .map_err(|error| ServerError::syntax(error.message))?;
    let tokens = prepare(tokens)?;
    let parser = Parser::new(&dialect).with_tokens_with_locations(tokens);
    let mut script = Script { parser, depth: 0 };
    let mut statements = Vec::new();
    loop {
        script.skip_semicolons();
        if script.parser.peek_token().token == Token::EOF {
            return Ok(statements);
        }
        statements.push(script.statement()?);
    }
}

struct Script<'a> {
    parser: Parser<'a>,
    depth: usize,
}

/// SQL Server's levels, in the order of `sys.dm_exec_sessions`.
const ISOLATION_LEVELS: [&str; 5] =
    ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "SNAPSHOT"];

impl Script<'_> {
    fn statement(&mut self) -> Result<Statement, ServerError> {
        self.depth += 1;
        if self.depth > 32 {
            return Err(ServerError::syntax("statements are nested too deeply"));
        }
        let statement = self.any_statement();
        self.depth -= 1;
        statement
    }

    fn any_statement(&mut self) -> Result<Statement, ServerError> {
        self.skip_semicolons();
        if self.word("BEGIN") {
            return self.begin();
        }
        if self.word("COMMIT") {
            self.transaction_word();
            self.optional_name();
            return Ok(Statement::Commit);
        }
        if self.word("ROLLBACK") {
            self.transaction_word();
            return Ok(Statement::Rollback(self.optional_name()));
        }
        if self.word("SAVE") {
            if !self.transaction_word() {
                return Err(ServerError::unsupported("SAVE"));
            }
            return Ok(Statement::Save(self.identifier()?));
        }
        if self.word("IF") {
            return self.condition();
        }
        if self.word("SET") {
            return self.set();
        }
        if self.word("EXEC") || self.word("EXECUTE") {
            return self.execute();
        }
        if self.word("WAITFOR") {
            if !self.word("DELAY") {
                return Err(ServerError::unsupported("WAITFOR other than DELAY"));
            }
            return Ok(Statement::Wait(self.expression()?));
        }
        if self.word("THROW") {
            let number = self.expression()?;
            self.expect(&Token::Comma)?;
            let message = self.expression()?;
            self.expect(&Token::Comma)?;
            self.expression()?;
            return Ok(Statement::Throw { number, message });
        }
        if self.word("USE") {
            return Ok(Statement::Use(self.identifier()?));
        }
        match self.parser.peek_token().token {
            Token::Word(word)
                if matches!(
                    word.keyword,
                    Keyword::NoKeyword | Keyword::DECLARE | Keyword::MERGE | Keyword::PRINT
                ) =>
            {
                Err(ServerError::unsupported(word.value))
            }
            _ => self
                .parser
                .parse_statement()
                .map(|statement| Statement::Sql(Box::new(statement)))
                .map_err(syntax),
        }
    }

    fn begin(&mut self) -> Result<Statement, ServerError> {
        if self.transaction_word() {
            return Ok(Statement::Begin(self.optional_name()));
        }
        let mut statements = Vec::new();
        loop {
            self.skip_semicolons();
            if self.word("END") {
                return Ok(Statement::Block(statements));
            }
            statements.push(self.statement()?);
        }
    }

    fn condition(&mut self) -> Result<Statement, ServerError> {
        let condition = self.expression()?;
        let then = vec![self.statement()?];
        let semicolon = self.parser.peek_token().token == Token::SemiColon;
        let after = if semicolon { 1 } else { 0 };
        let is_else = matches!(self.parser.peek_nth_token(after).token, Token::Word(word) if word.keyword == Keyword::ELSE);
        let mut otherwise = Vec::new();
        if is_else {
            self.skip_semicolons();
            self.word("ELSE");
            otherwise.push(self.statement()?);
        }
        Ok(Statement::If { condition, then, otherwise })
    }

    fn set(&mut self) -> Result<Statement, ServerError> {
        if self.word("TRANSACTION") {
            if !(self.word("ISOLATION") && self.word("LEVEL")) {
                return Err(ServerError::unsupported("SET TRANSACTION"));
            }
            let mut level = self.identifier()?.to_ascii_uppercase();
            if let "READ" | "REPEATABLE" = level.as_str() {
                level = format!("{level} {}", self.identifier()?.to_ascii_uppercase());
            }
            let known = ISOLATION_LEVELS.iter().position(|known| *known == level);
            return match known {
                Some(index) => Ok(Statement::Isolation(index as u8 + 1)),
                None => Err(ServerError::unsupported(level)),
            };
        }
        if matches!(self.parser.peek_token().token, Token::Word(word) if word.value.starts_with('@'))
        {
            let variable = self.identifier()?;
            self.expect(&Token::Eq)?;
            return Ok(Statement::Assign { variable, value: self.expression()? });
        }
        let mut options = Vec::new();
        loop {
            options.push(self.identifier()?.to_ascii_uppercase());
            if !self.parser.consume_token(&Token::Comma) {
                break;
            }
        }
        let negative = self.parser.consume_token(&Token::Minus);
        let value = match self.parser.next_token().token {
            Token::Number(number, _) => format!("{}{number}", if negative { "-" } else { "" }),
            Token::SingleQuotedString(text) | Token::NationalStringLiteral(text) => text,
            Token::Word(word) => word.value,
            other => return Err(ServerError::unsupported(other)),
        };
        Ok(Statement::Set { options, value })
    }

    /// `EXEC sp_set_session_context N'key', value`.
    fn execute(&mut self) -> Result<Statement, ServerError> {
        let name = self.parser.parse_object_name(false).map_err(syntax)?.to_string();
        if !name.trim_start_matches("sys.").eq_ignore_ascii_case("sp_set_session_context") {
            let text = format!("Could not find stored procedure '{name}'.");
            return Err(ServerError::new(2812, 16, text));
        }
        let key = self.expression()?;
        self.expect(&Token::Comma)?;
        Ok(Statement::SetContext { key, value: self.expression()? })
    }

    fn expression(&mut self) -> Result<Box<ast::Expr>, ServerError> {
        self.parser.parse_expr().map(Box::new).map_err(syntax)
    }

    fn identifier(&mut self) -> Result<String, ServerError> {
        Ok(self.parser.parse_identifier().map_err(syntax)?.value)
    }

    /// A transaction's name, if there is one.
    fn optional_name(&mut self) -> String {
        match self.parser.peek_token().token {
            Token::Word(word) if word.quote_style.is_some() || !begins_statement(&word.value) => {
                self.parser.next_token();
                word.value
            }
            _ => String::new(),
        }
    }

    fn transaction_word(&mut self) -> bool {
        self.word("TRANSACTION") || self.word("TRAN") || self.word("WORK")
    }

    fn peek_word(&self, expected: &str) -> bool {
        is_word(&self.parser.peek_token().token, expected)
    }

    /// Takes the word, if it comes next.
    fn word(&mut self, expected: &str) -> bool {
        let next = self.peek_word(expected);
        if next {
            self.parser.next_token();
        }
        next
    }

    fn expect(&mut self, token: &Token) -> Result<(), ServerError> {
        self.parser.expect_token(token).map(drop).map_err(syntax)
    }

    fn skip_semicolons(&mut self) {
        while self.parser.consume_token(&Token::SemiColon) {}
    }
}

/// Words without a semicolon in front that can follow a transaction's name.
fn begins_statement(word: &str) -> bool {
    ["SELECT", "WITH", "ELSE", "END"].iter().any(|own| own.eq_ignore_ascii_case(word))
}

fn syntax(error: ParserError) -> ServerError {
    let text = error.to_string();
    ServerError::syntax(text.trim_start_matches("sql parser error: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<String> {
        parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).iter().map(kind).collect()
    }

    fn kind(statement: &Statement) -> String {
        match statement {
            Statement::Sql(statement) => statement.to_string(),
            Statement::If { then, otherwise, .. } => {
                let list =
                    |list: &[Statement]| list.iter().map(kind).collect::<Vec<_>>().join("; ");
                format!("IF {} ELSE {}", list(then), list(otherwise))
            }
            Statement::Block(list) => {
                format!("[{}]", list.iter().map(kind).collect::<Vec<_>>().join("; "))
            }
            other => format!("{other:?}").split([' ', '(']).next().unwrap_or_default().to_owned(),
        }
    }

    #[test]
    fn statements_need_no_semicolons() {
        for (text, expected) in [
            ("SELECT 1 SELECT 2", &["SELECT 1", "SELECT 2"][..]),
            ("BEGIN TRAN SELECT 1 COMMIT", &["Begin", "SELECT 1", "Commit"]),
            (
                "SET NOCOUNT ON UPDATE t SET a = 1 SET NOCOUNT OFF",
                &["Set", "UPDATE t SET a = 1", "Set"],
            ),
            (
                "BEGIN TRANSACTION name; SAVE TRAN here ROLLBACK TRAN here; ROLLBACK",
                &["Begin", "Save", "Rollback", "Rollback"],
            ),
            (
                "IF @@TRANCOUNT > 0 ROLLBACK TRAN SET TRANSACTION ISOLATION LEVEL READ COMMITTED SELECT @@TRANCOUNT",
                &["IF Rollback ELSE ", "Isolation", "SELECT @@TRANCOUNT"],
            ),
            (
                "IF 1 = 1 SELECT 1; ELSE BEGIN SELECT 2 SELECT 3 END SELECT 4",
                &["IF SELECT 1 ELSE [SELECT 2; SELECT 3]", "SELECT 4"],
            ),
            (
                "WAITFOR DELAY '00:00:01' EXEC sp_set_session_context N'k', 1",
                &["Wait", "SetContext"],
            ),
            ("SET @P2 = @P1 + 1 SELECT 1", &["Assign", "SELECT 1"]),
            ("-- nothing\n/* at all */ ;", &[]),
        ] {
            assert_eq!(kinds(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, construct) in [
            ("BEGIN TRY SELECT 1 END TRY", "TRY"),
            ("frobnicate 1", "frobnicate"),
            ("DECLARE @t TABLE (id int)", "DECLARE"),
            ("WAITFOR TIME '10:00'", "WAITFOR"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.number, error.class), (102, 15), "{text}");
            assert!(error.message.contains(construct), "{text}: {error}");
        }
        assert_eq!(parse("EXEC sp_reset_connection").unwrap_err().number, 2812);
        for text in ["SELECT 'open", "SELECT (1", "IF", "BEGIN SELECT 1", "SELECT FROM WHERE"] {
            assert_eq!(parse(text).unwrap_err().number, 102, "{text}");
        }
    }

    #[test]
    fn what_nests_too_deep_is_refused_before_it_is_parsed() {
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
