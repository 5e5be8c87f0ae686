use std::{
    io::{self, BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

/// A running program; killed, by its ID, when this is dropped.
pub struct Process {
    child: Child,
    reader: Option<JoinHandle<()>>,
    log: Arc<Mutex<String>>,
}

impl Process {
    /// Starts a program and waits up to 60 s until it prints `announcement`. Returns the rest of
    /// that line.
    pub async fn start(command: &mut Command, announcement: &'static str) -> (Self, String) {
        let (printed, out) = io::pipe().expect("there are file descriptors left");
        let err = out.try_clone().expect("there are file descriptors left");
        let spawned = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // Closes this process's ends of the pipe, because otherwise the reader sees no end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let (sender, announced) = mpsc::channel();
        let log = Arc::new(Mutex::new(String::new()));
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in BufReader::new(printed).lines().map_while(Result::ok) {
                    if let Some((_, rest)) = line.split_once(announcement) {
                        // Only the first line is received.
                        let _ = sender.send(rest.to_owned());
                    }
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        let process = Self { child, reader: Some(reader), log };
        let announced = tokio::task::spawn_blocking(move || {
            announced.recv_timeout(Duration::from_secs(60)).ok()
        });
        match announced.await.expect("the reader does not panic") {
            Some(rest) => (process, rest),
            None => panic!("it does not print '{announcement}': {}", process.log()),
        }
    }

    /// The output so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The peak of its memory so far, in bytes. Linux only.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kibibytes.unwrap_or_else(|| panic!("{status}")) * 1024
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().expect("kill is installed");
        assert!(sent.success(), "the program has already stopped: {}", self.log());
    }

    /// Waits up to 30 s until the program has stopped. Returns the exit status and the log.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        for _ in 0..300 {
            if let Some(status) = self.child.try_wait().expect("a child of this process") {
                let reader = self.reader.take().expect("only this function takes it");
                reader.join().expect("the reader does not panic");
                return (status, self.log());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("it does not stop: {}", self.log());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The program may have stopped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
