//! The client against registries: a scripted one that misbehaves, docker's, and our own.

mod credentials;
mod docker_registry;
mod faults;
mod fixtures;
mod ours;
mod scripted;
mod tokens;

/// Callers run these on a runtime with many threads.
#[test]
fn futures_of_the_client_move_between_threads() {
    fn moves<T: Send>(_: impl Fn(super::Client, store::Store, oci::Reference) -> T) {}
    moves(|client, store, reference| async move {
        let platform = oci::Platform::host();
        let wanted = super::Wanted::Best(&platform);
        let now = jiff::Timestamp::UNIX_EPOCH;
        let pulled = super::pull(&client, &store, &reference, wanted, &super::NoEvents, now).await.unwrap();
        super::push(&client, &store, &reference, &pulled.descriptor, &super::NoEvents).await.unwrap();
        super::login(&client, "host", "user", "password").await.unwrap();
        super::logout(&client, "host").await.unwrap();
    });
}
