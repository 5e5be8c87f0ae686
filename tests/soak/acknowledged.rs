//! A record of the rows that each task wrote, and of the server's acknowledgements.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use entra_pool::{azure_sql, postgres};

use crate::{TASKS, chaos::Database, load::tasks_of};

/// The known state of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// It may have been sent, and no response arrived: it may exist.
    Unknown,
    /// The server acknowledged it: it exists.
    Acknowledged,
    /// Its transaction was never committed: it does not exist.
    Uncommitted,
}

/// The rows of each task. A row's id follows from its index here.
pub struct Acknowledged([Mutex<Vec<Entry>>; TASKS]);

/// The maximum number of rows for each task.
const RANGE: i64 = 1 << 32;

impl Acknowledged {
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }

    /// Adds a row and returns its id.
    pub fn write(&self, task: usize, entry: Entry) -> i64 {
        let mut entries = self.entries(task);
        entries.push(entry);
        first_of(task) + i64::try_from(entries.len()).unwrap() - 1
    }

    pub fn acknowledge(&self, task: usize, id: i64) {
        self.entries(task)[place(task, id)] = Entry::Acknowledged;
    }

    /// Returns the last acknowledged row, if there is one.
    pub fn last_acknowledged(&self, task: usize) -> Option<i64> {
        let entries = self.entries(task);
        let place = entries.iter().rposition(|entry| *entry == Entry::Acknowledged)?;
        Some(first_of(task) + i64::try_from(place).unwrap())
    }

    /// Compares the record with the rows in Azure SQL.
    pub async fn check_azure(&self, client: &mut azure_sql::Client) -> Check {
        let sql = "SELECT id FROM acknowledged WHERE id >= @P1 AND id <= @P2 ORDER BY id";
        let mut check = Check::default();
        for task in tasks_of(Database::Azure) {
            let rows = client.query(sql, &[&first_of(task), &last_of(task)]).await.unwrap();
            let rows = rows.into_first_result().await.unwrap();
            let ids = rows.iter().map(|row| row.get::<i64, _>(0).unwrap());
            check.task(task, &self.entries(task), ids);
        }
        let others = "SELECT COUNT_BIG(*) FROM acknowledged WHERE id < 0 OR id >= @P1";
        let others = client.query(others, &[&first_of(TASKS)]).await.unwrap();
        check.others(others.into_row().await.unwrap().unwrap().get(0).unwrap());
        check
    }

    /// Compares the record with the rows in PostgreSQL.
    pub async fn check_postgres(&self, client: &postgres::tokio_postgres::Client) -> Check {
        let sql = "SELECT id FROM acknowledged WHERE id BETWEEN $1 AND $2 ORDER BY id";
        let mut check = Check::default();
        for task in tasks_of(Database::Postgres) {
            let rows = client.query(sql, &[&first_of(task), &last_of(task)]).await.unwrap();
            let ids = rows.iter().map(|row| row.get(0));
            check.task(task, &self.entries(task), ids);
        }
        let others = "SELECT count(*) FROM acknowledged WHERE id < 0 OR id >= $1";
        let others = client.query_one(others, &[&first_of(TASKS)]).await.unwrap();
        check.others(others.get(0));
        check
    }

    fn entries(&self, task: usize) -> MutexGuard<'_, Vec<Entry>> {
        self.0[task].lock().unwrap()
    }
}

fn first_of(task: usize) -> i64 {
    i64::try_from(task).unwrap() * RANGE
}

fn last_of(task: usize) -> i64 {
    first_of(task) + RANGE - 1
}

fn place(task: usize, id: i64) -> usize {
    usize::try_from(id - first_of(task)).unwrap()
}

/// The result of comparing the record with a database.
#[derive(Debug, Default)]
pub struct Check {
    /// The number of rows by their entry in the record, and by whether the row exists.
    pub counts: BTreeMap<(Entry, bool), u64>,
    /// The first few rows that contradict the record.
    pub wrong: Vec<String>,
}

impl Check {
    /// `ids` are in order.
    fn task(&mut self, task: usize, entries: &[Entry], ids: impl Iterator<Item = i64>) {
        let mut found = vec![0_u32; entries.len()];
        for id in ids {
            match found.get_mut(place(task, id)) {
                Some(times) => *times += 1,
                None => self.is_wrong(format!("row {id}, which no task has written")),
            }
        }
        for (place, (entry, times)) in entries.iter().zip(found).enumerate() {
            *self.counts.entry((*entry, times > 0)).or_default() += 1;
            let right = match entry {
                Entry::Unknown => times <= 1,
                Entry::Acknowledged => times == 1,
                Entry::Uncommitted => times == 0,
            };
            if !right {
                self.is_wrong(format!(
                    "row {place} of task {task}, {entry:?}: found {times} times"
                ));
            }
        }
    }

    fn others(&mut self, rows: i64) {
        if rows != 0 {
            self.is_wrong(format!("{rows} rows with an id of no task"));
        }
    }

    fn is_wrong(&mut self, what: String) {
        if self.wrong.len() < 10 {
            self.wrong.push(what);
        }
    }
}
