//! Uses the pages in a browser.

use std::{
    fs,
    path::{Path, PathBuf},
};

use examples_test_support::{Application, Browser, World};

/// In the order of the reviews.
const DISHES: [&str; 3] = ["soup.png", "salad.png", "cake.png"];

struct Session {
    _world: World,
    _photos: tempfile::TempDir,
    application: Application,
    browser: Browser,
}

impl Session {
    async fn start() -> Self {
        let world = World::with_postgres(include_str!("../setup.sql")).await;
        let photos = tempfile::tempdir().unwrap();
        let mut environment = world.environment();
        environment.push(("PHOTOS_FOLDER", photos.path().display().to_string()));
        let application = Application::start(env!("CARGO_BIN_EXE_restaurants"), environment).await;
        let browser = Browser::start().await;
        browser.open(application.address()).await;
        Self { _world: world, _photos: photos, application, browser }
    }

    async fn open(&self, path: &str) {
        self.browser.open(&format!("{}{path}", self.application.address())).await;
    }

    /// Checks a page's accessibility, and takes its picture for the README.
    async fn shows(&self, name: &str) {
        self.browser.is_accessible().await;
        self.browser.screenshot(&folder("screenshots").join(format!("{name}.png"))).await;
    }

    async fn add_restaurant(&self, name: &str, description: &str) {
        self.open("/restaurants/new").await;
        self.browser.type_into("#name", name).await;
        self.browser.type_into("#description", description).await;
        self.browser.follow("button").await;
        assert_eq!(self.browser.text("h1").await, name);
    }

    async fn add_review(&self, reviewer: &str, rating: u8, content: &str, photo: &str) {
        self.browser.follow("a[href$='/reviews/new']").await;
        self.browser.type_into("#reviewer", reviewer).await;
        self.browser.click(&format!("[name=rating][value='{rating}']")).await;
        self.browser.type_into("#content", content).await;
        let photo = folder("tests/photos").join(photo);
        self.browser.type_into("#photo", photo.to_str().unwrap()).await;
        self.browser.follow("button").await;
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[tokio::test]
async fn a_browser_adds_restaurants_and_reviews_with_photos() {
    let session = Session::start().await;
    let browser = &session.browser;
    assert!(browser.text("main").await.contains("no restaurants yet"));
    browser.is_accessible().await;
    for (name, description) in [
        ("Bistro Claude", "Small plates, natural wine, and a terrace under two old plane trees."),
        ("Da Claim", "Wood-fired pizza and fresh pasta. Closed on Mondays."),
        ("Golden Wok", "Hand-pulled noodles, dumplings, and a long list of teas."),
        ("Harbour Kitchen", "The catch of the day, grilled in front of you."),
        ("Token & Sons", "A corner café: breakfast all day, and cake until it is gone."),
        ("Zum Ochsen", "Soup, bread baked on site, and beer from the village brewery."),
    ] {
        session.add_restaurant(name, description).await;
    }
    for (reviewer, rating, content, photo) in [
        ("Ann", 5, "The onion soup is worth the trip.\nAsk for the bread.", DISHES[0]),
        ("Boris", 4, "Good salad, friendly people. It gets loud after eight.", DISHES[1]),
        ("Çelik", 4, "Stay for the cake.", DISHES[2]),
    ] {
        session.add_review(reviewer, rating, content, photo).await;
    }
    assert_eq!(browser.text("article h3").await, "Çelik");
    let written = browser.text("article time").await;
    assert_eq!(written.split(' ').count(), 3, "{written}");
    let stars = browser.property("article .stars", "ariaLabel").await;
    assert_eq!(stars, "4 of 5 stars");
    browser.load_images().await;
    assert_eq!(browser.property(".photos img", "naturalWidth").await, 480);
    session.shows("restaurant").await;

    session.open("/").await;
    assert_eq!(browser.text(".card:last-child .rating").await, "4.3\n3 reviews");
    session.shows("list").await;
    assert_eq!(browser.logged_errors().await, [""; 0]);
}

#[tokio::test]
async fn a_browser_keeps_the_entry_and_shows_the_errors() {
    let session = Session::start().await;
    let browser = &session.browser;
    session.open("/restaurants/new").await;
    session.shows("restaurant-form").await;
    let name = "Zum \"Ochsen\" <b>";
    browser.type_into("#name", name).await;
    browser.type_into("#description", &"x".repeat(251)).await;
    assert_eq!(browser.text("#description + .counter").await, "1 character too many");
    browser.follow("button").await;
    let error = "Description must have at most 250 characters, but has 251";
    assert_eq!(browser.text(".summary li").await, error);
    assert_eq!(browser.text("#description-error").await, error);
    let focus = browser.run("return document.activeElement.className").await;
    assert_eq!(focus, "summary");
    assert_eq!(browser.property("#name", "value").await, name);
    let kept = browser.property("#description", "value").await;
    assert_eq!(kept.as_str().map(str::len), Some(251), "{kept}");
    assert_eq!(browser.logged_errors().await.len(), 1, "the status of the form's response");
    session.shows("error").await;
    // A backspace makes it fit.
    browser.type_into("#description", "\u{e003}").await;
    browser.follow("button").await;
    assert_eq!(browser.text("h1").await, name);
    // A word of 250 characters does not make the page wider than its window.
    browser.is_accessible().await;

    // The script does not send a photo that is too large.
    let large = tempfile::NamedTempFile::with_suffix(".png").unwrap();
    fs::write(large.path(), vec![0; 3 * 1024 * 1024]).unwrap();
    browser.follow("a[href$='/reviews/new']").await;
    session.shows("review-form").await;
    browser.type_into("#photo", large.path().to_str().unwrap()).await;
    let said = browser.property("#photo", "validationMessage").await;
    assert_eq!(said, "This photo has 3.0 MB. Choose one of at most 2.0 MB.");
    // Without the script, the browser sends it, and the server shows the form again.
    browser.run("document.querySelector('#photo').setCustomValidity('')").await;
    browser.type_into("#reviewer", "Ann").await;
    browser.click("[name=rating][value='4']").await;
    browser.follow("button").await;
    assert_eq!(browser.text(".summary li").await, "Photo must have at most 2 MB");
    assert_eq!(browser.property("#reviewer", "value").await, "Ann");
    assert_eq!(browser.property("[name=rating][value='4']", "checked").await, true);
    browser.is_accessible().await;

    for path in ["/restaurants/7", "/?after=7", "/?page=2"] {
        session.open(path).await;
        browser.is_accessible().await;
    }
}
