//! Procedures that run SQL: `sp_executesql` and those of prepared statements.

use std::{iter::Enumerate, vec::IntoIter};

use rusqlite::types::Value;

use super::{
    convert::convert,
    error::ServerError,
    requests::{Call, Parameter, Procedure},
    session::{Session, Variable, Variables},
    tokens::{Answer, ReturnValue},
    tsql::script,
    types::SqlType,
    values,
};

/// A statement, and the declarations of its parameters.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    declarations: String,
    text: String,
}

/// A call's parameters, with their positions.
type Arguments = Enumerate<IntoIter<Parameter>>;

impl Session {
    /// Runs the calls of one message, also those after a call that fails.
    pub(crate) fn calls(&mut self, calls: Vec<Call>, answer: &mut Answer) -> bool {
        let mut any_failed = false;
        for call in calls {
            let mut returned = Vec::new();
            let failed = match self.call(call, answer, &mut returned) {
                Ok(failed) => failed,
                Err(error) => self.fail(&error, answer),
            };
            answer.end_procedure(failed, &returned);
            any_failed |= failed;
        }
        any_failed
    }

    /// Runs one call. Returns whether the answer contains an error.
    fn call(
        &mut self,
        call: Call,
        answer: &mut Answer,
        returned: &mut Vec<ReturnValue>,
    ) -> Result<bool, ServerError> {
        let mut arguments = call.parameters.into_iter().enumerate();
        let statement = match call.procedure {
            Procedure::ExecuteSql => {
                let text = text(&mut arguments, "@statement")?;
                Prepared { declarations: declarations(&mut arguments)?, text }
            }
            Procedure::Prepare | Procedure::PrepareExecute => {
                // The client may pass a handle that it no longer uses.
                let (name, old) = handle(&mut arguments)?;
                let declarations = declarations(&mut arguments)?;
                let statement = Prepared { declarations, text: text(&mut arguments, "@stmt")? };
                script::parse(&statement.text)?;
                self.prepared.remove(&old);
                self.last_handle += 1;
                self.prepared.insert(self.last_handle, statement.clone());
                let handle = Value::Integer(self.last_handle.into());
                returned.push(return_value(0, name, SqlType::Int, &handle)?);
                if call.procedure == Procedure::Prepare {
                    return Ok(false);
                }
                statement
            }
            Procedure::Execute => {
                let (_, handle) = handle(&mut arguments)?;
                self.prepared.get(&handle).cloned().ok_or_else(|| no_handle(handle))?
            }
            Procedure::Unprepare => {
                let (_, handle) = handle(&mut arguments)?;
                self.prepared.remove(&handle).ok_or_else(|| no_handle(handle))?;
                return Ok(false);
            }
            Procedure::PrepareCall => {
                handle(&mut arguments)?;
                return Err(no_procedure(&text(&mut arguments, "@RPCCall")?));
            }
            Procedure::Other(name) => return Err(no_procedure(&name)),
        };
        self.execute_sql(&statement, arguments, answer, returned)
    }

    /// A batch with its own scope: its options hold in it, and its temporary tables are dropped
    /// when it ends.
    fn execute_sql(
        &mut self,
        statement: &Prepared,
        arguments: Arguments,
        answer: &mut Answer,
        returned: &mut Vec<ReturnValue>,
    ) -> Result<bool, ServerError> {
        let (mut variables, outputs) = bind(&statement.declarations, arguments)?;
        let (options, transactions) = (self.options.clone(), self.transaction_count);
        let tables = self.temporary_tables()?;
        let failed = self.batch(&statement.text, &mut variables, answer);
        self.options = options;
        self.apply_lock_timeout()?;
        for table in self.temporary_tables()? {
            if !tables.contains(&table) {
                self.drop_temporary(&table)?;
            }
        }
        if failed {
            return Ok(true);
        }
        if self.transaction_count != transactions {
            let text = format!(
                "Transaction count after EXECUTE indicates a mismatching number of BEGIN and COMMIT statements. Previous count = {transactions}, current count = {}.",
                self.transaction_count
            );
            return Err(ServerError::new(266, 16, text));
        }
        for (ordinal, name) in outputs {
            if let Some(Variable { sql_type: Some(sql_type), value }) = variables.remove(&name) {
                returned.push(return_value(ordinal, name, sql_type, &value)?);
            }
        }
        Ok(false)
    }
}

