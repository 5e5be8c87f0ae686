//! Checks of what somebody has entered.

use crate::problem::FieldError;

/// The longest text that a column takes.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// In characters, as PostgreSQL counts them in `varchar`.
    Characters(usize),
    /// In UTF-16 units, as Azure SQL counts them in `nvarchar`.
    Utf16(usize),
}

/// Checks an entry field by field, and gathers what is wrong with it.
#[derive(Debug, Default)]
pub struct Check {
    errors: Vec<FieldError>,
}

impl Check {
    /// A text, without blanks around it, and with line ends of one character.
    pub fn text(&mut self, field: &'static str, entered: &str, limit: Limit) -> String {
        // Browsers send a text's line ends as two characters, and show them as one.
        let text = entered.replace("\r\n", "\n").trim().to_owned();
        let (length, longest) = match limit {
            Limit::Characters(longest) => (text.chars().count(), longest),
            Limit::Utf16(longest) => (text.encode_utf16().count(), longest),
        };
        if length > longest {
            self.wrong(field, format!("{longest} characters are the most, not {length}"));
        }
        // A NUL, for one, PostgreSQL does not take.
        if text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
            self.wrong(field, "control characters cannot be kept");
        }
        text
    }

    /// The same, of a text that must be there.
    pub fn required(&mut self, field: &'static str, entered: &str, limit: Limit) -> String {
        let text = self.text(field, entered, limit);
        if text.is_empty() {
            self.wrong(field, "this is needed");
        }
        text
    }

    /// Something else is wrong.
    pub fn wrong(&mut self, field: &'static str, detail: impl Into<String>) {
        self.errors.push(FieldError::new(field, detail));
    }

    /// What was made of the entry.
    ///
    /// # Errors
    ///
    /// Something was wrong with it.
    pub fn passed<T>(self, made: T) -> Result<T, Vec<FieldError>> {
        if self.errors.is_empty() { Ok(made) } else { Err(self.errors) }
    }
}
