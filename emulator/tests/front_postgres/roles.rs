//! Roles in the engine: those that the front creates, and those that it does not change.

use entra_pool_emulator::{
    front::postgres::PostgresFront,
    jwt::{Principal, PrincipalKind},
};

use super::{Service, options, text};

#[tokio::test]
async fn a_role_that_the_front_did_not_create_is_not_changed() {
    let service = Service::start().await;
    let owner = service.principal("theirs");
    service.engine.sql("CREATE ROLE theirs LOGIN PASSWORD 'soup'").await;
    const STATE: &str = "SELECT concat(rolpassword, rolsuper, shobj_description(oid, 'pg_authid')) \
         FROM pg_authid WHERE rolname = 'theirs'";
    let before = service.engine.value(STATE).await;
    let (code, message) = service.refusal(&service.config(&owner)).await;
    assert_eq!(code, "28000");
    assert!(message.starts_with("role \"theirs\" was not created by this front"), "{message}");
    assert_eq!(service.engine.value(STATE).await, before);
    // The superuser's role is treated like any other.
    let root = service.principal("postgres");
    assert_eq!(service.refusal(&service.config(&root)).await.0, "28000");
}

/// Another front, and this one after a restart, sets the password again.
#[tokio::test]
async fn a_front_takes_over_the_roles_of_another_front() {
    let service = Service::start().await;
    let shop = service.principal("shop-moved");
    let first = service.connect(&shop).await;
    let second = PostgresFront::start(options(service.engine, &service.issuer, &service.directory));
    let second = second.unwrap();
    let at_second = service.config_at(second.addr().port(), &shop);
    service.connect_with(&at_second).await.unwrap();
    // The first front's password is no longer valid for the role.
    service.connect(&shop).await;
    service.connect_with(&at_second).await.unwrap();
    // Open sessions continue.
    assert_eq!(text(&first, "SELECT 'still here'").await, "still here");
}

#[tokio::test]
async fn a_dropped_role_is_recreated_for_a_principal_in_the_directory() {
    let service = Service::start().await;
    let shop = service.principal("shop-dropped");
    drop(service.connect(&shop).await);
    service.wait_until_idle("shop-dropped").await;
    service.engine.sql("DROP ROLE \"shop-dropped\"").await;
    service.connect(&shop).await;
    service.directory.remove("shop-dropped");
    // The role is marked with the principal's object ID, so it is still granted access.
    service.connect(&shop).await;
}

#[tokio::test]
async fn entra_administrators_create_principals() {
    let service =
        Service::start_with(|options| options.administrators.push("entra-admin".to_owned())).await;
    service.front.prepare().await.unwrap();
    let admin = service.principal("entra-admin");
    let mut config = service.config(&admin);
    config.dbname("postgres");
    let admin = service.connect_with(&config).await.unwrap();

    let created = "SELECT * FROM pgaadauth_create_principal('shop-named', false, false)";
    assert_eq!(text(&admin, created).await, "Created role for \"shop-named\"");
    let named = Principal::new("shop-named", PrincipalKind::UserAssigned);
    let client = service.connect(&named).await;
    assert_eq!(text(&client, "SELECT session_user::text").await, "shop-named");
    // Another principal cannot log in to the role with its token.
    let mut thief = service.config(&Principal::new("thief", PrincipalKind::User));
    thief.user("shop-named");
    let (code, message) = service.refusal(&thief).await;
    assert_eq!(code, "28P01");
    assert_eq!(message, "Azure AD access token not valid for role shop-named");

    // With an object ID, the role can have any name.
    let guest = Principal::new("ann@contoso.com", PrincipalKind::User);
    let with_oid = format!(
        "SELECT pgaadauth_create_principal_with_oid('Ann''s \"role\"', '{}', 'user', true, true)",
        guest.object_id.to_uppercase()
    );
    assert_eq!(text(&admin, &with_oid).await, "Created role for \"Ann's \"\"role\"\"\"");
    let mut config = service.config(&guest);
    config.user("Ann's \"role\"").dbname("postgres");
    let ann = service.connect_with(&config).await.unwrap();
    let list = "SELECT string_agg(concat_ws(' ', rolname, principaltype, objectid, ismfa, isadmin), '; ') \
         FROM pgaadauth_list_principals(true) WHERE rolname LIKE 'Ann%'";
    let expected = format!("Ann's \"role\" user {} 1 1", guest.object_id);
    assert_eq!(text(&ann, list).await, expected);

    // An existing role, a wrong type, an invalid ID, and a caller that is not an administrator.
    for (sql, code) in [
        (created, "42710"),
        ("SELECT pgaadauth_create_principal_with_oid('x', NULL, 'robot', false, false)", "22023"),
        ("SELECT pgaadauth_create_principal_with_oid('x', 'me', 'user', false, false)", "22P02"),
    ] {
        let error = admin.query(sql, &[]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), code, "{sql}");
    }
    let mut config = service.config(&named);
    config.dbname("postgres");
    let client = service.connect_with(&config).await.unwrap();
    for sql in [
        "SELECT pgaadauth_create_principal('friend', false, false)",
        "SELECT pgaadauth_create_principal_with_oid('friend', NULL, 'user', false, false)",
        "SELECT pgaadauth_list_principals(false)",
    ] {
        let error = client.query(sql, &[]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{sql}");
    }

    // As in Azure, a principal's role is dropped like any other role.
    admin.batch_execute("DROP ROLE \"shop-named\"").await.unwrap();
    assert_eq!(
        service.refusal(&service.config(&named)).await,
        ("28P01".to_owned(), "password authentication failed for user \"shop-named\"".to_owned())
    );
}

#[tokio::test]
async fn a_principal_without_a_role_is_refused() {
    let service = Service::start().await;
    let unknown = Principal::new("nobody", PrincipalKind::UserAssigned);
    assert_eq!(
        service.refusal(&service.config(&unknown)).await,
        ("28P01".to_owned(), "password authentication failed for user \"nobody\"".to_owned())
    );
}
