//! Runs other projects' server programs in a temporary folder, on a port that the system chose.
//! They stop with the test process.

use std::{
    cmp::Reverse,
    fs,
    future::Future,
    io::Write,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A folder, and the account of the programs in it, which refuse to run as root.
pub struct Home {
    folder: TempDir,
    account: Option<Account>,
}

#[derive(Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Home {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("entra-pool-test-").tempdir().unwrap();
        let account = unprivileged(folder.path());
        Self { folder, account }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file that only the programs may read.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        self.own(&path, 0o600);
        path
    }

    /// Makes the programs' account the owner of a file or folder.
    pub fn own(&self, path: &Path, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        if let Some(Account { uid, gid }) = self.account {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// A command that runs with the programs' account.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("TZ", "UTC").env("LC_ALL", "C").env("FOLDER", self.path()).current_dir("/");
        if let Some(Account { uid, gid }) = self.account {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs a program, which must succeed.
    pub fn run(&self, command: &mut Command) {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    }

    /// The standard output and error of the daemon.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }
}

/// A running program. It stops, and its folder is deleted, when this value is dropped or the test
/// process is killed.
pub struct Daemon {
    pub home: Home,
    pub port: u16,
    keeper: Child,
}

/// `TempDir` cannot clean up in a killed process or in a static. The keeper does when its standard
/// input ends, unless it reads a word before. It stops the program by its process ID, or by the
/// command in `END`.
const KEEPER: &str = r#"
    "$@" < /dev/null &
    word=
    read -r word
    if [ -n "$END" ]; then eval "$END"; else kill -TERM $!; fi
    wait $!
    [ -n "$word" ] || rm -rf "$FOLDER"
"#;

impl Daemon {
    /// Starts the command that `program` returns for a port, and waits until `ready`.
    pub async fn start<F: Future<Output = bool>>(
        home: Home,
        end: &str,
        program: impl Fn(&Home, u16) -> Vec<String>,
        ready: impl Fn(PathBuf, u16) -> F,
    ) -> Self {
        // Another process may take the port before the program uses it.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let log = fs::File::create(home.path().join("log")).unwrap();
            home.own(&home.path().join("log"), 0o600);
            let mut keeper = home
                .command(Path::new("/bin/sh"))
                .args(["-c", KEEPER, "keeper"])
                .args(program(&home, port))
                .env("END", end)
                .stdin(Stdio::piped())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            let until = Instant::now() + Duration::from_secs(60);
            // The log shows early if the port is taken.
            while Instant::now() < until && !home.log().contains("could not bind") {
                if ready(home.path().to_owned(), port).await {
                    return Self { home, port, keeper };
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            eprintln!("not started on port {port}: {}", home.log());
            keeper.stdin.take().unwrap().write_all(b"leave\n").unwrap();
            keeper.wait().unwrap();
        }
        panic!("the program started on none of five ports");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// The path of a program in PATH, or in Debian's folders for system programs and for PostgreSQL.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .chain(postgresql_folders())
        .map(|folder| folder.join(name))
        .find(|program| program.exists())
        .unwrap_or_else(|| panic!("{name} is not installed: tests/run installs it"))
}

/// PostgreSQL's folders, with the newest version first.
fn postgresql_folders() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = versions.map(|version| version.path()).collect();
    folders.sort_by_key(|folder| {
        let version = folder.file_name().unwrap_or_default().to_string_lossy();
        // 9.6 is older than 15.
        Reverse(version.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>())
    });
    folders.into_iter().map(|folder| folder.join("bin")).collect()
}

/// If this process runs as root: an unprivileged account, which becomes the owner of `folder`.
fn unprivileged(folder: &Path) -> Option<Account> {
    if fs::metadata(folder).unwrap().uid() != 0 {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let account = |name: &str| {
        let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(Account { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    };
    let account = account("postgres").or_else(|| account("nobody")).expect("an account `nobody`");
    chown(folder, Some(account.uid), Some(account.gid)).unwrap();
    Some(account)
}
