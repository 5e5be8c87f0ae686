//! Everything together, as a library and as a program.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use entra_pool_emulator::{
    emulator::{Emulator, EmulatorOptions},
    postgres::AUDIENCE,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_entra-pool-emulator");

#[tokio::test]
async fn what_it_says_fits_together() {
    let emulator = Emulator::start(EmulatorOptions::default()).await.unwrap();
    let env: BTreeMap<_, _> = emulator.env().into_iter().collect();
    let url = format!(
        "{}?api-version=2019-08-01&resource={AUDIENCE}&client_id={}",
        env["IDENTITY_ENDPOINT"], env["AZURE_CLIENT_ID"]
    );
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer =
        http.get(url).header("X-IDENTITY-HEADER", &env["IDENTITY_HEADER"]).send().await.unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let token = answer["access_token"].as_str().unwrap();
    let owner = emulator.issuer().verify(token, AUDIENCE).unwrap();
    assert_eq!(emulator.directory().by_token(&owner).as_ref(), Some(emulator.user_assigned()));

    let url = url::Url::parse(&emulator.postgres_url()).unwrap();
    let parameters: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
    assert_eq!(url.username(), emulator.user_assigned().name);
    assert_eq!(url.port(), Some(emulator.postgres().addr().port()));
    assert_eq!(parameters["entra_scope"], format!("{AUDIENCE}/.default"));
    let pem = std::fs::read_to_string(&parameters["sslrootcert"]).unwrap();
    assert_eq!(pem, emulator.authority().pem());
}

#[test]
fn the_program_says_what_to_export_and_ends_with_ctrl_c() {
    let mut program = Command::new(PROGRAM)
        .args(["--identity-port", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let mut exported = BTreeMap::new();
    for line in lines.by_ref() {
        let line = line.unwrap();
        if let Some((name, value)) =
            line.strip_prefix("export ").and_then(|pair| pair.split_once('='))
        {
            exported.insert(name.to_owned(), value.trim_matches('\'').to_owned());
        }
        if line.contains("Ctrl-C") {
            break;
        }
    }
    assert!(exported["IDENTITY_ENDPOINT"].starts_with("http://127.0.0.1:"));
    assert!(exported["EMULATOR_POSTGRES"].starts_with("postgres://shop-identity@localhost:"));
    let ca = std::path::PathBuf::from(&exported["EMULATOR_CA"]);
    assert!(ca.is_file());
    interrupt(&mut program);
    if cfg!(unix) {
        assert!(program.wait().unwrap().success());
        assert!(!ca.exists(), "its files are removed");
    }
}

#[cfg(unix)]
fn interrupt(program: &mut std::process::Child) {
    let id = program.id().to_string();
    let sent = Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(sent.success());
}

#[cfg(not(unix))]
fn interrupt(program: &mut std::process::Child) {
    program.kill().unwrap();
}

#[test]
fn the_program_refuses_what_it_does_not_know() {
    let output = Command::new(PROGRAM).arg("--verbose").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("unknown argument '--verbose'") && text.contains("Usage:"));
    let help = Command::new(PROGRAM).arg("--help").output().unwrap();
    assert!(help.status.success());
    assert!(String::from_utf8(help.stdout).unwrap().contains("Usage:"));
}
