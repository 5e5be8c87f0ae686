//! Messages of drivers that the other tests of the emulator do not use.

use crate::{
    Setup,
    raw::{BATCH, RPC, Raw, TRANSACTION, contains, error, headers, utf16},
};

/// A parameter without a name, by reference or not: `nvarchar(4000)`.
fn text(value: &str) -> Vec<u8> {
    let value = utf16(value);
    let mut bytes = vec![0, 0, 0xe7, 0x40, 0x1f, 9, 4, 0xd0, 0, 0x34];
    bytes.extend((value.len() as u16).to_le_bytes());
    bytes.extend(value);
    bytes
}

/// `int`; `None` for NULL.
fn int(value: Option<i32>, by_reference: bool) -> Vec<u8> {
    let mut bytes = vec![0, u8::from(by_reference), 0x26, 4];
    match value {
        Some(value) => {
            bytes.push(4);
            bytes.extend(value.to_le_bytes());
        }
        None => bytes.push(0),
    }
    bytes
}

fn call(number: u8, parameters: &[Vec<u8>]) -> Vec<u8> {
    [vec![0xff, 0xff, number, 0, 0, 0], parameters.concat()].concat()
}

fn request(calls: &[Vec<u8>], separator: u8) -> Vec<u8> {
    [headers(0), calls.join(&separator)].concat()
}

fn row(value: i32) -> Vec<u8> {
    [&[0xd1, 4][..], &value.to_le_bytes()].concat()
}

/// RETURNVALUE with an `int`.
fn returned(ordinal: u8, name: &str, value: i32) -> Vec<u8> {
    let mut bytes = vec![0xac, ordinal, 0, name.len() as u8];
    bytes.extend(utf16(name));
    bytes.extend([1, 0, 0, 0, 0, 0, 0, 0x26, 4, 4]);
    bytes.extend(value.to_le_bytes());
    bytes
}

/// How often `part` occurs.
fn count(answer: &[u8], part: &[u8]) -> usize {
    answer.windows(part.len()).filter(|window| *window == part).count()
}

