use examples_common::html::Page;
use maud::{Markup, html};

use crate::database::{Paged, Restaurant, Review};

pub(crate) fn restaurants(restaurants: &Paged<Restaurant>, is_first: bool) -> Page {
    let next = restaurants.rows.last().filter(|_| restaurants.has_more);
    let content = html! {
        @if restaurants.rows.is_empty() {
            p.empty { "There are no restaurants yet. Add the first one." }
        }
        ul.cards {
            @for restaurant in &restaurants.rows {
                li.card {
                    h2 { a href={ "/restaurants/" (restaurant.id) } { (restaurant.name) } }
                    (rating(restaurant))
                    p.excerpt { (restaurant.description) }
                }
            }
        }
        @if !is_first || next.is_some() {
            nav.pages aria-label="Pages" {
                @if !is_first { a href="/" { "First page" } }
                @if let Some(last) = next {
                    a rel="next" href={ "/?after=" (last.id) } { "Next page" }
                }
            }
        }
    };
    Page::new("Restaurants", content).navigation(navigation())
}

pub(crate) fn restaurant(restaurant: &Restaurant, reviews: &Paged<Review>, is_first: bool) -> Page {
    let page = format!("/restaurants/{}", restaurant.id);
    let next = reviews.rows.last().filter(|_| reviews.has_more);
    let content = html! {
        (rating(restaurant))
        p.lead { (restaurant.description) }
        p { a.button href={ (page) "/reviews/new" } { "Write a review" } }
        @if reviews.rows.iter().any(|review| review.photo.is_some()) {
            h2 { "Photos" }
            ul.photos {
                @for review in &reviews.rows {
                    @if let Some(photo) = review.photo {
                        li {
                            a href={ "/photos/" (photo) } {
                                img src={ "/photos/" (photo) } alt={ "Photo by " (review.reviewer) }
                                    loading="lazy" width="320" height="240";
                            }
                        }
                    }
                }
            }
        }
        @if !reviews.rows.is_empty() {
            h2 { "Reviews" }
            @for review in &reviews.rows { (review_card(review)) }
        }
        @if !is_first || next.is_some() {
            nav.pages aria-label="Pages" {
                @if !is_first { a href=(page) { "Newest reviews" } }
                @if let Some(last) = next {
                    a rel="next" href={ (page) "?before=" (last.id) } { "Older reviews" }
                }
            }
        }
    };
    Page::new(restaurant.name.as_str(), content).navigation(navigation())
}

fn review_card(review: &Review) -> Markup {
    let date = review.written_on;
    html! {
        article.card {
            h3 { (review.reviewer) }
            p.rating {
                (stars(review.rating.into()))
                time datetime=(date) { (date.day()) " " (date.month()) " " (date.year()) }
            }
            @for line in review.content.lines() { p { (line) } }
        }
    }
}

pub(crate) fn navigation() -> Markup {
    html! {
        a href="/" { "Restaurants" }
        a href="/restaurants/new" { "Add a restaurant" }
    }
}

fn rating(restaurant: &Restaurant) -> Markup {
    html! {
        p.rating {
            @if let Some(average) = restaurant.average_rating {
                (stars(average))
                strong { (format!("{average:.1}")) }
            }
            span {
                @match restaurant.reviews {
                    0 => "No reviews yet",
                    1 => "1 review",
                    number => { (number) " reviews" }
                }
            }
        }
    }
}

/// Five stars, filled to the rating in steps of half a star. A screen reader reads the rating
/// instead.
fn stars(rating: f64) -> Markup {
    let halves = (rating * 2.0).round();
    let text = format!("{} of 5 stars", (rating * 10.0).round() / 10.0);
    html! { span class={ "stars halves-" (halves) } role="img" aria-label=(text) {} }
}
