use examples_common::{Problem, problem::FieldError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A user.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct User {
    /// Given by the database.
    pub(crate) id: i32,
    #[schema(example = "Ada")]
    pub(crate) first_name: String,
    #[schema(example = "Lovelace")]
    pub(crate) last_name: String,
}

/// A user to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUser {
    #[schema(example = "Ada", min_length = 1, max_length = 50)]
    pub(crate) first_name: String,
    #[schema(example = "Lovelace", min_length = 1, max_length = 50)]
    pub(crate) last_name: String,
}

/// What the columns take: `nvarchar` counts UTF-16 units.
const LONGEST_NAME: usize = 50;

impl NewUser {
    /// Without blanks around the names; a problem, if one is empty or too long.
    pub(crate) fn checked(self) -> Result<Self, Problem> {
        let user = Self {
            first_name: self.first_name.trim().to_owned(),
            last_name: self.last_name.trim().to_owned(),
        };
        let names = [("first_name", &user.first_name), ("last_name", &user.last_name)];
        let errors: Vec<_> = names
            .into_iter()
            .filter_map(|(field, name)| match name.encode_utf16().count() {
                0 => Some(FieldError::new(field, "must not be empty")),
                1..=LONGEST_NAME => None,
                _ => Some(FieldError::new(field, format!("takes {LONGEST_NAME} characters"))),
            })
            .collect();
        if errors.is_empty() { Ok(user) } else { Err(Problem::invalid(errors)) }
    }
}
