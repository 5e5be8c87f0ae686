//! The tokens of an answer (MS-TDS 2.2.7).

use super::{
    bytes::{put_b_varchar, utf16},
    error::ServerError,
    login::{Login, TDS_7_4, TDS_8_0},
    packets::DEFAULT_PACKET_SIZE,
    types::{COLLATION, SqlType},
};

/// Types of tokens (MS-TDS 2.2.7).
pub(crate) mod token {
    pub(crate) const RETURN_STATUS: u8 = 0x79;
    pub(crate) const COLUMN_METADATA: u8 = 0x81;
    pub(crate) const ERROR: u8 = 0xaa;
    pub(crate) const INFO: u8 = 0xab;
    pub(crate) const RETURN_VALUE: u8 = 0xac;
    pub(crate) const LOGIN_ACK: u8 = 0xad;
    pub(crate) const FEATURE_EXT_ACK: u8 = 0xae;
    pub(crate) const ROW: u8 = 0xd1;
    pub(crate) const ENV_CHANGE: u8 = 0xe3;
    pub(crate) const SESSION_STATE: u8 = 0xe4;
    pub(crate) const FED_AUTH_INFO: u8 = 0xee;
    pub(crate) const DONE: u8 = 0xfd;
    pub(crate) const DONE_PROC: u8 = 0xfe;
    pub(crate) const DONE_IN_PROC: u8 = 0xff;
}

/// Status bits of DONE (MS-TDS 2.2.7.6).
mod done {
    pub(super) const MORE: u16 = 0x01;
    pub(super) const ERROR: u16 = 0x02;
    pub(super) const COUNT: u16 = 0x10;
    pub(super) const ATTENTION: u16 = 0x20;
}

/// The kind of a finished statement, for DONE's CurCmd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Other = 0,
    Select = 0xc1,
    Insert = 0xc3,
    Delete = 0xc4,
    Update = 0xc5,
}

/// A result's column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) sql_type: SqlType,
}

/// Types of ENVCHANGE (MS-TDS 2.2.7.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Database {
        new: String,
        old: String,
    },
    Language,
    /// From the default size.
    PacketSize(usize),
    Collation,
    Begin(u64),
    Commit(u64),
    Rollback(u64),
    Reset,
    Routing {
        host: String,
        port: u16,
    },
}

/// An output parameter (MS-TDS 2.2.7.19).
#[derive(Debug)]
pub(crate) struct ReturnValue {
    /// The parameter's position in the call.
    pub(crate) ordinal: u16,
    pub(crate) name: String,
    pub(crate) sql_type: SqlType,
    /// The encoded value.
    pub(crate) value: Vec<u8>,
}

impl ReturnValue {
    fn write(&self, out: &mut Vec<u8>) {
        const OUTPUT: u8 = 1;
        out.push(token::RETURN_VALUE);
        out.extend(self.ordinal.to_le_bytes());
        put_b_varchar(out, &self.name);
        out.push(OUTPUT);
        // User type, flags.
        out.extend([0; 6]);
        self.sql_type.write_info(out);
        out.extend(&self.value);
    }
}

/// An answer that asks for a token: where the client gets it, and for which audience (MS-TDS
/// 2.2.7.12).
pub(crate) fn fed_auth_info(sts_url: &str, audience: &str) -> Vec<u8> {
    const OPTION: usize = 9;
    let values = [utf16(sts_url), utf16(audience)];
    let mut body = (values.len() as u32).to_le_bytes().to_vec();
    let mut start = body.len() + OPTION * values.len();
    for (option, value) in (1..).zip(&values) {
        body.push(option);
        body.extend((value.len() as u32).to_le_bytes());
        body.extend((start as u32).to_le_bytes());
        start += value.len();
    }
    [&[token::FED_AUTH_INFO], &(start as u32).to_le_bytes()[..], &body, &values.concat()].concat()
}

/// An answer that is being built.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    bytes: Vec<u8>,
    pub(crate) first_error: Option<ServerError>,
    in_procedure: bool,
    /// The position of the last DONE.
    last_done: Option<usize>,
}

impl Answer {
    /// An answer to a procedure call.
    pub(crate) fn to_procedure() -> Self {
        Self { in_procedure: true, ..Self::default() }
    }

    fn length_prefixed(&mut self, token: u8, body: &[u8]) {
        self.bytes.push(token);
        self.bytes.extend((body.len() as u16).to_le_bytes());
        self.bytes.extend(body);
    }

    pub(crate) fn environment(&mut self, change: &Change) {
        let texts = |kind: u8, new: &str, old: &str| {
            let mut body = vec![kind];
            put_b_varchar(&mut body, new);
            put_b_varchar(&mut body, old);
            body
        };
        let descriptor = |head: &[u8], descriptor: &u64| [head, &descriptor.to_le_bytes()].concat();
        let body = match change {
            Change::Database { new, old } => texts(1, new, old),
            Change::Language => texts(2, "us_english", ""),
            Change::PacketSize(new) => texts(4, &new.to_string(), &DEFAULT_PACKET_SIZE.to_string()),
            Change::Collation => [&[7, 5], &COLLATION[..], &[0]].concat(),
            Change::Begin(begun) => [descriptor(&[8, 8], begun), vec![0]].concat(),
            Change::Commit(ended) => descriptor(&[9, 0, 8], ended),
            Change::Rollback(ended) => descriptor(&[10, 0, 8], ended),
            Change::Reset => vec![18, 0, 0],
            Change::Routing { host, port } => {
                let name = utf16(host);
                let mut body = vec![20];
                body.extend((name.len() as u16 + 5).to_le_bytes());
                // Protocol: TCP.
                body.push(0);
                body.extend(port.to_le_bytes());
                body.extend(((name.len() / 2) as u16).to_le_bytes());
                body.extend(name);
                body.extend([0, 0]);
                body
            }
        };
        self.length_prefixed(token::ENV_CHANGE, &body);
    }

