//! CREATE TABLE and DROP TABLE.

use sqlparser::ast::{ColumnDef, ColumnOption, CreateTable, Statement};

use super::{
    Result, TableColumn, Translated, Translator, Writes, list, names, only, refuse, sources::Source,
};
use crate::{
    azure_sql::{error::ServerError, tokens::Command, types::SqlType},
    database::ROW_NUMBER,
};

impl Translator<'_> {
    pub(super) fn create_table(mut self, table: &CreateTable) -> Result<Translated> {
        only(table, &format!("CREATE TABLE {} ({})", table.name, list(&table.columns)))?;
        let name = names::table(&table.name)?;
        self.in_definition = true;
        let mut columns = Vec::new();
        for column in &table.columns {
            columns.push(self.column_definition(column)?);
        }
        let keys = columns.iter().filter(|column| column.contains(" PRIMARY KEY")).count();
        refuse!("a second PRIMARY KEY or IDENTITY": keys > 1);
        let sql = format!("CREATE TABLE {} ({})", name.quoted(), columns.join(", "));
        Ok(self.finish(sql, Writes::to(&name), Command::Other))
    }

    fn column_definition(&mut self, column: &ColumnDef) -> Result<String> {
        let declared = column.data_type.to_string();
        let Some(sql_type) = SqlType::parse(&declared) else {
            return Err(ServerError::unsupported(declared));
        };
        let name = &column.name.value;
        let (mut not_null, mut is_key, mut identity) = (false, false, false);
        let mut rest = String::new();
        for option in &column.options {
            let constraint = option.name.as_ref().map_or(String::new(), |name| {
                format!(" CONSTRAINT {}", names::quoted(&name.value))
            });
            match (&option.option, option.option.to_string().as_str()) {
                (ColumnOption::Null, _) => {}
                (ColumnOption::NotNull, _) => not_null = true,
                (ColumnOption::PrimaryKey(_), "PRIMARY KEY") => {
                    is_key = true;
                    rest = format!("{rest}{constraint} PRIMARY KEY");
                }
                (ColumnOption::Identity(_), shown) => {
                    // SQLite numbers from 1, in steps of 1.
                    let known = ["IDENTITY", "IDENTITY(1, 1)"].contains(&shown);
                    refuse!("IDENTITY of another type than int": sql_type != SqlType::Int);
                    refuse!("IDENTITY with another seed or step than 1": !known);
                    identity = true;
                }
                (ColumnOption::Check(check), shown) => {
                    only(&shown, &format!("CHECK ({})", check.expr))?;
                    let columns =
                        vec![TableColumn { name: name.clone(), sql_type, identity: false }];
                    self.sources = vec![Source { name: String::new(), columns }];
                    let condition = self.predicate(&check.expr)?;
                    rest = format!("{rest}{constraint} CHECK ({condition})");
                }
                (_, other) => return Err(ServerError::unsupported(other)),
            }
        }
        refuse!("CHECK of an IDENTITY": identity && rest.contains(" CHECK "));
        let quoted = names::quoted(name);
        if identity {
            return Ok(format!("{quoted} {ROW_NUMBER} PRIMARY KEY AUTOINCREMENT"));
        }
        // Equality of texts ignores case and trailing spaces, but SQLite's index does not.
        if is_key && sql_type.is_text() {
            return Err(ServerError::unsupported(format_args!("{sql_type} PRIMARY KEY")));
        }
        let not_null = if not_null || is_key { " NOT NULL" } else { "" };
        Ok(format!("{quoted} {}{not_null}{rest}", declared_type(sql_type)))
    }

    pub(super) fn drop_table(self, statement: &Statement) -> Result<Translated> {
        let Statement::Drop { if_exists, names, .. } = statement else {
            return Err(ServerError::unsupported(statement));
        };
        let exists = if *if_exists { "IF EXISTS " } else { "" };
        only(statement, &format!("DROP TABLE {exists}{}", list(names)))?;
        let [name] = &names[..] else { return Err(ServerError::unsupported(statement)) };
        let table = names::table(name)?;
        if self.session.columns(&table).is_none() && !if_exists {
            let text = format!(
                "Cannot drop the table '{}', because it does not exist or you do not have permission.",
                table.name
            );
            return Err(ServerError::new(3701, 11, text));
        }
        let sql = format!("DROP TABLE {exists}{}", table.quoted());
        Ok(self.finish(sql, Writes::to(&table), Command::Other))
    }
}

/// SQLite reads the argument `max` of a type only in quotes.
fn declared_type(sql_type: SqlType) -> String {
    let declared = sql_type.to_string();
    if declared.ends_with("(max)") { names::quoted(&declared) } else { declared }
}