/// DONEPROC, with more to come or without.
const DONE_MORE: [u8; 3] = [0xfe, 1, 0];
const DONE: [u8; 13] = [0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[tokio::test]
async fn statements_are_prepared_and_run_as_by_odbc_and_tedious() {
    let setup = Setup::new().await;
    let mut raw = Raw::session(&setup).await;
    let (declared, sql) = (text("@P1 int"), text("SELECT @P1 + 1 AS n"));
    let prepare_execute = |handle, value| {
        call(13, &[int(handle, true), declared.clone(), sql.clone(), int(Some(value), false)])
    };
    let answer = raw.ask(RPC, &request(&[prepare_execute(None, 41)], 0xff)).await;
    assert!(contains(&answer, &row(42)) && contains(&answer, &returned(0, "", 1)), "{answer:?}");
    assert!(answer.ends_with(&DONE));
    let execute = |handle, value| call(12, &[int(Some(handle), false), int(Some(value), false)]);
    let answer = raw.ask(RPC, &request(&[execute(1, 6)], 0xff)).await;
    assert!(contains(&answer, &row(7)) && !contains(&answer, &[0xac, 0, 0]), "{answer:?}");
    // A new statement replaces an old one.
    let answer = raw.ask(RPC, &request(&[prepare_execute(Some(1), 1)], 0xff)).await;
    assert!(contains(&answer, &returned(0, "", 2)));
    let lost = "Could not find prepared statement with handle 1.".to_owned();
    assert_eq!(error(&raw.ask(RPC, &request(&[execute(1, 6)], 0xff)).await), (8179, lost.clone()));
    let prepare = call(11, &[int(None, true), declared.clone(), sql.clone(), int(Some(1), false)]);
    let answer = raw.ask(RPC, &request(&[prepare], 0xff)).await;
    assert!(contains(&answer, &returned(0, "", 3)) && !contains(&answer, &[0xd1]), "{answer:?}");
    let unprepare = |handle| call(15, &[int(Some(handle), false)]);
    let answer = raw.ask(RPC, &request(&[unprepare(3)], 0xff)).await;
    assert_eq!(answer, [&[0x79, 0, 0, 0, 0][..], &DONE].concat());
    assert_eq!(error(&raw.ask(RPC, &request(&[unprepare(1)], 0xff)).await), (8179, lost));
    let call_of = call(14, &[int(None, true), text("{call report(?)}"), int(Some(1), false)]);
    let (number, message) = error(&raw.ask(RPC, &request(&[call_of], 0xff)).await);
    assert!(number == 2812 && message.contains("report"), "{message}");
    let unsound = call(11, &[int(None, true), text(""), text("SELECT FROM WHERE")]);
    assert_eq!(error(&raw.ask(RPC, &request(&[unsound], 0xff)).await).0, 102);
    // A reset drops the handles.
    let reset = request(&[execute(2, 6)], 0xff);
    raw.send_with(RPC, 0x08, &reset).await;
    let answer = raw.answer().await;
    assert!(contains(&answer, &utf16("handle 2.")), "{answer:?}");
}

#[tokio::test]
async fn several_calls_in_one_message_are_answered_in_order() {
    let setup = Setup::new().await;
    let mut raw = Raw::session(&setup).await;
    let select = |value: i32| call(10, &[text(&format!("SELECT {value} AS n"))]);
    for separator in [0xff, 0x80, 0xfe] {
        let unknown = call(12, &[int(Some(9), false)]);
        let answer = raw.ask(RPC, &request(&[select(1), unknown, select(3)], separator)).await;
        assert!(contains(&answer, &row(1)) && contains(&answer, &row(3)), "{answer:?}");
        assert!(contains(&answer, &utf16("handle 9.")), "{answer:?}");
        assert_eq!(count(&answer, &DONE_MORE), 1, "{answer:?}");
        assert!(contains(&answer, &[0xfe, 3, 0]), "the second call fails: {answer:?}");
        assert!(answer.ends_with(&DONE));
    }
}

#[tokio::test]
async fn output_parameters_are_returned() {
    let setup = Setup::new().await;
    let mut raw = Raw::session(&setup).await;
    let execute = |sql: &str| {
        let declared = text("@P1 int, @P2 int OUTPUT");
        call(10, &[text(sql), declared, int(Some(20), false), int(Some(1), true)])
    };
    let answer = raw.ask(RPC, &request(&[execute("SET @P2 = @P1 + @P2")], 0xff)).await;
    assert!(contains(&answer, &returned(3, "@p2", 21)), "{answer:?}");
    let answer = raw.ask(RPC, &request(&[execute("SELECT * FROM nowhere")], 0xff)).await;
    assert_eq!(error(&answer).0, 208);
    assert_eq!(count(&answer, &[0xac, 3, 0]), 0, "a failed call returns nothing");
}

/// The descriptor in an ENVCHANGE: 8 begins a transaction.
fn begun(answer: &[u8]) -> Option<u64> {
    let at = answer.windows(5).position(|bytes| bytes == [0xe3, 11, 0, 8, 8])? + 5;
    Some(u64::from_le_bytes(answer[at..at + 8].try_into().unwrap()))
}

#[tokio::test]
async fn the_end_of_a_transaction_may_begin_the_next() {
    let setup = Setup::new().await;
    let mut raw = Raw::session(&setup).await;
    let name = utf16("örder");
    let named = |head: &[u8], rest: &[u8]| [head, &[name.len() as u8], &name, rest].concat();
    let mut descriptor = 0;
    let request = |descriptor: u64, body: Vec<u8>| [headers(descriptor), body].concat();
    let answer = raw.ask(TRANSACTION, &request(0, named(&[5, 0, 0], &[]))).await;
    let first = begun(&answer).unwrap();
    raw.ask(BATCH, &request(first, utf16("CREATE TABLE t (n int)"))).await;
    let savepoint = [&[8][..], &utf16("hïer")].concat();
    raw.ask(TRANSACTION, &request(first, [&[9, 0][..], &savepoint].concat())).await;
    raw.ask(BATCH, &request(first, utf16("INSERT INTO t VALUES (7)"))).await;
    let back = [&[8, 0][..], &savepoint, &[0]].concat();
    let answer = raw.ask(TRANSACTION, &request(first, back)).await;
    assert_eq!(answer[0], 0xfd, "rolled back to the savepoint: {answer:?}");
    for (end, change) in [(7, 9), (8, 10)] {
        let insert = utf16("INSERT INTO t VALUES (1)");
        let open = if descriptor == 0 { first } else { descriptor };
        raw.ask(BATCH, &request(open, insert)).await;
        // As ODBC ends every transaction: fBeginXact, then the level and the name of the next.
        let body = [named(&[end, 0], &[1, 2]), named(&[], &[])].concat();
        let answer = raw.ask(TRANSACTION, &request(open, body)).await;
        assert!(contains(&answer, &[0xe3, 11, 0, change, 0, 8]), "{answer:?}");
        let next = begun(&answer).unwrap();
        assert_ne!(next, open);
        assert_eq!(count(&answer, &[0xfd, 0, 0]), 1, "one DONE: {answer:?}");
        descriptor = next;
    }
    let rows = raw.ask(BATCH, &request(descriptor, utf16("SELECT COUNT(*) AS n FROM t"))).await;
    assert!(contains(&rows, &row(1)), "the second was rolled back: {rows:?}");
    // Without a transaction, both fail.
    raw.ask(TRANSACTION, &request(descriptor, vec![8, 0, 0, 0])).await;
    let answer = raw.ask(TRANSACTION, &request(0, vec![7, 0, 0, 1, 2, 0])).await;
    assert_eq!((error(&answer).0, begun(&answer)), (3902, None));
}

#[tokio::test]
async fn a_bulk_insert_is_refused_by_name() {
    let setup = Setup::new().await;
    let mut raw = Raw::session(&setup).await;
    let batch = |sql: &str| [headers(0), utf16(sql)].concat();
    raw.ask(BATCH, &batch("CREATE TABLE t (n int)")).await;
    for sql in ["INSERT BULK t (n int) WITH (TABLOCK)", " insert bulk [t] ([n] int)"] {
        let (number, text) = error(&raw.ask(BATCH, &batch(sql)).await);
        assert!(number == 102 && text.contains("INSERT BULK"), "{text}");
    }
    let (number, text) = error(&raw.ask(7, &[0x81, 1, 0]).await);
    assert!(number == 102 && text.contains("message of type 7"), "{text}");
    let answer = raw.ask(BATCH, &batch("SELECT COUNT(*) AS n FROM t")).await;
    assert!(contains(&answer, &row(0)), "the session continues: {answer:?}");
}
