//! Credential files and helpers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;

use super::fixtures::write;
use crate::client::{Credential, CredentialError, CredentialStore, StoredIn};

fn password(username: &str, password: &str) -> Credential {
    Credential::Password { username: username.into(), password: password.into() }
}

fn file(folder: &TempDir, text: &str) -> CredentialStore {
    let path = folder.path().join("config.json");
    write(&path, text);
    CredentialStore::file(path)
}

#[test]
fn what_the_world_writes_is_read() {
    let folder = TempDir::new().unwrap();
    let store = file(
        &folder,
        r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "plain.example.com": {"auth": "dTpwOnEAAA=="},
            "https://url.example.com/v2/": {"auth": "dTpw"},
            "token.example.com": {"auth": "PHRva2VuPjo=", "identitytoken": "id"},
            "bearer.example.com:5000": {"registrytoken": "rt"},
            "words.example.com": {"username": "u", "password": "p"},
            "part.example.com/team": {"auth": "dGVhbTpw"},
            "part.example.com/team/app": {"auth": "YXBwOnA="},
            "unpadded.example.com": {"auth": "dTpwOg"},
            "empty.example.com": {},
            "null.example.com": null
        }}"#,
    );
    let get = |registry: &str| store.get(registry, None).unwrap();
    assert_eq!(get("docker.io"), Some(password("hub", "pw")));
    assert_eq!(get("plain.example.com"), Some(password("u", "p:q")));
    assert_eq!(get("url.example.com"), Some(password("u", "p")));
    assert_eq!(get("token.example.com"), Some(Credential::Identity { token: "id".into() }));
    assert_eq!(get("bearer.example.com:5000"), Some(Credential::Bearer { token: "rt".into() }));
    assert_eq!(get("words.example.com"), Some(password("u", "p")));
    assert_eq!(get("unpadded.example.com"), Some(password("u", "p:")));
    for nobody in ["empty.example.com", "null.example.com", "example.com", "bearer.example.com", "part.example.com"] {
        assert_eq!(get(nobody), None, "{nobody}");
    }
    let part = |repository: &str| store.get("part.example.com", Some(&repository.parse().unwrap())).unwrap();
    assert_eq!(part("team/app"), Some(password("app", "p")));
    assert_eq!(part("team/other"), Some(password("team", "p")));
    assert_eq!(part("teams/other"), None);
    // A logout from the registry leaves its parts alone.
    assert!(!store.erase("part.example.com").unwrap());
    assert!(store.erase("url.example.com").unwrap());
    assert_eq!(part("team/app"), Some(password("app", "p")));
}

