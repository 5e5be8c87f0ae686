//! What is entered: taken, or refused with what is wrong.

use examples_common::testing::{Answer, Application};
use reqwest::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    PROGRAM, environment,
    forms::{PNG, Review, add_restaurant, link, page},
    start,
    visit::visit,
    world,
};

#[tokio::test]
async fn restaurants_and_reviews_are_shown_once_added() {
    let world = world().await;
    let application = start(&world).await;
    visit(&application).await;
    let asked = world.emulator.identity().received();
    let client_id = world.emulator.user_assigned().client_id.as_str();
    assert_eq!(asked.last().unwrap().query_value("client_id"), Some(client_id));
}

#[tokio::test]
async fn without_database_and_photos_it_brings_its_own() {
    let application = Application::start(PROGRAM, []).await.as_browser();
    visit(&application).await;
    let log = application.log();
    assert!(log.contains("the emulator runs in this process"), "{log}");
    assert!(log.contains("no place for photos is configured"), "{log}");
}

#[tokio::test]
async fn what_is_wrong_is_said_and_the_entry_kept() {
    let world = world().await;
    let application = start(&world).await;
    let long = "é".repeat(251);
    let form = add_restaurant(&application, "", &long).await;
    assert!(page(&form, 422).contains("this is needed"), "{form:?}");
    assert!(form.text.contains("250 characters are the most, not 251"), "{form:?}");
    assert!(form.text.contains(&format!("\n{long}</textarea>")), "{form:?}");
    assert!(page(&application.get("/").await, 200).contains("None yet."));

    let added = add_restaurant(&application, &"é".repeat(50), &"🍜".repeat(250)).await;
    let restaurant = link(&added, "/restaurants/").trim_end_matches("/reviews/new").to_owned();
    let long = "x".repeat(501);
    let form = Review { reviewer: "Ann", rating: "4", content: &long, photo: b"<svg/>" };
    let form = form.add(&application, &restaurant).await;
    assert!(page(&form, 422).contains("500 characters are the most, not 501"), "{form:?}");
    assert!(form.text.contains("this is no JPEG, PNG, GIF or WebP"), "{form:?}");
    assert!(form.text.contains("value=\"Ann\""), "{form:?}");
    assert!(form.text.contains("<option selected>4</option>"), "{form:?}");
    assert!(form.text.contains(&format!("\n{long}</textarea>")), "{form:?}");
    let form = Review { rating: "6", ..Review::default() }.add(&application, &restaurant).await;
    assert!(page(&form, 422).contains("a number from 1 to 5 is needed"), "{form:?}");
    assert!(page(&application.get(&restaurant).await, 200).contains("(0 reviews)"));
}

#[tokio::test]
async fn markup_and_quotes_are_text() {
    const EVIL: &str = "<script>alert('1')</script>\"'; DROP--";
    const SHOWN: &str = "&lt;script&gt;alert('1')&lt;/script&gt;&quot;'; DROP--";
    let world = world().await;
    let application = start(&world).await;
    let added = add_restaurant(&application, EVIL, EVIL).await;
    assert_eq!(page(&added, 200).matches(SHOWN).count(), 3, "{added:?}");
    let restaurant = link(&added, "/restaurants/").trim_end_matches("/reviews/new").to_owned();
    let review = Review { reviewer: EVIL, rating: "1", content: EVIL, photo: PNG };
    let pages = [
        review.add(&application, &restaurant).await,
        Review { rating: "", ..review }.add(&application, &restaurant).await,
        add_restaurant(&application, EVIL, "").await,
        application.get("/").await,
    ];
    for page in pages {
        assert!(page.text.contains(SHOWN), "{page:?}");
        assert!(!page.text.contains("<script"), "{page:?}");
    }
}

#[tokio::test]
async fn a_photo_that_is_too_large_is_told_on_the_form_or_before_it_is_sent() {
    let world = world().await;
    let application = start(&world).await;
    let added = add_restaurant(&application, "Anker", "Fish").await;
    let restaurant = link(&added, "/restaurants/").trim_end_matches("/reviews/new").to_owned();
    let mut photo = PNG.to_vec();
    photo.resize(2 * 1024 * 1024, 0);
    let review = Review { reviewer: "Ann", rating: "4", content: "Big", photo: &photo };
    let shown = review.add(&application, &restaurant).await;
    let stored = application.get(link(&shown, "/photos/")).await;
    assert_eq!(stored.body, photo);

    let too_large = [photo.as_slice(), b"\0"].concat();
    let form = Review { photo: &too_large, ..review }.add(&application, &restaurant).await;
    assert!(page(&form, 422).contains("a photo may have 2 MB at most"), "{form:?}");
    assert!(form.text.contains("value=\"Ann\""), "{form:?}");

    // Only the length is sent, so that the answer cannot get lost on the way.
    let address = application.address().trim_start_matches("http://");
    let head = format!(
        "POST {restaurant}/reviews HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: multipart/form-data; boundary=edge\r\ncontent-length: 17000000\r\n\r\n"
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("this is too large"), "{answer}");
}

#[tokio::test]
async fn what_is_not_there_is_told_on_a_page() {
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
    let application = Application::start(PROGRAM, environment(&world)).await;
    let fields = |answer: Answer| {
        assert_eq!(answer.problem(422), "the entry is not valid");
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
async fn what_is_no_form_is_refused() {
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
