use std::{collections::HashSet, sync::Arc};

use arrow_array::{
    ArrayRef, RecordBatch,
    builder::{
        BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder,
        Int64Builder, StringBuilder, Time64NanosecondBuilder, TimestampMicrosecondBuilder,
    },
};
use arrow_schema::{DECIMAL128_MAX_PRECISION, DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::value::{Kind, Unfit, Value};

/// The number of rows of a record batch.
pub(crate) const ROWS: usize = 1_000;

/// The bytes of text and binary values in a record batch, because rows may be long.
const BYTES: usize = 1024 * 1024;

/// Collects rows into record batches.
pub(crate) struct Batches {
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: usize,
    bytes: usize,
    /// Whether a batch has been returned.
    given: bool,
}

enum Column {
    Bool(BooleanBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Decimal(Decimal128Builder),
    Text(StringBuilder),
    Binary(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64NanosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl Batches {
    /// Batches of these columns. A name that is empty or not unique gets the column's number.
    pub(crate) fn new<'a>(columns: impl IntoIterator<Item = (&'a str, Kind)>) -> Self {
        let mut names = HashSet::new();
        let mut fields = Vec::new();
        let mut builders = Vec::new();
        for (index, (name, kind)) in columns.into_iter().enumerate() {
            let mut name = name.to_owned();
            while name.is_empty() || !names.insert(name.clone()) {
                name = format!("{name}_{}", index + 1);
            }
            let (column, data_type) = Column::new(kind);
            fields.push(Field::new(name, data_type, true));
            builders.push(column);
        }
        let schema = Arc::new(Schema::new(fields));
        Self { schema, columns: builders, rows: 0, bytes: 0, given: false }
    }

    /// Adds a row. Returns the batch if it is now full.
    pub(crate) fn push<'a>(
        &mut self,
        row: impl IntoIterator<Item = Result<Value<'a>, String>>,
    ) -> Result<Option<RecordBatch>, Unfit> {
        for (index, value) in row.into_iter().enumerate() {
            let appended = value.and_then(|value| {
                self.bytes += value.bytes();
                self.columns[index].append(value)
            });
            appended.map_err(|problem| Unfit {
                column: self.schema.field(index).name().clone(),
                problem,
            })?;
        }
        self.rows += 1;
        Ok((self.rows == ROWS || self.bytes >= BYTES).then(|| self.take()))
    }

    /// Returns the remaining rows. For a result without rows, returns an empty batch.
    pub(crate) fn last(mut self) -> Option<RecordBatch> {
        (self.rows > 0 || !self.given).then(|| self.take())
    }

    fn take(&mut self) -> RecordBatch {
        (self.rows, self.bytes, self.given) = (0, 0, true);
        let columns = self.columns.iter_mut().map(Column::finish).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .expect("each column has one value per row, of its field's type")
    }
}

impl Column {
    fn new(kind: Kind) -> (Self, DataType) {
        let data_type = match kind {
            Kind::Bool => DataType::Boolean,
            Kind::Int => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::Decimal(scale) => DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale),
            Kind::Text => DataType::Utf8,
            Kind::Binary => DataType::Binary,
            Kind::Date => DataType::Date32,
            Kind::Time => DataType::Time64(TimeUnit::Nanosecond),
            Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Kind::TimestampUtc => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        };
        let column = match kind {
            Kind::Bool => Self::Bool(BooleanBuilder::new()),
            Kind::Int => Self::Int(Int64Builder::new()),
            Kind::Float => Self::Float(Float64Builder::new()),
            Kind::Decimal(_) => {
                Self::Decimal(Decimal128Builder::new().with_data_type(data_type.clone()))
            }
            Kind::Text => Self::Text(StringBuilder::new()),
            Kind::Binary => Self::Binary(BinaryBuilder::new()),
            Kind::Date => Self::Date(Date32Builder::new()),
            Kind::Time => Self::Time(Time64NanosecondBuilder::new()),
            Kind::Timestamp | Kind::TimestampUtc => Self::Timestamp(
                TimestampMicrosecondBuilder::new().with_data_type(data_type.clone()),
            ),
        };
        (column, data_type)
    }

    fn append(&mut self, value: Value<'_>) -> Result<(), String> {
        match (self, value) {
            (Self::Bool(builder), Value::Bool(value)) => builder.append_option(value),
            (Self::Int(builder), Value::Int(value)) => builder.append_option(value),
            (Self::Float(builder), Value::Float(value)) => builder.append_option(value),
            (Self::Decimal(builder), Value::Decimal(value)) => builder.append_option(value),
            (Self::Text(builder), Value::Text(value)) => builder.append_option(value),
            (Self::Binary(builder), Value::Binary(value)) => builder.append_option(value),
            (Self::Date(builder), Value::Date(value)) => builder.append_option(value),
            (Self::Time(builder), Value::Time(value)) => builder.append_option(value),
            (Self::Timestamp(builder), Value::Timestamp(value)) => builder.append_option(value),
            (_, value) => return Err(format!("{value:?} does not have its type")),
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bool(builder) => Arc::new(builder.finish()),
            Self::Int(builder) => Arc::new(builder.finish()),
            Self::Float(builder) => Arc::new(builder.finish()),
            Self::Decimal(builder) => Arc::new(builder.finish()),
            Self::Text(builder) => Arc::new(builder.finish()),
            Self::Binary(builder) => Arc::new(builder.finish()),
            Self::Date(builder) => Arc::new(builder.finish()),
            Self::Time(builder) => Arc::new(builder.finish()),
            Self::Timestamp(builder) => Arc::new(builder.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> [Result<Value<'_>, String>; 2] {
        [Ok(Value::Int(Some(7))), Ok(Value::Text(Some(text.into())))]
    }

    #[test]
    fn a_batch_is_full_by_rows_or_by_bytes() {
        let mut batches = Batches::new([("id", Kind::Int), ("text", Kind::Text)]);
        for _ in 1..ROWS {
            assert!(batches.push(row("short")).unwrap().is_none());
        }
        assert_eq!(batches.push(row("short")).unwrap().unwrap().num_rows(), ROWS);
        let half = "x".repeat(BYTES / 2);
        assert!(batches.push(row(&half)).unwrap().is_none());
        assert_eq!(batches.push(row(&half)).unwrap().unwrap().num_rows(), 2);
        assert!(batches.last().is_none());
        let empty = Batches::new([("id", Kind::Int)]).last().unwrap();
        assert_eq!((empty.num_rows(), empty.num_columns()), (0, 1));
    }

    #[test]
    fn every_column_has_its_own_name() {
        let columns = ["a", "", "a", "a_3"].map(|name| (name, Kind::Int));
        let batch = Batches::new(columns).last().unwrap();
        let names: Vec<_> = batch.schema_ref().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["a", "_2", "a_3", "a_3_4"]);
    }

    #[test]
    fn an_error_names_the_column() {
        let mut batches = Batches::new([("id", Kind::Int)]);
        let error = batches.push([Ok(Value::Bool(None))]).unwrap_err();
        assert!(error.to_string().starts_with("column id: "), "{error}");
    }
}
