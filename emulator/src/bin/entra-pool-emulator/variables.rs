//! The variables for clients, in the formats of shells and tools.

use clap::ValueEnum;
use serde_json::Value;

/// A variable and its purpose.
pub(crate) struct Variable {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    /// Printed before the variable, in formats that have comments.
    pub(crate) comment: &'static str,
}

/// How variables are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// `export NAME='value'`.
    Sh,
    /// `$env:NAME = 'value'`.
    #[value(name = "powershell")]
    PowerShell,
    /// `NAME=value`, as `docker run --env-file` and dotenv libraries read it.
    Dotenv,
    /// One object.
    Json,
}

impl Format {
    pub(crate) fn write(self, variables: &[Variable]) -> String {
        if self == Self::Json {
            let object: serde_json::Map<_, _> = variables
                .iter()
                .map(|it| (it.name.to_owned(), Value::from(it.value.as_str())))
                .collect();
            return format!("{:#}\n", Value::Object(object));
        }
        let mut text = String::new();
        for Variable { name, value, comment } in variables {
            if !comment.is_empty() {
                text.push_str(&format!("# {comment}\n"));
            }
            text.push_str(&match self {
                Self::Sh => format!("export {name}='{}'\n", value.replace('\'', r"'\''")),
                Self::PowerShell => format!("$env:{name} = '{}'\n", value.replace('\'', "''")),
                // Docker reads quotes as part of the value.
                Self::Dotenv | Self::Json => format!("{name}={value}\n"),
            });
        }
        text.push_str("# Ctrl-C stops everything and removes its temporary files.\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_keeps_the_value() {
        let value = r#"Server=tcp:a,1;CA="/b c";Password='d'"#.to_owned();
        let variables = [Variable { name: "NAME", value: value.clone(), comment: "What it is" }];
        let last = "# Ctrl-C stops everything and removes its temporary files.\n";
        for (format, line) in [
            (Format::Sh, r#"export NAME='Server=tcp:a,1;CA="/b c";Password='\''d'\'''"#),
            (Format::PowerShell, r#"$env:NAME = 'Server=tcp:a,1;CA="/b c";Password=''d'''"#),
            (Format::Dotenv, r#"NAME=Server=tcp:a,1;CA="/b c";Password='d'"#),
        ] {
            assert_eq!(format.write(&variables), format!("# What it is\n{line}\n{last}"));
        }
        let json: Value = serde_json::from_str(&Format::Json.write(&variables)).unwrap();
        assert_eq!(json, serde_json::json!({"NAME": value}));
    }
}
