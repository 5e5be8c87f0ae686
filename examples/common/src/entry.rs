//! Checks the entries of a person or a program.

use std::ops::RangeInclusive;

use crate::problem::FieldError;

/// The longest text that a column accepts.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// In characters, as PostgreSQL counts them in `varchar`.
    Characters(usize),
    /// In UTF-16 units, as Azure SQL counts them in `nvarchar`.
    Utf16(usize),
}

/// Checks an entry field by field, and collects the errors.
#[derive(Debug, Default)]
pub struct Check {
    errors: Vec<FieldError>,
}

impl Check {
    /// Returns the text without surrounding spaces, and with `\n` as its line ends.
    pub fn text(&mut self, field: &str, entered: &str, limit: Limit) -> String {
        // Browsers send a line end as two characters, but count it as one.
        let text = entered.replace("\r\n", "\n").trim().to_owned();
        let (length, longest) = match limit {
            Limit::Characters(longest) => (text.chars().count(), longest),
            Limit::Utf16(longest) => (text.encode_utf16().count(), longest),
        };
        if length > longest {
            self.wrong(field, format!("must have at most {longest} characters, but has {length}"));
        }
        // PostgreSQL, for example, refuses NUL.
        if text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
            self.wrong(field, "must not contain control characters");
        }
        text
    }

    /// Like [`text`](Self::text), but the text must not be empty.
    pub fn required(&mut self, field: &str, entered: &str, limit: Limit) -> String {
        let text = self.text(field, entered, limit);
        if text.is_empty() {
            self.wrong(field, "must not be empty");
        }
        text
    }

    /// Returns a whole number in this range; its lowest number if the entry is wrong.
    pub fn number(&mut self, field: &str, entered: &str, range: RangeInclusive<i32>) -> i32 {
        match entered.trim().parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let (least, most) = range.into_inner();
                let bounds = match most {
                    i32::MAX => String::new(),
                    _ => format!(" from {least} to {most}"),
                };
                self.wrong(field, format!("must be a whole number{bounds}"));
                least
            }
        }
    }

    /// Adds an error for a parameter that the page does not have.
    pub fn unknown(&mut self, parameter: &str) {
        self.wrong(parameter, "is not a parameter of this page");
    }

    /// Adds an error.
    pub fn wrong(&mut self, field: &str, detail: impl Into<String>) {
        self.errors.push(FieldError { field: field.to_owned(), detail: detail.into() });
    }

    /// Returns `checked` if there were no errors.
    ///
    /// # Errors
    ///
    /// The errors of all fields.
    pub fn passed<T>(self, checked: T) -> Result<T, Vec<FieldError>> {
        if self.errors.is_empty() { Ok(checked) } else { Err(self.errors) }
    }
}
