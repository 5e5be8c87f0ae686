use std::path::PathBuf;

use azure_core::http::Url;
use examples_common::settings::{self, InvalidSetting, Listen};

/// Of Blob Storage; the name that Service Connector gives it.
pub(crate) const ENDPOINT: &str = "AZURE_STORAGEBLOB_RESOURCEENDPOINT";

/// What the environment sets, beside the identity: of a user-assigned one,
/// `AZURE_CLIENT_ID`.
pub(crate) struct Config {
    /// `AZURE_POSTGRESQL_CONNECTIONSTRING`, a URL. Without it, the emulator is used.
    pub(crate) connection_string: Option<String>,
    pub(crate) photos: PhotosConfig,
    /// `LISTEN`; default 127.0.0.1:8080.
    pub(crate) listen: Listen,
}

/// Where photos are kept.
pub(crate) struct PhotosConfig {
    /// [`ENDPOINT`]: `https://ACCOUNT.blob.core.windows.net/`.
    pub(crate) endpoint: Option<Url>,
    /// `PHOTOS_CONTAINER`; default `photos`.
    pub(crate) container: String,
    /// `PHOTOS_CA_FILE`: the certificate (PEM) that a local stand-in for Blob Storage
    /// is to be verified with.
    pub(crate) ca_file: Option<PathBuf>,
    /// `PHOTOS_FOLDER`, where there is no endpoint. Without it, they go with the
    /// process.
    pub(crate) folder: Option<PathBuf>,
}

impl Config {
    pub(crate) fn from_env() -> Result<Self, InvalidSetting> {
        Ok(Self {
            connection_string: settings::optional(settings::POSTGRES)?,
            photos: PhotosConfig {
                endpoint: settings::optional(ENDPOINT)?,
                container: settings::optional("PHOTOS_CONTAINER")?
                    .unwrap_or_else(|| "photos".to_owned()),
                ca_file: settings::optional("PHOTOS_CA_FILE")?,
                folder: settings::optional("PHOTOS_FOLDER")?,
            },
            listen: settings::listen()?,
        })
    }
}
