//! Reads the bytes of a message, never past its end.

/// The bytes break the protocol; the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

impl From<Malformed> for std::io::Error {
    fn from(error: Malformed) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// A cursor over a message's bytes.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; the error names `what` they are.
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) fn malformed<T>(&self) -> Result<T, Malformed> {
        Err(Malformed(self.what))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return self.malformed();
        };
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take returns N bytes"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u16_be(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// Text of `bytes` bytes in UTF-16LE.
    pub(crate) fn utf16(&mut self, bytes: usize) -> Result<String, Malformed> {
        let taken = self.take(bytes)?;
        if taken.len() % 2 != 0 {
            return self.malformed();
        }
        let units = taken.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        char::decode_utf16(units).collect::<Result<_, _>>().or_else(|_| self.malformed())
    }

    /// `B_VARCHAR`: the number of UTF-16 units in one byte, then the units.
    pub(crate) fn b_varchar(&mut self) -> Result<String, Malformed> {
        let units = self.u8()?;
        self.utf16(usize::from(units) * 2)
    }

    /// UTF-16 text as `B_VARBYTE`: its length in bytes in one byte, then the text.
    pub(crate) fn b_varbyte(&mut self) -> Result<String, Malformed> {
        let bytes = self.u8()?;
        self.utf16(usize::from(bytes))
    }
}

/// Writes `text` as `B_VARCHAR`.
pub(crate) fn put_b_varchar(out: &mut Vec<u8>, text: &str) {
    let units = utf16(text);
    out.push((units.len() / 2) as u8);
    out.extend(units);
}

/// Encodes `text` as UTF-16LE.
pub(crate) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
