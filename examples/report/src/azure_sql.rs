//! Rows of Azure SQL.

use std::{borrow::Cow, future::ready};

use entra_pool::azure_sql::{
    Pool,
    tiberius::{
        Column, ColumnData, ColumnType, Row,
        time::{Date, DateTime2, Time},
    },
};
use examples_common::Problem;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{
    batches::{Batches, ROWS},
    report::Sink,
    value::{Kind, Unfit, Value, decimal_text},
};

/// Days from 0001-01-01 to 1970-01-01, and from 1900-01-01.
const FROM_YEAR_1: i32 = 719_162;
const FROM_1900: i64 = 25_567;

const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// Streams the first result of a query.
pub(crate) async fn run(pool: &Pool, query: &str, sink: &Sink) -> Result<(), Problem> {
    let mut connection = pool.get().await?;
    let mut items = connection.simple_query(query).await?;
    let columns = items.columns().await?.unwrap_or_default().to_vec();
    let mut rows = items.into_row_stream().try_take_while(|row| ready(Ok(row.result_index() == 0)));

    // tiberius reports the scale of a decimal only in its values.
    let first: Vec<Row> = rows.by_ref().take(ROWS).try_collect().await?;
    let kinds: Vec<Kind> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| kind(column, first.iter().map(|row| cell(row, index))))
        .collect::<Result<_, _>>()?;
    let names = columns.iter().map(Column::name);
    let mut batches = Batches::new(names.zip(kinds.iter().copied()));
    let mut rows = stream::iter(first.into_iter().map(Ok)).chain(rows);
    while let Some(row) = rows.try_next().await? {
        let values = row.into_iter().zip(&kinds).map(|(data, kind)| value(data, *kind));
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

fn cell(row: &Row, index: usize) -> Option<&ColumnData<'static>> {
    row.cells().nth(index).map(|(_, data)| data)
}

/// `values` are the first values of the column.
fn kind<'a>(
    column: &Column,
    values: impl IntoIterator<Item = Option<&'a ColumnData<'static>>>,
) -> Result<Kind, Unfit> {
    use ColumnType as Type;
    Ok(match column.column_type() {
        Type::Bit | Type::Bitn => Kind::Bool,
        Type::Int1 | Type::Int2 | Type::Int4 | Type::Int8 | Type::Intn => Kind::Int,
        Type::Float4 | Type::Float8 | Type::Floatn => Kind::Float,
        // Ten-thousandths, by definition.
        Type::Money | Type::Money4 => Kind::Decimal(4),
        Type::Decimaln | Type::Numericn => {
            let scale = values.into_iter().find_map(|data| match data {
                Some(ColumnData::Numeric(Some(number))) => i8::try_from(number.scale()).ok(),
                _ => None,
            });
            // All values so far are NULL. Text can hold a value of any scale.
            scale.map_or(Kind::Text, Kind::Decimal)
        }
        Type::BigVarChar
        | Type::BigChar
        | Type::NVarchar
        | Type::NChar
        | Type::Text
        | Type::NText
        | Type::Xml
        | Type::Guid => Kind::Text,
        Type::BigVarBin | Type::BigBinary | Type::Image => Kind::Binary,
        Type::Daten => Kind::Date,
        Type::Timen => Kind::Time,
        Type::Datetime | Type::Datetime4 | Type::Datetimen | Type::Datetime2 => Kind::Timestamp,
        Type::DatetimeOffsetn => Kind::TimestampUtc,
        other @ (Type::Null | Type::Udt | Type::SSVariant) => {
            let problem = format!("the type {other:?} is not supported");
            return Err(Unfit { column: column.name().to_owned(), problem });
        }
    })
}

