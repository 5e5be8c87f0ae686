//! Bytes from the client to the engine and back.

use std::{collections::BTreeMap, io};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::sleep,
};

use super::EngineLogin;
use crate::azure_sql::{
    bytes::utf16,
    fault::{self, Stage},
    gate::Gate,
    packets::{self, HEADER, kind, malformed, parse_header, status},
};

/// The first byte of a session multiplex protocol header (MC-SMP 2.2.1), and that header's length.
const SMP: u8 = 0x53;
const SMP_HEADER: usize = 16;

/// Relays until one side closes the connection.
pub(super) async fn relay(
    client: impl AsyncRead + AsyncWrite,
    engine: impl AsyncRead + AsyncWrite,
    gate: &Gate,
    logins: &BTreeMap<String, EngineLogin>,
    packet_size: usize,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_engine, mut to_engine) = tokio::io::split(engine);
    let ended = tokio::select! {
        ended = requests(&mut from_client, &mut to_engine, gate, logins, packet_size) => ended,
        ended = answers(&mut from_engine, &mut to_client, gate) => ended,
    };
    // Both are told; whether they still listen makes no difference.
    drop(to_client.shutdown().await);
    drop(to_engine.shutdown().await);
    ended
}

async fn answers(
    engine: &mut (impl AsyncRead + Unpin),
    client: &mut (impl AsyncWrite + Unpin),
    gate: &Gate,
) -> io::Result<()> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let read = engine.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let mut bytes = &buffer[..read];
        if let Some(fault) = fault::next(Stage::Answer, gate) {
            let (first, second) = bytes.split_at(read / 2);
            client.write_all(first).await?;
            client.flush().await?;
            // The other direction sees the client close the connection.
            fault::happen(fault, std::future::pending()).await?;
            bytes = second;
        }
        client.write_all(bytes).await?;
        client.flush().await?;
    }
}

/// Packet by packet, which is how clients write them.
async fn requests(
    client: &mut (impl AsyncRead + Unpin),
    engine: &mut (impl AsyncWrite + Unpin),
    gate: &Gate,
    logins: &BTreeMap<String, EngineLogin>,
    packet_size: usize,
) -> io::Result<()> {
    let mut packet = Vec::new();
    let (mut begins, mut multiplexed) = (true, false);
    loop {
        packet.resize(HEADER, 0);
        if client.read(&mut packet[..1]).await? == 0 {
            return Ok(());
        }
        if packet[0] == SMP {
            multiplexed = true;
            packet.resize(SMP_HEADER, 0);
            client.read_exact(&mut packet[1..]).await?;
            engine.write_all(&packet).await?;
            engine.flush().await?;
            continue;
        }
        client.read_exact(&mut packet[1..]).await?;
        let header: [u8; HEADER] = packet[..].try_into().expect("it was resized to that");
        let (message, bits, length) = parse_header(header).map_err(malformed)?;
        packet.resize(HEADER + length, 0);
        client.read_exact(&mut packet[HEADER..]).await?;
        let ends = bits & status::END_OF_MESSAGE != 0;
        match message {
            kind::ATTENTION => gate.counters.count(|it| it.attentions += 1),
            _ => gate.counters.packet(message, bits),
        }
        if begins && message != kind::ATTENTION {
            let delay = gate.behaviour.state().query_delay;
            if !delay.is_zero() {
                sleep(delay).await;
            }
            if let Some(fault) = fault::next(Stage::Request, gate) {
                fault::happen(fault, fault::closed(client)).await?;
            }
        }
        let whole = begins && ends && message == kind::SQL_BATCH && !multiplexed;
        match translated(&packet[HEADER..], logins).filter(|_| whole) {
            Some(payload) => {
                let spid = u16::from_be_bytes([header[4], header[5]]);
                let mut packets = packets::packets(message, &payload, packet_size, spid);
                packets[0][1] |= bits & !status::END_OF_MESSAGE;
                engine.write_all(&packets.concat()).await?;
            }
            None => engine.write_all(&packet).await?,
        }
        engine.flush().await?;
        begins = ends;
    }
}

/// The batch for the engine, if it is `CREATE USER … FROM EXTERNAL PROVIDER` and nothing else.
fn translated(batch: &[u8], logins: &BTreeMap<String, EngineLogin>) -> Option<Vec<u8>> {
    // Longer names do not exist.
    const LONGEST: usize = 1024;
    let headers = u32::from_le_bytes(batch.get(..4)?.try_into().ok()?) as usize;
    let (headers, text) = batch.split_at_checked(headers)?;
    if text.len() > LONGEST {
        return None;
    }
    let units = text.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    let text = String::from_utf16(&units.collect::<Vec<_>>()).ok()?;
    let name = external_user(&text)?;
    let quoted = |name: &str| format!("[{}]", name.replace(']', "]]"));
    let text = match logins.get(&name) {
        Some(login) => {
            format!("CREATE USER {} FOR LOGIN {}", quoted(&name), quoted(&login.user))
        }
        // The engine itself sends the refusal, so that the session stays in step.
        None => format!(
            "THROW 50000, N'Principal ''{}'' could not be found: no engine login is configured for it.', 1",
            name.replace('\'', "''").replace('%', "%%")
        ),
    };
    Some([headers, &utf16(&text)].concat())
}

