//! What the tests of several files share.

/// Whether the test may do what needs root. Without it the test is skipped here, and fails with `CI` set.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "this test needs root");
    if !root {
        println!("skipped: needs root");
    }
    root
}
