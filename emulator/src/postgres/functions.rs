//! PostgreSQL's functions, as functions of SQLite.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use rusqlite::{
    Connection,
    functions::{Context, FunctionFlags},
    types::{ToSqlOutput, Value},
};

use super::{
    Shared, VERSION,
    error::SqlError,
    settings::Settings,
    time_text,
    values::{cast, type_by_name},
    waiting::Interrupt,
};

/// What statements of a session can ask about it.
pub(super) struct Variables {
    pub(super) pid: i32,
    pub(super) login: String,
    pub(super) role: Option<String>,
    pub(super) database: String,
    pub(super) settings: Settings,
    /// When the transaction began, or the statement outside of one.
    pub(super) now: SystemTime,
    pub(super) interrupt: Arc<Interrupt>,
    /// The last values this session took from sequences, and of which last.
    pub(super) sequences: Vec<(String, i64)>,
}

impl Variables {
    pub(super) fn current_user(&self) -> &str {
        self.role.as_deref().unwrap_or(&self.login)
    }
}

/// What functions reach for; locked for moments only.
#[derive(Clone)]
pub(super) struct Reach {
    pub(super) shared: Arc<Shared>,
    pub(super) variables: Arc<Mutex<Variables>>,
}

impl Reach {
    pub(super) fn variables(&self) -> MutexGuard<'_, Variables> {
        self.variables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Outcome = Result<Value, SqlError>;

/// Makes the functions known to `sqlite`.
pub(super) fn register(sqlite: &Connection, reach: &Reach) -> rusqlite::Result<()> {
    let add = |name: &str, arity: i32, function: fn(&Reach, &[Value]) -> Outcome| {
        let reach = reach.clone();
        let call = move |context: &Context<'_>| {
            let arguments: rusqlite::Result<Vec<Value>> =
                (0..context.len()).map(|at| context.get(at)).collect();
            function(&reach, &arguments?).map(ToSqlOutput::Owned).map_err(SqlError::into_sqlite)
        };
        sqlite.create_scalar_function(name, arity, FunctionFlags::SQLITE_UTF8, call)
    };
    add("version", 0, |_, _| text(VERSION))?;
    add("current_database", 0, |reach, _| text(&reach.variables().database))?;
    add("current_user", 0, |reach, _| text(reach.variables().current_user()))?;
    add("session_user", 0, |reach, _| text(&reach.variables().login))?;
    add("current_schema", 0, |_, _| text("public"))?;
    add("pg_backend_pid", 0, |reach, _| Ok(Value::Integer(reach.variables().pid.into())))?;
    add("now", 0, |reach, _| timestamp(reach.variables().now))?;
    add("clock_timestamp", 0, |_, _| timestamp(SystemTime::now()))?;
    add("gen_random_uuid", 0, |_, _| text(&uuid::Uuid::new_v4().to_string()))?;
    add("pg_random", 0, |_, _| {
        let bits = uuid::Uuid::new_v4().as_u128() >> 76;
        #[allow(clippy::cast_precision_loss)]
        Ok(Value::Real(bits as f64 / (1_u64 << 52) as f64))
    })?;
    add("current_setting", 1, |reach, arguments| {
        text(&reach.variables().settings.get(&string(arguments, 0))?)
    })?;
    add("current_setting", 2, |reach, arguments| {
        let setting = reach.variables().settings.get(&string(arguments, 0));
        match setting {
            Err(_) if arguments[1] == Value::Integer(1) => Ok(Value::Null),
            setting => text(&setting?),
        }
    })?;
    add("set_config", 3, |reach, arguments| {
        let value = string(arguments, 1);
        let local = arguments[2] == Value::Integer(1);
        let mut variables = reach.variables();
        variables.settings.set(&string(arguments, 0), &value, local)?;
        text(&value)
    })?;
    add("pg_cast", 2, |_, arguments| {
        let name = string(arguments, 1);
        let ty = type_by_name(&name).ok_or_else(|| SqlError::unsupported(&name))?;
        cast(arguments[0].clone(), &ty)
    })?;
    add("pg_sleep", 1, sleep)?;
    add("pg_advisory_lock", 1, |reach, arguments| {
        let (pid, interrupt) = holder(reach);
        let key = integer(arguments, 0)?;
        reach.shared.waiting.lock(key, pid, &interrupt)?;
        text("")
    })?;
    add("pg_try_advisory_lock", 1, |reach, arguments| {
        let pid = holder(reach).0;
        let key = integer(arguments, 0)?;
        boolean(reach.shared.waiting.try_lock(key, pid))
    })?;
    add("pg_advisory_unlock", 1, |reach, arguments| {
        let pid = holder(reach).0;
        let key = integer(arguments, 0)?;
        boolean(reach.shared.waiting.unlock(key, pid))
    })?;
    add("pg_advisory_unlock_all", 0, |reach, _| {
        reach.shared.waiting.unlock_all(holder(reach).0);
        text("")
    })?;
    add("nextval", 1, |reach, arguments| {
        let name = string(arguments, 0);
        let value = reach.shared.next_value(&name);
        let sequences = &mut reach.variables().sequences;
        sequences.retain(|(known, _)| *known != name);
        sequences.push((name, value));
        Ok(Value::Integer(value))
    })?;
    add("currval", 1, |reach, arguments| {
        let name = string(arguments, 0);
        let variables = reach.variables();
        let taken = variables.sequences.iter().find(|(known, _)| *known == name);
        taken.map(|(_, value)| Value::Integer(*value)).ok_or_else(|| {
            let message =
                format!("currval of sequence \"{name}\" is not yet defined in this session");
            SqlError::new("55000", message)
        })
    })?;
    add("lastval", 0, |reach, _| {
        let variables = reach.variables();
        let last = variables.sequences.last();
        last.map(|(_, value)| Value::Integer(*value))
            .ok_or_else(|| SqlError::new("55000", "lastval is not yet defined in this session"))
    })
}

fn sleep(reach: &Reach, arguments: &[Value]) -> Outcome {
    let seconds = match arguments[0] {
        #[allow(clippy::cast_precision_loss)]
        Value::Integer(seconds) => seconds as f64,
        Value::Real(seconds) => seconds,
        _ => 0.0,
    };
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let interrupt = holder(reach).1;
    reach.shared.waiting.sleep(time, &interrupt)?;
    text("")
}

fn holder(reach: &Reach) -> (i32, Arc<Interrupt>) {
    let variables = reach.variables();
    (variables.pid, Arc::clone(&variables.interrupt))
}

fn text(text: &str) -> Outcome {
    Ok(Value::Text(text.to_owned()))
}

fn boolean(flag: bool) -> Outcome {
    Ok(Value::Integer(flag.into()))
}

fn timestamp(at: SystemTime) -> Outcome {
    let micros = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    // From 1970 to 2000.
    let micros = i64::try_from(micros).unwrap_or(i64::MAX) - 946_684_800_000_000;
    Ok(time_text::format_timestamp(micros, true).map_or(Value::Null, Value::Text))
}

fn string(arguments: &[Value], at: usize) -> String {
    match &arguments[at] {
        Value::Text(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        _ => String::new(),
    }
}

fn integer(arguments: &[Value], at: usize) -> Result<i64, SqlError> {
    match cast(arguments[at].clone(), &pgwire::api::Type::INT8)? {
        Value::Integer(number) => Ok(number),
        _ => Err(SqlError::new("22004", "null value not allowed")),
    }
}
