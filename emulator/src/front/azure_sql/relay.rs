//! Bytes from the client to the engine and back.

use std::{collections::BTreeMap, future::pending, io};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::EngineLogin;
use crate::azure_sql::{
    Behaviour, Stage,
    bytes::utf16,
    packets::{self, HEADER, count_packet, kind, parse_header, status},
};

/// The first byte of a session multiplex protocol header (MC-SMP 2.2.1), and that header's length.
const SMP: u8 = 0x53;
const SMP_HEADER: usize = 16;

/// Relays until one side closes the connection.
pub(super) async fn relay(
    client: impl AsyncRead + AsyncWrite,
    engine: impl AsyncRead + AsyncWrite,
    behaviour: &Behaviour,
    logins: &BTreeMap<String, EngineLogin>,
    packet_size: usize,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_engine, mut to_engine) = tokio::io::split(engine);
    let ended = tokio::select! {
        ended = requests(&mut from_client, &mut to_engine, behaviour, logins, packet_size) => ended,
        ended = answers(&mut from_engine, &mut to_client, behaviour) => ended,
    };
    // Either may have closed the connection already.
    drop(to_client.shutdown().await);
    drop(to_engine.shutdown().await);
    ended
}

async fn answers(
    engine: &mut (impl AsyncRead + Unpin),
    client: &mut (impl AsyncWrite + Unpin),
    behaviour: &Behaviour,
) -> io::Result<()> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let read = engine.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        // The other direction sees the client close the connection.
        behaviour.pass_until(Stage::Answer, pending()).await?;
        client.write_all(&buffer[..read]).await?;
        client.flush().await?;
    }
}

/// Relays packet by packet, which is how clients write them.
async fn requests(
    client: &mut (impl AsyncRead + Unpin),
    engine: &mut (impl AsyncWrite + Unpin),
    behaviour: &Behaviour,
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
        let header: [u8; HEADER] = packet[..].try_into().expect("the packet was resized to HEADER");
        let (message, bits, length) = parse_header(header)?;
        packet.resize(HEADER + length, 0);
        client.read_exact(&mut packet[HEADER..]).await?;
        let ends = bits & status::END_OF_MESSAGE != 0;
        count_packet(behaviour, message, bits);
        if begins && message != kind::ATTENTION {
            behaviour.pass(Stage::Request, client).await?;
        }
        let whole = begins && ends && message == kind::SQL_BATCH && !multiplexed;
        if let Some(payload) = translated(&packet[HEADER..], logins).filter(|_| whole) {
            let spid = u16::from_be_bytes([header[4], header[5]]);
            let mut packets = packets::packets(message, &payload, packet_size, spid);
            packets[0][1] |= bits & !status::END_OF_MESSAGE;
            packet = packets.concat();
        }
        engine.write_all(&packet).await?;
        engine.flush().await?;
        begins = ends;
    }
}

/// The batch for the engine, if it is `CREATE USER [x] FROM EXTERNAL PROVIDER` and nothing else.
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
    let (before, rest) = text.split_once('[')?;
    let (name, after) = rest.rsplit_once(']')?;
    let words = |text: &str, words: &[&str]| {
        text.split_whitespace().map(str::to_ascii_uppercase).eq(words.iter().copied())
    };
    let after = after.trim_end();
    let after = after.strip_suffix(';').unwrap_or(after);
    let is_one_name = !name.replace("]]", "").contains(']');
    let is_whole =
        words(before, &["CREATE", "USER"]) && words(after, &["FROM", "EXTERNAL", "PROVIDER"]);
    (is_one_name && is_whole).then(|| name.replace("]]", "]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(sql: &str) -> Option<String> {
        let login = |user: &str| EngineLogin { user: user.to_owned(), password: String::new() };
        let logins = BTreeMap::from([
            ("shop-identity".to_owned(), login("shop]login")),
            ("o]dd \"name\"".to_owned(), login("odd")),
        ]);
        let headers = [22, 0, 0, 0, 18, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        let batch = translated(&[&headers[..], &utf16(sql)].concat(), &logins)?;
        let text = batch.strip_prefix(&headers).unwrap();
        let units = text.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        Some(String::from_utf16(&units.collect::<Vec<_>>()).unwrap())
    }

    #[test]
    fn users_from_the_external_provider_are_created_for_their_logins() {
        let shop = "CREATE USER [shop-identity] FOR LOGIN [shop]]login]";
        for (sql, for_engine) in [
            ("CREATE USER [shop-identity] FROM EXTERNAL PROVIDER", shop),
            ("\r\n create\tuser[shop-identity]from external  provider ; \n", shop),
            (
                "CREATE USER [o]]dd \"name\"] FROM EXTERNAL PROVIDER;",
                "CREATE USER [o]]dd \"name\"] FOR LOGIN [odd]",
            ),
            (
                "CREATE USER [o'dd 5%] FROM EXTERNAL PROVIDER",
                "THROW 50000, N'Principal ''o''dd 5%%'' could not be found: no engine login is configured for it.', 1",
            ),
        ] {
            assert_eq!(translate(sql).as_deref(), Some(for_engine), "{sql}");
        }
    }

    #[tokio::test]
    async fn mars_sessions_and_large_packets_are_relayed_unchanged() {
        let ((mut client, from_client), (mut engine, from_engine)) =
            (tokio::io::duplex(1 << 20), tokio::io::duplex(1 << 20));
        let (behaviour, logins) = (Behaviour::new(), BTreeMap::new());
        let smp = |flags: u8, length: usize| {
            let length = ((length + SMP_HEADER) as u32).to_le_bytes();
            [&[SMP, flags, 1, 0][..], &length, &[0; 8]].concat()
        };
        let create = utf16("CREATE USER [x] FROM EXTERNAL PROVIDER");
        let small =
            packets::packets(kind::SQL_BATCH, &[&[4, 0, 0, 0], &create[..]].concat(), 512, 0);
        let large = packets::packets(kind::RPC, &vec![SMP; 100_000], 32_767, 0);
        let data = small.iter().chain(&large);
        let data = data.flat_map(|packet| [smp(8, packet.len()), packet.clone()].concat());
        let sent: Vec<u8> = smp(1, 0).into_iter().chain(data).chain(smp(4, 0)).collect();
        let passing = async {
            let mut received = vec![0; sent.len()];
            client.write_all(&sent).await.unwrap();
            engine.read_exact(&mut received).await.unwrap();
            assert!(received == sent, "to the engine");
            engine.write_all(&sent).await.unwrap();
            client.read_exact(&mut received).await.unwrap();
            assert!(received == sent, "to the client");
        };
        tokio::select! {
            ended = relay(from_client, from_engine, &behaviour, &logins, 32_767) => panic!("{ended:?}"),
            () = passing => assert_eq!(behaviour.counters().requests, 2),
        }
    }

    #[test]
    fn all_other_statements_reach_the_engine_unchanged() {
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
            "CREATE USER x FROM EXTERNAL PROVIDER",
            "CREATE USER \"x\" FROM EXTERNAL PROVIDER",
            "CREATE USER [x] FOR LOGIN [y] FROM EXTERNAL PROVIDER",
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