fn value(data: ColumnData<'static>, kind: Kind) -> Result<Value<'static>, String> {
    Ok(match data {
        ColumnData::Bit(value) => Value::Bool(value),
        ColumnData::U8(value) => Value::Int(value.map(i64::from)),
        ColumnData::I16(value) => Value::Int(value.map(i64::from)),
        ColumnData::I32(value) => Value::Int(value.map(i64::from)),
        ColumnData::I64(value) => Value::Int(value),
        ColumnData::F32(value) => Value::Float(value.map(f64::from)),
        // tiberius reads money as a float, which is exact up to 10^11.
        ColumnData::F64(value) if kind == Kind::Decimal(4) => {
            Value::Decimal(value.map(|value| (value * 10_000.0).round() as i128))
        }
        ColumnData::F64(value) => Value::Float(value),
        ColumnData::Numeric(value) => match (kind, value) {
            (Kind::Text, value) => {
                let text = value.map(|value| decimal_text(value.value(), value.scale()));
                Value::Text(text.map(Cow::Owned))
            }
            (Kind::Decimal(scale), Some(value)) if i8::try_from(value.scale()) != Ok(scale) => {
                return Err(format!("{value} has a different scale from the values before it"));
            }
            (_, value) => Value::Decimal(value.map(|value| value.value())),
        },
        ColumnData::String(value) => Value::Text(value),
        ColumnData::Guid(value) => Value::Text(value.map(|value| value.to_string().into())),
        ColumnData::Xml(value) => Value::Text(value.map(|value| value.to_string().into())),
        ColumnData::Binary(value) => Value::Binary(value),
        ColumnData::Date(value) => Value::Date(value.map(days)),
        ColumnData::Time(value) => Value::Time(value.map(nanoseconds)),
        // In 300ths of a second, shown as whole milliseconds (MS-TDS 2.2.5.5.1.8).
        ColumnData::DateTime(value) => Value::Timestamp(value.map(|time| {
            let milliseconds = (i64::from(time.seconds_fragments()) * 10 + 1) / 3;
            (i64::from(time.days()) - FROM_1900) * DAY + milliseconds * 1_000
        })),
        // In minutes, despite the name that tiberius gives them (ibid.).
        ColumnData::SmallDateTime(value) => Value::Timestamp(value.map(|time| {
            (i64::from(time.days()) - FROM_1900) * DAY
                + i64::from(time.seconds_fragments()) * 60_000_000
        })),
        ColumnData::DateTime2(value) => Value::Timestamp(value.map(microseconds)),
        // The value is in UTC, next to the offset for showing it (2.2.5.5.1.9).
        ColumnData::DateTimeOffset(value) => {
            Value::Timestamp(value.map(|value| microseconds(value.datetime2())))
        }
    })
}

fn days(date: Date) -> i32 {
    // The last year is 9999.
    i32::try_from(date.days()).unwrap_or(i32::MAX) - FROM_YEAR_1
}

fn nanoseconds(time: Time) -> i64 {
    // At most seven digits of a second, and less than a day.
    let unit = 10_i64.pow(9_u32.saturating_sub(time.scale().into()));
    i64::try_from(time.increments()).unwrap_or(i64::MAX).saturating_mul(unit)
}

fn microseconds(time: DateTime2) -> i64 {
    i64::from(days(time.date())) * DAY + nanoseconds(time.time()) / 1_000
}

#[cfg(test)]
mod tests {
    use entra_pool::azure_sql::tiberius::{
        Uuid,
        time::{DateTime, DateTimeOffset, SmallDateTime},
    };

    use super::*;

    /// The types that the emulator does not support.
    #[test]
    fn every_type_is_converted_exactly() {
        // 1970-01-01, and 1 s after midnight.
        let (date, time) = (Date::new(719_162), Time::new(10_000_000, 7));
        let moment = DateTime2::new(date, time);
        for (column_type, data, kind_of, expected) in [
            (ColumnType::Floatn, ColumnData::F64(Some(0.5)), Kind::Float, Value::Float(Some(0.5))),
            (
                ColumnType::Money,
                ColumnData::F64(Some(922_337_203.685_4)),
                Kind::Decimal(4),
                Value::Decimal(Some(9_223_372_036_854)),
            ),
            (
                ColumnType::Timen,
                ColumnData::Time(Some(Time::new(863_991_234, 4))),
                Kind::Time,
                Value::Time(Some(86_399_123_400_000)),
            ),
            (
                ColumnType::Datetimen,
                ColumnData::DateTime(Some(DateTime::new(25_567, 2))),
                Kind::Timestamp,
                Value::Timestamp(Some(7_000)),
            ),
            (
                ColumnType::Datetime4,
                ColumnData::SmallDateTime(Some(SmallDateTime::new(25_567, 3))),
                Kind::Timestamp,
                Value::Timestamp(Some(180_000_000)),
            ),
            (
                ColumnType::Datetime2,
                ColumnData::DateTime2(Some(moment)),
                Kind::Timestamp,
                Value::Timestamp(Some(1_000_000)),
            ),
            (
                ColumnType::DatetimeOffsetn,
                ColumnData::DateTimeOffset(Some(DateTimeOffset::new(moment, 120))),
                Kind::TimestampUtc,
                Value::Timestamp(Some(1_000_000)),
            ),
            (
                ColumnType::BigVarBin,
                ColumnData::Binary(Some(vec![0xc0, 0xff].into())),
                Kind::Binary,
                Value::Binary(Some(vec![0xc0, 0xff].into())),
            ),
            (
                ColumnType::Guid,
                ColumnData::Guid(Some(Uuid::from_u128(0x6f96_19ff << 96))),
                Kind::Text,
                Value::Text(Some("6f9619ff-0000-0000-0000-000000000000".into())),
            ),
        ] {
            let column = Column::new("a".into(), column_type);
            assert_eq!(kind(&column, [Some(&data)]).unwrap(), kind_of, "{column_type:?}");
            let told = value(data, kind_of).unwrap();
            assert_eq!(told, expected);
        }
    }
}
