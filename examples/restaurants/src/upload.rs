//! The form with a photo.

use axum::{
    extract::multipart::{Field, Multipart, MultipartError},
    http::StatusCode,
};
use examples_common::problem::FieldError;

use crate::{entry::ReviewEntry, image::ImageType};

/// The largest photo, in MB.
pub(crate) const PHOTO_MB: usize = 2;

/// The largest photo, in bytes.
pub(crate) const PHOTO_LIMIT: usize = PHOTO_MB * 1024 * 1024;

/// The largest other field, in bytes: more than the checks accept.
const TEXT_LIMIT: usize = 16 * 1024;

/// The largest request, in bytes. It is larger than the largest photo, so that the form can be
/// shown again after the upload of a photo that is too large.
pub(crate) const UPLOAD_LIMIT: usize = 32 * 1024 * 1024;

/// A review's form. Each field is truncated at its limit.
#[derive(Default)]
pub(crate) struct Upload {
    pub(crate) entry: ReviewEntry,
    /// One byte more than the limit if the photo is too large.
    photo: Vec<u8>,
    /// The request was larger than [`UPLOAD_LIMIT`], and was read up to there.
    pub(crate) is_cut: bool,
}

impl Upload {
    pub(crate) async fn read(form: Multipart) -> Result<Self, MultipartError> {
        let mut upload = Self::default();
        match upload.read_fields(form).await {
            Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => upload.is_cut = true,
            read => read?,
        }
        Ok(upload)
    }

    async fn read_fields(&mut self, mut form: Multipart) -> Result<(), MultipartError> {
        while let Some(field) = form.next_field().await? {
            match field.name() {
                Some("reviewer") => self.entry.reviewer = text(field).await?,
                Some("rating") => self.entry.rating = text(field).await?,
                Some("content") => self.entry.content = text(field).await?,
                Some("photo") => read(field, PHOTO_LIMIT + 1, &mut self.photo).await?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The photo and its type, if there is one: browsers send an empty file if none was chosen.
    pub(crate) fn photo(&self) -> Result<Option<(&[u8], ImageType)>, FieldError> {
        let error = |detail: &str| FieldError { field: "photo".to_owned(), detail: detail.into() };
        if self.is_cut || self.photo.len() > PHOTO_LIMIT {
            return Err(error(&format!("must have at most {PHOTO_MB} MB")));
        }
        if self.photo.is_empty() {
            return Ok(None);
        }
        match ImageType::of(&self.photo) {
            Some(image_type) => Ok(Some((&self.photo, image_type))),
            None => Err(error("must be a JPEG, PNG, GIF or WebP image")),
        }
    }
}

async fn text(field: Field<'_>) -> Result<String, MultipartError> {
    let mut bytes = Vec::new();
    read(field, TEXT_LIMIT, &mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Keeps as much of a field as `limit` allows, and discards the rest.
async fn read(
    mut field: Field<'_>,
    limit: usize,
    kept: &mut Vec<u8>,
) -> Result<(), MultipartError> {
    while let Some(chunk) = field.chunk().await? {
        let room = limit - kept.len();
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    Ok(())
}
