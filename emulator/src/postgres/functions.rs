//! What translated statements call: functions of SQLite that do as PostgreSQL does.

use std::sync::Arc;

use rusqlite::{
    Connection,
    functions::{Context, FunctionFlags},
    types::{ToSqlOutput, Value},
};

use super::{
    Shared,
    error::SqlError,
    numeric::Numeric,
    values::{self, Ty},
};

type Outcome = Result<Value, SqlError>;

/// Makes the functions known to `sqlite`; the compiler counts their arguments.
pub(super) fn register(sqlite: &Connection, shared: &Arc<Shared>) -> rusqlite::Result<()> {
    let add = |name: &str, function: fn(&Shared, &[Value]) -> Outcome| {
        let shared = Arc::clone(shared);
        let call = move |context: &Context<'_>| {
            let arguments: rusqlite::Result<Vec<Value>> =
                (0..context.len()).map(|at| context.get(at)).collect();
            function(&shared, &arguments?).map(ToSqlOutput::Owned).map_err(SqlError::into_sqlite)
        };
        sqlite.create_scalar_function(name, -1, FunctionFlags::SQLITE_UTF8, call)
    };
    add("pg_nextval", |shared, arguments| match arguments {
        [Value::Integer(sequence)] => Ok(Value::Integer(shared.next_value(*sequence))),
        _ => Ok(Value::Null),
    })?;
    add("pg_cast", |_, arguments| match arguments {
        [value, Value::Text(from), Value::Text(to)] => {
            let ty = |name: &str| Ty::by_name(name).ok_or_else(|| SqlError::unsupported(name));
            values::cast(value.clone(), &ty(from)?.base, &ty(to)?)
        }
        _ => Ok(Value::Null),
    })?;
    add("pg_average", |_, arguments| match arguments {
        [Value::Integer(sum), Value::Integer(count)] => {
            Ok(Value::Text(Numeric::average(*sum, *count)?.to_string()))
        }
        _ => Ok(Value::Null),
    })
}
