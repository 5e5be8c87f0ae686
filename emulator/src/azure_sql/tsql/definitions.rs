//! CREATE TABLE, CREATE INDEX and DROP TABLE.

use sqlparser::ast::{
    CheckConstraint, ColumnDef, ColumnOption, CreateIndex, CreateTable, Expr, Ident, Statement,
};

use super::{
    Result, Translated, Translator, Writes, names, plain,
    predicates::key,
    refuse, refuse_rest,
    sources::{From, Source},
};
use crate::{
    azure_sql::{error::ServerError, tokens::Command, types::SqlType},
    database::ROW_NUMBER_INT,
};

impl Translator<'_> {
    pub(super) fn create_table(mut self, table: &CreateTable) -> Result<Translated> {
        let Statement::CreateTable(known) = plain("CREATE TABLE t (a int)")? else {
            return Err(ServerError::unsupported("CREATE TABLE"));
        };
        let rest = CreateTable {
            name: known.name.clone(),
            columns: known.columns.clone(),
            ..table.clone()
        };
        refuse_rest(&rest, &known)?;
        let name = names::table(&table.name)?;
        self.in_definition = true;
        let mut columns = Vec::new();
        for column in &table.columns {
            columns.push(self.column_definition(column)?);
        }
        let keys = columns.iter().filter(|column| column.contains(" PRIMARY KEY")).count();
        refuse!("a second PRIMARY KEY or IDENTITY": keys > 1);
        let sql = format!("CREATE TABLE {} ({})", name.quoted(), columns.join(", "));
        let writes = Writes::to(&name);
        Ok(self.finish(sql, writes, Command::Other))
    }

    fn column_definition(&mut self, column: &ColumnDef) -> Result<String> {
        let ColumnDef { name, data_type, options } = column;
        let declared = data_type.to_string();
        let Some(sql_type) = SqlType::parse(&declared) else {
            return Err(ServerError::unsupported(declared));
        };
        let quoted = names::quoted(&name.value);
        let (mut not_null, mut is_key, mut identity) = (false, false, false);
        let mut rest = String::new();
        for option in options {
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
                (ColumnOption::Check(check), _) => {
                    rest = format!(
                        "{rest}{constraint} CHECK ({})",
                        self.check(check, name, sql_type)?
                    );
                }
                (_, other) => return Err(ServerError::unsupported(other)),
            }
        }
        refuse!("CHECK of an IDENTITY": identity && rest.contains(" CHECK "));
        if identity {
            return Ok(format!("{quoted} {ROW_NUMBER_INT} PRIMARY KEY AUTOINCREMENT"));
        }
        // Text is equal without regard to case or blanks, which an index does not know.
        let comparable = !sql_type.is_text() && !sql_type.is_float();
        if is_key && !(comparable && key(String::new(), sql_type, false).is_ok()) {
            return Err(ServerError::unsupported(format_args!("{sql_type} PRIMARY KEY")));
        }
        let not_null = if not_null || is_key { " NOT NULL" } else { "" };
        Ok(format!("{quoted} {}{not_null}{rest}", declared_type(sql_type)))
    }

    fn check(
        &mut self,
        check: &CheckConstraint,
        name: &Ident,
        sql_type: SqlType,
    ) -> Result<String> {
        refuse!("NO INHERIT": check.no_inherit, "ENFORCED": check.enforced.is_some());
        let columns = vec![(name.value.clone(), sql_type)];
        let tables = vec![Source { name: String::new(), columns }];
        self.froms = vec![From { tables, ..From::default() }];
        self.predicate(&check.expr)
    }

    pub(super) fn create_index(self, index: &CreateIndex) -> Result<Translated> {
        let Statement::CreateIndex(known) = plain("CREATE INDEX i ON t (a)")? else {
            return Err(ServerError::unsupported("CREATE INDEX"));
        };
        let rest = CreateIndex {
            name: known.name.clone(),
            table_name: known.table_name.clone(),
            columns: known.columns.clone(),
            ..index.clone()
        };
        refuse_rest(&rest, &known)?;
        let table = names::table(&index.table_name)?;
        let all = self.columns_of(&table)?;
        let mut columns = Vec::new();
        for column in &index.columns {
            let Expr::Identifier(name) = &column.column.expr else {
                return Err(ServerError::unsupported(column));
            };
            if column.to_string() != name.to_string() {
                return Err(ServerError::unsupported(column));
            }
            let known = all.iter().any(|column| column.name.eq_ignore_ascii_case(&name.value));
            refuse!("an index on a column that is not there": !known);
            columns.push(names::quoted(&name.value));
        }
        // Index names are the table's in SQL Server, the database's in SQLite.
        let name = index.name.as_ref().map(names::simple).transpose()?;
        let name = format!("{}.{}", table.name, name.map_or("", |name| name.value.as_str()));
        let schema = if table.is_temporary() { "temp" } else { "main" };
        let sql = format!(
            "CREATE INDEX {schema}.{} ON {} ({})",
            names::quoted(&name),
            names::quoted(&table.name),
            columns.join(", ")
        );
        let writes = Writes::to(&table);
        Ok(self.finish(sql, writes, Command::Other))
    }

    pub(super) fn drop(self, statement: &Statement) -> Result<Translated> {
        let Statement::Drop { if_exists, names, .. } = statement else {
            return Err(ServerError::unsupported(statement));
        };
        let exists = if *if_exists { "IF EXISTS " } else { "" };
        let [name] = &names[..] else { return Err(ServerError::unsupported(statement)) };
        if statement.to_string() != format!("DROP TABLE {exists}{name}") {
            return Err(ServerError::unsupported(statement));
        }
        let table = names::table(name)?;
        if self.catalogue.columns(&table).is_none() && !if_exists {
            let text = format!(
                "Cannot drop the table '{}', because it does not exist or you do not have permission.",
                table.name
            );
            return Err(ServerError::new(3701, 11, text));
        }
        let (sql, writes) = (format!("DROP TABLE {exists}{}", table.quoted()), Writes::to(&table));
        Ok(self.finish(sql, writes, Command::Other))
    }
}

/// SQLite takes numbers in a type's parentheses, and `max` in quotes only.
fn declared_type(sql_type: SqlType) -> String {
    let declared = sql_type.to_string();
    if declared.ends_with("(max)") { names::quoted(&declared) } else { declared }
}
