//! Searches the memory of this process for secrets, without storing a complete one.

use std::{fs::File, io::Read, ops::Range, os::unix::fs::FileExt};

/// The length of a secret: nearly the largest size that glibc's malloc caches. Few blocks have
/// that size, so a freed one is seldom reused.
pub const LENGTH: usize = 1020;

/// The offset of the searched bytes in a secret: the first bytes of freed blocks are
/// overwritten.
const FROM: usize = 500;

/// The number of searched bytes.
const WINDOW: usize = 64;

/// The number of bytes that are kept before a copy.
const BEFORE: usize = 2 * LENGTH;

/// The number of bytes that are kept after a copy.
const AFTER: usize = 32;

/// Two chunks of memory overlap by twice this. A copy in the first half is found in the first
/// chunk, a copy in the second half in the second chunk.
const EDGE: usize = 4096;

/// Needles are stored masked, so that the scanner does not find them.
const MASK: u8 = 0x80;

macro_rules! secrets {
    ($($name:ident,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Secret {
            $($name,)*
        }

        const ALL: &[Secret] = &[$(Secret::$name,)*];
    };
}

secrets! {
    Control,
    ControlWide,
    ControlDropped,
    ControlZeroised,
    Environment,
    Pipelines,
    AdoNet,
    AdoNetQuoted,
    Url,
    UrlParameter,
    Jdbc,
    PostgresUrl,
    PostgresParameter,
    PostgresPairs,
    Given,
    Certificate,
    CertificatePassword,
    AzToken,
    AzOther,
    AzdToken,
    AppServiceHeader,
    AppServiceToken,
    AppServiceOther,
    ArcKey,
    ArcToken,
    FabricHeader,
    FabricToken,
    ImdsToken,
    Password,
    TokenFile,
    Assertion,
    SystemAccessToken,
    EntraToken,
    AzureSqlToken,
    PostgresToken,
}

impl Secret {
    /// Computes the character at this position from the secret and the position alone.
    fn byte(self, at: usize) -> u8 {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut mixed = (self as u64 + 1) << 32 | at as u64;
        for factor in [0xbf58_476d_1ce4_e5b9_u64, 0x94d0_49bb_1331_11eb] {
            mixed = (mixed ^ mixed >> 29).wrapping_mul(factor);
        }
        LETTERS[usize::try_from(mixed >> 58).unwrap()]
    }

    /// Appends the secret to `text`, which has the capacity for it.
    pub fn write(self, text: &mut String) {
        text.extend((0..LENGTH).map(|at| char::from(self.byte(at))));
    }

    /// Whether `text` is this secret.
    pub fn is(self, text: &str) -> bool {
        text.len() == LENGTH && text.bytes().enumerate().all(|(at, byte)| byte == self.byte(at))
    }
}

/// A copy of a secret.
pub struct Hit {
    pub secret: Secret,
    /// The bytes before the copy, and the bytes after it.
    around: [Vec<u8>; 2],
}

impl Hit {
    /// Whether this text is before or after the copy.
    pub fn is_next_to(&self, text: &str) -> bool {
        let is_in = |bytes: &Vec<u8>| bytes.windows(text.len()).any(|it| it == text.as_bytes());
        self.around.iter().any(is_in)
    }
}

/// A masked byte sequence to search for.
struct Needle {
    secret: Secret,
    /// The number of bytes for each character.
    step: usize,
    masked: [u8; WINDOW],
}

/// The buffers of the search, allocated once: a search must not reuse freed blocks.
pub struct Scanner {
    needles: Vec<Needle>,
    by_first: Vec<Vec<usize>>,
    memory: File,
    maps: String,
    buffer: Vec<u8>,
    pub hits: Vec<Hit>,
}

impl Scanner {
    pub fn new() -> Self {
        let needles: Vec<Needle> = ALL
            .iter()
            .flat_map(|secret| [1, 2].map(|step| (*secret, step)))
            .map(|(secret, step)| {
                let masked = std::array::from_fn(|at| secret.byte(FROM + at) ^ MASK);
                Needle { secret, step, masked }
            })
            .collect();
        let mut by_first: Vec<Vec<usize>> = vec![Vec::new(); 256];
        for (at, needle) in needles.iter().enumerate() {
            by_first[usize::from(needle.masked[0] ^ MASK)].push(at);
        }
        Self {
            needles,
            by_first,
            memory: File::open("/proc/self/mem").unwrap(),
            maps: String::with_capacity(1 << 20),
            buffer: vec![0; 1 << 20],
            hits: Vec::with_capacity(1_000),
        }
    }

    /// Finds all copies in private, writable memory that is not mapped to a file, except for the
    /// main thread's stack, which is next to the environment.
    pub fn scan(&mut self) {
        let Self { needles, by_first, memory, maps, buffer, hits } = self;
        maps.clear();
        hits.clear();
        File::open("/proc/self/maps").unwrap().read_to_string(maps).unwrap();
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
            let path = fields.nth(3).unwrap_or_default();
            if !rights.starts_with("rw-p") || !(path.is_empty() || path == "[heap]") {
                continue;
            }
            let (start, end) = range.split_once('-').unwrap();
            let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
            let mut from = start;
            loop {
                let length = usize::try_from(end - from).unwrap().min(buffer.len());
                let is_last = from + length as u64 == end;
                let first = if from == start { 0 } else { EDGE };
                let places = first..if is_last { length } else { length - EDGE };
                // If this fails, the memory is no longer mapped.
                if memory.read_exact_at(&mut buffer[..length], from).is_ok() {
                    let own = buffer.as_ptr() as u64;
                    let own = own..own + buffer.len() as u64;
                    look(&buffer[..length], places, from, &own, needles, by_first, hits);
                }
                if is_last {
                    break;
                }
                from += (length - 2 * EDGE) as u64;
            }
        }
    }
}

fn look(
    bytes: &[u8],
    places: Range<usize>,
    from: u64,
    own: &Range<u64>,
    needles: &[Needle],
    by_first: &[Vec<usize>],
    hits: &mut Vec<Hit>,
) {
    for at in places {
        for needle in &by_first[usize::from(bytes[at])] {
            let Needle { secret, step, masked } = &needles[*needle];
            let Some(window) = bytes.get(at..at + WINDOW * step) else { continue };
            let matches = masked
                .iter()
                .zip(window.chunks(*step))
                .all(|(masked, c)| c[0] ^ MASK == *masked && c[1..].iter().all(|byte| *byte == 0));
            if matches && !own.contains(&(from + at as u64)) {
                // The start of the secret.
                let begin = at.saturating_sub(FROM * step);
                let before = &bytes[begin.saturating_sub(BEFORE)..begin];
                let after = bytes[begin..].iter().skip(LENGTH * step).take(AFTER);
                let around = [before.to_vec(), after.copied().collect()];
                hits.push(Hit { secret: *secret, around });
            }
        }
    }
}