    pub(crate) fn error(&mut self, error: &ServerError) {
        self.message(token::ERROR, error);
        self.first_error.get_or_insert_with(|| error.clone());
    }

    pub(crate) fn information(&mut self, number: i32, text: &str) {
        self.message(token::INFO, &ServerError { state: 0, ..ServerError::new(number, 0, text) });
    }

    fn message(&mut self, token: u8, error: &ServerError) {
        let mut body = error.number.to_le_bytes().to_vec();
        body.extend([error.state, error.class]);
        // A text that quotes a long statement must fit the token.
        let text: String = error.message.chars().take(2000).collect();
        let text = utf16(&text);
        body.extend(((text.len() / 2) as u16).to_le_bytes());
        body.extend(text);
        put_b_varchar(&mut body, "emulator");
        // No procedure; line 1.
        body.push(0);
        body.extend(1_u32.to_le_bytes());
        self.length_prefixed(token, &body);
    }

    pub(crate) fn login_ack(&mut self, login: &Login) {
        let version = if login.tds_version == TDS_8_0 { TDS_8_0 } else { TDS_7_4 };
        // Interface: SQL_TSQL.
        let mut body = vec![1];
        body.extend(version.to_be_bytes());
        put_b_varchar(&mut body, "Microsoft SQL Server");
        body.extend([12, 0, 0x07, 0xd0]);
        self.length_prefixed(token::LOGIN_ACK, &body);
    }

    /// Acknowledges FEDAUTH, without data because the server requested no nonce.
    pub(crate) fn fed_auth_ack(&mut self) {
        self.bytes.extend([token::FEATURE_EXT_ACK, 0x02, 0, 0, 0, 0, 0xff]);
    }

    /// The bytes so far.
    #[cfg(test)]
    pub(crate) fn unfinished(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn columns(&mut self, columns: &[Column]) {
        const NULLABLE: u16 = 1;
        self.bytes.push(token::COLUMN_METADATA);
        self.bytes.extend((columns.len() as u16).to_le_bytes());
        for column in columns {
            self.bytes.extend(0_u32.to_le_bytes());
            self.bytes.extend(NULLABLE.to_le_bytes());
            column.sql_type.write_info(&mut self.bytes);
            let name: String = column.name.chars().take(127).collect();
            put_b_varchar(&mut self.bytes, &name);
        }
    }

    /// A row; `values` are encoded already.
    pub(crate) fn row(&mut self, values: &[u8]) {
        self.bytes.push(token::ROW);
        self.bytes.extend(values);
    }

    /// The end of a statement, with the number of rows if they are counted.
    pub(crate) fn done(&mut self, command: Command, rows: Option<u64>) {
        self.write_done(if rows.is_some() { done::COUNT } else { 0 }, command, rows.unwrap_or(0));
    }

    pub(crate) fn done_with_error(&mut self) {
        self.write_done(done::ERROR, Command::Other, 0);
    }

    fn write_done(&mut self, status: u16, command: Command, rows: u64) {
        self.last_done = Some(self.bytes.len());
        let token = if self.in_procedure { token::DONE_IN_PROC } else { token::DONE };
        self.put_done(token, status | done::MORE, command, rows);
    }

    fn put_done(&mut self, token: u8, status: u16, command: Command, rows: u64) {
        self.bytes.push(token);
        self.bytes.extend(status.to_le_bytes());
        self.bytes.extend((command as u16).to_le_bytes());
        self.bytes.extend(rows.to_le_bytes());
    }

    /// The end of a procedure, with its return values.
    pub(crate) fn end_procedure(&mut self, failed: bool, returned: &[ReturnValue]) {
        self.bytes.push(token::RETURN_STATUS);
        self.bytes.extend(u32::from(failed).to_le_bytes());
        for value in returned {
            value.write(&mut self.bytes);
        }
        self.last_done = Some(self.bytes.len());
        let status = if failed { done::ERROR } else { 0 };
        self.put_done(token::DONE_PROC, status | done::MORE, Command::Other, 0);
    }

    /// The whole answer.
    pub(crate) fn finish(mut self, failed: bool) -> Vec<u8> {
        const DONE_LENGTH: usize = 13;
        let last = self.last_done.filter(|at| at + DONE_LENGTH == self.bytes.len());
        let expected = if self.in_procedure { token::DONE_PROC } else { token::DONE };
        match last.filter(|at| self.bytes[*at] == expected) {
            Some(_) => {}
            None if self.in_procedure => self.end_procedure(failed, &[]),
            None => self.write_done(0, Command::Other, 0),
        }
        if let Some(at) = self.last_done {
            // No result follows.
            self.bytes[at + 1] &= !(done::MORE as u8);
        }
        self.bytes
    }

    /// The answer to an attention: the transaction's changes, and no results.
    pub(crate) fn attention(changes: &[Change]) -> Vec<u8> {
        let mut answer = Self::default();
        for change in changes {
            answer.environment(change);
        }
        answer.put_done(token::DONE, done::ATTENTION, Command::Other, 0);
        answer.bytes
    }
}