#[test]
fn broken_files_are_told_and_missing_ones_are_empty() {
    let folder = TempDir::new().unwrap();
    assert_eq!(CredentialStore::file(folder.path().join("none")).get("r.io", None).unwrap(), None);
    assert_eq!(file(&folder, " \n").get("r.io", None).unwrap(), None);
    assert!(matches!(file(&folder, "[]").get("r.io", None), Err(CredentialError::Json { .. })));
    for auth in ["%", "bm9jb2xvbg==", "//79"] {
        let store = file(&folder, &format!(r#"{{"auths":{{"r.io":{{"auth":"{auth}"}}}}}}"#));
        let error = store.get("r.io", None).unwrap_err();
        assert!(matches!(error, CredentialError::Malformed { .. }), "{auth}");
        assert!(!error.to_string().contains(auth));
    }
    let store = file(&folder, r#"{"credsStore":"../../bin/sh"}"#);
    assert!(matches!(store.get("r.io", None), Err(CredentialError::HelperName { .. })));
}

#[test]
fn storing_keeps_what_is_not_ours() {
    let folder = TempDir::new().unwrap();
    let text = r#"{"psFormat":"x","auths":{"other.io":{"auth":"dTpw","email":"e"}},"HttpHeaders":{"A":"b"}}"#;
    let store = file(&folder, text);
    let path = folder.path().join("config.json");
    assert_eq!(store.store("docker.io", &password("u", "p")).unwrap(), StoredIn::File(path.clone()));
    let written = fs::read_to_string(&path).unwrap();
    let expected = "{\n\t\"psFormat\": \"x\",\n\t\"auths\": {\n\t\t\"other.io\": {\n\t\t\t\"auth\": \"dTpw\",\n\t\t\t\"email\": \"e\"\n\t\t},\n\t\t\"https://index.docker.io/v1/\": {\n\t\t\t\"auth\": \"dTpw\"\n\t\t}\n\t},\n\t\"HttpHeaders\": {\n\t\t\"A\": \"b\"\n\t}\n}";
    assert_eq!(written, expected);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(store.erase("docker.io").unwrap());
    assert!(!store.erase("docker.io").unwrap());
    assert_eq!(store.get("other.io", None).unwrap(), Some(password("u", "p")));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_link_stays_a_link_and_a_folder_is_made() {
    let folder = TempDir::new().unwrap();
    let deep = folder.path().join("home/.docker/config.json");
    CredentialStore::file(&deep).store("r.io", &password("u", "p")).unwrap();
    let link = folder.path().join("link.json");
    std::os::unix::fs::symlink(&deep, &link).unwrap();
    CredentialStore::file(&link).store("s.io", &password("u", "p")).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(&deep).unwrap().contains("s.io"));
}

#[test]
fn two_logins_at_once_both_stay() {
    let folder = TempDir::new().unwrap();
    let store = CredentialStore::file(folder.path().join("config.json"));
    std::thread::scope(|scope| {
        for number in 0..8 {
            let store = &store;
            scope.spawn(move || store.store(&format!("r{number}.io"), &password("u", "p")).unwrap());
        }
    });
    for number in 0..8 {
        assert!(store.get(&format!("r{number}.io"), None).unwrap().is_some(), "{number}");
    }
}

/// Makes a helper that keeps each secret in a file named after its server.
fn helper(folder: &Path, name: &str, script: &str) {
    let path = folder.join(format!("docker-credential-{name}"));
    write(&path, format!("#!/bin/sh\ncd \"$(dirname \"$0\")\"\n{script}"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn helpers_are_asked_by_their_protocol() {
    let folder = TempDir::new().unwrap();
    let script = r#"
        case "$1" in
        store) cat > kept; echo noise ;;
        get) read -r server; if grep -q "\"$server\"" kept 2>/dev/null; then cat kept; else echo "credentials not found in native keychain"; exit 1; fi ;;
        erase) rm kept ;;
        esac"#;
    helper(folder.path(), "test", script);
    // An older password is no longer there in the open once the helper has the new one.
    let text = r#"{"credsStore":"test","auths":{"r.io":{"auth":"b2xkOnA="}}}"#;
    let store = file(&folder, text).with_helper_folders(folder.path());
    assert_eq!(store.get("r.io", None).unwrap(), Some(password("old", "p")));
    assert_eq!(store.store("r.io", &password("u", "p")).unwrap(), StoredIn::Helper("docker-credential-test".into()));
    let kept = fs::read_to_string(folder.path().join("kept")).unwrap();
    assert_eq!(kept, r#"{"ServerURL":"r.io","Username":"u","Secret":"p"}"#);
    let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
    assert_eq!(config, "{\n\t\"credsStore\": \"test\",\n\t\"auths\": {\n\t\t\"r.io\": {}\n\t}\n}");
    assert_eq!(store.get("r.io", None).unwrap(), Some(password("u", "p")));
    assert!(store.erase("r.io").unwrap());
    assert_eq!(store.get("r.io", None).unwrap(), None);

    store.store("docker.io", &Credential::Identity { token: "t".into() }).unwrap();
    assert_eq!(store.get("docker.io", None).unwrap(), Some(Credential::Identity { token: "t".into() }));
}

#[test]
fn a_registry_may_have_a_helper_of_its_own() {
    let folder = TempDir::new().unwrap();
    helper(folder.path(), "own", r#"cat > /dev/null; echo '{"ServerURL":"r.io","Username":"own","Secret":"s"}'"#);
    let text = r#"{"auths":{"other.io":{"auth":"dTpw"}},"credHelpers":{"r.io":"own"},"credsStore":""}"#;
    let store = file(&folder, text).with_helper_folders(folder.path());
    assert_eq!(store.get("r.io", None).unwrap(), Some(password("own", "s")));
    assert_eq!(store.get("other.io", None).unwrap(), Some(password("u", "p")));
}

#[test]
fn helpers_that_fail_are_told_by_name() {
    let folder = TempDir::new().unwrap();
    helper(folder.path(), "locked", "echo 'the keychain is locked'; exit 1");
    helper(folder.path(), "babbles", "cat > /dev/null; echo not json");
    helper(folder.path(), "endless", "exec cat /dev/zero");
    for (name, expected) in [
        ("locked", "credential helper `docker-credential-locked` says: the keychain is locked"),
        ("babbles", "credential helper `docker-credential-babbles` did not answer as its protocol asks"),
        ("missing", "cannot run credential helper `docker-credential-missing`"),
    ] {
        let store = file(&folder, &format!(r#"{{"credsStore":"{name}"}}"#)).with_helper_folders(folder.path());
        assert_eq!(store.get("r.io", None).unwrap_err().to_string(), expected);
    }
    let store = file(&folder, r#"{"credsStore":"endless"}"#).with_helper_folders(folder.path());
    assert!(store.get("r.io", None).is_err());
}

#[test]
fn a_second_file_is_only_read() {
    let folder = TempDir::new().unwrap();
    let other = folder.path().join("auth.json");
    write(&other, r#"{"auths":{"r.io":{"auth":"dTpw"}}}"#);
    let store = file(&folder, "{}").and_reads(&other);
    assert_eq!(store.get("r.io", None).unwrap(), Some(password("u", "p")));
    assert!(!store.erase("r.io").unwrap());
    assert!(matches!(CredentialStore::none().store("r.io", &password("u", "p")), Err(CredentialError::NoFile)));
}
