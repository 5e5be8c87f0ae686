//! Windows-1252, the code page of the collation.

/// Where Windows-1252 differs from Latin-1: 0x80 to 0x9f.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// The code page of [`COLLATION`](super::types::COLLATION); what it lacks is a
/// question mark.
pub(crate) fn windows_1252(text: &str) -> Vec<u8> {
    text.chars()
        .map(|c| match c {
            '\0'..='\u{7f}' | '\u{a0}'..='\u{ff}' => c as u8,
            _ => WINDOWS_1252.iter().position(|w| *w == c).map_or(b'?', |index| 0x80 + index as u8),
        })
        .collect()
}

pub(crate) fn from_windows_1252(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| match byte {
            0x80..=0x9f => WINDOWS_1252[usize::from(byte - 0x80)],
            _ => char::from(*byte),
        })
        .collect()
}
