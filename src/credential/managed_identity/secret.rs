use bytes::Bytes;
use reqwest::header::HeaderValue;
use zeroize::Zeroizing;

/// A secret in the header of a request.
pub(super) struct Secret {
    /// Overwritten in memory when the last clone is dropped.
    header: HeaderValue,
    /// The length of the text before the secret.
    scheme: usize,
}

impl Secret {
    /// Returns `None` if the text is not valid in a header. `scheme` is the text before the secret.
    pub(super) fn new(scheme: &str, text: &str) -> Option<Self> {
        let value = Zeroizing::new([scheme, text].concat().into_bytes());
        let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(value)).ok()?;
        header.set_sensitive(true);
        // This fails unless all characters are ASCII.
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
