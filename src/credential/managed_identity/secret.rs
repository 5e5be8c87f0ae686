use bytes::Bytes;
use reqwest::header::HeaderValue;
use zeroize::Zeroizing;

/// What a request carries in a header and nobody is to see.
pub(super) struct Secret {
    /// Overwritten when its last clone is dropped.
    header: HeaderValue,
    /// The length of what stands before the secret.
    scheme: usize,
}

impl Secret {
    /// `None` if it cannot stand in a header. `scheme`: what stands before it
    /// there.
    pub(super) fn new(scheme: &str, text: &str) -> Option<Self> {
        let value = Zeroizing::new([scheme, text].concat().into_bytes());
        let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(value)).ok()?;
        header.set_sensitive(true);
        // Of ASCII, that is.
        header.to_str().ok()?;
        Some(Self { header, scheme: scheme.len() })
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    pub(super) fn text(&self) -> &str {
        self.header.to_str().unwrap_or_default().get(self.scheme..).unwrap_or_default()
    }
}
