//! Queries on the wire: the simple and the extended protocol.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use bytes::{BufMut, BytesMut};
use futures::{
    Sink, SinkExt,
    future::{Either, select},
    stream,
};
use pgwire::{
    api::{
        ClientInfo, ClientPortalStore, ConnectionHandle, DEFAULT_NAME, ErrorHandler,
        PgWireConnectionState, Type,
        portal::{Format, Portal},
        query::{
            ExtendedQueryHandler, SimpleQueryHandler, send_execution_response, send_query_response,
            send_ready_for_query,
        },
        results::{FieldFormat, FieldInfo, QueryResponse, Response, Tag},
        stmt::{QueryParser, StoredStatement},
        store::PortalStore,
    },
    error::{PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage,
        data::DataRow,
        extendedquery::{Execute, Parse, ParseComplete, Sync as PgSync},
        response::EmptyQueryResponse,
        simplequery::Query,
    },
};
use rusqlite::types::Value;
use sqlparser::{ast::Statement, dialect::PostgreSqlDialect, parser::Parser};

use super::{
    Shared,
    command::Command,
    error::SqlError,
    handle::SessionHandle,
    session::{Outcome, Plan, Prepared, Session},
    values::{from_binary, from_text, to_binary, to_text},
};

/// Runs what clients send.
pub(super) struct Queries(pub(super) Arc<Shared>);

fn parse(sql: &str) -> Result<Vec<Statement>, SqlError> {
    Parser::parse_sql(&PostgreSqlDialect {}, sql)
        .map_err(|error| SqlError::new("42601", format!("syntax error: {error}")))
}

/// Runs one statement, and forgets prepared ones if that is what it says.
async fn run<C>(
    handle: &SessionHandle,
    client: &C,
    prepared: Prepared,
    parameters: Vec<Value>,
) -> Result<(Prepared, Outcome), SqlError>
where
    C: ClientPortalStore + Sync,
    C::PortalStore: PortalStore,
{
    let work = move |session: &mut Session| {
        let outcome = session.run(&prepared, &parameters)?;
        Ok((prepared, outcome))
    };
    let (prepared, outcome) = handle.blocking(work).await?;
    match &prepared.plan {
        Plan::Session(Command::Deallocate(Some(name))) => {
            if !handle.statements().remove(name) {
                let message = format!("prepared statement \"{name}\" does not exist");
                return Err(SqlError::new("26000", message));
            }
            client.portal_store().rm_statement(name);
        }
        Plan::Session(Command::DiscardAll | Command::Deallocate(None)) => {
            for name in std::mem::take(&mut *handle.statements()) {
                client.portal_store().rm_statement(&name);
            }
        }
        _ => {}
    }
    Ok((prepared, outcome))
}

#[async_trait]
impl SimpleQueryHandler for Queries {
    async fn on_query<C>(&self, client: &mut C, query: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let handle = SessionHandle::of(client)?;
        let cancel = client.session_extensions().get::<Arc<ConnectionHandle>>();
        let cancel = cancel.ok_or(PgWireError::NotReadyForQuery)?;
        let cancelled = cancel.start_query().await;
        let answered =
            match select(SimpleQueryHandler::do_query(self, client, &query.query), cancelled).await
            {
                Either::Left((answered, _)) => answered,
                Either::Right(_) => Err(PgWireError::QueryCanceled),
            };
        client.set_transaction_status(handle.status());
        answered?;
        client.set_state(PgWireConnectionState::ReadyForQuery);
        send_ready_for_query(client, handle.status()).await
    }

    /// Answers each statement as it is run.
    async fn do_query<C>(&self, client: &mut C, sql: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let handle = SessionHandle::of(client)?;
        self.0.queried();
        let statements = parse(sql)?;
        if statements.is_empty() {
            client
                .feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()))
                .await?;
        }
        for statement in statements {
            let read = move |session: &mut Session| session.prepare(&statement, &[]);
            let prepared = handle.blocking(read).await?;
            let (prepared, outcome) = run(&handle, &*client, prepared, Vec::new()).await?;
            match response(&prepared, outcome, &Format::UnifiedText)? {
                Response::Query(rows) => send_query_response(client, rows, true).await?,
                Response::Execution(tag) => send_execution_response(client, tag).await?,
                _ => {}
            }
        }
        Ok(Vec::new())
    }
}

