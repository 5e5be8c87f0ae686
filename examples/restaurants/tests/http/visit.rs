//! A visit as it should go.

use examples_common::testing::Application;

use crate::forms::{PNG, Review, add_restaurant, link, page};

/// Adds a restaurant and two reviews, one with a photo, to a database without any.
pub(crate) async fn visit(application: &Application) {
    assert!(page(&application.get("/").await, 200).contains("None yet."));
    let form = application.get("/restaurants/new").await;
    assert!(page(&form, 200).contains("<input name=\"name\" value=\"\">"));

    let added = add_restaurant(application, " Zum Ochsen ", "Soup\r\nand bread 🍜").await;
    assert!(page(&added, 200).contains("<h1>Zum Ochsen</h1>"), "{added:?}");
    assert!(added.text.contains("Rating: – (0 reviews)"), "{added:?}");
    let restaurant = link(&added, "/restaurants/").trim_end_matches("/reviews/new").to_owned();
    let form = application.get(&format!("{restaurant}/reviews/new")).await;
    assert!(page(&form, 200).contains("<h1>Review Zum Ochsen</h1>"));

    let review = Review { reviewer: "Ann", rating: "5", content: "Good.\r\nBread!", photo: PNG };
    let shown = review.add(application, &restaurant).await;
    assert!(page(&shown, 200).contains("5 of 5, by Ann on 20"), "{shown:?}");
    assert!(shown.text.contains("Rating: 5.0 (1 review)"), "{shown:?}");
    assert!(shown.text.contains("<p>Good.</p><p>Bread!</p>"), "{shown:?}");
    let review = Review { reviewer: "Bob", rating: "2", ..Review::default() };
    let shown = review.add(application, &restaurant).await;
    assert!(page(&shown, 200).contains("Rating: 3.5 (2 reviews)"), "{shown:?}");
    let (bob, ann) = (shown.text.find("by Bob"), shown.text.find("by Ann"));
    assert!(bob < ann, "the newest first: {shown:?}");

    let photo = link(&shown, "/photos/");
    assert!(photo.ends_with(".png") && !photo.contains("me"), "{photo}");
    let photo = application.get(photo).await;
    assert_eq!((photo.status.as_u16(), photo.body.as_slice()), (200, PNG));
    assert_eq!(photo.header("content-type"), "image/png");
    assert_eq!(photo.header("x-content-type-options"), "nosniff");

    add_restaurant(application, "Anker", "Fish").await;
    let list = application.get("/").await;
    assert!(page(&list, 200).contains("Zum Ochsen</a></td><td>3.5</td><td>2</td>"), "{list:?}");
    let (anker, ochsen) = (list.text.find("Anker"), list.text.find("Zum Ochsen"));
    assert!(anker < ochsen, "by name: {list:?}");
}
