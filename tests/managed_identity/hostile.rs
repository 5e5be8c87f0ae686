//! Text from an identity endpoint is filtered before it appears in errors and logs.

use entra_pool::credential::ManagedIdentityHost::{AppService, AzureMl, ServiceFabric};
use entra_pool_emulator::identity::Fault;

use crate::{
    hostile_texts::{assert_fit, shown, texts},
    world::{HOSTS, World},
};

#[tokio::test]
async fn an_endpoints_error_is_filtered_before_it_is_shown_or_logged() {
    let mut world = World::new();
    let [_, (_, header)] = world.endpoint.app_service_env();
    for host in HOSTS {
        for at in 0..texts("").len() {
            let identity = world.builder(host, None).build().unwrap();
            let secret = match host {
                AppService | ServiceFabric | AzureMl => header.clone(),
                _ => String::new(),
            };
            let (what, text) = texts(&secret).swap_remove(at);
            // At most 64 KB of a body are read.
            let text: String = text.chars().take(30_000).collect();
            for body in [
                format!(r#"{{"error_description":{}}}"#, serde_json::to_string(&text).unwrap()),
                format!(r#"{{"error":{{"message":{}}}}}"#, serde_json::to_string(&text).unwrap()),
            ] {
                world.answer_with(host, Fault::Status(400, body));
                let what = format!("{host}: {what}");
                let error = world.ask(&identity, &[]).await.result.expect_err(&what);
                assert!(crate::waiting::with_causes(&error).contains("no"), "{what}: {error:?}");
                for text in shown(&error) {
                    if secret.is_empty() {
                        assert!(text.chars().count() < 2_000, "{what}: {} bytes", text.len());
                        assert!(!text.contains(['\u{1b}', '\u{202e}', '\0', '\r']), "{text:?}");
                    } else {
                        assert_fit(&what, &text, &secret);
                    }
                }
            }
        }
    }
    world.finish(6 * 2 * 10);
}
