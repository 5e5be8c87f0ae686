//! SQLite functions that translated statements call. They behave as PostgreSQL does.

use std::sync::Arc;

use rusqlite::{Connection, functions::FunctionFlags, types::Value};

use super::{
    Embedded,
    error::SqlError,
    numeric,
    values::{Ty, cast},
};

pub(super) fn register(sqlite: &Connection, engine: &Arc<Embedded>) -> rusqlite::Result<()> {
    let (engine, flags) = (Arc::clone(engine), FunctionFlags::SQLITE_UTF8);
    sqlite.create_scalar_function("pg_nextval", 1, flags, move |context| {
        Ok(engine.next_value(context.get(0)?))
    })?;
    sqlite.create_scalar_function("pg_cast", 3, flags, |context| {
        let ty = |name: String| Ty::by_name(&name).ok_or_else(|| SqlError::unsupported(name));
        let (from, to) = (ty(context.get(1)?), ty(context.get(2)?));
        let value = context.get::<Value>(0)?;
        from.and_then(|from| cast(value, &from.base, &to?)).map_err(SqlError::into_sqlite)
    })?;
    sqlite.create_scalar_function("pg_average", 2, flags, |context| {
        // Without rows, there is no sum.
        let Some(sum) = context.get::<Option<i64>>(0)? else { return Ok(None) };
        let average = numeric::average(sum, context.get(1)?).map_err(SqlError::into_sqlite)?;
        Ok(Some(average.to_string()))
    })
}
