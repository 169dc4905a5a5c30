//! What repositories promise, one behavior each.

use super::*;
use oci::{Algorithm, Descriptor, Manifest, Parsed, Tag, media_type};

fn repositories() -> (tempfile::TempDir, Repositories) {
    let home = tempfile::tempdir().expect("tempdir");
    let repositories = crate::Store::open(home.path()).expect("a store").repositories();
    (home, repositories)
}

fn name(text: &str) -> RepositoryName {
    text.parse().expect("a name")
}

fn push(repository: &Repository, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256(bytes);
    let mut upload = repository.begin_upload(Algorithm::Sha256).expect("begun");
    upload.append(bytes).expect("appended");
    assert_eq!(upload.finish(&digest).expect("finished"), bytes.len() as u64);
    digest
}

fn put(repository: &Repository, artifact: &str, subject: Option<&Digest>, tags: &[&str]) -> Digest {
    let mut manifest = Manifest::new(Descriptor::of(media_type::OCI_EMPTY, b"{}"), Vec::new());
    manifest.artifact_type = Some(artifact.to_owned());
    manifest.subject = subject.map(|digest| Descriptor::new(media_type::OCI_MANIFEST, digest.clone(), 1));
    let bytes = serde_json::to_vec(&manifest).expect("JSON");
    let digest = Digest::sha256(&bytes);
    let record = ManifestRecord::of(&Parsed::Manifest(manifest), media_type::OCI_MANIFEST, bytes.len() as u64);
    let tags: Vec<Tag> = tags.iter().map(|tag| tag.parse().expect("a tag")).collect();
    repository
        .put_manifest(&NewManifest { digest: &digest, bytes: &bytes, record: &record, tags: &tags })
        .expect("put");
    digest
}

#[test]
fn a_blob_is_only_where_it_was_pushed() {
    let (_home, repositories) = repositories();
    let (one, two) = (repositories.get(&name("a/b")), repositories.get(&name("a")));
    let digest = push(&one, b"layer");
    assert!(one.has_blob(&digest).expect("read"));
    assert!(!two.has_blob(&digest).expect("read"));
    assert_eq!(repositories.owner_of(&digest).expect("read"), Some(name("a/b")));
    assert!(two.add_blob(&digest).expect("added"));
    assert!(!two.add_blob(&Digest::sha256(b"not in the store")).expect("looked"));
    assert!(one.remove_blob(&digest).expect("removed"));
    assert!(!one.remove_blob(&digest).expect("removed"));
    assert!(two.has_blob(&digest).expect("read"));
    let mut held = Vec::new();
    repositories.held(&mut |digest| held.push(digest)).expect("read");
    assert_eq!(held, [digest]);
}

#[test]
fn an_upload_goes_on_in_another_process_without_its_midstate() {
    let (home, repositories) = repositories();
    let repository = repositories.get(&name("a"));
    let mut upload = repository.begin_upload(Algorithm::Sha256).expect("begun");
    upload.append(b"one ").expect("appended");
    let id = upload.id().clone();
    assert!(matches!(repository.resume_upload(&id, None), Err(UploadError::Busy { .. })));
    drop(upload);
    assert_eq!(repository.upload_size(&id).expect("read"), 4);
    let mut upload = repository.resume_upload(&id, None).expect("resumed");
    upload.append(b"two").expect("appended");
    let midstate = upload.pause();
    assert!(midstate.is_none());
    drop(upload);
    let digest = Digest::sha256(b"one two");
    repository.resume_upload(&id, midstate).expect("resumed").finish(&digest).expect("finished");
    assert_eq!(fs::read(crate::Layout::new(home.path()).blob(&digest)).expect("stored"), b"one two");
    assert!(matches!(repository.resume_upload(&id, None), Err(UploadError::Unknown { .. })));
}

#[test]
fn a_midstate_of_other_bytes_is_not_trusted() {
    let (_home, repositories) = repositories();
    let repository = repositories.get(&name("a"));
    let mut upload = repository.begin_upload(Algorithm::Sha512).expect("begun");
    let id = upload.id().clone();
    let stale = upload.pause();
    upload.append(b"x").expect("appended");
    drop(upload);
    let upload = repository.resume_upload(&id, stale).expect("resumed");
    upload.finish(&Digest::of(Algorithm::Sha512, b"x")).expect("finished");
}

#[test]
fn going_back_forgets_what_came_after() {
    let (_home, repositories) = repositories();
    let repository = repositories.get(&name("a"));
    let mut upload = repository.begin_upload(Algorithm::Sha256).expect("begun");
    upload.append(b"keep").expect("appended");
    let here = upload.pause();
    upload.append(b"drop").expect("appended");
    upload.back(4, here).expect("cut");
    assert_eq!(upload.size(), 4);
    upload.finish(&Digest::sha256(b"keep")).expect("finished");
}

