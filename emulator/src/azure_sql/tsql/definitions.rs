//! CREATE TABLE, CREATE INDEX and DROP.

use sqlparser::ast::{
    CheckConstraint, ColumnDef, ColumnOption, CreateIndex, CreateTable, Expr, ForeignKeyConstraint,
    Ident, IdentityPropertyFormatKind, IdentityPropertyKind, IndexColumn, ObjectType,
    PrimaryKeyConstraint, ReferentialAction, Statement, TableConstraint, UniqueConstraint, Value,
    helpers::stmt_create_table::CreateTableBuilder,
};

use super::{Translated, Translator, Writes, changes::changed_table, names, names::Table, refuse};
use crate::{
    azure_sql::{error::ServerError, tokens::Command, types::SqlType},
    database::{ROW_NUMBER_BIGINT, ROW_NUMBER_INT},
};

type Result<T> = std::result::Result<T, ServerError>;

impl Translator<'_> {
    pub(super) fn create_table(mut self, table: &CreateTable) -> Result<Translated> {
        let plain = CreateTableBuilder::new(table.name.clone())
            .columns(table.columns.clone())
            .constraints(table.constraints.clone())
            .hive_formats(table.hive_formats.clone())
            .build();
        refuse!("an option of CREATE TABLE": *table != plain);
        let name = changed_table(&table.name)?;
        let key = table_key(&table.constraints)?;
        self.in_definition = true;
        let mut parts = Vec::new();
        let mut first_number = None;
        let mut key_is_in_column = false;
        for column in &table.columns {
            let definition = self.column(column, &key)?;
            if let Some(seed) = definition.identity_seed {
                refuse!("two columns with IDENTITY": first_number.is_some());
                // SQLite numbers rows in a primary key only.
                let other_key =
                    table.columns.iter().any(|other| other.name != column.name && has_key(other));
                let single = key.is_empty() || key == [column.name.value.to_ascii_lowercase()];
                refuse!("IDENTITY beside another PRIMARY KEY": other_key || !single);
                (first_number, key_is_in_column) = (Some(seed), true);
            }
            parts.push(definition.sql);
        }
        for constraint in &table.constraints {
            parts.extend(self.table_constraint(constraint, key_is_in_column)?);
        }
        let create = if name.is_temporary() { "CREATE TEMP TABLE" } else { "CREATE TABLE" };
        let mut sql = format!("{create} {} ({})", name.quoted(), parts.join(", "));
        if let Some(seed) = first_number.filter(|seed| *seed != 1) {
            let schema = if name.is_temporary() { "temp" } else { "main" };
            let table = name.name.replace('\'', "''");
            sql = format!(
                "{sql}; INSERT INTO {schema}.sqlite_sequence (name, seq) VALUES ('{table}', {})",
                seed - 1
            );
        }
        let writes = Writes::to(&name);
        Ok(self.finish(sql, None, writes, Command::Other))
    }

    fn column(&mut self, column: &ColumnDef, key: &[String]) -> Result<ColumnSql> {
        let ColumnDef { name, data_type, options } = column;
        let declared = data_type.to_string();
        let sql_type = SqlType::parse(&declared).ok_or_else(|| {
            ServerError::new(
                2715,
                16,
                format!(
                    "Column, parameter, or variable '{}': Cannot find data type {declared}.",
                    name.value
                ),
            )
        })?;
        let quoted = names::quoted(&name.value);
        let mut identity_seed = None;
        let mut rest = String::new();
        let mut beyond_key = false;
        let mut not_null = has_key(column) || key.contains(&name.value.to_ascii_lowercase());
        for option in options {
            let constraint = constraint_name(option.name.as_ref());
            beyond_key |= matches!(
                option.option,
                ColumnOption::Default(_)
                    | ColumnOption::Unique(_)
                    | ColumnOption::Check(_)
                    | ColumnOption::ForeignKey(_)
            );
            match &option.option {
                ColumnOption::Null => {}
                ColumnOption::NotNull => not_null = true,
                ColumnOption::Default(value) => {
                    rest = format!("{rest}{constraint} DEFAULT ({})", self.sql(value)?)
                }
                ColumnOption::PrimaryKey(_) => rest = format!("{rest}{constraint} PRIMARY KEY"),
                ColumnOption::Unique(_) => rest = format!("{rest}{constraint} UNIQUE"),
                ColumnOption::Check(check) => {
                    rest = format!("{rest}{constraint} CHECK ({})", self.check(check)?)
                }
                ColumnOption::ForeignKey(reference) => {
                    rest = format!("{rest}{constraint}{}", references(reference)?)
                }
                ColumnOption::Identity(identity) => identity_seed = Some(seed(identity)?),
                other => return Err(ServerError::unsupported(other)),
            }
        }
        if let Some(seed) = identity_seed {
            let numbering = match sql_type {
                SqlType::Int => ROW_NUMBER_INT,
                SqlType::BigInt => ROW_NUMBER_BIGINT,
                _ => return Err(ServerError::unsupported(format_args!("IDENTITY on {declared}"))),
            };
            refuse!("IDENTITY with another constraint": beyond_key);
            let sql = format!("{quoted} {numbering} PRIMARY KEY AUTOINCREMENT");
            return Ok(ColumnSql { sql, identity_seed: Some(seed) });
        }
        let mut sql = format!("{quoted} {}", declared_type(sql_type));
        if not_null {
            sql.push_str(" NOT NULL");
        }
        // SQL Server's default collation does not tell case.
        if sql_type.is_text() || sql_type == SqlType::UniqueIdentifier {
            sql.push_str(" COLLATE NOCASE");
        }
        if let Some(length) = sql_type.text_length() {
            let constraint = names::quoted(&format!("length of {}", name.value));
            sql = format!("{sql} CONSTRAINT {constraint} CHECK (length({quoted}) <= {length})");
        }
        Ok(ColumnSql { sql: sql + &rest, identity_seed: None })
    }

    fn check(&mut self, check: &CheckConstraint) -> Result<String> {
        refuse!("NO INHERIT": check.no_inherit, "ENFORCED": check.enforced.is_some());
        self.sql(&check.expr)
    }

    fn table_constraint(
        &mut self,
        constraint: &TableConstraint,
        key_is_in_column: bool,
    ) -> Result<Option<String>> {
        Ok(Some(match constraint {
            TableConstraint::PrimaryKey(_) if key_is_in_column => return Ok(None),
            TableConstraint::PrimaryKey(PrimaryKeyConstraint { name, columns, .. }) => {
                format!("{}PRIMARY KEY ({})", leading(name.as_ref()), self.index_columns(columns)?)
            }
            TableConstraint::Unique(UniqueConstraint { name, columns, .. }) => {
                format!("{}UNIQUE ({})", leading(name.as_ref()), self.index_columns(columns)?)
            }
            TableConstraint::Check(check) => {
                format!("{}CHECK ({})", leading(check.name.as_ref()), self.check(check)?)
            }
            TableConstraint::ForeignKey(key) => {
                let columns: Vec<String> =
                    key.columns.iter().map(|column| names::quoted(&column.value)).collect();
                format!(
                    "{}FOREIGN KEY ({}){}",
                    leading(key.name.as_ref()),
                    columns.join(", "),
                    references(key)?
                )
            }
            other => return Err(ServerError::unsupported(other)),
        }))
    }

    fn index_columns(&mut self, columns: &[IndexColumn]) -> Result<String> {
        let columns: Result<Vec<String>> = columns
            .iter()
            .map(|IndexColumn { column, operator_class }| {
                refuse!("an operator class": operator_class.is_some());
                refuse!("an index on an expression": !matches!(column.expr, Expr::Identifier(_)));
                self.order(std::slice::from_ref(column))
            })
            .collect();
        Ok(columns?.join(", "))
    }

    pub(super) fn create_index(mut self, index: &CreateIndex) -> Result<Translated> {
        let CreateIndex {
            name,
            table_name,
            using,
            columns,
            unique,
            concurrently,
            r#async,
            if_not_exists,
            include: _, // SQLite's indexes have no further columns; results are the same.
            nulls_distinct,
            with: _,
            predicate,
            index_options,
            alter_options,
        } = index;
        refuse!(
            "USING": using.is_some(),
            "CONCURRENTLY": *concurrently,
            "ASYNC": *r#async,
            "IF NOT EXISTS": *if_not_exists,
            "NULLS DISTINCT": nulls_distinct.is_some(),
            "an index option": !index_options.is_empty() || !alter_options.is_empty(),
            "an index without a name": name.is_none(),
        );
        let table = changed_table(table_name)?;
        self.in_definition = true;
        // Index names are the table's in SQL Server, the database's in SQLite.
        let name =
            name.as_ref().map(names::simple).transpose()?.map_or("", |name| name.value.as_str());
        let name = Table { name: format!("{}.{name}", table.name), schema: None };
        let schema = if table.is_temporary() { "temp" } else { "main" };
        let unique = if *unique { "UNIQUE " } else { "" };
        let mut sql = format!(
            "CREATE {unique}INDEX {schema}.{} ON {} ({})",
            name.quoted(),
            table.quoted(),
            self.index_columns(columns)?
        );
        if let Some(predicate) = predicate {
            sql = format!("{sql} WHERE {}", self.sql(predicate)?);
        }
        let writes = Writes::to(&table);
        Ok(self.finish(sql, None, writes, Command::Other))
    }

    pub(super) fn drop(self, statement: &Statement) -> Result<Translated> {
        let Statement::Drop {
            object_type,
            if_exists,
            names,
            cascade,
            restrict,
            purge,
            temporary,
            table,
        } = statement
        else {
            return Err(ServerError::unsupported(statement));
        };
        if *object_type != ObjectType::Table {
            return Err(ServerError::unsupported(format_args!("DROP {object_type}")));
        }
        refuse!("CASCADE": *cascade, "RESTRICT": *restrict, "PURGE": *purge, "TEMPORARY": *temporary, "ON": table.is_some());
        let mut drops = Vec::new();
        let mut writes = Writes::Temporary;
        for name in names {
            let table = changed_table(name)?;
            if self.catalogue.columns(&table).is_none() && !if_exists {
                let text = format!(
                    "Cannot drop the table '{}', because it does not exist or you do not have permission.",
                    table.name
                );
                return Err(ServerError::new(3701, 11, text));
            }
            if !table.is_temporary() {
                writes = Writes::Shared;
            }
            drops.push(format!(
                "DROP TABLE {}{}",
                if *if_exists { "IF EXISTS " } else { "" },
                table.qualified()
            ));
        }
        Ok(self.finish(drops.join("; "), None, writes, Command::Other))
    }
}

