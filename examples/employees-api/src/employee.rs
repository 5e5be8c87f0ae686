use examples_common::{Problem, problem::FieldError};
use serde::{Deserialize, Serialize};

use crate::salary::Salary;

/// An employee; the keys are those of the table.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Employee {
    #[serde(rename = "ID")]
    pub(crate) id: i32,
    #[serde(flatten)]
    pub(crate) data: NewEmployee,
}

/// An employee to be created.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct NewEmployee {
    pub(crate) name: String,
    pub(crate) position: String,
    pub(crate) salary: Salary,
}

/// What the columns take: `nvarchar` counts UTF-16 units.
const LONGEST_TEXT: usize = 100;

impl NewEmployee {
    /// Without blanks around the texts; a problem, if one is empty or too long.
    pub(crate) fn checked(self) -> Result<Self, Problem> {
        let (name, position) = (self.name.trim().to_owned(), self.position.trim().to_owned());
        let errors: Vec<_> = [("Name", &name), ("Position", &position)]
            .into_iter()
            .filter_map(|(field, text)| match text.encode_utf16().count() {
                0 => Some(FieldError::new(field, "must not be empty")),
                1..=LONGEST_TEXT => None,
                _ => Some(FieldError::new(field, format!("takes {LONGEST_TEXT} characters"))),
            })
            .collect();
        if errors.is_empty() {
            Ok(Self { name, position, ..self })
        } else {
            Err(Problem::invalid(errors))
        }
    }
}