fn return_value(
    place: usize,
    name: String,
    sql_type: SqlType,
    value: &Value,
) -> Result<ReturnValue, ServerError> {
    let mut bytes = Vec::new();
    values::write(value, sql_type, &mut bytes)?;
    Ok(ReturnValue { ordinal: place as u16, name, sql_type, value: bytes })
}

fn no_handle(handle: i32) -> ServerError {
    let text = format!("Could not find prepared statement with handle {handle}.");
    ServerError::new(8179, 16, text)
}

fn no_procedure(name: &str) -> ServerError {
    ServerError::new(2812, 16, format!("Could not find stored procedure '{name}'."))
}

fn text(arguments: &mut Arguments, name: &str) -> Result<String, ServerError> {
    match arguments.next() {
        Some((_, Parameter { value: Value::Text(text), .. })) => Ok(text),
        _ => Err(expects(name, "ntext/nchar/nvarchar")),
    }
}

/// `@params`, which may be NULL or absent.
fn declarations(arguments: &mut Arguments) -> Result<String, ServerError> {
    match arguments.next() {
        None | Some((_, Parameter { value: Value::Null, .. })) => Ok(String::new()),
        Some((_, Parameter { value: Value::Text(text), .. })) => Ok(text),
        _ => Err(expects("@params", "ntext/nchar/nvarchar")),
    }
}

/// A handle, which is 0 for NULL, and the parameter's name.
fn handle(arguments: &mut Arguments) -> Result<(String, i32), ServerError> {
    match arguments.next() {
        Some((_, Parameter { name, value: Value::Null, .. })) => Ok((name, 0)),
        Some((_, Parameter { name, value: Value::Integer(handle), .. })) => {
            Ok((name, i32::try_from(handle).unwrap_or_default()))
        }
        _ => Err(expects("@handle", "int")),
    }
}

fn expects(name: &str, sql_type: &str) -> ServerError {
    let text = format!("Procedure expects parameter '{name}' of type '{sql_type}'.");
    ServerError::new(214, 16, text)
}

/// The variables of `sp_executesql @stmt, @params, @P1, …`, and the output parameters, with
/// their positions in the call.
fn bind(
    declarations: &str,
    arguments: Arguments,
) -> Result<(Variables, Vec<(usize, String)>), ServerError> {
    let (mut variables, mut in_order, mut outputs) = (Variables::new(), Vec::new(), Vec::new());
    for (name, declared) in split_declarations(declarations) {
        let Some(sql_type) = SqlType::parse(declared) else {
            return Err(ServerError::unsupported(format_args!("a parameter of type {declared}")));
        };
        let name = name.to_ascii_lowercase();
        let variable = Variable { sql_type: Some(sql_type), value: Value::Null };
        variables.insert(name.clone(), variable);
        in_order.push(name);
    }
    for (index, (ordinal, parameter)) in arguments.enumerate() {
        let name = match parameter.name.to_ascii_lowercase() {
            name if name.is_empty() => in_order.get(index).cloned().unwrap_or_default(),
            name => name,
        };
        let Some(variable) = variables.get_mut(&name) else {
            let text =
                format!("Procedure or function has a parameter {name} that is not declared.");
            return Err(ServerError::new(8144, 16, text));
        };
        // The declared type can differ from the type that is sent.
        variable.value = match (parameter.sql_type, variable.sql_type) {
            (Some(sent), Some(declared)) if sent != declared => {
                convert(&parameter.value, sent, declared)?
            }
            _ => parameter.value,
        };
        if parameter.by_reference {
            outputs.push((ordinal, name));
        }
    }
    Ok((variables, outputs))
}

/// Splits `@a int,@b decimal(10,2)` at the commas outside of parentheses.
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
        let declared = declared.trim();
        let output = declared.rsplit_once(char::is_whitespace).filter(|(_, word)| {
            word.eq_ignore_ascii_case("OUTPUT") || word.eq_ignore_ascii_case("OUT")
        });
        (name, output.map_or(declared, |(declared, _)| declared.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_split_outside_of_parentheses() {
        let declarations: Vec<_> = split_declarations(
            "@P1 int,@P2 decimal(10,2) Output, @P3  nvarchar(max), @P4 double precision OUT",
        )
        .collect();
        assert_eq!(
            declarations,
            [
                ("@P1", "int"),
                ("@P2", "decimal(10,2)"),
                ("@P3", "nvarchar(max)"),
                ("@P4", "double precision")
            ]
        );
        assert_eq!(split_declarations("").count(), 0);
    }
}