#[test]
fn wrong_bytes_store_nothing() {
    let (home, repositories) = repositories();
    let repository = repositories.get(&name("a"));
    let mut upload = repository.begin_upload(Algorithm::Sha256).expect("begun");
    upload.append(b"wrong").expect("appended");
    let id = upload.id().clone();
    let expected = Digest::sha256(b"right");
    assert!(matches!(upload.finish(&expected), Err(UploadError::DigestMismatch { .. })));
    assert!(matches!(repository.upload_size(&id), Err(UploadError::Unknown { .. })));
    assert!(!repository.has_blob(&expected).expect("read"));
    assert!(!crate::Layout::new(home.path()).blob(&expected).exists());
    assert!(!crate::Layout::new(home.path()).blob(&Digest::sha256(b"wrong")).exists());
}

#[test]
fn an_upload_that_is_canceled_while_it_is_written_stores_nothing() {
    let (_home, repositories) = repositories();
    let repository = repositories.get(&name("a"));
    let mut upload = repository.begin_upload(Algorithm::Sha256).expect("begun");
    upload.append(b"bytes").expect("appended");
    repository.cancel_upload(upload.id()).expect("canceled");
    let digest = Digest::sha256(b"bytes");
    assert!(matches!(upload.finish(&digest), Err(UploadError::Unknown { .. })));
    assert!(!repository.has_blob(&digest).expect("read"));
}

#[test]
fn abandoned_uploads_expire_and_busy_ones_do_not() {
    let (_home, repositories) = repositories();
    let repository = repositories.get(&name("a"));
    let idle = repository.begin_upload(Algorithm::Sha256).expect("begun").id().clone();
    let busy = repository.begin_upload(Algorithm::Sha256).expect("begun");
    assert_eq!(repositories.expire_uploads(Duration::from_secs(60)).expect("swept"), 0);
    assert_eq!(repositories.expire_uploads(Duration::ZERO).expect("swept"), 1);
    assert!(repository.upload_size(&idle).is_err());
    assert!(repository.upload_size(busy.id()).is_ok());
}

#[test]
fn pages_follow_byte_order_and_tags_that_begin_alike_stay_apart() {
    let (_home, repositories) = repositories();
    let repository = repositories.get(&name("a"));
    put(&repository, "x", None, &["b", "a.1", "a", "a-1", "A", "_"]);
    let all = repository.tags(None, 100).expect("read");
    assert_eq!(all, Page { entries: ["A", "_", "a", "a-1", "a.1", "b"].map(String::from).into(), more: false });
    let some = repository.tags(Some("_"), 2).expect("read");
    assert_eq!(some, Page { entries: ["a", "a-1"].map(String::from).into(), more: true });
    assert_eq!(repository.tags(Some("a.0"), 9).expect("read").entries, ["a.1", "b"]);
    assert_eq!(repository.tags(None, 0).expect("read").entries.len(), 0);
    for other in ["a/b", "a-b", "a.b/c", "ab"] {
        put(&repositories.get(&name(other)), "x", None, &[]);
    }
    let names = repositories.names(Some("a"), 3).expect("read");
    assert_eq!(names, Page { entries: ["a-b", "a.b/c", "a/b"].map(String::from).into(), more: true });
}

#[test]
fn deleting_a_manifest_takes_its_tags_and_leaves_the_others() {
    let (_home, repositories) = repositories();
    let repository = repositories.get(&name("a"));
    let one = put(&repository, "x", None, &["one", "both"]);
    let two = put(&repository, "y", None, &["two", "both"]);
    assert!(repository.delete_manifest(&two).expect("deleted"));
    assert!(!repository.delete_manifest(&two).expect("deleted"));
    assert_eq!(repository.tags(None, 9).expect("read").entries, ["one"]);
    assert!(repository.manifest(&one).expect("read").is_some());
    assert!(repository.delete_tag(&"one".parse().expect("a tag")).expect("deleted"));
    assert!(repository.manifest(&one).expect("read").is_some());
}

#[test]
fn referrers_are_listed_until_they_are_deleted() {
    let (_home, repositories) = repositories();
    let repository = repositories.get(&name("a"));
    let subject = Digest::sha256(b"not pushed yet");
    assert!(repository.referrers(&subject).expect("read").is_empty());
    let one = put(&repository, "text/sbom", Some(&subject), &[]);
    let two = put(&repository, "text/signature", Some(&subject), &[]);
    let listed = repository.referrers(&subject).expect("read");
    assert_eq!(listed.len(), 2);
    assert!(listed.is_sorted_by(|a, b| a < b));
    repository.delete_manifest(&one).expect("deleted");
    assert_eq!(repository.referrers(&subject).expect("read"), std::slice::from_ref(&two));
    assert_eq!(repository.referrer(&subject, &one).expect("read"), None);
    let described = repository.referrer(&subject, &two).expect("read").expect("here");
    assert_eq!(described.artifact_type.as_deref(), Some("text/signature"));
    assert_eq!(repository.referrer(&one, &two).expect("read"), None, "of another subject");
}
