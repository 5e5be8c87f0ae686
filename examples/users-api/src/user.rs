use examples_common::{
    Problem,
    entry::{Check, Limit},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A user.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct User {
    /// Assigned by the database.
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

/// The length of the columns.
const NAME: Limit = Limit::Utf16(50);

impl NewUser {
    /// Removes spaces around the names. A name that is empty or too long is a problem.
    pub(crate) fn checked(self) -> Result<Self, Problem> {
        let mut check = Check::default();
        let user = Self {
            first_name: check.required("first_name", &self.first_name, NAME),
            last_name: check.required("last_name", &self.last_name, NAME),
        };
        check.passed(user).map_err(Problem::invalid)
    }
}
