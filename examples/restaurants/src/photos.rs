use std::{error::Error, fs, io, path::PathBuf, sync::Arc, time::Duration};

use azure_core::{
    Bytes,
    error::ErrorKind,
    http::{ClientOptions, ExponentialRetryOptions, RetryOptions, StatusCode, Transport},
};
use azure_storage_blob::{
    BlobContainerClient, BlobServiceClient, BlobServiceClientOptions,
    models::BlobClientUploadOptions,
};
use entra_pool::token::{Identity, TokenError};
use examples_common::{BoxError, Problem, settings::InvalidSetting};
use tempfile::TempDir;

use crate::{
    config::{ENDPOINT, PhotosConfig},
    image::PhotoName,
};

/// Where photos are kept: in a container of Blob Storage, or, on a developer's
/// machine, in a folder.
#[derive(Clone)]
pub(crate) enum Photos {
    Container(Arc<BlobContainerClient>),
    Folder(PathBuf),
    /// Gone with the process.
    Temporary(Arc<TempDir>),
}

impl Photos {
    /// By `identity`, which is the database's as well.
    pub(crate) fn open(config: PhotosConfig, identity: Identity) -> Result<Self, BoxError> {
        Ok(match (config.endpoint, config.folder) {
            (Some(endpoint), _) => {
                let transport = transport(config.ca_file)
                    .map_err(|error| InvalidSetting::new("PHOTOS_CA_FILE", error))?;
                let client_options = ClientOptions {
                    transport: Some(transport),
                    retry: retries(),
                    ..ClientOptions::default()
                };
                let options = BlobServiceClientOptions {
                    client_options,
                    ..BlobServiceClientOptions::default()
                };
                let service =
                    BlobServiceClient::new(endpoint, Some(Arc::new(identity)), Some(options))
                        .map_err(|error| InvalidSetting::new(ENDPOINT, error))?;
                Self::Container(Arc::new(service.blob_container_client(&config.container)))
            }
            (None, Some(folder)) => {
                fs::create_dir_all(&folder)
                    .map_err(|error| InvalidSetting::new("PHOTOS_FOLDER", error))?;
                Self::Folder(folder)
            }
            (None, None) => {
                tracing::warn!("no place for photos is configured: they go with this process");
                Self::Temporary(Arc::new(tempfile::tempdir()?))
            }
        })
    }

    /// Makes the container, where it is not there yet: for a stand-in on a developer's
    /// machine. In Azure somebody with more rights than the application does that, once.
    pub(crate) async fn set_up(&self) -> Result<(), BoxError> {
        let Self::Container(container) = self else { return Ok(()) };
        match container.create(None).await {
            Err(error) if error.http_status() != Some(StatusCode::Conflict) => {
                Err(InvalidSetting::new(ENDPOINT, error).into())
            }
            _ => Ok(()),
        }
    }

    pub(crate) async fn put(&self, name: PhotoName, photo: Vec<u8>) -> Result<(), Problem> {
        match self.place(name) {
            Place::Blob(container) => {
                let options = BlobClientUploadOptions {
                    blob_content_type: Some(name.content_type().to_owned()),
                    ..BlobClientUploadOptions::default()
                };
                let blob = container.blob_client(&name.to_string());
                blob.upload(Bytes::from(photo).into(), Some(options))
                    .await
                    .map_err(blob_problem)?;
            }
            Place::File(path) => tokio::fs::write(path, photo).await.map_err(file_problem)?,
        }
        Ok(())
    }

    /// `None` if there is none of this name.
    pub(crate) async fn get(&self, name: PhotoName) -> Result<Option<Vec<u8>>, Problem> {
        match self.place(name) {
            Place::Blob(container) => {
                let blob = container.blob_client(&name.to_string());
                let read = async {
                    let download = blob.download(None).await?;
                    download.body.collect().await
                };
                match read.await {
                    Ok(bytes) => Ok(Some(bytes.into())),
                    Err(error) if error.http_status() == Some(StatusCode::NotFound) => Ok(None),
                    Err(error) => Err(blob_problem(error)),
                }
            }
            Place::File(path) => match tokio::fs::read(path).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(file_problem(error)),
            },
        }
    }

    fn place(&self, name: PhotoName) -> Place<'_> {
        match self {
            Self::Container(container) => Place::Blob(container),
            Self::Folder(folder) => Place::File(folder.join(name.to_string())),
            Self::Temporary(folder) => Place::File(folder.path().join(name.to_string())),
        }
    }
}

/// Of one photo.
enum Place<'a> {
    Blob(&'a BlobContainerClient),
    File(PathBuf),
}

/// As the SDK's own, but for what a page's visitor will wait for, and the certificate
/// of a local stand-in.
fn transport(ca_file: Option<PathBuf>) -> Result<Transport, BoxError> {
    let mut client = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
        // Ranges are those of the bytes that are stored.
        .no_gzip()
        .no_deflate();
    if let Some(path) = ca_file {
        client = client.add_root_certificate(reqwest::Certificate::from_pem(&fs::read(path)?)?);
    }
    Ok(Transport::new(Arc::new(client.build()?)))
}

fn retries() -> RetryOptions {
    RetryOptions::exponential(ExponentialRetryOptions {
        max_retries: 2,
        max_total_elapsed: azure_core::time::Duration::seconds(10),
        ..ExponentialRetryOptions::default()
    })
}

fn blob_problem(error: azure_core::Error) -> Problem {
    let transient = match error.kind() {
        ErrorKind::Connection | ErrorKind::Io => true,
        ErrorKind::Credential => token_error(&error).is_some_and(TokenError::is_transient),
        ErrorKind::HttpResponse { status, .. } => {
            matches!(u16::from(*status), 408 | 429 | 500..=599)
        }
        _ => false,
    };
    if transient {
        tracing::warn!(error = &error as &dyn Error, "Blob Storage is not available");
        Problem::unavailable("the photos are not available now")
    } else {
        Problem::of(&error, false)
    }
}

fn token_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TokenError> {
    match error.downcast_ref() {
        Some(error) => Some(error),
        None => token_error(error.source()?),
    }
}

fn file_problem(error: io::Error) -> Problem {
    Problem::of(&error, false)
}
