use oci::Digest;

use super::*;

fn home() -> (tempfile::TempDir, Containers) {
    let folder = tempfile::tempdir().expect("tempdir");
    let layout = Layout::new(folder.path());
    fs::create_dir(layout.locks()).expect("made");
    (folder, Containers::new(&layout))
}

fn id(letter: char) -> String {
    letter.to_string().repeat(64)
}

fn record(id: &str, name: &str) -> Record {
    Record {
        id: id.into(),
        name: name.into(),
        created: Timestamp::UNIX_EPOCH,
        image: Digest::sha256(b"config"),
        manifest: Digest::sha256(b"manifest"),
        platform: oci::Platform::host(),
        layers: Vec::new(),
        config: crate::config::Config::default(),
        host_config: crate::config::HostConfig::default(),
        mounts: Vec::new(),
        networks: Vec::new(),
        networkless: false,
    }
}

fn make(all: &Containers, letter: char, name: &str) -> Result<Container, ContainerError> {
    all.begin(&id(letter)).expect("begun").place(record(&id(letter), name))
}

#[test]
fn a_container_is_found_by_id_name_and_prefix() {
    let (_folder, all) = home();
    make(&all, 'a', "box").expect("made");
    let other = all.begin(&format!("ab{}", "0".repeat(62))).expect("begun");
    other.place(record(&format!("ab{}", "0".repeat(62)), "aaaa")).expect("made");
    let found = |text: &str| all.find(text).map(|container| container.record.name);
    assert_eq!(found("box").expect("by name"), "box");
    assert_eq!(found("/box").expect("with docker's slash"), "box");
    assert_eq!(found(&id('a')).expect("by ID"), "box");
    assert_eq!(found("aaaa").expect("a name wins over a prefix"), "aaaa");
    assert_eq!(found("aaaaa").expect("by prefix"), "box");
    assert!(matches!(found("a"), Err(ContainerError::Ambiguous { .. })));
    for text in ["", "x", "../box", "c", "box/", "locks"] {
        assert!(matches!(found(text), Err(ContainerError::NotFound { .. })), "{text}");
    }
    assert_eq!(all.list().expect("listed").len(), 2);
}

#[test]
fn a_name_is_had_by_one_and_free_after_it() {
    let (_folder, all) = home();
    let first = make(&all, 'a', "box").expect("made");
    let error = make(&all, 'b', "box").expect_err("taken");
    assert_eq!(
        error.to_string(),
        format!(
            "Conflict. The container name \"/box\" is already in use by container \"{}\". You have to remove (or rename) that container to be able to reuse that name.",
            id('a')
        )
    );
    assert_eq!(all.list().expect("listed").len(), 1, "nothing is left of it");
    let mut second = make(&all, 'b', "other").expect("made");
    assert!(matches!(second.rename("box"), Err(ContainerError::NameInUse { .. })));
    second.rename("third").expect("free");
    assert_eq!(all.find("third").expect("renamed").id(), id('b'));
    assert!(all.find("other").is_err());
    first.remove(true, Timestamp::UNIX_EPOCH).expect("removed");
    second.rename("box").expect("free again");
    assert!(matches!(second.rename("no name"), Err(ContainerError::BadName { .. })));
    assert!(matches!(first.remove(true, Timestamp::UNIX_EPOCH), Err(ContainerError::NotFound { .. })));
    assert!(matches!(first.peek(), Err(ContainerError::NotFound { .. })));
}

#[test]
fn what_was_left_half_done_is_swept() {
    let (_folder, all) = home();
    let unfinished = all.begin(&id('a')).expect("begun");
    let folder = all.layout().containers();
    fs::create_dir_all(folder.join(format!("{GONE}{}", id('b'))).join("fs")).expect("made");
    fs::create_dir(folder.join(format!("{NEW}{}", id('c')))).expect("made");
    File::create(folder.join(format!("{NEW}{}/lock", id('c')))).expect("made");
    fs::create_dir_all(all.layout().container_names()).expect("made");
    symlink(id('d'), all.layout().container_name("box")).expect("made");
    assert_eq!(all.list().expect("listed").len(), 0);
    let left: Vec<_> = fs::read_dir(&folder).expect("listed").flatten().map(|entry| entry.path()).collect();
    assert_eq!(left, [unfinished.folder()], "only what somebody works on");
    drop(unfinished);
    make(&all, 'e', "box").expect("the name of the dead is free");
}

#[test]
fn who_watches_nobody_repairs_and_who_is_dead_is_buried() {
    let (_folder, all) = home();
    let container = make(&all, 'a', "box").expect("made");
    let claim = container.claim().expect("asked").expect("free");
    assert!(container.claim().expect("asked").is_none());
    container.change(|state| state.status = Status::Running).expect("written");
    assert_eq!(container.state(Timestamp::UNIX_EPOCH).expect("read").status, Status::Running);
    drop(claim);
    let state = container.state(Timestamp::UNIX_EPOCH).expect("read");
    assert_eq!((state.status, state.exit_code), (Status::Exited, 255));
    assert_eq!(state.finished_at, Some(Timestamp::UNIX_EPOCH));
    fs::File::create(container.folder().join("state.json")).expect("damaged");
    assert_eq!(container.state(Timestamp::UNIX_EPOCH).expect("read").status, Status::Exited);
}

#[test]
fn one_that_removes_itself_is_gone_when_its_watcher_was_killed() {
    let (_folder, all) = home();
    let mut asked = record(&id('a'), "box");
    asked.host_config.auto_remove = true;
    let container = all.begin(&id('a')).expect("begun").place(asked).expect("made");
    container.change(|state| state.status = Status::Running).expect("written");
    assert!(matches!(container.state(Timestamp::UNIX_EPOCH), Err(ContainerError::NotFound { .. })));
    assert_eq!(all.list().expect("listed").len(), 0);
}

#[test]
fn changes_of_many_are_all_there() {
    let (_folder, all) = home();
    let container = make(&all, 'a', "box").expect("made");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    container.change(|state| state.restart_count += 1).expect("changed");
                }
            });
        }
    });
    assert_eq!(container.peek().expect("read").restart_count, 160);
}
