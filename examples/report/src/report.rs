use std::sync::Arc;

use arrow_array::RecordBatch;
use entra_pool::{azure_sql, postgres};
use examples_common::Problem;
use tokio::{sync::mpsc, task::JoinHandle};

/// A query and where it is run.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) pool: Pool,
    pub(crate) query: Arc<str>,
}

#[derive(Clone)]
pub(crate) enum Pool {
    AzureSql(azure_sql::Pool),
    Postgres(postgres::Pool, postgres::Connector),
}

/// The result of a query, a record batch at a time: of the next ones there are never
/// more than two, however slow the reader.
pub(crate) struct Report {
    first: Option<RecordBatch>,
    batches: mpsc::Receiver<RecordBatch>,
    /// Ends the query, where the reader goes away.
    task: Aborting,
}

impl Source {
    /// Runs the query, and waits until there are rows, or is sure that there are none.
    pub(crate) async fn run(&self) -> Result<Report, Problem> {
        let (sender, batches) = mpsc::channel(1);
        let (source, sink) = (self.clone(), Sink(sender));
        let task = tokio::spawn(async move {
            match &source.pool {
                Pool::AzureSql(pool) => crate::azure_sql::run(pool, &source.query, &sink).await,
                Pool::Postgres(pool, _) => crate::postgres::run(pool, &source.query, &sink).await,
            }
        });
        let mut report = Report { first: None, batches, task: Aborting(task) };
        report.first = report.next().await?;
        Ok(report)
    }
}

impl Report {
    /// The first one is always there, and may have no rows. `None` at the end, and only
    /// if that is the end of the result.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, Problem> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if let Some(batch) = self.batches.recv().await {
            return Ok(Some(batch));
        }
        match (&mut self.task.0).await {
            Ok(Ok(())) => Ok(None),
            Ok(Err(problem)) => Err(problem),
            Err(panicked) => Err(Problem::of(&panicked, false)),
        }
    }
}

struct Aborting(JoinHandle<Result<(), Problem>>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where batches go.
pub(crate) struct Sink(mpsc::Sender<RecordBatch>);

impl Sink {
    /// Whether there still is somebody who reads.
    pub(crate) async fn send(&self, batch: RecordBatch) -> bool {
        self.0.send(batch).await.is_ok()
    }
}
