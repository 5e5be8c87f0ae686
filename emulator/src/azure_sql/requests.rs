//! Requests: ALL_HEADERS (MS-TDS 2.2.5.3), SQLBatch (2.2.6.7), RPC (2.2.6.6)
//! and transaction-manager requests (2.2.6.9).

use rusqlite::types::Value;

use super::{
    bytes::{Malformed, Reader},
    packets::kind,
    types::SqlType,
    values,
};

/// A request, and the transaction that the client thinks it is in.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) transaction: u64,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    Batch(String),
    Rpc(Procedure, Vec<Parameter>),
    Transaction(TransactionRequest),
    /// A message of a type that is not understood here.
    Other(u8),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Procedure {
    ExecuteSql,
    Named(String),
}

/// A parameter of a procedure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parameter {
    /// With its `@`; empty if it goes by position.
    pub(crate) name: String,
    /// `None` for a NULL of no type.
    pub(crate) sql_type: Option<SqlType>,
    pub(crate) value: Value,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TransactionRequest {
    /// With the isolation level's number; 0 leaves it.
    Begin(u8, String),
    Commit(String),
    Rollback(String),
    Save(String),
    /// Of a type that is not understood here.
    Other(u16),
}

const HEADER_TRANSACTION: u16 = 2;
const PROC_ID: u16 = 0xffff;
const EXECUTE_SQL: u16 = 10;

impl Request {
    /// Whether its batch chooses an isolation level other than READ UNCOMMITTED.
    pub(crate) fn sets_isolation(&self) -> bool {
        const SET: &str = "SET TRANSACTION ISOLATION LEVEL ";
        let Body::Batch(text) = &self.body else { return false };
        let text = text.to_ascii_uppercase();
        text.split(SET).skip(1).any(|level| !level.starts_with("READ UNCOMMITTED"))
    }

    pub(crate) fn parse(message_kind: u8, payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload, "request");
        if !matches!(message_kind, kind::SQL_BATCH | kind::RPC | kind::TRANSACTION_MANAGER) {
            return Ok(Self { transaction: 0, body: Body::Other(message_kind) });
        }
        let transaction = read_headers(&mut reader)?;
        let body = match message_kind {
            kind::SQL_BATCH => Body::Batch(reader.utf16(reader.rest().len())?),
            kind::RPC => read_rpc(&mut reader)?,
            _ => Body::Transaction(read_transaction(&mut reader)?),
        };
        Ok(Self { transaction, body })
    }
}

impl Body {
    /// Who says to use the session: `/* borrower NAME */` in front of the SQL.
    pub(crate) fn borrower(&self) -> Option<&str> {
        let text = match self {
            Self::Batch(text) => text,
            Self::Rpc(Procedure::ExecuteSql, parameters) => match &parameters.first()?.value {
                Value::Text(text) => text,
                _ => return None,
            },
            _ => return None,
        };
        let (borrower, _) = text.trim_start().strip_prefix("/* borrower ")?.split_once(" */")?;
        Some(borrower)
    }
}

/// The transaction descriptor; the other headers are read over.
fn read_headers(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    let total = reader.u32()? as usize;
    let Some(length) = total.checked_sub(4) else { return reader.malformed() };
    let mut headers = Reader::new(reader.take(length)?, "ALL_HEADERS");
    let mut transaction = None;
    while !headers.is_empty() {
        let length = headers.u32()? as usize;
        let Some(length) = length.checked_sub(4) else { return headers.malformed() };
        let mut header = Reader::new(headers.take(length)?, "header");
        if header.u16()? == HEADER_TRANSACTION {
            transaction = Some(header.u64()?);
            header.u32()?;
            if !header.is_empty() {
                return header.malformed();
            }
        }
    }
    transaction.map_or_else(|| headers.malformed(), Ok)
}

