use std::str::FromStr;

use arrow_array::RecordBatch;
use arrow_cast::pretty::pretty_format_batches;
use arrow_schema::ArrowError;

/// The format of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text for people. Each batch is a separate table, because the widths of later rows are not
    /// known yet.
    Table,
    /// RFC 4180, with a header.
    Csv,
    /// An array of objects.
    Json,
}

impl Format {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Table => "text/plain; charset=utf-8",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Json => "application/json",
        }
    }
}

impl FromStr for Format {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "table" => Ok(Self::Table),
            "csv" => Ok(Self::Csv),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

/// Writes the batches of a report one by one.
pub(crate) struct Writer {
    format: Format,
    has_begun: bool,
}

impl Writer {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, has_begun: false }
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let begins = !std::mem::replace(&mut self.has_begun, true);
        let mut text = Vec::new();
        match self.format {
            Format::Table => {
                let table = pretty_format_batches(std::slice::from_ref(batch))?;
                text = format!("{table}\n").into_bytes();
            }
            Format::Csv => {
                let writer = arrow_csv::WriterBuilder::new().with_header(begins);
                writer.build(&mut text).write(batch)?;
            }
            Format::Json => {
                // As lines, because the array spans all batches.
                let mut lines = Vec::new();
                arrow_json::WriterBuilder::new()
                    .with_explicit_nulls(true)
                    .build::<_, arrow_json::writer::LineDelimited>(&mut lines)
                    .write(batch)?;
                text.extend(if begins { b"[" } else { b"," });
                let lines = lines.trim_ascii_end();
                text.extend(lines.iter().map(|byte| if *byte == b'\n' { b',' } else { *byte }));
            }
        }
        Ok(text)
    }

    /// The text after the last batch.
    pub(crate) fn end(&self) -> &'static [u8] {
        match self.format {
            Format::Json => b"]\n",
            Format::Table | Format::Csv => b"",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batches::Batches,
        value::{Kind, Value},
    };

    fn batches(format: Format, rows: usize) -> String {
        let columns = [
            ("n", Kind::Int),
            ("text", Kind::Text),
            ("sum", Kind::Decimal(2)),
            ("at", Kind::TimestampUtc),
            ("raw", Kind::Binary),
        ];
        let mut batches = Batches::new(columns);
        let mut writer = Writer::new(format);
        let mut text = Vec::new();
        for row in 0..rows {
            let values = [
                Value::Int(Some(row as i64)),
                Value::Text((row == 0).then_some("a \"b\",\n<é>".into())),
                Value::Decimal(Some(-50)),
                Value::Timestamp(Some(1_500_000)),
                Value::Binary(Some([0xc0, 0xff].as_slice().into())),
            ];
            if let Some(batch) = batches.push(values.map(Ok)).unwrap() {
                text.extend(writer.write(&batch).unwrap());
            }
        }
        if let Some(batch) = batches.last() {
            text.extend(writer.write(&batch).unwrap());
        }
        text.extend(writer.end());
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn csv_is_quoted_and_has_one_header() {
        let text = batches(Format::Csv, 2);
        let expected = "n,text,sum,at,raw\n\
                        0,\"a \"\"b\"\",\n<é>\",-0.50,1970-01-01T00:00:01.500Z,c0ff\n\
                        1,,-0.50,1970-01-01T00:00:01.500Z,c0ff\n";
        assert_eq!(text, expected);
        assert_eq!(batches(Format::Csv, 2_500).matches("n,text,sum").count(), 1);
        assert_eq!(batches(Format::Csv, 0), "n,text,sum,at,raw\n");
    }

    #[test]
    fn json_is_one_array_of_objects() {
        assert_eq!(batches(Format::Json, 0), "[]\n");
        let text = batches(Format::Json, 2);
        let expected = r#"[{"n":0,"text":"a \"b\",\n<é>","sum":-0.50,"at":"1970-01-01T00:00:01.500Z","raw":"c0ff"},"#;
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.ends_with(
                r#"{"n":1,"text":null,"sum":-0.50,"at":"1970-01-01T00:00:01.500Z","raw":"c0ff"}]
"#
            ),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&batches(Format::Json, 2_500)).unwrap();
        assert_eq!(json.as_array().unwrap().len(), 2_500);
    }

    #[test]
    fn a_table_is_formatted_as_text() {
        let text = batches(Format::Table, 1);
        assert!(text.contains("| n | text "), "{text}");
        assert!(text.contains("| -0.50 |"), "{text}");
    }
}
