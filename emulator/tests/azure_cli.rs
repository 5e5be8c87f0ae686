//! The `az` stand-in, run as a program.
#![cfg(unix)]

use std::{
    process::{Command, Output, Stdio},
    sync::Arc,
};

use entra_pool_emulator::{
    azure_cli::{AzureCliMode, AzureCliStandIn},
    jwt::{Issuer, Principal, PrincipalKind, TENANT_ID},
};
use serde_json::Value;

const SCOPE: &str = "https://database.windows.net/.default";
const SQL: &str = "https://database.windows.net";

struct Cli {
    issuer: Arc<Issuer>,
    ada: Principal,
    az: AzureCliStandIn,
}

impl Cli {
    fn new() -> Self {
        let issuer = Arc::new(Issuer::new());
        let ada = Principal::new("ada@example.com", PrincipalKind::User);
        let az = AzureCliStandIn::new(Arc::clone(&issuer), ada.clone()).unwrap();
        Self { issuer, ada, az }
    }

    /// Runs it without an environment: not even `PATH`.
    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(self.az.executable());
        command
            .env_clear()
            .current_dir("/")
            .args(["account", "get-access-token", "--output", "json"])
            .args(more);
        command
    }

    fn run(&self, more: &[&str]) -> Output {
        self.command(more).output().unwrap()
    }
}

fn answer(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn it_prints_a_token_of_the_user() {
    let cli = Cli::new();
    let answer = answer(&cli.run(&["--scope", SCOPE, "--tenant", TENANT_ID]));
    let token = answer["accessToken"].as_str().unwrap();
    let verified = cli.issuer.verify(token, SQL).unwrap();
    assert_eq!(verified.object_id, cli.ada.object_id);
    let epoch = entra_pool_emulator::jwt::seconds(verified.expires_on);
    assert_eq!(answer["expires_on"], epoch);
    assert_eq!(answer["tenant"], TENANT_ID);
    assert_eq!(answer["tokenType"], "Bearer");
    assert!(answer["subscription"].is_string());
    let local = answer["expiresOn"].as_str().unwrap();
    assert_eq!((local.len(), &local[10..11], &local[19..]), (26, " ", ".000000"));
}

#[test]
fn it_prints_the_same_token_until_it_is_refreshed() {
    let cli = Cli::new();
    let token = || answer(&cli.run(&["--scope", SCOPE]))["accessToken"].clone();
    let first = token();
    assert_eq!(first, token());
    cli.az.set_epoch(true).unwrap();
    assert_ne!(first, token());
}

#[test]
fn older_versions_do_not_print_expires_on() {
    let cli = Cli::new();
    cli.az.set_epoch(false).unwrap();
    let answer = answer(&cli.run(&["--scope", SCOPE]));
    assert!(answer.get("expires_on").is_none());
    assert!(answer["expiresOn"].is_string());
}

#[test]
fn it_records_its_arguments() {
    let cli = Cli::new();
    assert_eq!(cli.az.invocations().unwrap(), []);
    cli.run(&["--scope", SCOPE, "--subscription", "the shop's"]);
    cli.az.set_mode(AzureCliMode::LoggedOut).unwrap();
    cli.run(&[]);
    let calls = cli.az.invocations().unwrap();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].working_directory, std::path::Path::new("/"));
    let expected = [
        "account",
        "get-access-token",
        "--output",
        "json",
        "--scope",
        SCOPE,
        "--subscription",
        "the shop's",
    ];
    assert_eq!(calls[0].arguments, expected);
}

#[test]
fn failures_are_reported_on_stderr() {
    let cli = Cli::new();
    for (mode, text) in [
        (AzureCliMode::LoggedOut, "ERROR: Please run 'az login' to setup account."),
        (AzureCliMode::Broken, "unexpected error"),
    ] {
        cli.az.set_mode(mode).unwrap();
        let output = cli.run(&["--scope", SCOPE]);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains(text));
    }
    cli.az.set_mode(AzureCliMode::LoggedIn).unwrap();
    for (arguments, status) in [
        (&["--scope", "https://nowhere/.default"][..], 1),
        (&["--scope", SCOPE, "--tenant", "other"], 1),
        (&["--resource", SQL], 2),
        (&["--scope"], 2),
    ] {
        let output = cli.run(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_developer_cli_has_its_own_command_output_and_errors() {
    let issuer = Arc::new(Issuer::new());
    let ada = Principal::new("ada@example.com", PrincipalKind::User);
    let azd = AzureCliStandIn::azure_developer_cli(Arc::clone(&issuer), ada.clone()).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(azd.executable());
        command.env_clear().args(["auth", "token", "--output", "json"]);
        command.args(arguments).output().unwrap()
    };
    let answer = answer(&run(&["--no-prompt", "--scope", SCOPE, "--tenant-id", TENANT_ID]));
    let verified = issuer.verify(answer["token"].as_str().unwrap(), SQL).unwrap();
    assert_eq!(verified.object_id, ada.object_id);
    let expires_on = answer["expiresOn"].as_str().unwrap();
    assert_eq!((expires_on.len(), &expires_on[10..11], &expires_on[19..]), (20, "T", "Z"));

    for arguments in [&["--scope", SCOPE, "--tenant", TENANT_ID][..], &["--subscription", "s"]] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    azd.set_mode(AzureCliMode::LoggedOut).unwrap();
    let output = run(&["--scope", SCOPE]);
    assert!(!output.status.success() && output.stdout.is_empty());
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    let message = error["data"]["message"].as_str().unwrap();
    assert_eq!(message, "\nERROR: not logged in, run `azd auth login` to login\n");
}

#[test]
fn garbage_is_not_json() {
    let cli = Cli::new();
    cli.az.set_mode(AzureCliMode::Garbage).unwrap();
    let output = cli.run(&["--scope", SCOPE]);
    assert!(output.status.success());
    assert!(serde_json::from_slice::<Value>(&output.stdout).is_err());
}

#[test]
fn a_hanging_process_can_be_killed() {
    let cli = Cli::new();
    cli.az.set_mode(AzureCliMode::Hanging).unwrap();
    let mut child = cli.command(&["--scope", SCOPE]).stdout(Stdio::piped()).spawn().unwrap();
    child.kill().unwrap();
    // Returns only when no process holds the pipe any more, so no process is left running.
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
}