fn read_rpc(reader: &mut Reader<'_>) -> Result<Body, Malformed> {
    let procedure = match reader.u16()? {
        PROC_ID => match reader.u16()? {
            EXECUTE_SQL => Procedure::ExecuteSql,
            other => Procedure::Named(format!("procedure number {other}")),
        },
        units => {
            let name = reader.utf16(usize::from(units) * 2)?;
            match name.to_ascii_lowercase().trim_start_matches("sys.") {
                "sp_executesql" => Procedure::ExecuteSql,
                _ => Procedure::Named(name),
            }
        }
    };
    // Option flags.
    reader.u16()?;
    let mut parameters = Vec::new();
    while !reader.is_empty() {
        // Further procedures in the same request: BatchFlag 0x80 or 0xff.
        if matches!(reader.rest()[0], 0x80 | 0xff) {
            return reader.malformed();
        }
        let name = reader.b_varchar()?;
        // Status flags: by reference, default.
        reader.u8()?;
        let sql_type = SqlType::read_info(reader)?;
        let value = match sql_type {
            Some(sql_type) => values::read(reader, sql_type)?,
            None => Value::Null,
        };
        parameters.push(Parameter { name, sql_type, value });
    }
    Ok(Body::Rpc(procedure, parameters))
}

fn read_transaction(reader: &mut Reader<'_>) -> Result<TransactionRequest, Malformed> {
    const BEGIN: u16 = 5;
    const COMMIT: u16 = 7;
    const ROLLBACK: u16 = 8;
    const SAVE: u16 = 9;
    let request = match reader.u16()? {
        BEGIN => TransactionRequest::Begin(reader.u8()?, reader.b_varchar()?),
        number @ (COMMIT | ROLLBACK) => {
            let name = reader.b_varchar()?;
            // fBeginXact: whether the next one is to begin at once.
            if reader.u8()? & 1 != 0 {
                return Ok(TransactionRequest::Other(number));
            }
            if number == COMMIT {
                TransactionRequest::Commit(name)
            } else {
                TransactionRequest::Rollback(name)
            }
        }
        SAVE => TransactionRequest::Save(reader.b_varchar()?),
        other => return Ok(TransactionRequest::Other(other)),
    };
    if reader.is_empty() { Ok(request) } else { reader.malformed() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure_sql::bytes::utf16;

    fn headers(transaction: u64) -> Vec<u8> {
        let mut bytes = [22_u32.to_le_bytes(), 18_u32.to_le_bytes()].concat();
        bytes.extend(2_u16.to_le_bytes());
        bytes.extend(transaction.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes
    }

    #[test]
    fn a_batch_is_read_with_its_transaction() {
        let request =
            Request::parse(kind::SQL_BATCH, &[headers(7), utf16("SELECT 'é'")].concat()).unwrap();
        assert_eq!(request.transaction, 7);
        assert!(matches!(request.body, Body::Batch(text) if text == "SELECT 'é'"));
    }

    #[test]
    fn a_call_is_read_with_its_parameters() {
        let mut bytes = headers(0);
        bytes.extend([0xff, 0xff, 10, 0, 0, 0]);
        bytes.extend([2, b'@', 0, b'a', 0, 0, 0x26, 4, 4, 42, 0, 0, 0]);
        bytes.extend([0, 0, 0x1f]);
        let request = Request::parse(kind::RPC, &bytes).unwrap();
        let Body::Rpc(Procedure::ExecuteSql, parameters) = request.body else {
            panic!("{request:?}")
        };
        let named = Parameter {
            name: "@a".into(),
            sql_type: Some(SqlType::Int),
            value: Value::Integer(42),
        };
        assert_eq!(
            parameters,
            [named, Parameter { name: String::new(), sql_type: None, value: Value::Null }]
        );
        for end in 0..bytes.len() - 3 {
            if end != bytes.len() - 16 {
                assert!(Request::parse(kind::RPC, &bytes[..end]).is_err(), "the first {end} bytes");
            }
        }
    }

    #[test]
    fn no_message_makes_it_panic() {
        for kind in [kind::SQL_BATCH, kind::RPC, kind::TRANSACTION_MANAGER] {
            for bytes in [
                vec![],
                vec![0; 4],
                vec![0xff; 64],
                [headers(0), vec![5, 0, 1]].concat(),
                [headers(0), vec![9, 0, 9]].concat(),
            ] {
                assert!(Request::parse(kind, &bytes).is_err(), "{kind} {bytes:?}");
            }
        }
    }
}
