//! Against Azurite, Microsoft's stand-in for Blob Storage, where it is installed: its
//! `azurite-blob` is in PATH (`npm install --global azurite`), or
//! `ENTRA_POOL_TEST_AZURITE` says where it is.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use entra_pool::token::Scope;
use entra_pool_emulator::identity::Received;
use examples_common::testing::{Application, World};
use reqwest::{Certificate, Client, Method, Response};
use tempfile::TempDir;

use crate::{
    PROGRAM, environment,
    forms::{PNG, Review, add_restaurant, link, page},
    visit::visit,
    world,
};

const ACCOUNT: &str = "restaurants";

/// Killed, by its ID, when this goes.
struct Azurite {
    process: Child,
    endpoint: String,
    _folder: TempDir,
}

impl Azurite {
    /// With a certificate of the emulator's authority, and Entra tokens as the only way
    /// in: their audience, issuer and times are checked. `None` where it is not
    /// installed.
    fn start(world: &World) -> Option<Self> {
        let named = std::env::var_os("ENTRA_POOL_TEST_AZURITE");
        let program = named.clone().unwrap_or_else(|| "azurite-blob".into());
        let folder = tempfile::tempdir().unwrap();
        let certificate = world.emulator.authority().issue(&["127.0.0.1"]).unwrap();
        certificate.write_to(folder.path()).unwrap();
        let process = Command::new(program)
            .args(["--oauth", "basic", "--cert", "server.crt", "--key", "server.key"])
            .args(["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"])
            .args(["--blobPort", "0", "--silent"])
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:c2VjcmV0"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut process = match process {
            Ok(process) => process,
            Err(error) if named.is_none() => {
                eprintln!("left out: Azurite ({error})");
                return None;
            }
            Err(error) => panic!("ENTRA_POOL_TEST_AZURITE: {error}"),
        };
        let output = process.stdout.take().unwrap();
        let mut azurite = Self { process, endpoint: String::new(), _folder: folder };
        let line = BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("listens on ")?.1.trim().to_owned()));
        azurite.endpoint = format!("{}/{ACCOUNT}", line.expect("it listens"));
        Some(azurite)
    }

    /// As the identity of the test, which is the application's.
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

impl Drop for Azurite {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn photos_go_to_blob_storage_by_the_credential_of_the_database() {
    let world = world().await;
    let Some(azurite) = Azurite::start(&world) else { return };
    let created = azurite.ask(&world, Method::PUT, "photos?restype=container").await;
    assert_eq!(created.status(), 201, "{created:?}");

    let mut environment = environment(&world);
    let ca = world.emulator.ca_path().display().to_string();
    environment.push(("AZURE_STORAGEBLOB_RESOURCEENDPOINT", azurite.endpoint.clone()));
    environment.push(("PHOTOS_CA_FILE", ca));
    let application = Application::start(PROGRAM, environment).await;
    visit(&application).await;

    let restaurant = link(&application.get("/").await, "/restaurants/").to_owned();
    let review = Review { reviewer: "Eve", rating: "3", photo: PNG, ..Review::default() };
    let shown = review.add(&application, &restaurant).await;
    let photo = link(&shown, "/photos/").to_owned();
    let blob = azurite.ask(&world, Method::GET, photo.trim_start_matches('/')).await;
    assert_eq!(blob.headers()["content-type"], "image/png");
    assert_eq!(&blob.bytes().await.unwrap()[..], PNG);
    let absent = application.get("/photos/0123456789abcdef0123456789abcdef.png").await;
    page(&absent, 404);

    // Who asked for a token for the storage is who asked for the database's.
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
    assert!(page(&unavailable, 503).contains("the photos are not available now"));
    assert!(unavailable.header("retry-after").parse::<u64>().unwrap() >= 1);
    // The database is there still.
    page(&add_restaurant(&application, "Anker", "Fish").await, 200);
    page(&Review { photo: b"", ..review }.add(&application, &restaurant).await, 200);
}
