//! Entries: accepted, or refused with the reason.

use examples_test_support::{Answer, Application};
use reqwest::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    PROGRAM,
    forms::{PNG, Review, add_restaurant, link, page, restaurant_of},
    photos, start,
    visit::{pages_are_complete, visit},
    world,
};

#[tokio::test]
async fn new_restaurants_and_reviews_are_shown() {
    let world = world().await;
    let application = start(&world).await;
    visit(&application).await;
    let asked = world.emulator.identity().received();
    let client_id = world.emulator.user_assigned().client_id.as_str();
    assert_eq!(asked.last().unwrap().query_value("client_id"), Some(client_id));
}

#[tokio::test]
async fn lists_have_pages() {
    let world = world().await;
    let application = start(&world).await;
    pages_are_complete(&application).await;
    for (path, status, detail) in [
        ("/?after=x", 422, "after must be a whole number"),
        ("/?after=999", 404, "there is no such restaurant"),
        ("/?page=2", 422, "page is not a parameter of this page"),
        ("/restaurants/1?before=-1", 422, "before must be a whole number"),
        ("/restaurants/1?after=1", 422, "after is not a parameter of this page"),
    ] {
        let answer = application.get(path).await;
        assert!(page(&answer, status).contains(detail), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn an_invalid_entry_is_kept_and_explained() {
    let world = world().await;
    let application = start(&world).await;
    let long = "é".repeat(251);
    let form = add_restaurant(&application, "", &long).await;
    assert!(page(&form, 422).contains("Name must not be empty"), "{form:?}");
    assert!(
        form.text.contains("Description must have at most 250 characters, but has 251"),
        "{form:?}"
    );
    assert!(form.text.contains(&format!("\n{long}</textarea>")), "{form:?}");
    assert!(page(&application.get("/").await, 200).contains("There are no restaurants yet."));

    let added = add_restaurant(&application, &"é".repeat(50), &"🍜".repeat(250)).await;
    let restaurant = restaurant_of(&added).to_owned();
    let long = "x".repeat(501);
    let form = Review { reviewer: "Ann", rating: "4", content: &long, photo: b"<svg/>" };
    let form = form.add(&application, &restaurant).await;
    assert!(
        page(&form, 422).contains("Review must have at most 500 characters, but has 501"),
        "{form:?}"
    );
    assert!(form.text.contains("Photo must be a JPEG, PNG, GIF or WebP image"), "{form:?}");
    assert!(form.text.contains("value=\"Ann\""), "{form:?}");
    assert!(form.text.contains("value=\"4\" required checked>"), "{form:?}");
    assert!(form.text.contains(&format!("\n{long}</textarea>")), "{form:?}");
    let form = Review { rating: "6", ..Review::default() }.add(&application, &restaurant).await;
    assert!(page(&form, 422).contains("Rating must be a whole number from 1 to 5"), "{form:?}");
    assert!(page(&application.get(&restaurant).await, 200).contains("No reviews yet"));
}

#[tokio::test]
async fn markup_and_quotes_are_text() {
    const EVIL: &str = "<script>alert('1')</script>\"'; DROP--";
    const SHOWN: &str = "&lt;script&gt;alert('1')&lt;/script&gt;&quot;'; DROP--";
    let world = world().await;
    let application = start(&world).await;
    let added = add_restaurant(&application, EVIL, EVIL).await;
    assert_eq!(page(&added, 200).matches(SHOWN).count(), 3, "{added:?}");
    let restaurant = restaurant_of(&added).to_owned();
    let review = Review { reviewer: EVIL, rating: "1", content: EVIL, photo: PNG };
    let pages = [
        review.add(&application, &restaurant).await,
        Review { rating: "", ..review }.add(&application, &restaurant).await,
        add_restaurant(&application, EVIL, "").await,
        application.get("/").await,
    ];
    for page in pages {
        assert!(page.text.contains(SHOWN), "{page:?}");
        assert!(!page.text.contains("<script>alert"), "{page:?}");
    }
}

#[tokio::test]
async fn the_form_keeps_its_entry_if_the_photo_is_too_large() {
    let world = world().await;
    let application = start(&world).await;
    let added = add_restaurant(&application, "Anker", "Fish").await;
    let restaurant = restaurant_of(&added).to_owned();
    let mut photo = PNG.to_vec();
    photo.resize(2 * 1024 * 1024, 0);
    let review = Review { reviewer: "Ann", rating: "4", content: "Big", photo: &photo };
    let shown = review.add(&application, &restaurant).await;
    let stored = application.get(link(&shown, "/photos/")).await;
    assert_eq!(stored.body, photo);

    let too_large = [photo.as_slice(), b"\0"].concat();
    let form = Review { photo: &too_large, ..review }.add(&application, &restaurant).await;
    let is_kept = |form: &str| {
        ["Photo must have at most 2 MB", "value=\"Ann\"", "value=\"4\" required checked", "\nBig<"]
            .iter()
            .all(|part| form.contains(part))
    };
    assert!(is_kept(page(&form, 422)), "{form:?}");

    // Longer than the server reads. The client reads while it sends, as browsers do.
    let address = application.address().trim_start_matches("http://");
    let field = |name: &str, value: &str| {
        format!("--edge\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let fields = field("reviewer", "Ann") + &field("rating", "4") + &field("content", "Big");
    let photo = field("photo\"; filename=\"me.png", "");
    let head = format!(
        "POST {restaurant}/reviews HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         accept: text/html\r\ncontent-type: multipart/form-data; boundary=edge\r\n\
         content-length: 50000000\r\n\r\n{fields}{}",
        photo.trim_end_matches("\r\n")
    );
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let send = async {
        writer.write_all(head.as_bytes()).await.unwrap();
        let megabyte = vec![0; 1024 * 1024];
        // The server stops reading at some point.
        while writer.write_all(&megabyte).await.is_ok() {}
    };
    let receive = async {
        let mut answer = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        while !String::from_utf8_lossy(&answer).contains("</html>") {
            let length = reader.read(&mut chunk).await.expect("the response arrives");
            assert!(length > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&chunk[..length]);
        }
        String::from_utf8(answer).unwrap()
    };
    let answer = tokio::select! {
        answer = receive => answer,
        () = async { send.await; std::future::pending().await } => unreachable!(),
    };
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(is_kept(&answer), "{answer}");
}

#[tokio::test]
async fn an_unknown_address_is_a_page() {
    let world = world().await;
    let application = start(&world).await;
    for path in
        ["/restaurants/1", "/restaurants/x", "/restaurants/99999999999999999999/reviews/new"]
    {
        let answer = application.get(path).await;
        assert!(page(&answer, 404).contains("there is no such restaurant"), "{path}");
    }
    let review = Review { reviewer: "Ann", rating: "4", photo: PNG, ..Review::default() };
    page(&review.add(&application, "/restaurants/7").await, 404);
    for path in [
        "/photos/0123456789abcdef0123456789abcdef.png",
        "/photos/..%2f..%2fetc%2fpasswd",
        "/photos/x",
    ] {
        let answer = application.get(path).await;
        assert!(page(&answer, 404).contains("there is no such photo"), "{path}");
    }
}

#[tokio::test]
async fn programs_get_problem_documents_where_browsers_get_pages() {
    let world = world().await;
    let mut environment = world.environment();
    environment.push(("PHOTOS_FOLDER", photos()));
    let application = Application::start(PROGRAM, environment).await;
    let fields = |answer: Answer| {
        answer.problem(422);
        let errors = answer.json()["errors"].as_array().unwrap().clone();
        errors.into_iter().map(|error| error["field"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        fields(add_restaurant(&application, "", &"x".repeat(251)).await),
        ["name", "description"]
    );
    add_restaurant(&application, "Anker", "Fish").await;
    let review = Review { rating: "6", photo: b"<svg/>", ..Review::default() };
    let answer = review.add(&application, "/restaurants/1").await;
    assert_eq!(fields(answer), ["reviewer", "rating", "photo"]);
    assert_eq!(application.get("/restaurants/7").await.problem(404), "there is no such restaurant");
    application.get("/nothing").await.problem(404);
    application.get("/photos/%ff").await.problem(400);
    let answer = application.send(Method::DELETE, "/restaurants/1", "", "").await;
    answer.problem(405);
    assert_eq!(answer.header("allow"), "GET,HEAD");
    let answer = application.send(Method::POST, "/restaurants", "application/json", "{}").await;
    answer.problem(415);
    world.emulator.postgres().go_away().await.unwrap();
    application.get("/").await.problem(503);

    let application = application.as_browser();
    page(&application.get("/nothing").await, 404);
    page(&application.get("/photos/%ff").await, 400);
    let answer = application.send(Method::DELETE, "/restaurants/1", "", "").await;
    page(&answer, 405);
    assert_eq!(answer.header("allow"), "GET,HEAD");
}

#[tokio::test]
async fn requests_other_than_the_form_are_refused() {
    let world = world().await;
    let application = start(&world).await;
    add_restaurant(&application, "Anker", "Fish").await;
    let answer = application.send(Method::POST, "/restaurants", "application/json", "{}").await;
    page(&answer, 415);
    let none = Method::POST;
    let answer = application.send(none, "/restaurants/1/reviews", "text/plain", "x").await;
    page(&answer, 400);
    let cut = "multipart/form-data; boundary=edge";
    let answer = application.send(Method::POST, "/restaurants/1/reviews", cut, "--edge\r\n").await;
    page(&answer, 400);
}
