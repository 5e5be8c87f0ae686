//! The simple and the extended query protocol.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use bytes::{BufMut, BytesMut};
use futures::{Sink, stream};
use pgwire::{
    api::{
        ClientInfo, ClientPortalStore, Type,
        portal::{Format, Portal},
        query::{ExtendedQueryHandler, SimpleQueryHandler},
        results::{FieldFormat, FieldInfo, QueryResponse, Response, Tag},
        stmt::QueryParser,
        store::PortalStore,
    },
    error::{PgWireError, PgWireResult},
    messages::{PgWireBackendMessage, data::DataRow},
};
use rusqlite::types::Value;
use sqlparser::ast::Statement;

use super::{
    allowed::parse,
    error::SqlError,
    queries::Compiled,
    session::{Outcome, Session, SessionHandle, Status},
    values::{Ty, from_binary, print, to_binary},
};

/// Runs the statements that clients send.
pub(super) struct Queries;

#[async_trait]
impl SimpleQueryHandler for Queries {
    async fn do_query<C>(&self, client: &mut C, sql: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let sql = sql.to_owned();
        let run = move |session: &mut Session| {
            let mut responses = Vec::new();
            let run = run_all(session, &sql, &mut responses);
            if let Err(error) = run {
                session.fail();
                responses.push(Response::Error(Box::new(error.with_severity("ERROR"))));
            }
            Ok(responses)
        };
        Ok(SessionHandle::of(client)?.blocking(run).await?)
    }
}

/// Runs several statements as one transaction, unless they begin or end transactions.
pub(super) fn run_all(
    session: &mut Session,
    sql: &str,
    responses: &mut Vec<Response>,
) -> Result<(), SqlError> {
    let statements: Vec<Statement> = parse(sql)?;
    let several = statements.len() > 1;
    if statements.is_empty() {
        responses.push(Response::EmptyQuery);
    }
    for statement in statements {
        if several && session.status == Status::Idle {
            session.begin(Status::Implicit)?;
        }
        let prepared = session.prepare(&statement, &[])?;
        let outcome = session.run(&prepared, &[])?;
        responses.push(response(&prepared, outcome, &Format::UnifiedText)?);
    }
    if session.status == Status::Implicit {
        session.end(true)?;
    }
    Ok(())
}

/// Compiles statements for the extended protocol.
#[async_trait]
impl QueryParser for Queries {
    type Statement = Compiled;

    async fn parse_sql<C>(
        &self,
        client: &C,
        sql: &str,
        types: &[Option<Type>],
    ) -> PgWireResult<Option<Compiled>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let (sql, types) = (sql.to_owned(), types.to_vec());
        let read = move |session: &mut Session| {
            let mut statements = parse(&sql)?;
            match (statements.pop(), statements.is_empty()) {
                (None, _) => Ok(None),
                (Some(statement), true) => session.prepare(&statement, &types).map(Some),
                (Some(_), false) => Err(SqlError::new(
                    "42601",
                    "cannot insert multiple commands into a prepared statement",
                )),
            }
        };
        Ok(SessionHandle::of(client)?.blocking(read).await?)
    }

    fn get_parameter_types(&self, statement: &Compiled) -> PgWireResult<Vec<Type>> {
        Ok(statement.parameters.clone())
    }

    fn get_result_schema(
        &self,
        statement: &Compiled,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        Ok(fields(statement, format.unwrap_or(&Format::UnifiedText)))
    }
}

#[async_trait]
impl ExtendedQueryHandler for Queries {
    type Statement = Compiled;
    type QueryParser = Self;

    fn query_parser(&self) -> Arc<Self> {
        Arc::new(Self)
    }

    async fn do_query<C>(
        &self,
        client: &mut C,
        portal: &Portal<Compiled>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Compiled>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let prepared = portal.statement.statement.clone();
        let parameters = parameters(portal, &prepared.parameters)?;
        let format = portal.result_column_format.clone();
        let run = move |session: &mut Session| {
            let outcome = session.run(&prepared, &parameters)?;
            response(&prepared, outcome, &format)
        };
        Ok(SessionHandle::of(client)?.blocking(run).await?)
    }
}

fn parameters(portal: &Portal<Compiled>, types: &[Type]) -> Result<Vec<Value>, SqlError> {
    let values = portal.parameters.iter().zip(types).enumerate();
    let values = values.map(|(at, (bytes, ty))| match bytes {
        None => Ok(Value::Null),
        Some(bytes) if portal.parameter_format.is_binary(at) => from_binary(bytes, ty),
        Some(_) => Err(SqlError::unsupported("a parameter as text")),
    });
    values.collect()
}

fn fields(prepared: &Compiled, format: &Format) -> Vec<FieldInfo> {
    let columns = prepared.columns.iter().enumerate();
    let field = |(at, (name, ty)): (usize, &(String, Ty))| {
        FieldInfo::new(name.clone(), None, None, ty.base.clone(), format.format_for(at))
            .with_type_modifier(ty.modifier)
    };
    columns.map(field).collect()
}

fn response(prepared: &Compiled, outcome: Outcome, format: &Format) -> Result<Response, SqlError> {
    let fields = Arc::new(fields(prepared, format));
    if fields.is_empty() {
        let tag = Tag::new(outcome.tag);
        return Ok(match (outcome.tag, outcome.touched) {
            ("BEGIN" | "START TRANSACTION", _) => Response::TransactionStart(tag),
            ("COMMIT" | "ROLLBACK", _) => Response::TransactionEnd(tag),
            (_, Some(touched)) => Response::Execution(tag.with_rows(touched)),
            (_, None) => Response::Execution(tag),
        });
    }
    let rows = outcome.rows.into_iter().map(|row| encode(row, &fields));
    // Rows that cannot be shown fail the statement, not the connection.
    let rows: Vec<PgWireResult<DataRow>> =
        rows.collect::<Result<Vec<_>, _>>()?.into_iter().map(Ok).collect();
    let mut response = QueryResponse::new(fields, stream::iter(rows));
    response.set_command_tag(outcome.tag);
    Ok(Response::Query(response))
}

fn encode(row: Vec<Value>, fields: &[FieldInfo]) -> Result<DataRow, SqlError> {
    let mut bytes = BytesMut::new();
    for (value, field) in row.into_iter().zip(fields) {
        if value == Value::Null {
            bytes.put_i32(-1);
            continue;
        }
        let value = match field.format() {
            FieldFormat::Text => print(&value, field.datatype())?.into_bytes(),
            FieldFormat::Binary => to_binary(&value, field.datatype())?,
        };
        let length =
            i32::try_from(value.len()).map_err(|_| SqlError::new("54000", "value is too long"))?;
        bytes.put_i32(length);
        bytes.put_slice(&value);
    }
    let count =
        i16::try_from(fields.len()).map_err(|_| SqlError::new("54011", "too many columns"))?;
    Ok(DataRow::new(bytes, count))
}
