//! Procedures that run SQL: `sp_executesql`, and prepared statements.

use std::collections::BTreeMap;

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

/// The statements that a session has prepared, by their handles.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    last: i32,
    statements: BTreeMap<i32, Statement>,
}

#[derive(Debug, Clone)]
struct Statement {
    declarations: String,
    text: String,
}

impl Prepared {
    fn add(&mut self, statement: Statement) -> i32 {
        self.last += 1;
        self.statements.insert(self.last, statement);
        self.last
    }
}

impl Session {
    /// The calls of one message; the next runs whatever became of the one before.
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

    /// Whether an error went into the answer.
    fn call(
        &mut self,
        call: Call,
        answer: &mut Answer,
        returned: &mut Vec<ReturnValue>,
    ) -> Result<bool, ServerError> {
        let mut arguments = Arguments { next: 0, rest: call.parameters.into_iter() };
        match call.procedure {
            Procedure::ExecuteSql => {
                let (text, declarations) =
                    (arguments.text("@statement")?, arguments.text("@params")?);
                self.execute_sql(&Statement { declarations, text }, arguments, answer, returned)
            }
            Procedure::Prepare | Procedure::PrepareExecute => {
                // A handle that the client has no more use for may come along.
                let (name, old) = arguments.handle()?;
                let (declarations, text) = (arguments.text("@params")?, arguments.text("@stmt")?);
                script::parse(&text)?;
                if let Some(old) = old {
                    self.prepared.statements.remove(&old);
                }
                let statement = Statement { declarations, text };
                let handle = self.prepared.add(statement.clone());
                let mut value = Vec::new();
                values::write(&Value::Integer(handle.into()), SqlType::Int, &mut value)?;
                returned.push(ReturnValue { ordinal: 0, name, sql_type: SqlType::Int, value });
                if call.procedure == Procedure::Prepare {
                    return Ok(false);
                }
                self.execute_sql(&statement, arguments, answer, returned)
            }
            Procedure::Execute => {
                let statement = self.statement_of(arguments.handle()?.1)?.clone();
                self.execute_sql(&statement, arguments, answer, returned)
            }
            Procedure::Unprepare => {
                let (_, handle) = arguments.handle()?;
                self.statement_of(handle)?;
                self.prepared.statements.retain(|known, _| Some(*known) != handle);
                Ok(false)
            }
            Procedure::PrepareCall => {
                arguments.handle()?;
                Err(no_procedure(&arguments.text("@RPCCall")?))
            }
            Procedure::Other(name) => Err(no_procedure(&name)),
        }
    }

    fn statement_of(&self, handle: Option<i32>) -> Result<&Statement, ServerError> {
        let handle = handle.unwrap_or_default();
        self.prepared.statements.get(&handle).ok_or_else(|| {
            let text = format!("Could not find prepared statement with handle {handle}.");
            ServerError::new(8179, 16, text)
        })
    }

    /// A batch of its own scope. What it sets holds in it, and the tables that it makes for
    /// itself go at its end.
    fn execute_sql(
        &mut self,
        statement: &Statement,
        arguments: Arguments,
        answer: &mut Answer,
        returned: &mut Vec<ReturnValue>,
    ) -> Result<bool, ServerError> {
        let (mut variables, outputs) = bind(&statement.declarations, arguments)?;
        let (options, transactions) = (self.options.clone(), self.transaction_count);
        let tables = self.temporary_tables().unwrap_or_default();
        let mut failed = self.batch(&statement.text, &mut variables, answer);
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
        for (ordinal, name) in outputs.into_iter().filter(|_| !failed) {
            let Some(Variable { sql_type: Some(sql_type), value }) = variables.remove(&name) else {
                continue;
            };
            let mut bytes = Vec::new();
            values::write(&value, sql_type, &mut bytes)?;
            returned.push(ReturnValue { ordinal, name, sql_type, value: bytes });
        }
        Ok(failed)
    }
}

fn no_procedure(name: &str) -> ServerError {
    ServerError::new(2812, 16, format!("Could not find stored procedure '{name}'."))
}

/// A call's parameters, in their order.
struct Arguments {
    next: u16,
    rest: std::vec::IntoIter<Parameter>,
}

impl Iterator for Arguments {
    type Item = (u16, Parameter);

    fn next(&mut self) -> Option<Self::Item> {
        let parameter = self.rest.next()?;
        self.next += 1;
        Some((self.next - 1, parameter))
    }
}

impl Arguments {
    fn text(&mut self, name: &str) -> Result<String, ServerError> {
        match self.next().map(|(_, parameter)| parameter.value) {
            Some(Value::Text(text)) => Ok(text),
            Some(Value::Null) | None if name == "@params" => Ok(String::new()),
            _ => Err(expects(name, "ntext/nchar/nvarchar")),
        }
    }

    /// A handle, if it is not NULL, and the parameter's name.
    fn handle(&mut self) -> Result<(String, Option<i32>), ServerError> {
        match self.next() {
            Some((_, Parameter { name, value: Value::Null, .. })) => Ok((name, None)),
            Some((_, Parameter { name, value: Value::Integer(handle), .. })) => {
                Ok((name, i32::try_from(handle).ok()))
            }
            _ => Err(expects("@handle", "int")),
        }
    }
}

fn expects(name: &str, sql_type: &str) -> ServerError {
    let text = format!("Procedure expects parameter '{name}' of type '{sql_type}'.");
    ServerError::new(214, 16, text)
}

/// The variables of `sp_executesql @stmt, @params, @P1, …`, and which of them the client wants
/// back, by the parameters' places.
fn bind(
    declarations: &str,
    arguments: Arguments,
) -> Result<(Variables, Vec<(u16, String)>), ServerError> {
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
        // As declared, whatever it was sent as.
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
