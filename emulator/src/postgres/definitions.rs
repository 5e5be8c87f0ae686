//! Tables and their columns: short type names, sequences, keys.

use sqlparser::ast::{
    AlterTable, AlterTableOperation, ColumnDef, ColumnOption, ColumnOptionDef, CreateTable,
    DataType, Expr, TableConstraint,
};

use super::{
    error::SqlError,
    infer::{folded, last_name},
    translate::{call, name_of, string},
    values::type_by_name,
};

pub(super) fn create_table(table: &mut CreateTable) -> Result<(), SqlError> {
    if table.on_commit.is_some() {
        return Err(SqlError::unsupported("ON COMMIT"));
    }
    if table.query.is_some() {
        return Err(SqlError::unsupported("CREATE TABLE … AS"));
    }
    table.unlogged = false;
    let name = last_name(&table.name);
    let keys: Vec<String> = table.constraints.iter().flat_map(key_columns).collect();
    for column in &mut table.columns {
        let is_key = keys.contains(&folded(&column.name));
        define_column(&name, column, is_key)?;
    }
    Ok(())
}

fn key_columns(constraint: &TableConstraint) -> Vec<String> {
    let TableConstraint::PrimaryKey(key) = constraint else {
        return Vec::new();
    };
    let names = key.columns.iter().filter_map(|column| match &column.column.expr {
        Expr::Identifier(name) => Some(folded(name)),
        _ => None,
    });
    names.collect()
}

/// One change at a time, as SQLite has it.
pub(super) fn alter_table(table: &mut AlterTable) -> Result<(), SqlError> {
    let name = last_name(&table.name);
    match table.operations.as_mut_slice() {
        [AlterTableOperation::AddColumn { column_def, .. }] => {
            define_column(&name, column_def, false)
        }
        [
            AlterTableOperation::DropColumn { .. }
            | AlterTableOperation::RenameColumn { .. }
            | AlterTableOperation::RenameTable { .. },
        ] => Ok(()),
        _ => Err(SqlError::unsupported(table.to_string())),
    }
}

/// Types get their short names, numbered columns a sequence.
fn define_column(table: &str, column: &mut ColumnDef, is_key: bool) -> Result<(), SqlError> {
    let declared = column.data_type.to_string();
    let ty = type_by_name(&declared)
        .ok_or_else(|| SqlError::unsupported(format!("column type {declared}")))?;
    column.data_type = DataType::Custom(name_of(ty.name()), Vec::new());
    let is_serial = declared.to_ascii_lowercase().contains("serial");
    let is_identity = |option: &ColumnOptionDef| {
        matches!(option.option, ColumnOption::Generated { generation_expr: None, .. })
    };
    let numbered = is_serial || column.options.iter().any(is_identity);
    column.options.retain(|option| !is_identity(option));
    let has = |wanted: fn(&ColumnOption) -> bool, column: &ColumnDef| {
        column.options.iter().any(|option| wanted(&option.option))
    };
    if numbered {
        let sequence = format!("{table}_{}_seq", folded(&column.name));
        let next = call("nextval", vec![string(&sequence)]);
        push(column, ColumnOption::Default(next));
    }
    let is_key = is_key || has(|option| matches!(option, ColumnOption::PrimaryKey(_)), column);
    // SQLite's primary keys may be null unless told.
    if (numbered || is_key) && !has(|option| *option == ColumnOption::NotNull, column) {
        push(column, ColumnOption::NotNull);
    }
    for option in &mut column.options {
        if let ColumnOption::Default(expr) = &mut option.option {
            // SQLite wants expressions in parentheses.
            *expr = Expr::Nested(Box::new(expr.clone()));
        }
    }
    Ok(())
}

fn push(column: &mut ColumnDef, option: ColumnOption) {
    column.options.push(ColumnOptionDef { name: None, option });
}
