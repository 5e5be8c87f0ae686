use bytes::Bytes;
use reqwest::header::HeaderValue;
use zeroize::Zeroizing;

/// A secret in the header of a request.
pub(super) struct Secret {
    /// Overwritten in memory when the last clone is dropped.
    header: HeaderValue,
    /// The length of the scheme, such as `Basic `, before the secret.
    scheme: usize,
}

impl Secret {
    /// Creates the header's value: `scheme` and the secret. `None` if a header cannot contain them.
    pub(super) fn new(scheme: &str, text: &str) -> Option<Self> {
        let value = Zeroizing::new([scheme, text].concat().into_bytes());
        let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(value)).ok()?;
        header.set_sensitive(true);
        // Refuses characters that are not ASCII.
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
