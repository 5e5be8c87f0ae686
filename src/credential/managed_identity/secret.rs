use reqwest::header::HeaderValue;
use zeroize::Zeroizing;

/// What a request carries in a header and nobody is to see.
pub(super) struct Secret {
    header: HeaderValue,
    /// The same, to be found in what comes back.
    text: Zeroizing<String>,
}

impl Secret {
    /// `None` if it cannot stand in a header. `scheme`: what stands before it
    /// there.
    pub(super) fn new(scheme: &str, text: &str) -> Option<Self> {
        let value = Zeroizing::new([scheme, text].concat());
        let mut header = HeaderValue::from_str(&value).ok()?;
        header.set_sensitive(true);
        Some(Self { header, text: Zeroizing::new(text.to_owned()) })
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}
