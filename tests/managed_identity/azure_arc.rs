//! The Azure Arc agent's challenge.

use entra_pool::{credential::ManagedIdentityHost::AzureArc, token::CredentialErrorKind::Refused};
use entra_pool_emulator::identity::Fault;

use crate::{
    waiting::until,
    world::{World, assert_asked, assert_says},
};

#[tokio::test]
async fn every_token_request_uses_a_new_key() {
    let mut world = World::new();
    let identity = world.builder(AzureArc, None).build().unwrap();
    for keys in 1..=3 {
        let outcome = world.ask(&identity, &[]).await;
        assert_eq!(world.owner(&outcome.result.unwrap()), world.system.object_id);
        let right: Vec<_> = outcome.requests.iter().map(|request| request.key_is_right).collect();
        assert_eq!(right, [None, Some(true)]);
        assert_eq!(world.endpoint.azure_arc_keys().len(), keys);
        assert_asked(AzureArc, &outcome.requests, None);
    }
    world.finish(3);
}

#[tokio::test]
async fn a_retry_uses_a_new_key() {
    let mut world = World::new();
    let identity = world.builder(AzureArc, None).build().unwrap();
    // The response to the key fails after the key was used.
    world.endpoint.fail_after(1, Fault::Status(500, String::new()));
    let (endpoint, clock) = (world.endpoint.clone(), world.clock.clone());
    let moves = async {
        let pause = std::time::Duration::from_secs(1);
        until(|| clock.next_wake() == Some(pause)).await;
        endpoint.recover();
        clock.advance(pause);
    };
    let (outcome, ()) = tokio::join!(world.ask(&identity, &[]), moves);
    outcome.result.unwrap();
    let right: Vec<_> = outcome.requests.iter().map(|request| request.key_is_right).collect();
    assert_eq!(right, [None, Some(true), None, Some(true)]);
    assert_eq!(world.endpoint.azure_arc_keys().len(), 2);
    world.finish(1);
}

#[tokio::test]
async fn a_challenge_without_a_valid_key_file_is_rejected() {
    let mut world = World::new();
    let stolen = "st0len-from-another-file";
    world.secret(stolen);
    let keys = world.arc_keys();
    let outside = world.endpoint.azure_arc_root().join("outside.key");
    let depth = keys.strip_prefix(world.endpoint.azure_arc_root()).unwrap().components().count();
    for path in [outside.clone(), keys.join("key.txt")] {
        std::fs::write(path, stolen).unwrap();
    }
    std::fs::write(keys.join("long.key"), stolen.repeat(200)).unwrap();
    std::fs::write(keys.join("empty.key"), "").unwrap();
    std::fs::create_dir(keys.join("folder.key")).unwrap();
    let realm = |path: &std::path::Path| format!("Basic realm={}", path.display());
    let mut challenges = vec![
        ("outside", realm(&outside), "is not directly in"),
        (
            "outside by ..",
            realm(&keys.join("../".repeat(depth) + "outside.key")),
            "is not directly in",
        ),
        ("of another machine", r"Basic realm=\\elsewhere\share\a.key".into(), "is not directly in"),
        ("of the system", "Basic realm=/etc/passwd".into(), "is not directly in"),
        ("relative", "Basic realm=a.key".into(), "is not directly in"),
        ("no key", realm(&keys.join("key.txt")), "does not end in .key"),
        ("too long", realm(&keys.join("long.key")), "at most 4096 bytes"),
        ("empty", realm(&keys.join("empty.key")), "has no valid key"),
        ("absent", realm(&keys.join("absent.key")), "cannot be read"),
        ("without a path", "Basic realm=".into(), "does not name a key file"),
        ("without a realm", "Basic".into(), "does not name a key file"),
        ("of another kind", format!("Bearer realm={}", keys.display()), "does not name a key file"),
        ("nothing", String::new(), "does not name a key file"),
    ];
    if cfg!(unix) {
        challenges.push(("a folder", realm(&keys.join("folder.key")), "has no valid key"));
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&outside, keys.join("link.key")).unwrap();
        challenges.push(("outside by a link", realm(&keys.join("link.key")), "is not directly in"));
    }
    let identity = world.builder(AzureArc, None).build().unwrap();
    let cases = challenges.len();
    for (what, challenge, words) in challenges {
        world.endpoint.set_azure_arc_challenge(Some(challenge));
        let outcome = world.ask(&identity, &[]).await;
        let error = outcome.result.unwrap_err();
        assert_says(what, &error, Refused, &["Azure Arc agent", words]);
        assert_eq!(format!("{error:?}").matches(words).count(), 1, "{what}: {error:?}");
        assert_eq!(outcome.requests.len(), 1, "{what}: nothing is sent");
        assert_eq!(outcome.requests[0].key_is_right, None, "{what}");
    }
    world.endpoint.set_azure_arc_challenge(None);
    world.ask(&identity, &[]).await.result.unwrap();
    world.finish(cases + 1);
}

#[tokio::test]
async fn a_key_that_the_agent_rejects_is_an_error() {
    let mut world = World::new();
    world.secret("wr0ng-key");
    let path = world.arc_keys().join("wrong.key");
    std::fs::write(&path, "wr0ng-key\n").unwrap();
    world.endpoint.set_azure_arc_challenge(Some(format!("basic REALM=\"{}\"", path.display())));
    let identity = world.builder(AzureArc, None).build().unwrap();
    let outcome = world.ask(&identity, &[]).await;
    let words = ["rejected the key", "the key is wrong"];
    assert_says("wrong key", &outcome.result.unwrap_err(), Refused, &words);
    assert_eq!(outcome.requests[1].key_is_right, Some(false));
    world.finish(1);
}

#[tokio::test]
async fn an_endpoint_that_sends_tokens_without_a_challenge_is_not_the_agent() {
    let mut world = World::new();
    world.secret("f0reign-token");
    let body = r#"{"access_token":"f0reign-token","expires_on":1767229200}"#;
    world.endpoint.fail(Fault::Status(200, body.to_owned()));
    let identity = world.builder(AzureArc, None).build().unwrap();
    let outcome = world.ask(&identity, &[]).await;
    assert_says(
        "no challenge",
        &outcome.result.unwrap_err(),
        Refused,
        &["not the Azure Arc agent"],
    );
    assert_eq!(outcome.requests.len(), 1);
    world.finish(1);
}

#[cfg(unix)]
#[tokio::test]
async fn the_error_for_an_unreadable_key_names_the_group() {
    use std::os::unix::fs::PermissionsExt;

    let mut world = World::new();
    let path = world.arc_keys().join("closed.key");
    std::fs::write(&path, "k").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&path).is_ok() {
        eprintln!("skipped: this user can read every file");
        return;
    }
    world.endpoint.set_azure_arc_challenge(Some(format!("Basic realm={}", path.display())));
    let identity = world.builder(AzureArc, None).build().unwrap();
    let error = world.ask(&identity, &[]).await.result.unwrap_err();
    assert_says("closed", &error, Refused, &["cannot be read", "group `himds`"]);
    world.finish(1);
}
