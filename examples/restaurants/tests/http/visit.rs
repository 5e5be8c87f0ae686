//! A visit without errors.

use examples_test_support::Application;

use crate::forms::{PNG, Review, add_restaurant, link, page, restaurant_of};

/// Adds a restaurant and two reviews, one with a photo, to an empty database.
pub(crate) async fn visit(application: &Application) {
    assert!(page(&application.get("/").await, 200).contains("There are no restaurants yet."));
    let form = application.get("/restaurants/new").await;
    assert!(page(&form, 200).contains("<input id=\"name\" name=\"name\" value=\"\""));

    let added = add_restaurant(application, " Zum Ochsen ", "Soup\r\nand bread 🍜").await;
    assert!(page(&added, 200).contains("<h1>Zum Ochsen</h1>"), "{added:?}");
    assert!(added.text.contains("No reviews yet"), "{added:?}");
    let restaurant = restaurant_of(&added).to_owned();
    let form = application.get(&format!("{restaurant}/reviews/new")).await;
    assert!(page(&form, 200).contains("<h1>Review Zum Ochsen</h1>"));

    let review = Review { reviewer: "Ann", rating: "5", content: "Good.\r\nBread!", photo: PNG };
    let shown = review.add(application, &restaurant).await;
    assert!(page(&shown, 200).contains("<h3>Ann</h3>"), "{shown:?}");
    assert!(shown.text.contains("aria-label=\"5 of 5 stars\""), "{shown:?}");
    assert!(shown.text.contains("1 review<"), "{shown:?}");
    assert!(shown.text.contains("<p>Good.</p><p>Bread!</p>"), "{shown:?}");
    let review = Review { reviewer: "Bob", rating: "2", ..Review::default() };
    let shown = review.add(application, &restaurant).await;
    assert!(page(&shown, 200).contains("<strong>3.5</strong>"), "{shown:?}");
    assert!(shown.text.contains("2 reviews<"), "{shown:?}");
    let (bob, ann) = (shown.text.find("<h3>Bob"), shown.text.find("<h3>Ann"));
    assert!(bob < ann, "the newest first: {shown:?}");

    let photo = link(&shown, "/photos/");
    assert!(photo.ends_with(".png") && !photo.contains("me"), "{photo}");
    let photo = application.get(photo).await;
    assert_eq!((photo.status.as_u16(), photo.body.as_slice()), (200, PNG));
    assert_eq!(photo.header("content-type"), "image/png");
    assert_eq!(photo.header("x-content-type-options"), "nosniff");

    add_restaurant(application, "Anker", "Fish").await;
    let list = application.get("/").await;
    assert!(page(&list, 200).contains("aria-label=\"3.5 of 5 stars\""), "{list:?}");
    let (anker, ochsen) = (list.text.find("Anker"), list.text.find("Zum Ochsen"));
    assert!(anker < ochsen, "by name: {list:?}");
}

/// Adds restaurants and reviews, follows the pages, and finds each entry once.
pub(crate) async fn pages_are_complete(application: &Application) {
    let mut restaurant = String::new();
    for number in 0..30 {
        // Some have the same name, but different IDs.
        let name = format!("Paged {:02}", number / 2 * 2);
        restaurant = restaurant_of(&add_restaurant(application, &name, "x").await).to_owned();
    }
    for number in 0..30 {
        let reviewer = format!("Paged {number:02}");
        let review = Review { reviewer: &reviewer, rating: "3", ..Review::default() };
        review.add(application, &restaurant).await;
    }
    for (first, row) in [("/", "\">Paged "), (&*restaurant, "<h3>Paged ")] {
        let (mut path, mut rows, mut pages) = (first.to_owned(), Vec::new(), 0);
        loop {
            let shown = application.get(&path).await;
            let text = page(&shown, 200);
            rows.extend(text.split(row).skip(1).map(|rest| rest[..2].to_owned()));
            pages += 1;
            match text.split_once("rel=\"next\" href=\"") {
                Some((_, next)) => path = next.split('"').next().unwrap().to_owned(),
                None => break,
            }
        }
        if first != "/" {
            rows.reverse();
        }
        let expected: Vec<String> = (0..30)
            .map(|number| if first == "/" { number / 2 * 2 } else { number })
            .map(|number| format!("{number:02}"))
            .collect();
        assert_eq!((pages, rows), (3, expected), "{first}");
    }
}
