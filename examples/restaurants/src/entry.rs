//! What is entered into the forms, as it came and as it is taken.

use examples_common::{
    entry::{Check, Limit},
    problem::FieldError,
};
use serde::Deserialize;

const NAME: Limit = Limit::Characters(50);
const DESCRIPTION: Limit = Limit::Characters(250);
const CONTENT: Limit = Limit::Characters(500);

/// What came for a restaurant. What is missing is empty.
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
            name: check.required("name", &self.name, NAME),
            description: check.required("description", &self.description, DESCRIPTION),
        };
        check.passed(new)
    }
}

/// What came for a review, but for the photo. What is missing is empty.
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
        let reviewer = check.required("reviewer", &self.reviewer, NAME);
        let rating = match self.rating.trim().parse() {
            Ok(rating @ 1..=5) => rating,
            _ => {
                check.wrong("rating", "a number from 1 to 5 is needed");
                0
            }
        };
        let content = check.text("content", &self.content, CONTENT);
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

    fn fields<T: std::fmt::Debug>(outcome: Result<T, Vec<FieldError>>) -> Vec<&'static str> {
        outcome.unwrap_err().iter().map(|error| error.field).collect()
    }

    #[test]
    fn lengths_are_those_of_characters() {
        let (fits, too_long) = ("🍜".repeat(50), "🍜".repeat(51));
        assert_eq!(restaurant(&fits, &"é".repeat(250)).unwrap().name, fits);
        let errors = restaurant(&too_long, &"é".repeat(251)).unwrap_err();
        assert_eq!(errors[0].detail, "50 characters are the most, not 51");
        assert_eq!(errors[1].detail, "250 characters are the most, not 251");
        assert!(review("Ann", "5", &"a\r\n".repeat(250)).is_ok());
        assert_eq!(fields(review("Ann", "5", &"a".repeat(501))), ["content"]);
        assert_eq!(fields(review(&too_long, "5", "")), ["reviewer"]);
    }

    #[test]
    fn what_is_required_is_not_to_be_blank() {
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
    fn what_postgresql_does_not_take_is_not_sent_to_it() {
        assert_eq!(fields(restaurant("a\0b", "soup")), ["name"]);
        assert_eq!(fields(review("Ann", "5", "a\u{1b}b")), ["content"]);
        assert_eq!(review("Ann", "5", "a\tb\nc").unwrap().content, "a\tb\nc");
    }
}
