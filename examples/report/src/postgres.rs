//! Rows of PostgreSQL, in its binary format.

use std::{borrow::Cow, error::Error, iter, str};

use entra_pool::postgres::{
    Pool,
    tokio_postgres::types::{FromSql, Kind as TypeKind, Type},
};
use examples_common::Problem;
use futures_util::{TryStreamExt, pin_mut};
use uuid::Uuid;

use crate::{
    batches::Batches,
    numeric::Numeric,
    report::Sink,
    value::{Kind, Unfit, Value, decimal_text},
};

/// From 1970-01-01 to 2000-01-01, from which PostgreSQL counts.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Streams the result of a query.
pub(crate) async fn run(pool: &Pool, query: &str, sink: &Sink) -> Result<(), Problem> {
    let client = pool.get().await?;
    let statement = client.prepare(query).await?;
    let columns = statement.columns();
    let kinds = columns
        .iter()
        .map(|column| {
            kind(column.type_(), column.type_modifier()).ok_or_else(|| Unfit {
                column: column.name().to_owned(),
                problem: format!("the type {} is not supported", column.type_()),
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let names = columns.iter().map(|column| column.name());
    let mut batches = Batches::new(names.zip(kinds.iter().copied()));
    let rows = client.query_raw(&statement, iter::empty::<i32>()).await?;
    pin_mut!(rows);
    while let Some(row) = rows.try_next().await? {
        let values = kinds.iter().enumerate().map(|(index, kind)| {
            let field: Option<Field<'_>> = row.try_get(index).map_err(|error| error.to_string())?;
            value(*kind, field)
        });
        if let Some(batch) = batches.push(values)?
            && !sink.send(batch).await?
        {
            return Ok(());
        }
    }
    if let Some(batch) = batches.last() {
        // The reader may have disconnected.
        let _ = sink.send(batch).await?;
    }
    Ok(())
}

fn kind(ty: &Type, modifier: i32) -> Option<Kind> {
    Some(match *ty {
        Type::BOOL => Kind::Bool,
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => Kind::Int,
        Type::FLOAT4 | Type::FLOAT8 => Kind::Float,
        Type::NUMERIC => scale(modifier).map_or(Kind::Text, Kind::Decimal),
        Type::TEXT
        | Type::VARCHAR
        | Type::BPCHAR
        | Type::NAME
        | Type::UNKNOWN
        | Type::JSON
        | Type::JSONB
        | Type::XML
        | Type::UUID => Kind::Text,
        Type::BYTEA => Kind::Binary,
        Type::DATE => Kind::Date,
        Type::TIME => Kind::Time,
        Type::TIMESTAMP => Kind::Timestamp,
        Type::TIMESTAMPTZ => Kind::TimestampUtc,
        _ => match ty.kind() {
            TypeKind::Enum(_) => Kind::Text,
            TypeKind::Domain(inner) => return kind(inner, modifier),
            _ => return None,
        },
    })
}

/// The declared scale of a numeric, if Arrow's decimals can hold it. The modifier has the
/// precision in the upper half and the scale in the lower 11 bits, plus 4
/// (`make_numeric_typmod` in PostgreSQL's `numeric.c`).
fn scale(modifier: i32) -> Option<i8> {
    let declared = modifier.checked_sub(4).filter(|declared| *declared >= 0)?;
    let (precision, scale) = (declared >> 16, declared & 0x7ff);
    if precision <= 38 && scale <= precision { i8::try_from(scale).ok() } else { None }
}

/// A field in the server's format, and its type.
struct Field<'a> {
    ty: Type,
    bytes: &'a [u8],
}

impl<'a> FromSql<'a> for Field<'a> {
    fn from_sql(ty: &Type, bytes: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self { ty: ty.clone(), bytes })
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn value<'a>(kind: Kind, field: Option<Field<'a>>) -> Result<Value<'a>, String> {
    let Some(Field { ty, bytes }) = field else { return Ok(null(kind)) };
    let value = match kind {
        Kind::Bool => Some(Value::Bool(Some(bytes != [0]))),
        Kind::Int if ty == Type::OID => {
            array(bytes).map(|bytes| Value::Int(Some(u32::from_be_bytes(bytes).into())))
        }
        Kind::Int => integer(bytes).map(|value| Value::Int(Some(value))),
        Kind::Float => match bytes.len() {
            4 => array(bytes).map(|bytes| f32::from_be_bytes(bytes).into()),
            _ => array(bytes).map(f64::from_be_bytes),
        }
        .map(|value| Value::Float(Some(value))),
        Kind::Decimal(scale) => Numeric::read(bytes)
            .and_then(|number| number.at(scale.unsigned_abs()))
            .map(|value| Value::Decimal(Some(value))),
        Kind::Text => text(&ty, bytes).map(|text| Value::Text(Some(text))),
        Kind::Binary => Some(Value::Binary(Some(bytes.into()))),
        // The last and the first value of each type are infinity and minus infinity.
        Kind::Date => array(bytes)
            .and_then(|bytes| i32::from_be_bytes(bytes).checked_add(EPOCH_DAYS))
            .filter(|days| *days != i32::MIN + EPOCH_DAYS)
            .map(|days| Value::Date(Some(days))),
        Kind::Time => integer(bytes).map(|micros| Value::Time(Some(micros * 1_000))),
        Kind::Timestamp | Kind::TimestampUtc => integer(bytes)
            .and_then(|micros| micros.checked_add(EPOCH_MICROS))
            .filter(|micros| *micros != i64::MIN + EPOCH_MICROS)
            .map(|micros| Value::Timestamp(Some(micros))),
    };
    value.ok_or_else(|| format!("Arrow cannot hold this value of type {ty}"))
}

fn null(kind: Kind) -> Value<'static> {
    match kind {
        Kind::Bool => Value::Bool(None),
        Kind::Int => Value::Int(None),
        Kind::Float => Value::Float(None),
        Kind::Decimal(_) => Value::Decimal(None),
        Kind::Text => Value::Text(None),
        Kind::Binary => Value::Binary(None),
        Kind::Date => Value::Date(None),
        Kind::Time => Value::Time(None),
        Kind::Timestamp | Kind::TimestampUtc => Value::Timestamp(None),
    }
}

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

fn integer(bytes: &[u8]) -> Option<i64> {
    match bytes.len() {
        2 => array(bytes).map(|bytes| i16::from_be_bytes(bytes).into()),
        4 => array(bytes).map(|bytes| i32::from_be_bytes(bytes).into()),
        _ => array(bytes).map(i64::from_be_bytes),
    }
}

fn text<'a>(ty: &Type, bytes: &'a [u8]) -> Option<Cow<'a, str>> {
    match *ty {
        Type::NUMERIC => {
            let number = Numeric::read(bytes)?;
            Some(decimal_text(number.at(number.scale)?, number.scale).into())
        }
        Type::UUID => Some(Uuid::from_slice(bytes).ok()?.to_string().into()),
        // The first byte is the format's version.
        Type::JSONB => Some(str::from_utf8(bytes.get(1..)?).ok()?.into()),
        _ => Some(str::from_utf8(bytes).ok()?.into()),
    }
}