struct ColumnSql {
    sql: String,
    identity_seed: Option<i64>,
}

/// SQLite takes numbers in a type's parentheses, and `max` in quotes only.
pub(crate) fn declared_type(sql_type: SqlType) -> String {
    let declared = sql_type.to_string();
    if declared.ends_with("(max)") { names::quoted(&declared) } else { declared }
}

fn has_key(column: &ColumnDef) -> bool {
    column.options.iter().any(|option| matches!(option.option, ColumnOption::PrimaryKey(_)))
}

/// The columns of the table's PRIMARY KEY, where it is said of the table.
fn table_key(constraints: &[TableConstraint]) -> Result<Vec<String>> {
    let mut key = Vec::new();
    for constraint in constraints {
        if let TableConstraint::PrimaryKey(PrimaryKeyConstraint { columns, .. }) = constraint {
            for IndexColumn { column, .. } in columns {
                let Expr::Identifier(name) = &column.expr else {
                    return Err(ServerError::unsupported(constraint));
                };
                key.push(name.value.to_ascii_lowercase());
            }
        }
    }
    Ok(key)
}

fn constraint_name(name: Option<&Ident>) -> String {
    name.map_or(String::new(), |name| format!(" CONSTRAINT {}", names::quoted(&name.value)))
}

fn leading(name: Option<&Ident>) -> String {
    name.map_or(String::new(), |name| format!("CONSTRAINT {} ", names::quoted(&name.value)))
}

