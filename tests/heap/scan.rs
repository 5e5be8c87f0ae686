//! The memory of this process, searched for secrets that nowhere stand whole.

use std::{fs::File, io::Read, os::unix::fs::FileExt};

/// The length of a secret.
pub const LENGTH: usize = 700;

/// What is looked for: the bytes from here on, because freed blocks are written into from
/// their beginning …
const FROM: usize = 500;

/// … so many of them.
const WINDOW: usize = 64;

/// What stands before is kept for this long.
const BEFORE: usize = 1024;

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
    Builder,
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
    before: Vec<u8>,
}

impl Hit {
    /// Whether this text stands before it.
    pub fn is_behind(&self, text: &str) -> bool {
        self.before.windows(text.len()).any(|window| window == text.as_bytes())
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
            while from < end {
                let length = usize::try_from(end - from).unwrap().min(buffer.len());
                // What is read in pieces overlaps.
                let step = if length < buffer.len() { length } else { length - 2 * BEFORE };
                // It is not there any more.
                if memory.read_exact_at(&mut buffer[..length], from).is_ok() {
                    let own = buffer.as_ptr() as u64;
                    let own = own..own + buffer.len() as u64;
                    look(&buffer[..length], from, &own, needles, by_first, hits);
                }
                from += u64::try_from(step).unwrap();
            }
        }
    }
}

fn look(
    bytes: &[u8],
    from: u64,
    own: &std::ops::Range<u64>,
    needles: &[Needle],
    by_first: &[Vec<usize>],
    hits: &mut Vec<Hit>,
) {
    for (at, byte) in bytes.iter().enumerate() {
        for needle in &by_first[usize::from(*byte)] {
            let Needle { secret, step, masked } = &needles[*needle];
            let Some(window) = bytes.get(at..at + WINDOW * step) else { continue };
            let is_it = masked
                .iter()
                .zip(window.chunks(*step))
                .all(|(masked, c)| c[0] ^ MASK == *masked && c[1..].iter().all(|byte| *byte == 0));
            if is_it && !own.contains(&(from + at as u64)) {
                // Where the secret begins.
                let begin = at.saturating_sub(FROM * step);
                let before = bytes[begin.saturating_sub(BEFORE)..begin].to_vec();
                hits.push(Hit { secret: *secret, before });
            }
        }
    }
}
