//! The form with a photo, as it comes in.

use axum::extract::multipart::{Field, Multipart, MultipartError};
use examples_common::problem::FieldError;

use crate::{entry::ReviewEntry, image::ImageType};

/// Of a photo, in bytes.
const PHOTO_LIMIT: usize = 2 * 1024 * 1024;

/// Of any other field, in bytes: some times what would be taken.
const TEXT_LIMIT: usize = 16 * 1024;

/// Of the whole, in bytes. More than a photo may have: who sends a larger one is to
/// be told so on the form, with all that was entered.
pub(crate) const UPLOAD_LIMIT: usize = 16 * 1024 * 1024;

/// A review's form, read. No more of a field is kept than its limit.
#[derive(Default)]
pub(crate) struct Upload {
    pub(crate) entry: ReviewEntry,
    /// A byte too many, if there were too many.
    photo: Vec<u8>,
}

impl Upload {
    pub(crate) async fn read(mut form: Multipart) -> Result<Self, MultipartError> {
        let mut upload = Self::default();
        while let Some(field) = form.next_field().await? {
            match field.name() {
                Some("reviewer") => upload.entry.reviewer = text(field).await?,
                Some("rating") => upload.entry.rating = text(field).await?,
                Some("content") => upload.entry.content = text(field).await?,
                Some("photo") => upload.photo = start(field, PHOTO_LIMIT + 1).await?,
                _ => {}
            }
        }
        Ok(upload)
    }

    /// The photo and its type, if there is one: where no file was chosen, browsers
    /// send an empty one.
    pub(crate) fn photo(&self) -> Result<Option<(&[u8], ImageType)>, FieldError> {
        let error = |detail| Err(FieldError::new("photo", detail));
        if self.photo.is_empty() {
            return Ok(None);
        }
        if self.photo.len() > PHOTO_LIMIT {
            return error("a photo may have 2 MB at most");
        }
        match ImageType::of(&self.photo) {
            Some(image_type) => Ok(Some((&self.photo, image_type))),
            None => error("this is no JPEG, PNG, GIF or WebP"),
        }
    }
}

async fn text(field: Field<'_>) -> Result<String, MultipartError> {
    Ok(String::from_utf8_lossy(&start(field, TEXT_LIMIT).await?).into_owned())
}

/// As much of a field as `limit` allows; the rest is read and forgotten.
async fn start(mut field: Field<'_>, limit: usize) -> Result<Vec<u8>, MultipartError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await? {
        let room = limit - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    Ok(bytes)
}
