//! Requests: ALL_HEADERS (MS-TDS 2.2.5.3), SQLBatch (2.2.6.7), RPC (2.2.6.6)
//! and transaction-manager requests (2.2.6.9).

use rusqlite::types::Value;

use super::{
    bytes::{Malformed, Reader},
    packets::kind,
    types::SqlType,
    values,
};

/// A request, and the descriptor of the client's transaction.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) transaction: u64,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    Batch(String),
    Calls(Vec<Call>),
    /// In their order: a commit or rollback may begin the next transaction at once.
    Transaction(Vec<TransactionRequest>),
    /// A message of an unsupported type.
    Other(u8),
}

/// One of the procedure calls in a message.
#[derive(Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) procedure: Procedure,
    pub(crate) parameters: Vec<Parameter>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Procedure {
    /// `sp_executesql`.
    ExecuteSql,
    /// `sp_prepare`.
    Prepare,
    /// `sp_execute`.
    Execute,
    /// `sp_prepexec`.
    PrepareExecute,
    /// `sp_prepexecrpc`.
    PrepareCall,
    /// `sp_unprepare`.
    Unprepare,
    /// A procedure that does not exist here.
    Other(String),
}

impl Procedure {
    /// The procedure with this number (MS-TDS 2.2.6.6).
    fn numbered(number: u16) -> Self {
        match number {
            10 => Self::ExecuteSql,
            11 => Self::Prepare,
            12 => Self::Execute,
            13 => Self::PrepareExecute,
            14 => Self::PrepareCall,
            15 => Self::Unprepare,
            other => Self::Other(format!("procedure number {other}")),
        }
    }

    fn named(name: String) -> Self {
        let plain = name.to_ascii_lowercase().replace(['[', ']'], "");
        Self::numbered(match plain.trim_start_matches("sys.") {
            "sp_executesql" => 10,
            "sp_prepare" => 11,
            "sp_execute" => 12,
            "sp_prepexec" => 13,
            "sp_prepexecrpc" => 14,
            "sp_unprepare" => 15,
            _ => return Self::Other(name),
        })
    }
}

/// A parameter of a procedure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parameter {
    /// With its `@`; empty for a positional parameter.
    pub(crate) name: String,
    /// `None` for an untyped NULL.
    pub(crate) sql_type: Option<SqlType>,
    pub(crate) value: Value,
    /// Whether the client wants the value back (fByRefValue).
    pub(crate) by_reference: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TransactionRequest {
    /// With the isolation level's number; 0 leaves it unchanged.
    Begin(u8, String),
    Commit(String),
    Rollback(String),
    Save(String),
    /// Of an unsupported type.
    Other(u16),
}

const HEADER_TRANSACTION: u16 = 2;
const PROC_ID: u16 = 0xffff;
/// The byte between two calls: BatchFlag since TDS 7.2, BatchFlag before, or NoExecFlag.
const CALL_ENDS: [u8; 3] = [0xff, 0x80, 0xfe];

impl Request {
    pub(crate) fn parse(message_kind: u8, payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload, "request");
        if !matches!(message_kind, kind::SQL_BATCH | kind::RPC | kind::TRANSACTION_MANAGER) {
            return Ok(Self { transaction: 0, body: Body::Other(message_kind) });
        }
        let transaction = read_headers(&mut reader)?;
        let body = match message_kind {
            kind::SQL_BATCH => Body::Batch(reader.utf16(reader.rest().len())?),
            kind::RPC => {
                let mut calls = Vec::new();
                // The last call may also have a flag at its end.
                while calls.is_empty() || !reader.is_empty() {
                    calls.push(read_call(&mut reader)?);
                }
                Body::Calls(calls)
            }
            _ => Body::Transaction(read_transaction(&mut reader)?),
        };
        Ok(Self { transaction, body })
    }
}

/// The transaction descriptor; the other headers are skipped.
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

fn read_call(reader: &mut Reader<'_>) -> Result<Call, Malformed> {
    /// fByRefValue (MS-TDS 2.2.6.6).
    const BY_REFERENCE: u8 = 0x01;
    let procedure = match reader.u16()? {
        PROC_ID => Procedure::numbered(reader.u16()?),
        units => Procedure::named(reader.utf16(usize::from(units) * 2)?),
    };
    // Option flags.
    reader.u16()?;
    let mut parameters = Vec::new();
    while let Some(next) = reader.rest().first() {
        if CALL_ENDS.contains(next) {
            reader.u8()?;
            break;
        }
        let name = reader.b_varchar()?;
        let by_reference = reader.u8()? & BY_REFERENCE != 0;
        let sql_type = SqlType::read_info(reader)?;
        let value = match sql_type {
            Some(sql_type) => values::read(reader, sql_type)?,
            None => Value::Null,
        };
        parameters.push(Parameter { name, sql_type, value, by_reference });
    }
    Ok(Call { procedure, parameters })
}

