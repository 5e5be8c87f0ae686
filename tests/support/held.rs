//! The resources that this process holds, as Linux reports them.

use std::fs;

use tokio::runtime::Handle;

#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub resident_kb: u64,
    pub descriptors: usize,
    pub tasks: usize,
}

impl Held {
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident_kb = resident.trim().trim_end_matches(" kB").parse().unwrap();
        Self { resident_kb, descriptors: descriptors(), tasks: tasks() }
    }
}

pub fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The number of alive tasks in the current runtime.
pub fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}
