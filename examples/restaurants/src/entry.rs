//! The entries of the forms, before and after the checks.

use examples_common::{
    entry::{Check, Limit},
    problem::FieldError,
};
use serde::Deserialize;

/// The maximum number of characters of each field, as `setup.sql` declares its column.
pub(crate) const NAME: usize = 50;
pub(crate) const DESCRIPTION: usize = 250;
pub(crate) const CONTENT: usize = 500;

/// The entry for a restaurant. A missing field is empty.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RestaurantEntry {
    pub(crate) name: String,
    pub(crate) description: String,
}

#[derive(Debug, PartialEq)]
pub(crate) struct NewRestaurant {
    pub(crate) name: String,
    pub(crate) description: String,
}

impl RestaurantEntry {
    pub(crate) fn check(&self) -> Result<NewRestaurant, Vec<FieldError>> {
        let mut check = Check::default();
        let new = NewRestaurant {
            name: check.required("name", &self.name, Limit::Characters(NAME)),
            description: check.required(
                "description",
                &self.description,
                Limit::Characters(DESCRIPTION),
            ),
        };
        check.passed(new)
    }
}

/// The entry for a review, without the photo. A missing field is empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReviewEntry {
    pub(crate) reviewer: String,
    pub(crate) rating: String,
    pub(crate) content: String,
}

#[derive(Debug, PartialEq)]
pub(crate) struct NewReview {
    pub(crate) reviewer: String,
    pub(crate) rating: i16,
    pub(crate) content: String,
}

impl ReviewEntry {
    pub(crate) fn check(&self) -> Result<NewReview, Vec<FieldError>> {
        let mut check = Check::default();
        let reviewer = check.required("reviewer", &self.reviewer, Limit::Characters(NAME));
        let rating = check.number("rating", &self.rating, 1..=5) as i16;
        let content = check.text("content", &self.content, Limit::Characters(CONTENT));
        check.passed(NewReview { reviewer, rating, content })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restaurant(name: &str, description: &str) -> Result<NewRestaurant, Vec<FieldError>> {
        RestaurantEntry { name: name.into(), description: description.into() }.check()
    }

    fn review(reviewer: &str, rating: &str, content: &str) -> Result<NewReview, Vec<FieldError>> {
        let (reviewer, rating, content) = (reviewer.into(), rating.into(), content.into());
        ReviewEntry { reviewer, rating, content }.check()
    }

    fn fields<T: std::fmt::Debug>(outcome: Result<T, Vec<FieldError>>) -> Vec<String> {
        outcome.unwrap_err().into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn lengths_count_characters() {
        let (fits, too_long) = ("🍜".repeat(50), "🍜".repeat(51));
        assert_eq!(restaurant(&fits, &"é".repeat(250)).unwrap().name, fits);
        let errors = restaurant(&too_long, &"é".repeat(251)).unwrap_err();
        assert_eq!(errors[0].detail, "must have at most 50 characters, but has 51");
        assert_eq!(errors[1].detail, "must have at most 250 characters, but has 251");
        assert!(review("Ann", "5", &"a\r\n".repeat(250)).is_ok());
        assert_eq!(fields(review("Ann", "5", &"a".repeat(501))), ["content"]);
        assert_eq!(fields(review(&too_long, "5", "")), ["reviewer"]);
    }

    #[test]
    fn a_required_field_is_not_blank() {
        assert_eq!(fields(restaurant(" \t", "\r\n")), ["name", "description"]);
        assert_eq!(fields(review("", "", "")), ["reviewer", "rating"]);
        assert_eq!(review(" Ann ", "5", "").unwrap().reviewer, "Ann");
    }

    #[test]
    fn ratings_are_from_1_to_5() {
        for rating in ["1", "5", " 3 "] {
            assert!(review("Ann", rating, "").is_ok(), "{rating}");
        }
        for rating in ["0", "6", "-1", "4.5", "five", "65537"] {
            assert_eq!(fields(review("Ann", rating, "")), ["rating"], "{rating}");
        }
    }

    #[test]
    fn control_characters_are_refused() {
        assert_eq!(fields(restaurant("a\0b", "soup")), ["name"]);
        assert_eq!(fields(review("Ann", "5", "a\u{1b}b")), ["content"]);
        assert_eq!(review("Ann", "5", "a\tb\nc").unwrap().content, "a\tb\nc");
    }
}