/// Any error, in whatever message, fails the transaction.
impl ErrorHandler for Queries {
    fn on_error<C: ClientInfo>(&self, client: &C, _error: &mut PgWireError) {
        // Before the login there is nothing to fail.
        if let Ok(handle) = SessionHandle::of(client) {
            handle.lock().fail();
        }
    }
}

/// Reads statements for the extended protocol.
pub(super) struct Reader;

#[async_trait]
impl QueryParser for Reader {
    type Statement = Prepared;

    async fn parse_sql<C>(
        &self,
        client: &C,
        sql: &str,
        types: &[Option<Type>],
    ) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let handle = SessionHandle::of(client)?;
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
        Ok(handle.blocking(read).await?)
    }

    fn get_parameter_types(&self, statement: &Prepared) -> PgWireResult<Vec<Type>> {
        Ok(statement.parameters.clone())
    }

    fn get_result_schema(
        &self,
        statement: &Prepared,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        Ok(fields(statement, format.unwrap_or(&Format::UnifiedText)))
    }
}

#[async_trait]
impl ExtendedQueryHandler for Queries {
    type Statement = Prepared;
    type QueryParser = Reader;

    fn query_parser(&self) -> Arc<Reader> {
        Arc::new(Reader)
    }

    async fn on_parse<C>(&self, client: &mut C, message: Parse) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let handle = SessionHandle::of(client)?;
        let parsed = StoredStatement::parse(client, &message, self.query_parser()).await;
        client.set_transaction_status(handle.status());
        let name = message.name.unwrap_or_else(|| DEFAULT_NAME.to_owned());
        match parsed? {
            Some(statement) => client.portal_store().put_statement(Arc::new(statement)),
            None => client.portal_store().put_empty_statement(&name),
        }
        if name != DEFAULT_NAME {
            handle.statements().insert(name);
        }
        client.feed(PgWireBackendMessage::ParseComplete(ParseComplete::new())).await?;
        Ok(())
    }

    async fn on_execute<C>(&self, client: &mut C, message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let handle = SessionHandle::of(client)?;
        let executed = self._on_execute(client, message).await;
        client.set_transaction_status(handle.status());
        executed
    }

    async fn on_sync<C>(&self, client: &mut C, _message: PgSync) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        client.portal_store().rm_portal(DEFAULT_NAME);
        let status = SessionHandle::of(client)?.status();
        client.set_transaction_status(status);
        send_ready_for_query(client, status).await
    }

    async fn do_query<C>(
        &self,
        client: &mut C,
        portal: &Portal<Prepared>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let handle = SessionHandle::of(client)?;
        self.0.queried();
        let prepared = portal.statement.statement.clone();
        let parameters = parameters(portal, &prepared)?;
        let (prepared, outcome) = run(&handle, &*client, prepared, parameters).await?;
        Ok(response(&prepared, outcome, &portal.result_column_format)?)
    }
}

fn parameters(portal: &Portal<Prepared>, prepared: &Prepared) -> Result<Vec<Value>, SqlError> {
    let expected = prepared.parameters.len();
    if portal.parameters.len() != expected {
        let given = portal.parameters.len();
        let message = format!(
            "bind message supplies {given} parameters, but prepared statement requires {expected}"
        );
        return Err(SqlError::new("08P01", message));
    }
    let values = portal.parameters.iter().zip(&prepared.parameters).enumerate();
    let values = values.map(|(at, (bytes, ty))| match bytes {
        None => Ok(Value::Null),
        Some(bytes) if portal.parameter_format.is_binary(at) => from_binary(bytes, ty),
        Some(bytes) => from_text(bytes, ty),
    });
    values.collect()
}

fn fields(prepared: &Prepared, format: &Format) -> Vec<FieldInfo> {
    let columns = prepared.columns.iter().enumerate();
    let field = |(at, (name, ty)): (usize, &(String, Type))| {
        FieldInfo::new(name.clone(), None, None, ty.clone(), format.format_for(at))
    };
    columns.map(field).collect()
}

fn response(prepared: &Prepared, outcome: Outcome, format: &Format) -> Result<Response, SqlError> {
    let fields = Arc::new(fields(prepared, format));
    if fields.is_empty() {
        let tag = Tag::new(outcome.tag);
        let tag = match outcome.touched {
            Some(touched) => tag.with_rows(touched),
            None => tag,
        };
        return Ok(Response::Execution(tag));
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
            FieldFormat::Text => to_text(value, field.datatype())?,
            FieldFormat::Binary => to_binary(value, field.datatype())?,
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
