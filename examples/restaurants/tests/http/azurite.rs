//! Tests with Azurite, Microsoft's stand-in for Blob Storage, if it is installed: `azurite-blob` is
//! in PATH (`npm install --global azurite`), or `ENTRA_POOL_TEST_AZURITE` is its path.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use entra_pool::token::Scope;
use entra_pool_emulator::identity::Received;
use examples_test_support::{Application, Process, World};
use reqwest::{Certificate, Client, Method, Response};
use tempfile::TempDir;

use crate::{
    PROGRAM,
    forms::{PNG, Review, add_restaurant, link, page},
    visit::visit,
    world,
};

const ACCOUNT: &str = "restaurants";

struct Azurite {
    _process: Process,
    endpoint: String,
    _folder: TempDir,
}

impl Azurite {
    /// Starts Azurite with a certificate of the emulator's authority. It accepts only Entra tokens,
    /// and checks their audience, issuer and times.
    async fn start(program: &Path, world: &World) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificate = world.emulator.authority().issue(&["127.0.0.1"]).unwrap();
        certificate.write_to(folder.path()).unwrap();
        let mut command = Command::new(program);
        command
            .args(["--oauth", "basic", "--cert", "server.crt", "--key", "server.key"])
            .args(["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"])
            .args(["--blobPort", "0", "--silent"])
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:c2VjcmV0"))
            .current_dir(folder.path());
        let (process, url) = Process::start(&mut command, "successfully listens on ").await;
        Self { _process: process, endpoint: format!("{url}/{ACCOUNT}"), _folder: folder }
    }

    /// Sends a request with the test's identity, which is also the application's.
    async fn ask(&self, world: &World, method: Method, path: &str) -> Response {
        let scope = Scope::new("https://storage.azure.com/.default").unwrap();
        let token = world.identity.tokens(scope).token().await.unwrap();
        let ca = Certificate::from_pem(&std::fs::read(world.emulator.ca_path()).unwrap()).unwrap();
        let client = Client::builder().no_proxy().add_root_certificate(ca).build().unwrap();
        let request = client.request(method, format!("{}/{path}", self.endpoint));
        let request = request.header("x-ms-version", "2021-12-02").header("content-length", "0");
        request.bearer_auth(token.secret()).send().await.unwrap()
    }
}

/// The path of the program, if it is installed.
fn installed() -> Option<PathBuf> {
    let named = std::env::var_os("ENTRA_POOL_TEST_AZURITE").map(PathBuf::from);
    named.or_else(|| {
        let path = std::env::var_os("PATH")?;
        let mut programs = std::env::split_paths(&path).map(|folder| folder.join("azurite-blob"));
        programs.find(|program| program.exists())
    })
}

#[tokio::test]
async fn photos_are_stored_in_blob_storage_with_the_databases_identity() {
    let Some(program) = installed() else {
        eprintln!("skipped: Azurite is not installed");
        return;
    };
    let world = world().await;
    let azurite = Azurite::start(&program, &world).await;
    let created = azurite.ask(&world, Method::PUT, "photos?restype=container").await;
    assert_eq!(created.status(), 201, "{created:?}");

    let mut environment = world.environment();
    let ca = world.emulator.ca_path().display().to_string();
    environment.push(("AZURE_STORAGEBLOB_RESOURCEENDPOINT", azurite.endpoint.clone()));
    environment.push(("PHOTOS_CA_FILE", ca));
    let application = Application::start(PROGRAM, environment).await.as_browser();
    visit(&application).await;

    let list = application.get("/").await;
    let at = list.text.find("href=\"/restaurants/1\"").map(|_| "/restaurants/1");
    let restaurant = at.expect("the first one is listed").to_owned();
    let review = Review { reviewer: "Eve", rating: "3", photo: PNG, ..Review::default() };
    let shown = review.add(&application, &restaurant).await;
    let photo = link(&shown, "/photos/").to_owned();
    let blob = azurite.ask(&world, Method::GET, photo.trim_start_matches('/')).await;
    assert_eq!(blob.headers()["content-type"], "image/png");
    assert_eq!(&blob.bytes().await.unwrap()[..], PNG);
    let absent = application.get("/photos/0123456789abcdef0123456789abcdef.png").await;
    page(&absent, 404);

    // One identity requested the tokens for both services.
    let asked = world.emulator.identity().received();
    let client_id = world.emulator.user_assigned().client_id.as_str();
    for resource in ["https://storage.azure.com", "https://ossrdbms-aad.database.windows.net"] {
        let is_it = |asked: &Received| asked.query_value("resource") == Some(resource);
        assert!(asked.iter().any(is_it), "{asked:?}");
    }
    assert!(asked.iter().all(|asked| asked.query_value("client_id") == Some(client_id)));

    drop(azurite);
    page(&application.get(&photo).await, 503);
    let unavailable = review.add(&application, &restaurant).await;
    assert!(page(&unavailable, 503).contains("the photos are unavailable"));
    assert!(unavailable.header("retry-after").parse::<u64>().unwrap() >= 1);
    // The database is still available.
    page(&add_restaurant(&application, "Anker", "Fish").await, 200);
    page(&Review { photo: b"", ..review }.add(&application, &restaurant).await, 200);
}
