//! The memory of this process, searched for secrets that nowhere stand whole.

use std::{fs::File, io::Read, ops::Range, os::unix::fs::FileExt};

/// The length of a secret: nearly as long as what glibc's malloc caches by size. Few
/// blocks have that size, so a freed one is seldom written into again.
pub const LENGTH: usize = 1020;

/// What is looked for: the bytes from here on, because freed blocks are written into from
/// their beginning …
const FROM: usize = 500;

/// … so many of them.
const WINDOW: usize = 64;

/// What stands before is kept for this long.
const BEFORE: usize = 2 * LENGTH;

/// What stands after is kept for this long.
const AFTER: usize = 32;

/// Two pieces of memory overlap by twice this. A copy in the first half is found in the
/// first piece, a copy in the second half in the second piece.
const EDGE: usize = 4096;

/// At rest, needles are not what they look for.
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
    /// A letter or digit that follows from the secret and the place alone.
    fn byte(self, at: usize) -> u8 {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut mixed = (self as u64 + 1) << 32 | at as u64;
        for factor in [0xbf58_476d_1ce4_e5b9_u64, 0x94d0_49bb_1331_11eb] {
            mixed = (mixed ^ mixed >> 29).wrapping_mul(factor);
        }
        LETTERS[usize::try_from(mixed >> 58).unwrap()]
    }

    /// Puts it behind what is in `text`, which has room for it.
    pub fn write(self, text: &mut String) {
        text.extend((0..LENGTH).map(|at| char::from(self.byte(at))));
    }

    /// Whether this is its text.
    pub fn is(self, text: &str) -> bool {
        text.len() == LENGTH && text.bytes().enumerate().all(|(at, byte)| byte == self.byte(at))
    }
}

/// A copy.
pub struct Hit {
    pub secret: Secret,
    /// What stands before it, and what stands after it.
    around: [Vec<u8>; 2],
}

impl Hit {
    /// Whether this text stands before or after it.
    pub fn is_next_to(&self, text: &str) -> bool {
        let is_in = |bytes: &Vec<u8>| bytes.windows(text.len()).any(|it| it == text.as_bytes());
        self.around.iter().any(is_in)
    }
}

/// What is looked for in one go, masked.
struct Needle {
    secret: Secret,
    /// Bytes from one character to the next.
    step: usize,
    masked: [u8; WINDOW],
}

/// What is needed to look, made once: blocks that were freed are to stay as they are.
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

    /// Finds all copies in memory that is private, writable and of no file, but for the
    /// first thread's stack, above which the environment is.
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
                // It is not there any more.
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
            let is_it = masked
                .iter()
                .zip(window.chunks(*step))
                .all(|(masked, c)| c[0] ^ MASK == *masked && c[1..].iter().all(|byte| *byte == 0));
            if is_it && !own.contains(&(from + at as u64)) {
                // Where the secret begins.
                let begin = at.saturating_sub(FROM * step);
                let before = &bytes[begin.saturating_sub(BEFORE)..begin];
                let after = bytes[begin..].iter().skip(LENGTH * step).take(AFTER);
                let around = [before.to_vec(), after.copied().collect()];
                hits.push(Hit { secret: *secret, around });
            }
        }
    }
}
