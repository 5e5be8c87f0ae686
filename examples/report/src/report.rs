use std::{sync::Arc, time::Duration};

use arrow_array::RecordBatch;
use entra_pool::{azure_sql, postgres};
use examples_common::Problem;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

/// How long a reader may pause, because it holds a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// A query, and the pool that runs it.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) pool: Pool,
    pub(crate) query: Arc<str>,
}

#[derive(Clone)]
pub(crate) enum Pool {
    AzureSql(azure_sql::Pool),
    Postgres(postgres::Pool),
}

/// The result of a query, one record batch at a time. Even with a slow reader, at most two more
/// batches are in memory.
pub(crate) struct Report {
    first: Option<RecordBatch>,
    batches: mpsc::Receiver<RecordBatch>,
    /// Stops the query if the reader disconnects.
    task: Aborting,
}

impl Source {
    /// Runs the query, and waits for its first rows or its end.
    pub(crate) async fn run(&self) -> Result<Report, Problem> {
        let (sender, batches) = mpsc::channel(1);
        let (source, sink) = (self.clone(), Sink { sender, patience: PATIENCE });
        let task = tokio::spawn(async move {
            match &source.pool {
                Pool::AzureSql(pool) => crate::azure_sql::run(pool, &source.query, &sink).await,
                Pool::Postgres(pool) => crate::postgres::run(pool, &source.query, &sink).await,
            }
        });
        let mut report = Report { first: None, batches, task: Aborting(task) };
        report.first = report.next().await?;
        Ok(report)
    }
}

impl Report {
    /// Returns the next batch, and `None` once the result is complete. There is always a first
    /// batch, which may have no rows.
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

/// Sends batches to the reader.
pub(crate) struct Sink {
    sender: mpsc::Sender<RecordBatch>,
    patience: Duration,
}

impl Sink {
    /// Returns whether the reader is still connected. Fails if the reader pauses for too long.
    pub(crate) async fn send(&self, batch: RecordBatch) -> Result<bool, Problem> {
        match timeout(self.patience, self.sender.send(batch)).await {
            Ok(sent) => Ok(sent.is_ok()),
            Err(_) => Err(Problem::of(&TooSlow, false)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the reader has paused for {PATIENCE:?}")]
struct TooSlow;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{batches::Batches, value::Kind};

    #[tokio::test]
    async fn a_report_does_not_wait_for_a_paused_reader() {
        let batch = Batches::new([("id", Kind::Int)]).last().unwrap();
        let (sender, mut batches) = mpsc::channel(1);
        let sink = Sink { sender, patience: Duration::ZERO };
        assert!(sink.send(batch.clone()).await.unwrap());
        assert!(sink.send(batch.clone()).await.is_err(), "the first has not been read");
        batches.recv().await.unwrap();
        assert!(sink.send(batch.clone()).await.unwrap());
        drop(batches);
        assert!(!sink.send(batch).await.unwrap(), "there is no reader");
    }
}
