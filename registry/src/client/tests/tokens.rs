//! Registries with token servers, good and bad.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::fixtures::*;
use super::scripted::*;
use crate::client::{
    self, Client, ClientOptions, Credential, CredentialStore, LoginError, NoEvents, PullError, Pulled, RequestError,
    ServerError, Wanted,
};

/// What a client that knows a credential is made of; the file stays as long as the folder.
fn with_credential(host: &str, credential: &Credential) -> (Client, tempfile::TempDir, CredentialStore) {
    let folder = tempfile::TempDir::new().unwrap();
    let credentials = CredentialStore::file(folder.path().join("config.json"));
    credentials.store(host, credential).unwrap();
    (Client::new(ClientOptions { credentials: credentials.clone(), ..options() }), folder, credentials)
}

fn password() -> Credential {
    Credential::Password { username: "u".into(), password: "p".into() }
}

async fn pull(client: &Client, host: &str) -> Result<Pulled, PullError> {
    client::pull(client, &store().store, &reference(&format!("{host}/app")), Wanted::All, &NoEvents, NOW).await
}

fn challenge(asked: &Asked, more: &str) -> Reply {
    let realm = format!("http://{}/token?tenant=1", asked.header("host").unwrap());
    let value = format!(r#"Bearer realm="{realm}",service="the service"{more}"#);
    Reply::new(401, &[("www-authenticate", &value)], r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#)
}

/// A registry that wants tokens, and gives them at `/token` as `grant` says.
async fn with_tokens(token: &'static str, grant: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Scripted {
    let parts = Parts::new(&amd64(), vec![bytes(1, 1000), bytes(2, 1000), bytes(3, 1000)]);
    let expected = format!("Bearer {token}");
    Scripted::start(move |asked| {
        if asked.target.starts_with("/token") {
            return grant(asked);
        }
        if asked.header("authorization") == Some(&expected) { honest(&parts, asked) } else { challenge(asked, "") }
    })
    .await
}

#[tokio::test]
async fn one_anonymous_token_serves_a_whole_pull() {
    let server = with_tokens("t1", |_| Reply::new(200, &[], r#"{"access_token":"t1","expires_in":300}"#)).await;
    pull(&client(), &server.host).await.unwrap();
    let asked = server.asked_for("GET", "/token");
    assert_eq!(asked.len(), 1);
    let query = "/token?tenant=1&service=the+service&scope=repository%3Aapp%3Apull&client_id=slipway";
    assert_eq!(asked[0].target, query);
    assert_eq!(asked[0].header("authorization"), None);
}

#[tokio::test]
async fn a_password_and_a_refresh_token_buy_tokens() {
    let server = with_tokens("t1", |_| Reply::new(200, &[], r#"{"token":"t1"}"#)).await;
    let (client, _folder, _) = with_credential(&server.host, &password());
    pull(&client, &server.host).await.unwrap();
    let asked = server.asked_for("GET", "/token").remove(0);
    assert_eq!(asked.header("authorization"), Some("Basic dTpw"));
    assert!(asked.target.contains("account=u"));

    let server = with_tokens("t2", |_| Reply::new(200, &[], r#"{"token":"","access_token":"t2"}"#)).await;
    let (client, _folder, _) = with_credential(&server.host, &Credential::Identity { token: "r&r".into() });
    pull(&client, &server.host).await.unwrap();
    let asked = server.asked_for("POST", "/token").remove(0);
    let form = "grant_type=refresh_token&service=the+service&client_id=slipway&scope=repository%3Aapp%3Apull&refresh_token=r%26r";
    assert_eq!(String::from_utf8(asked.body).unwrap(), form);

    let server = with_tokens("given", |_| unreachable!()).await;
    let (client, _folder, _) = with_credential(&server.host, &Credential::Bearer { token: "given".into() });
    pull(&client, &server.host).await.unwrap();
}

#[tokio::test]
async fn a_token_that_allows_too_little_is_exchanged_once() {
    let parts = Parts::new(&amd64(), vec![]);
    let server = Scripted::start(move |asked| {
        if asked.target.starts_with("/token") {
            let all = asked.target.contains("scope=repository%3Areal%2Fapp%3Apull");
            return Reply::new(200, &[], if all { r#"{"token":"more"}"# } else { r#"{"token":"less"}"# });
        }
        match asked.header("authorization") {
            Some("Bearer more") => honest(&parts, asked),
            Some(_) => challenge(asked, r#",error="insufficient_scope",scope="repository:real/app:pull""#),
            None => challenge(asked, ""),
        }
    })
    .await;
    pull(&client(), &server.host).await.unwrap();
    // A registry that is never content is not asked for ever.
    let count = AtomicUsize::new(0);
    let server = Scripted::start(move |asked| {
        if asked.target.starts_with("/token") {
            return Reply::new(200, &[], r#"{"token":"t"}"#);
        }
        let scope = format!(r#",scope="repository:x{}:pull""#, count.fetch_add(1, Ordering::SeqCst));
        challenge(asked, &scope)
    })
    .await;
    let error = pull(&client(), &server.host).await.unwrap_err();
    assert!(
        matches!(error, PullError::Request(RequestError::Unauthorized { had_credentials: false, .. })),
        "{error:?}"
    );
    assert!(server.asked().len() < 10, "{:?}", server.asked().len());
}

#[tokio::test]
async fn a_token_that_was_revoked_is_replaced() {
    let parts = Arc::new(Parts::new(&amd64(), vec![]));
    let good = Arc::new(AtomicUsize::new(1));
    let (copy, current) = (parts.clone(), good.clone());
    let server = Scripted::start(move |asked| {
        let token = format!("t{}", current.load(Ordering::SeqCst));
        if asked.target.starts_with("/token") {
            return Reply::new(200, &[], format!(r#"{{"token":"{token}","expires_in":"3600"}}"#));
        }
        if asked.header("authorization") == Some(&format!("Bearer {token}")) {
            honest(&copy, asked)
        } else {
            challenge(asked, r#",error="invalid_token""#)
        }
    })
    .await;
    let client = client();
    pull(&client, &server.host).await.unwrap();
    good.store(2, Ordering::SeqCst);
    pull(&client, &server.host).await.unwrap();
    assert_eq!(server.asked_for("GET", "/token").len(), 2);
}

#[tokio::test]
async fn passwords_go_to_no_realm_in_the_open() {
    for (realm, expected) in [
        ("http://tokens.example.com/t", "which is neither HTTPS nor the registry itself"),
        ("http://127.0.0.1.example.com/t", "which is neither HTTPS nor the registry itself"),
        ("ftp://127.0.0.1/t", "the realm is not HTTP"),
        ("http://me:too@127.0.0.1/t", "the realm names a user"),
        ("https://", "the realm is not a URL"),
    ] {
        let server = Scripted::start(move |_| {
            Reply::new(401, &[("www-authenticate", &format!(r#"Bearer realm="{realm}""#))], "")
        })
        .await;
        let (client, _folder, _) = with_credential(&server.host, &password());
        let error = pull(&client, &server.host).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{realm}: {error}");
        assert!(server.asked().iter().all(|asked| asked.header("authorization").is_none()));
    }
}

#[tokio::test]
async fn a_redirect_of_the_realm_does_not_take_the_password_along() {
    let elsewhere = Scripted::start(|_| Reply::new(200, &[], r#"{"token":"t1"}"#)).await;
    let location = format!("http://{}/stolen", elsewhere.host);
    let copy = location.clone();
    let server = with_tokens("t1", move |_| Reply::new(302, &[("location", &copy)], "")).await;
    let (client, _folder, _) = with_credential(&server.host, &password());
    pull(&client, &server.host).await.unwrap();
    assert_eq!(elsewhere.asked().len(), 1);
    assert_eq!(elsewhere.asked()[0].header("authorization"), None);

    // A refresh token is in the body, which 307 would send along.
    let server = with_tokens("t1", move |_| Reply::new(307, &[("location", &location)], "")).await;
    let (client, _folder, _) = with_credential(&server.host, &Credential::Identity { token: "r".into() });
    let error = pull(&client, &server.host).await.unwrap_err();
    assert!(error.to_string().ends_with("redirects a secret to another host"), "{error}");
    assert_eq!(elsewhere.asked().len(), 1);
}

#[tokio::test]
async fn useless_tokens_are_told() {
    let cases: [(&str, Vec<u8>); 4] = [
        ("its answer is not JSON", b"<html>".to_vec()),
        ("its answer has no token", b"{}".to_vec()),
        ("its answer is too long", vec![b' '; 2 << 20]),
        ("the token has control characters", br#"{"token":"a\nb"}"#.to_vec()),
    ];
    for (expected, body) in cases {
        let server = with_tokens("t1", move |_| Reply::new(200, &[], &body)).await;
        let error = pull(&client(), &server.host).await.unwrap_err();
        assert!(error.to_string().ends_with(expected), "{error}");
        assert!(!error.to_string().contains("tenant"), "{error}");
    }
}

#[tokio::test]
async fn refused_credentials_are_told_apart_from_none() {
    let grant = |_: &Asked| Reply::new(401, &[], r#"{"details":"incorrect username or password"}"#);
    let server = with_tokens("t1", grant).await;
    for known in [true, false] {
        let (client, _folder, credentials) = with_credential(&server.host, &password());
        if !known {
            credentials.erase(&server.host).unwrap();
        }
        let error = pull(&client, &server.host).await.unwrap_err();
        let PullError::Request(RequestError::Unauthorized { repository, had_credentials, said, .. }) = error else {
            panic!("{error:?}")
        };
        let message = "incorrect username or password".into();
        assert_eq!(said, ServerError { code: String::new(), message });
        assert_eq!((repository.as_deref(), had_credentials), (Some("app"), known));
    }
}

#[tokio::test]
async fn a_login_keeps_the_token_instead_of_the_password() {
    let server = with_tokens("t1", |asked| match asked.header("authorization") {
        Some("Basic dTpw") if asked.target.contains("offline_token=true") => {
            Reply::new(200, &[], r#"{"token":"t1","refresh_token":"long"}"#)
        }
        _ => Reply::new(401, &[], ""),
    })
    .await;
    let folder = tempfile::TempDir::new().unwrap();
    let credentials = CredentialStore::file(folder.path().join("config.json"));
    let client = Client::new(ClientOptions { credentials: credentials.clone(), ..options() });
    let error = client::login(&client, &server.host, "u", "wrong").await.unwrap_err();
    assert!(matches!(error, LoginError::Refused { .. }), "{error:?}");
    assert_eq!(credentials.get(&server.host, None).unwrap(), None);

    let logged_in = client::login(&client, &format!("http://{}/v2/", server.host), "u", "p").await.unwrap();
    assert!(logged_in.token);
    assert_eq!(credentials.get(&server.host, None).unwrap(), Some(Credential::Identity { token: "long".into() }));
    for bad in ["", "http://", "a/b", "user@host", "host?x"] {
        assert!(matches!(client::login(&client, bad, "u", "p").await, Err(LoginError::Registry { .. })), "{bad}");
    }
}

#[tokio::test]
async fn a_broken_credential_file_only_matters_when_asked() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("config.json");
    write(&path, "{");
    let make = || Client::new(ClientOptions { credentials: CredentialStore::file(&path), ..options() });
    let server = with_tokens("t1", |_| Reply::new(200, &[], r#"{"token":"t1"}"#)).await;
    pull(&make(), &server.host).await.unwrap();
    let server = with_tokens("t1", |_| Reply::new(401, &[], "")).await;
    let error = pull(&make(), &server.host).await.unwrap_err();
    assert!(chain(&error).contains("is not a valid docker config file"), "{}", chain(&error));
}

#[tokio::test]
async fn mounting_asks_for_a_token_for_both_repositories() {
    let kept = store();
    let parts = Parts::new(&amd64(), vec![bytes(1, 100)]);
    let descriptor = parts.keep(&kept.store);
    let server = with_pushes().await;
    let client = client();
    for name in ["one", "two"] {
        let name = reference(&format!("{}/{name}", server.host));
        client::push(&client, &kept.store, &name, &descriptor, &NoEvents).await.unwrap();
    }
    let scopes: Vec<String> = server
        .asked_for("GET", "/token")
        .iter()
        .map(|asked| asked.target.split("&scope=").skip(1).collect::<Vec<_>>().join(" "))
        .collect();
    let (push, pull) = ("repository%3Atwo%3Apull%2Cpush", "repository%3Aone%3Apull");
    assert!(scopes.iter().any(|scopes| scopes.starts_with(&format!("{push} {pull}"))), "{scopes:?}");
    assert!(server.asked_for("POST", "/v2/two/blobs/uploads/?mount=").len() >= 2);
}

/// A registry that takes every push, with any token.
async fn with_pushes() -> Scripted {
    Scripted::start(|asked| match asked.method.as_str() {
        "GET" if asked.target.starts_with("/token") => Reply::new(200, &[], r#"{"token":"t"}"#),
        _ if asked.header("authorization").is_none() => challenge(asked, ""),
        "HEAD" => Reply::new(404, &[], ""),
        "POST" if asked.target.contains("mount=") => Reply::new(201, &[], ""),
        "POST" => Reply::new(202, &[("location", "/upload")], ""),
        _ => Reply::new(201, &[], ""),
    })
    .await
}
