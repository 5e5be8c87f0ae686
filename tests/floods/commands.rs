use std::{fs, path::Path};

use entra_pool::{
    credential::{AzureCli, AzureDeveloperCli, Environment},
    token::{Reason, Scope, TokenCredential, TokenRequest},
};

use crate::{
    Ends::{self, AtLimit, Early},
    LIMIT, run_all, timed, until,
};

#[derive(Debug, Clone, Copy)]
struct Case(&'static str, &'static str, Ends);

const CASES: &[Case] = &[
    Case("az", "exec yes", AtLimit),
    Case("az", "exec yes >&2", AtLimit),
    Case("az", "yes & exec yes >&2", AtLimit),
    Case("az", "while :; do printf x; done", AtLimit),
    Case("az", "while :; do printf x >&2; done", AtLimit),
    Case("az", "while :; do printf x; sleep 0.2; done", AtLimit),
    Case("az", "while :; do :; done", AtLimit),
    // Processes that outlive the command may write for half a second.
    Case("az", "yes & yes >&2 & exit 0", Early),
    Case("az", "exec head -c 10000000 /dev/zero", Early),
    Case("azd", "yes & exec yes >&2", AtLimit),
    Case("azd", "while :; do printf x; sleep 0.2; done", AtLimit),
    Case("azd", "yes & yes >&2 & exit 0", Early),
];

async fn run(Case(tool, text, ends): Case) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (script, pid) = (folder.path().join(tool), folder.path().join("pid"));
    let text = format!("#!/bin/sh\necho $$ > '{}'\n{text}\n", pid.display());
    // A separate process writes the script. A fork for another case would keep it open for writing
    // if this process had it open, and it could not be run.
    let mut child = tokio::process::Command::new("/bin/sh");
    child.args(["-c", "printf %s \"$1\" > \"$2\" && chmod +x \"$2\"", "sh", &text]).arg(&script);
    assert!(child.status().await.unwrap().success());
    let environment = Environment::from_pairs([("PATH", "/usr/bin:/bin")]);
    let credential: Box<dyn TokenCredential> = if tool == "az" {
        let az = AzureCli::builder().executable(&script).environment(environment);
        Box::new(az.time_limit(LIMIT).build().unwrap())
    } else {
        let azd = AzureDeveloperCli::builder().executable(&script).environment(environment);
        Box::new(azd.time_limit(LIMIT).build().unwrap())
    };
    let request = TokenRequest::new(Scope::AZURE_SQL, Reason::Missing);
    let (outcome, report) = timed(ends, None, credential.get_token(request)).await;
    let error = outcome.unwrap_err().to_string();
    assert_eq!(error.contains("within 1s"), ends == AtLimit, "{error}");
    let group = fs::read_to_string(&pid).unwrap();
    until(|| !runs(group.trim())).await;
    report
}

/// Whether a process of this group runs.
fn runs(group: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let stat = fs::read_to_string(Path::new(&process.path()).join("stat")).unwrap_or_default();
        // After the name: state, parent, group.
        let rest = stat.rsplit(") ").next().unwrap_or_default();
        let mut fields = rest.split(' ');
        fields.next() != Some("Z") && fields.nth(1) == Some(group)
    })
}

#[test]
fn a_command_with_endless_output_ends_in_time() {
    run_all(CASES.to_vec(), |case| case.1.contains("sleep"), |case| Box::pin(run(case)));
}
