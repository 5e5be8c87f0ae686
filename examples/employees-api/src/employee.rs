use examples_common::{
    Problem,
    entry::{Check, Limit},
};
use serde::{Deserialize, Serialize};

use crate::salary::Salary;

/// An employee, with the table's names as keys.
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

/// The length of the columns.
const TEXT: Limit = Limit::Utf16(100);

impl NewEmployee {
    /// Removes spaces around the texts. A text that is empty or too long is a problem.
    pub(crate) fn checked(self) -> Result<Self, Problem> {
        let mut check = Check::default();
        let employee = Self {
            name: check.required("Name", &self.name, TEXT),
            position: check.required("Position", &self.position, TEXT),
            salary: self.salary,
        };
        check.passed(employee).map_err(Problem::invalid)
    }
}
