//! Forms, with the entry and its errors.

use examples_common::{html::Page, problem::FieldError};
use maud::{Markup, html};

use crate::{
    database::Restaurant,
    entry::{CONTENT, DESCRIPTION, NAME, RestaurantEntry, ReviewEntry},
    pages::navigation,
    upload::{PHOTO_LIMIT, PHOTO_MB},
};

/// A field of a form.
struct Field<'a> {
    name: &'a str,
    label: &'a str,
    hint: String,
    errors: &'a [FieldError],
}

pub(crate) fn restaurant(entry: &RestaurantEntry, errors: &[FieldError]) -> Page {
    let fields = [
        Field { name: "name", label: "Name", hint: up_to(NAME), errors },
        Field { name: "description", label: "Description", hint: up_to(DESCRIPTION), errors },
    ];
    let [name, description] = &fields;
    let content = html! {
        form method="post" action="/restaurants" {
            (summary(&fields))
            (name.line(&entry.name, NAME, "off"))
            (description.lines(&entry.description, DESCRIPTION))
            p { button { "Add the restaurant" } }
        }
        script src="/form.js" defer {}
    };
    Page::new("Add a restaurant", content).navigation(navigation())
}

/// A browser does not keep the photo of a submitted form, so the page asks for it again.
pub(crate) fn review(restaurant: &Restaurant, entry: &ReviewEntry, errors: &[FieldError]) -> Page {
    let mut hint = format!("JPEG, PNG, GIF or WebP, up to {PHOTO_MB} MB. Optional.");
    if !errors.is_empty() {
        hint += " Choose the photo again: browsers do not keep it.";
    }
    let fields = [
        Field { name: "reviewer", label: "Your name", hint: up_to(NAME), errors },
        Field { name: "rating", label: "Rating", hint: String::new(), errors },
        Field { name: "content", label: "Review", hint: up_to(CONTENT) + " Optional.", errors },
        Field { name: "photo", label: "Photo", hint, errors },
    ];
    let [reviewer, rating, content, photo] = &fields;
    let page = format!("/restaurants/{}", restaurant.id);
    let form = html! {
        form method="post" action={ (page) "/reviews" } enctype="multipart/form-data" {
            (summary(&fields))
            (reviewer.line(&entry.reviewer, NAME, "name"))
            (ratings(rating, &entry.rating))
            (content.lines(&entry.content, CONTENT))
            (photo.around(html! {
                input #photo type="file" name="photo" data-bytes=(PHOTO_LIMIT)
                    accept="image/jpeg,image/png,image/gif,image/webp"
                    aria-describedby=(photo.described_by()) aria-invalid=(photo.is_wrong());
            }))
            p {
                button { "Add the review" }
                a.cancel href=(page) { "Cancel" }
            }
        }
        script src="/form.js" defer {}
    };
    Page::new(format!("Review {}", restaurant.name), form).navigation(navigation())
}

fn up_to(characters: usize) -> String {
    format!("Up to {characters} characters.")
}

/// The errors of all fields, each a link to its field. The summary has the focus when the page
/// opens, so that screen readers read it first.
fn summary(fields: &[Field<'_>]) -> Markup {
    html! {
        @if fields.iter().any(Field::is_wrong) {
            div.summary role="alert" tabindex="-1" autofocus {
                h2 { "This cannot be added yet" }
                ul {
                    @for field in fields {
                        @for error in field.wrong() {
                            li { a href={ "#" (field.name) } { (field.label) " " (error.detail) } }
                        }
                    }
                }
            }
        }
    }
}

fn ratings(field: &Field<'_>, chosen: &str) -> Markup {
    const MEANINGS: [&str; 5] = ["poor", "fair", "good", "very good", "excellent"];
    html! {
        fieldset #rating tabindex="-1" aria-describedby="rating-error" {
            legend { (field.label) }
            (field.explained())
            div.choices {
                @for (rating, meaning) in (1..).zip(MEANINGS) {
                    label {
                        input type="radio" name="rating" value=(rating) required
                            checked[chosen == rating.to_string()];
                        span { (rating) " – " (meaning) }
                    }
                }
            }
        }
    }
}

impl Field<'_> {
    fn wrong(&self) -> impl Iterator<Item = &FieldError> {
        self.errors.iter().filter(|error| error.field == self.name)
    }

    fn is_wrong(&self) -> bool {
        self.wrong().next().is_some()
    }

    fn described_by(&self) -> String {
        format!("{0}-hint {0}-error", self.name)
    }

    /// `control` with its label, hint and errors.
    fn around(&self, control: Markup) -> Markup {
        html! {
            div.field {
                label for=(self.name) { (self.label) }
                p.hint id={ (self.name) "-hint" } { (self.hint) }
                (self.explained())
                (control)
            }
        }
    }

    fn explained(&self) -> Markup {
        html! {
            div.error id={ (self.name) "-error" } {
                @for error in self.wrong() { p { (self.label) " " (error.detail) } }
            }
        }
    }

    fn line(&self, text: &str, limit: usize, autocomplete: &str) -> Markup {
        self.around(html! {
            input id=(self.name) name=(self.name) value=(text) data-characters=(limit) required
                autocomplete=(autocomplete) aria-describedby=(self.described_by())
                aria-invalid=(self.is_wrong());
        })
    }

    fn lines(&self, text: &str, limit: usize) -> Markup {
        self.around(html! {
            textarea id=(self.name) name=(self.name) rows="5" data-characters=(limit)
                required[self.name == "description"]
                aria-describedby=(self.described_by()) aria-invalid=(self.is_wrong()) {
                // A browser skips the first line end, so there is one before the text.
                "\n" (text)
            }
        })
    }
}
