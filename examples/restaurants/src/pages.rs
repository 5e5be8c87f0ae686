use examples_common::{html::Page, problem::FieldError};
use maud::{Markup, html};

use crate::{
    database::{Restaurant, Review},
    entry::{RestaurantEntry, ReviewEntry},
};

pub(crate) fn restaurants(restaurants: &[Restaurant]) -> Page {
    let content = html! {
        @if restaurants.is_empty() {
            p { "None yet." }
        } @else {
            table {
                thead { tr { th { "Name" } th { "Rating" } th { "Reviews" } } }
                tbody {
                    @for restaurant in restaurants {
                        tr {
                            td { a href={ "/restaurants/" (restaurant.id) } { (restaurant.name) } }
                            td { (rating(restaurant.average_rating)) }
                            td { (restaurant.reviews) }
                        }
                    }
                }
            }
        }
        p { a href="/restaurants/new" { "Add a restaurant" } }
    };
    Page::new("Restaurants", content)
}

fn rating(average: Option<f64>) -> String {
    average.map_or_else(|| "–".to_owned(), |average| format!("{average:.1}"))
}

fn reviews_of(restaurant: &Restaurant) -> String {
    match restaurant.reviews {
        1 => "1 review".to_owned(),
        number => format!("{number} reviews"),
    }
}

pub(crate) fn restaurant(restaurant: &Restaurant, reviews: &[Review]) -> Page {
    let content = html! {
        p { (restaurant.description) }
        p { "Rating: " (rating(restaurant.average_rating)) " (" (reviews_of(restaurant)) ")" }
        p { a href={ "/restaurants/" (restaurant.id) "/reviews/new" } { "Add a review" } }
        @for review in reviews {
            article {
                h2 { (review.rating) " of 5, by " (review.reviewer) " on " (review.written_on) }
                @for line in review.content.lines() { p { (line) } }
                @if let Some(photo) = review.photo {
                    img src={ "/photos/" (photo) } alt={ "Photo by " (review.reviewer) };
                }
            }
        }
        p { a href="/" { "All restaurants" } }
    };
    Page::new(restaurant.name.as_str(), content)
}

/// The form, with what was entered, and what is wrong with it.
pub(crate) fn restaurant_form(entry: &RestaurantEntry, errors: &[FieldError]) -> Page {
    let content = html! {
        form method="post" action="/restaurants" {
            label {
                "Name (up to 50 characters)"
                input name="name" value=(entry.name);
            }
            (wrong_with("name", errors))
            label {
                "Description (up to 250 characters)"
                (textarea("description", &entry.description))
            }
            (wrong_with("description", errors))
            p { button { "Add" } }
        }
        p { a href="/" { "All restaurants" } }
    };
    Page::new("Add a restaurant", content)
}

/// The same for a review. A browser does not keep the photo; the page says so.
pub(crate) fn review_form(
    restaurant: &Restaurant,
    entry: &ReviewEntry,
    errors: &[FieldError],
) -> Page {
    let content = html! {
        form method="post" action={ "/restaurants/" (restaurant.id) "/reviews" }
            enctype="multipart/form-data" {
            label {
                "Your name (up to 50 characters)"
                input name="reviewer" value=(entry.reviewer);
            }
            (wrong_with("reviewer", errors))
            label {
                "Rating"
                select name="rating" {
                    option value="" { "choose" }
                    @for rating in 1..=5 {
                        option selected[entry.rating == rating.to_string()] { (rating) }
                    }
                }
            }
            (wrong_with("rating", errors))
            label {
                "Review (up to 500 characters)"
                (textarea("content", &entry.content))
            }
            (wrong_with("content", errors))
            label {
                "Photo (JPEG, PNG, GIF or WebP, up to 2 MB)"
                input type="file" name="photo" accept="image/jpeg,image/png,image/gif,image/webp";
            }
            (wrong_with("photo", errors))
            @if !errors.is_empty() {
                p { "A photo has to be chosen once more." }
            }
            p { button { "Add" } }
        }
        p { a href={ "/restaurants/" (restaurant.id) } { "Back" } }
    };
    Page::new(format!("Review {}", restaurant.name), content)
}

/// A first line end in it is not shown by browsers: so there is one to spare.
fn textarea(name: &str, text: &str) -> Markup {
    html! { textarea name=(name) rows="5" { "\n" (text) } }
}

fn wrong_with(field: &str, errors: &[FieldError]) -> Markup {
    html! {
        @for error in errors.iter().filter(|error| error.field == field) {
            p.error role="alert" { (error.detail) }
        }
    }
}
