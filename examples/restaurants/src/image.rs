//! Types and names of photos.

use std::{fmt, str::FromStr};

use azure_core::Uuid;

/// A type of image that all browsers can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageType {
    Gif,
    Jpeg,
    Png,
    Webp,
}

impl ImageType {
    const ALL: [Self; 4] = [Self::Gif, Self::Jpeg, Self::Png, Self::Webp];

    /// Detects the type from the first bytes, whatever the file's name is.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            // Between the two is a length.
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::Webp),
            _ => None,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Gif => "image/gif",
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Gif => "gif",
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Webp => "webp",
        }
    }
}

/// A random name with the type's extension. No photo has any other name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PhotoName {
    id: Uuid,
    image_type: ImageType,
}

impl PhotoName {
    pub(crate) fn random(image_type: ImageType) -> Self {
        Self { id: Uuid::new_v4(), image_type }
    }

    pub(crate) fn content_type(self) -> &'static str {
        self.image_type.content_type()
    }
}

impl fmt::Display for PhotoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id.simple(), self.image_type.extension())
    }
}

impl FromStr for PhotoName {
    type Err = NotAPhoto;

    fn from_str(text: &str) -> Result<Self, NotAPhoto> {
        let (id, extension) = text.split_once('.').ok_or(NotAPhoto)?;
        let name = Self {
            id: Uuid::parse_str(id).map_err(|_| NotAPhoto)?,
            image_type: ImageType::ALL
                .into_iter()
                .find(|image_type| image_type.extension() == extension)
                .ok_or(NotAPhoto)?,
        };
        // `parse_str` also accepts forms that `Display` does not write.
        if name.to_string() == text { Ok(name) } else { Err(NotAPhoto) }
    }
}

#[derive(Debug)]
pub(crate) struct NotAPhoto;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_determine_the_type() {
        for (bytes, image_type) in [
            (&b"GIF89a\x01"[..], Some(ImageType::Gif)),
            (b"GIF87a", Some(ImageType::Gif)),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", Some(ImageType::Jpeg)),
            (b"\x89PNG\r\n\x1a\n\0", Some(ImageType::Png)),
            (b"RIFF\x24\0\0\0WEBPVP8 ", Some(ImageType::Webp)),
            (b"RIFF\x24\0\0\0WAVEfmt ", None),
            (b"\x89PNG", None),
            (b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>", None),
            (b"", None),
        ] {
            assert_eq!(ImageType::of(bytes), image_type, "{bytes:?}");
        }
    }

    #[test]
    fn other_names_are_refused() {
        for image_type in ImageType::ALL {
            let name = PhotoName::random(image_type);
            assert_eq!(name.to_string().parse::<PhotoName>().unwrap(), name);
        }
        for text in [
            "",
            "../../etc/passwd",
            "0123456789abcdef0123456789abcdef",
            "0123456789abcdef0123456789abcdef.svg",
            "0123456789ABCDEF0123456789ABCDEF.png",
            "01234567-89ab-cdef-0123-456789abcdef.png",
            "0123456789abcdef0123456789abcdef.png/..",
        ] {
            assert!(text.parse::<PhotoName>().is_err(), "{text}");
        }
    }
}