fn references(key: &ForeignKeyConstraint) -> Result<String> {
    let ForeignKeyConstraint {
        name: _,
        index_name,
        columns: _,
        foreign_table,
        referred_columns,
        on_delete,
        on_update,
        match_kind,
        characteristics,
    } = key;
    refuse!("an index in FOREIGN KEY": index_name.is_some(), "MATCH": match_kind.is_some(), "DEFERRABLE": characteristics.is_some());
    let mut sql = format!(" REFERENCES {}", changed_table(foreign_table)?.quoted());
    if !referred_columns.is_empty() {
        let columns: Vec<String> =
            referred_columns.iter().map(|column| names::quoted(&column.value)).collect();
        sql = format!("{sql} ({})", columns.join(", "));
    }
    for (event, action) in [("DELETE", on_delete), ("UPDATE", on_update)] {
        let action = match action {
            None | Some(ReferentialAction::NoAction) => continue,
            Some(ReferentialAction::Cascade) => "CASCADE",
            Some(ReferentialAction::SetNull) => "SET NULL",
            Some(ReferentialAction::SetDefault) => "SET DEFAULT",
            Some(ReferentialAction::Restrict) => return Err(ServerError::unsupported("RESTRICT")),
        };
        sql = format!("{sql} ON {event} {action}");
    }
    Ok(sql)
}

/// IDENTITY's first number; the step is 1.
fn seed(identity: &IdentityPropertyKind) -> Result<i64> {
    let IdentityPropertyKind::Identity(identity) = identity else {
        return Err(ServerError::unsupported("AUTOINCREMENT"));
    };
    refuse!("ORDER": identity.order.is_some());
    let Some(parameters) = &identity.parameters else { return Ok(1) };
    let IdentityPropertyFormatKind::FunctionCall(parameters) = parameters else {
        return Err(ServerError::unsupported("IDENTITY START"));
    };
    let number = |expression: &Expr| match expression {
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => number.parse::<i64>().ok(),
            _ => None,
        },
        _ => None,
    };
    match (number(&parameters.seed), number(&parameters.increment)) {
        (Some(seed), Some(1)) => Ok(seed),
        _ => Err(ServerError::unsupported("IDENTITY with a step other than 1")),
    }
}
