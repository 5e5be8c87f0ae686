//! The positions at which a connection can be cut between two packets.

/// Types of TLS records (RFC 8446, B.1).
const TLS_RECORDS: std::ops::RangeInclusive<u8> = 20..=23;

/// MS-TDS 2.2.3.1.
const PACKET_HEADER: usize = 8;
/// RFC 8446, 5.1.
const RECORD_HEADER: usize = 5;

/// The positions where a packet or a TLS record ends in the bytes that one side of a connection
/// has sent so far. TLS records within the handshake's packets count; packets within TLS are
/// not visible.
pub(crate) fn packet_borders(sent: &[u8]) -> Vec<usize> {
    let length = |start: usize| {
        sent.get(start..start + 2)
            .map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    };
    let mut borders = Vec::new();
    let mut start = 0;
    // The rest of a record that continues in the next packet.
    let mut record_left = 0;
    while let Some(first) = sent.get(start) {
        if TLS_RECORDS.contains(first) {
            let Some(payload) = length(start + 3) else { break };
            start += RECORD_HEADER + payload;
            borders.push(start);
            continue;
        }
        let Some(packet) = length(start + 2) else { break };
        let end = start + packet.max(PACKET_HEADER);
        let mut inner = start + PACKET_HEADER;
        while inner < end {
            if record_left == 0 {
                match (sent.get(inner), length(inner + 3)) {
                    (Some(first), Some(payload)) if TLS_RECORDS.contains(first) => {
                        record_left = RECORD_HEADER + payload;
                    }
                    _ => break,
                }
            }
            let here = record_left.min(end - inner);
            inner += here;
            record_left -= here;
            if record_left == 0 && inner < end {
                borders.push(inner);
            }
        }
        borders.push(end);
        start = end;
    }
    borders.retain(|border| *border <= sent.len());
    borders
}

#[test]
fn borders_are_the_ends_of_packets_and_of_tls_records() {
    let prelogin = [18, 1, 0, 10, 0, 0, 0, 0, 0, 1];
    // Two records, of which the second continues in the next packet.
    let hello = [18, 0, 0, 20, 0, 0, 0, 0, 22, 3, 3, 0, 2, 7, 7, 20, 3, 3, 0, 2];
    let rest = [18, 1, 0, 10, 0, 0, 0, 0, 9, 9];
    let bare = [23, 3, 3, 0, 3, 1, 2, 3];
    let sent = [&prelogin[..], &hello, &rest, &bare, &bare].concat();
    let borders = [10, 25, 30, 40, 48, 56];
    assert_eq!(packet_borders(&sent), borders);
    for end in 0..sent.len() {
        let so_far: Vec<_> = borders.into_iter().filter(|border| *border <= end).collect();
        assert_eq!(packet_borders(&sent[..end]), so_far, "the first {end} bytes");
    }
}
