use std::{error::Error, fs, io, path::PathBuf, sync::Arc, time::Duration};

use azure_core::{
    Bytes,
    error::ErrorKind,
    http::{ClientOptions, ExponentialRetryOptions, RetryOptions, StatusCode, Transport, Url},
};
use azure_storage_blob::{
    BlobContainerClient, BlobServiceClient, BlobServiceClientOptions,
    models::BlobClientUploadOptions,
};
use entra_pool::token::{Identity, TokenError};
use examples_common::{BoxError, Problem, settings};

use crate::image::PhotoName;

/// `https://ACCOUNT.blob.core.windows.net/`, in Service Connector's variable.
const ENDPOINT: &str = "AZURE_STORAGEBLOB_RESOURCEENDPOINT";

/// The container; default `photos`.
const CONTAINER: &str = "PHOTOS_CONTAINER";

/// The certificate (PEM) of a local stand-in for Blob Storage.
const CA_FILE: &str = "PHOTOS_CA_FILE";

/// A folder instead of Blob Storage.
const FOLDER: &str = "PHOTOS_FOLDER";

/// The storage of photos: a container of Blob Storage, or, on a laptop, a folder.
#[derive(Clone)]
pub(crate) enum Photos {
    Container(Arc<BlobContainerClient>),
    Folder(PathBuf),
}

impl Photos {
    /// Opens the storage that the environment configures.
    pub(crate) fn open(identity: Identity) -> Result<Self, BoxError> {
        match (settings::optional(ENDPOINT)?, settings::optional::<PathBuf>(FOLDER)?) {
            (Some(endpoint), _) => Ok(Self::Container(Arc::new(container(endpoint, identity)?))),
            (None, Some(folder)) => {
                fs::create_dir_all(&folder).map_err(|error| settings::invalid(FOLDER, error))?;
                Ok(Self::Folder(folder))
            }
            (None, None) => {
                Err(format!("no storage for photos: set {ENDPOINT} or {FOLDER}").into())
            }
        }
    }

    pub(crate) async fn put(&self, name: PhotoName, photo: Vec<u8>) -> Result<(), Problem> {
        match self {
            Self::Container(container) => {
                let options = BlobClientUploadOptions {
                    blob_content_type: Some(name.content_type().to_owned()),
                    ..BlobClientUploadOptions::default()
                };
                let blob = container.blob_client(&name.to_string());
                let uploaded = blob.upload(Bytes::from(photo).into(), Some(options)).await;
                uploaded.map_err(blob_problem)?;
            }
            Self::Folder(folder) => {
                let written = tokio::fs::write(folder.join(name.to_string()), photo).await;
                written.map_err(|error| Problem::of(&error, false))?;
            }
        }
        Ok(())
    }

    /// `None` if there is no such photo.
    pub(crate) async fn get(&self, name: PhotoName) -> Result<Option<Vec<u8>>, Problem> {
        match self {
            Self::Container(container) => {
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
            Self::Folder(folder) => match tokio::fs::read(folder.join(name.to_string())).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Problem::of(&error, false)),
            },
        }
    }
}

/// The SDK's client, with the same identity as the database as its credential.
fn container(endpoint: Url, identity: Identity) -> Result<BlobContainerClient, BoxError> {
    let client_options = ClientOptions {
        transport: Some(transport().map_err(|error| settings::invalid(CA_FILE, error))?),
        retry: RetryOptions::exponential(ExponentialRetryOptions {
            max_retries: 2,
            max_total_elapsed: azure_core::time::Duration::seconds(10),
            ..ExponentialRetryOptions::default()
        }),
        ..ClientOptions::default()
    };
    let options =
        BlobServiceClientOptions { client_options, ..BlobServiceClientOptions::default() };
    let service = BlobServiceClient::new(endpoint, Some(Arc::new(identity)), Some(options))
        .map_err(|error| settings::invalid(ENDPOINT, error))?;
    let name = settings::optional::<String>(CONTAINER)?;
    Ok(service.blob_container_client(name.as_deref().unwrap_or("photos")))
}

/// Like the SDK's transport, with timeouts that suit a page, and with the certificate of a local
/// stand-in.
fn transport() -> Result<Transport, BoxError> {
    let mut client = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
        // Ranges count stored bytes, so responses must not be compressed.
        .no_gzip()
        .no_deflate();
    if let Some(path) = settings::optional::<PathBuf>(CA_FILE)? {
        client = client.add_root_certificate(reqwest::Certificate::from_pem(&fs::read(path)?)?);
    }
    Ok(Transport::new(Arc::new(client.build()?)))
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
        tracing::warn!(error = &error as &dyn Error, "Blob Storage is unavailable");
        Problem::unavailable("the photos are unavailable: try again in a moment")
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