fn read_transaction(reader: &mut Reader<'_>) -> Result<Vec<TransactionRequest>, Malformed> {
    const BEGIN: u16 = 5;
    const COMMIT: u16 = 7;
    const ROLLBACK: u16 = 8;
    const SAVE: u16 = 9;
    let mut requests = vec![match reader.u16()? {
        BEGIN => TransactionRequest::Begin(reader.u8()?, reader.b_varbyte()?),
        COMMIT => TransactionRequest::Commit(reader.b_varbyte()?),
        ROLLBACK => TransactionRequest::Rollback(reader.b_varbyte()?),
        SAVE => TransactionRequest::Save(reader.b_varbyte()?),
        other => return Ok(vec![TransactionRequest::Other(other)]),
    }];
    // fBeginXact: whether the next transaction begins at once.
    if matches!(requests[0], TransactionRequest::Commit(_) | TransactionRequest::Rollback(_))
        && reader.u8()? & 1 != 0
    {
        requests.push(TransactionRequest::Begin(reader.u8()?, reader.b_varbyte()?));
    }
    if reader.is_empty() { Ok(requests) } else { reader.malformed() }
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

    fn parameter(name: &str, sql_type: Option<SqlType>, value: Value) -> Parameter {
        Parameter { name: name.into(), sql_type, value, by_reference: false }
    }

    #[test]
    fn calls_are_read_with_their_parameters() {
        let execute_sql = [0xff, 0xff, 10, 0, 0, 0];
        let named = [2, b'@', 0, b'a', 0, 0, 0x26, 4, 4, 42, 0, 0, 0];
        let bytes = [&headers(0)[..], &execute_sql, &named, &[0, 1, 0x1f]].concat();
        let one = Call {
            procedure: Procedure::ExecuteSql,
            parameters: vec![
                parameter("@a", Some(SqlType::Int), Value::Integer(42)),
                Parameter { by_reference: true, ..parameter("", None, Value::Null) },
            ],
        };
        let request = Request::parse(kind::RPC, &bytes).unwrap();
        let Body::Calls(calls) = request.body else { panic!("{request:?}") };
        assert_eq!(calls, [one]);
        let whole = [bytes.len(), bytes.len() - 3, bytes.len() - 3 - named.len()];
        for end in (0..bytes.len()).filter(|end| !whole.contains(end)) {
            assert!(Request::parse(kind::RPC, &bytes[..end]).is_err(), "the first {end} bytes");
        }
        let two = utf16("[sys].sp_unprepare");
        for end in CALL_ENDS {
            let second = [&[18, 0][..], &two, &[0, 0], &named, &[end]].concat();
            let request = [&bytes[..], &[end], &second].concat();
            let Body::Calls(calls) = Request::parse(kind::RPC, &request).unwrap().body else {
                panic!("{end}")
            };
            let procedures: Vec<_> = calls.iter().map(|call| &call.procedure).collect();
            assert_eq!(procedures, [&Procedure::ExecuteSql, &Procedure::Unprepare]);
            assert_eq!(calls[1].parameters.len(), 1);
        }
    }

    #[test]
    fn a_transactions_name_has_its_length_in_bytes_and_a_commit_may_begin_the_next_one() {
        let name = utf16("é1");
        let read = |bytes: &[u8]| {
            let bytes = [&headers(0), bytes].concat();
            match Request::parse(kind::TRANSACTION_MANAGER, &bytes)?.body {
                Body::Transaction(requests) => Ok::<_, Malformed>(requests),
                other => panic!("{other:?}"),
            }
        };
        let named = |number: u8, rest: &[u8]| [&[number, 0, 4][..], &name, rest].concat();
        let name = || "é1".to_owned();
        assert_eq!(read(&named(9, &[])), Ok(vec![TransactionRequest::Save(name())]));
        assert_eq!(read(&named(7, &[0])), Ok(vec![TransactionRequest::Commit(name())]));
        let begin = TransactionRequest::Begin(2, "é1".to_owned());
        assert_eq!(
            read(&[&named(8, &[1]), &named(2, &[])[..1], &named(2, &[])[2..]].concat()),
            Ok(vec![TransactionRequest::Rollback(name()), begin])
        );
        assert!(read(&named(7, &[1])).is_err(), "the next transaction is not described");
    }

    #[test]
    fn no_message_causes_a_panic() {
        for kind in [kind::SQL_BATCH, kind::RPC, kind::TRANSACTION_MANAGER] {
            for bytes in [
                vec![],
                vec![0; 4],
                vec![0xff; 64],
                [headers(0), vec![5, 0, 1]].concat(),
                [headers(0), vec![9, 0, 9]].concat(),
                [headers(0), vec![7, 0, 0, 1, 2]].concat(),
            ] {
                assert!(Request::parse(kind, &bytes).is_err(), "{kind} {bytes:?}");
            }
        }
    }
}
