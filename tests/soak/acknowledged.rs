//! What each task has written, as far as it was told.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use entra_pool::{azure_sql, postgres};

use crate::{TASKS, chaos::Database, load::tasks_of};

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// It was sent, perhaps, and nothing was heard: it may be there.
    Unknown,
    /// The server said that it is there.
    Acknowledged,
    /// Its transaction has never been committed: it is not there.
    Uncommitted,
}

/// The rows of each task. A row's id is its place there.
pub struct Acknowledged([Mutex<Vec<Entry>>; TASKS]);

/// Rows of one task at most.
const RANGE: i64 = 1 << 32;

impl Acknowledged {
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }

    /// A new row's id.
    pub fn write(&self, task: usize, entry: Entry) -> i64 {
        let mut entries = self.entries(task);
        entries.push(entry);
        first_of(task) + i64::try_from(entries.len()).unwrap() - 1
    }

    pub fn acknowledge(&self, task: usize, id: i64) {
        self.entries(task)[place(task, id)] = Entry::Acknowledged;
    }

    /// An acknowledged row, if there is one: the last.
    pub fn an_acknowledged(&self, task: usize) -> Option<i64> {
        let entries = self.entries(task);
        let place = entries.iter().rposition(|entry| *entry == Entry::Acknowledged)?;
        Some(first_of(task) + i64::try_from(place).unwrap())
    }

    /// Compares it with what Azure SQL has.
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

    /// Compares it with what PostgreSQL has.
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

/// How rows and acknowledged compare.
#[derive(Debug, Default)]
pub struct Check {
    /// What the acknowledged says, and whether the row is there.
    pub counts: BTreeMap<(Entry, bool), u64>,
    /// The first few that should not be so.
    pub wrong: Vec<String>,
}

impl Check {
    /// `ids` are in order.
    fn task(&mut self, task: usize, entries: &[Entry], ids: impl Iterator<Item = i64>) {
        let mut there = vec![0_u32; entries.len()];
        for id in ids {
            match there.get_mut(place(task, id)) {
                Some(times) => *times += 1,
                None => self.is_wrong(format!("row {id}, which nobody has written")),
            }
        }
        for (place, (entry, times)) in entries.iter().zip(there).enumerate() {
            *self.counts.entry((*entry, times > 0)).or_default() += 1;
            let right = match entry {
                Entry::Unknown => times <= 1,
                Entry::Acknowledged => times == 1,
                Entry::Uncommitted => times == 0,
            };
            if !right {
                self.is_wrong(format!(
                    "row {place} of task {task}, {entry:?}: {times} times there"
                ));
            }
        }
    }

    fn others(&mut self, rows: i64) {
        if rows != 0 {
            self.is_wrong(format!("{rows} rows of nobody"));
        }
    }

    fn is_wrong(&mut self, what: String) {
        if self.wrong.len() < 10 {
            self.wrong.push(what);
        }
    }
}
