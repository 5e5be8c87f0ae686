//! `sp_executesql`.

use rusqlite::types::Value;

use super::{
    convert::convert,
    error::ServerError,
    requests::Parameter,
    session::{Session, Variable, Variables},
    tokens::Answer,
    types::SqlType,
};

impl Session {
    /// `sp_executesql`: a batch of its own scope. What it sets holds in it,
    /// and the tables that it makes for itself go at its end.
    pub(crate) fn execute_sql(&mut self, parameters: Vec<Parameter>, answer: &mut Answer) -> bool {
        let (text, mut variables) = match bind(parameters) {
            Ok(bound) => bound,
            Err(error) => return self.fail(&error, answer),
        };
        let (options, transactions) = (self.options.clone(), self.transaction_count);
        let tables = self.temporary_tables().unwrap_or_default();
        let mut failed = self.batch(&text, &mut variables, answer);
        self.options = options;
        let restored =
            self.apply_lock_timeout().and_then(|()| self.temporary_tables()).and_then(|now| {
                let own: Vec<String> =
                    now.into_iter().filter(|table| !tables.contains(table)).collect();
                own.iter().try_for_each(|table| self.drop_temporary(table))
            });
        if let Err(error) = restored {
            failed = self.fail(&error, answer);
        }
        if !failed && self.transaction_count != transactions {
            let text = format!(
                "Transaction count after EXECUTE indicates a mismatching number of BEGIN and COMMIT statements. Previous count = {transactions}, current count = {}.",
                self.transaction_count
            );
            failed = self.fail(&ServerError::new(266, 16, text), answer);
        }
        failed
    }
}

/// The text and the variables of `sp_executesql @stmt, @params, @P1, …`.
fn bind(parameters: Vec<Parameter>) -> Result<(String, Variables), ServerError> {
    let mut parameters = parameters.into_iter();
    let mut text = |name: &str| match parameters.next().map(|parameter| parameter.value) {
        Some(Value::Text(text)) => Ok(text),
        Some(Value::Null) | None if name == "@params" => Ok(String::new()),
        _ => Err(ServerError::new(
            214,
            16,
            format!("Procedure expects parameter '{name}' of type 'ntext/nchar/nvarchar'."),
        )),
    };
    let (statement, declarations) = (text("@statement")?, text("@params")?);
    let mut variables = Variables::new();
    for (name, declared) in split_declarations(&declarations) {
        let Some(sql_type) = SqlType::parse(declared) else {
            return Err(ServerError::unsupported(format_args!("a parameter of type {declared}")));
        };
        variables.insert(
            name.to_ascii_lowercase(),
            Variable { sql_type: Some(sql_type), value: Value::Null },
        );
    }
    let in_order: Vec<String> =
        split_declarations(&declarations).map(|(name, _)| name.to_ascii_lowercase()).collect();
    for (index, parameter) in parameters.enumerate() {
        let name = match parameter.name.to_ascii_lowercase() {
            name if name.is_empty() => in_order.get(index).cloned().unwrap_or_default(),
            name => name,
        };
        let Some(variable) = variables.get_mut(&name) else {
            let text =
                format!("Procedure or function has a parameter {name} that is not declared.");
            return Err(ServerError::new(8144, 16, text));
        };
        // As declared, whatever it was sent as.
        variable.value = match (parameter.sql_type, variable.sql_type) {
            (sent, declared) if sent == declared => parameter.value,
            (_, Some(declared)) => convert(&parameter.value, declared)?,
            (_, None) => parameter.value,
        };
    }
    Ok((statement, variables))
}

/// `@a int,@b decimal(10,2)`, split at the commas outside of parentheses.
fn split_declarations(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut depth = 0;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .filter_map(|declaration| declaration.trim().split_once(char::is_whitespace))
    .map(|(name, declared)| {
        (name, declared.trim().trim_end_matches(" OUTPUT").trim_end_matches(" output"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_split_outside_of_parentheses() {
        let declarations: Vec<_> =
            split_declarations("@P1 int,@P2 decimal(10,2), @P3  nvarchar(max)").collect();
        assert_eq!(
            declarations,
            [("@P1", "int"), ("@P2", "decimal(10,2)"), ("@P3", "nvarchar(max)")]
        );
        assert_eq!(split_declarations("").count(), 0);
    }
}
