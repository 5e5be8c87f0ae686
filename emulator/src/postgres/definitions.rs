//! `CREATE TABLE` and `CREATE INDEX` for SQLite.
//!
//! A column is declared as `numeric(6,2):blob`: PostgreSQL's type, and a word that prevents
//! SQLite from converting values ("Determination Of Column Affinity"). `:always` marks a column
//! that accepts only its default.

use pgwire::api::Type;
use sqlparser::ast::{
    ColumnDef, ColumnOption, CreateIndex, CreateTable, Expr, ForeignKeyConstraint, IndexColumn,
    OrderByExpr,
};

use super::{
    allowed::{folded, list, local, only, quoted},
    error::SqlError,
    expressions::{Column, Compiler, Source, data_type},
    values::{Class, Ty},
};

impl Compiler<'_> {
    pub(super) fn create_table(&mut self, given: &CreateTable) -> Result<String, SqlError> {
        let exists = if given.if_not_exists { "IF NOT EXISTS " } else { "" };
        let rebuilt = format!("CREATE TABLE {exists}{} ({})", given.name, list(&given.columns));
        only(&rebuilt, given)?;
        let table = local(&given.name)?;
        let mut columns = Vec::new();
        for column in &given.columns {
            let (name, (ty, _)) = (folded(&column.name), declared(column)?);
            columns.push(Column { name, ty, always: false, key: false });
        }
        let mut definitions = Vec::new();
        for column in &given.columns {
            definitions.push(self.define(&table, column, &columns)?);
        }
        Ok(format!("CREATE TABLE {exists}{} ({})", quoted(&table), definitions.join(", ")))
    }

    fn define(
        &mut self,
        table: &str,
        column: &ColumnDef,
        columns: &[Column],
    ) -> Result<String, SqlError> {
        let name = folded(&column.name);
        let (ty, mut numbered) = declared(column)?;
        let mut always = "";
        let mut constraints = String::new();
        for option in &column.options {
            let text = option.to_string();
            constraints += &match (&option.option, text.as_str()) {
                (_, "NOT NULL") => " NOT NULL".to_owned(),
                // SQLite's primary keys may be NULL.
                (_, "PRIMARY KEY") if ty.class() != Class::Other => {
                    " NOT NULL PRIMARY KEY".to_owned()
                }
                (_, "GENERATED ALWAYS AS IDENTITY") => {
                    (always, numbered) = (":always", true);
                    String::new()
                }
                (ColumnOption::Default(value), _) if option.name.is_none() => {
                    format!(" DEFAULT ({})", self.assigned(value, &ty)?.sql)
                }
                (ColumnOption::Check(check), _) if text == format!("CHECK ({})", check.expr) => {
                    let constraint = quoted(&format!("{table}_{name}_check"));
                    self.sources = source(table, columns);
                    let condition = self.boolean(&check.expr)?;
                    // A default cannot name columns.
                    self.sources.clear();
                    format!(" CONSTRAINT {constraint} CHECK ({condition})")
                }
                (ColumnOption::ForeignKey(key), _) => self.references(key, &text, &ty)?,
                _ => return Err(SqlError::unsupported(text)),
            };
        }
        let ty = ty.name();
        if numbered {
            let next = format!("pg_nextval({})", self.engine.new_sequence());
            constraints += &format!(" NOT NULL DEFAULT (pg_cast({next}, 'int8', '{ty}'))");
        }
        Ok(format!("{} \"{ty}:blob{always}\"{constraints}", quoted(&name)))
    }

    /// Translates a reference to a primary key, without actions.
    fn references(
        &self,
        key: &ForeignKeyConstraint,
        given: &str,
        ty: &Ty,
    ) -> Result<String, SqlError> {
        let (table, referred) = (&key.foreign_table, list(&key.referred_columns));
        let columns = self.table(&local(table)?)?;
        let fits = |it: &&Column| it.key && it.ty.class() == ty.class() && it.name == referred;
        match columns.iter().find(fits) {
            Some(Column { name, .. }) if given == format!("REFERENCES {table} ({referred})") => {
                Ok(format!(" REFERENCES {} ({})", quoted(&local(table)?), quoted(name)))
            }
            _ => Err(SqlError::unsupported(given)),
        }
    }

    pub(super) fn create_index(&mut self, given: &CreateIndex) -> Result<String, SqlError> {
        let (Some(name), [IndexColumn { column: OrderByExpr { expr: column, .. }, .. }]) =
            (&given.name, given.columns.as_slice())
        else {
            return Err(SqlError::unsupported(given.to_string()));
        };
        let exists = if given.if_not_exists { "IF NOT EXISTS " } else { "" };
        let table = &given.table_name;
        only(&format!("CREATE INDEX {exists}{name} ON {table}({column})"), given)?;
        let (name, table) = (quoted(&local(name)?), local(table)?);
        self.sources = source(&table, &self.table(&table)?);
        // SQLite also indexes an expression in parentheses.
        let Expr::Identifier(_) = column else {
            return Err(SqlError::unsupported(column.to_string()));
        };
        let column = self.expr(column, None)?.sql;
        Ok(format!("CREATE INDEX {exists}{name} ON {} ({column})", quoted(&table)))
    }
}

/// Makes this table the only table whose columns an expression can name.
fn source(table: &str, columns: &[Column]) -> Vec<Source> {
    vec![Source { name: table.to_owned(), columns: columns.to_vec() }]
}

/// The type of a column, and whether a sequence numbers it.
fn declared(column: &ColumnDef) -> Result<(Ty, bool), SqlError> {
    if column.data_type.to_string().eq_ignore_ascii_case("serial") {
        return Ok((Type::INT4.into(), true));
    }
    Ok((data_type(&column.data_type)?, false))
}