/// The user's name.
fn external_user(text: &str) -> Option<String> {
    let text = keywords(text, &["CREATE", "USER"])?;
    let (name, rest) = identifier(text)?;
    let rest = keywords(rest, &["FROM", "EXTERNAL", "PROVIDER"])?;
    let rest = rest.trim_start();
    rest.strip_prefix(';').unwrap_or(rest).trim().is_empty().then_some(name)
}

fn keywords<'a>(mut text: &'a str, words: &[&str]) -> Option<&'a str> {
    for word in words {
        text = text.trim_start();
        let (found, rest) = text.split_at_checked(word.len())?;
        if !found.eq_ignore_ascii_case(word)
            || rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
        {
            return None;
        }
        text = rest;
    }
    Some(text)
}

/// A regular or a quoted identifier.
fn identifier(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let close = match text.chars().next()? {
        '[' => ']',
        '"' => '"',
        _ => {
            let end = text.find(|c: char| !(c.is_alphanumeric() || "_@#$".contains(c)))?;
            return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
        }
    };
    let (mut name, mut rest) = (String::new(), &text[1..]);
    loop {
        let (part, after) = rest.split_once(close)?;
        name.push_str(part);
        rest = after;
        match rest.strip_prefix(close) {
            Some(after) => {
                name.push(close);
                rest = after;
            }
            None => return Some((name, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(sql: &str) -> Option<String> {
        let login = |user: &str| EngineLogin { user: user.to_owned(), password: String::new() };
        let logins = BTreeMap::from([
            ("shop-identity".to_owned(), login("shop]login")),
            ("o]dd \"name\"".to_owned(), login("odd")),
            ("plain_1".to_owned(), login("plain")),
        ]);
        let headers = [22, 0, 0, 0, 18, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        let batch = translated(&[&headers[..], &utf16(sql)].concat(), &logins)?;
        let text = batch.strip_prefix(&headers).unwrap();
        let units = text.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        Some(String::from_utf16(&units.collect::<Vec<_>>()).unwrap())
    }

    #[test]
    fn users_from_the_external_provider_are_made_for_their_logins() {
        let shop = "CREATE USER [shop-identity] FOR LOGIN [shop]]login]";
        for (sql, for_engine) in [
            ("CREATE USER [shop-identity] FROM EXTERNAL PROVIDER", shop),
            ("\r\n create\tuser \"shop-identity\"from external  provider ; \n", shop),
            (
                "CREATE USER [o]]dd \"name\"] FROM EXTERNAL PROVIDER;",
                "CREATE USER [o]]dd \"name\"] FOR LOGIN [odd]",
            ),
            (
                "CREATE USER plain_1 FROM EXTERNAL PROVIDER",
                "CREATE USER [plain_1] FOR LOGIN [plain]",
            ),
            (
                "CREATE USER [o'dd 5%] FROM EXTERNAL PROVIDER",
                "THROW 50000, N'Principal ''o''dd 5%%'' could not be found: no engine login is configured for it.', 1",
            ),
        ] {
            assert_eq!(translate(sql).as_deref(), Some(for_engine), "{sql}");
        }
    }

    #[test]
    fn everything_else_is_left_to_the_engine() {
        let long = format!("CREATE USER [{}] FROM EXTERNAL PROVIDER", "x".repeat(600));
        for sql in [
            "",
            "SELECT 1",
            "CREATE USER",
            "CREATE USER [x",
            "CREATE USER [x] FROM EXTERNAL PROVIDERS",
            "CREATE USER [x] FROM EXTERNAL PROVIDER WITH DEFAULT_SCHEMA = dbo",
            "CREATE USER [x] FROM EXTERNAL PROVIDER; DROP TABLE t",
            "CREATE USER [x] FOR LOGIN y",
            "IF 1 = 1 CREATE USER [x] FROM EXTERNAL PROVIDER",
            "CREATE USERS [x] FROM EXTERNAL PROVIDER",
            "CREATE USER 'x' FROM EXTERNAL PROVIDER",
            &long,
        ] {
            assert_eq!(translate(sql), None, "{sql}");
        }
        let logins = BTreeMap::new();
        for batch in [&[][..], &[1, 2, 3], &[0xff; 8], &[4, 0, 0, 0, 0, 0xd8]] {
            assert_eq!(translated(batch, &logins), None, "{batch:?}");
        }
    }
}
