//! What mostly helps against files that differ from build to build.

use super::files::Change;

/// Returns advice for a file that the usual tools leave.
pub(super) fn hint(path: &str, changes: &[Change]) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    // A file whose bytes are the same is not what these are about.
    let is_content = changes.iter().any(|change| matches!(change, Change::Content { .. } | Change::Size { .. }));
    let is_lone = changes.iter().any(|change| matches!(change, Change::OnlyIn { .. }));
    if !is_content && !is_lone {
        return None;
    }
    Some(if path == "/var/cache/ldconfig/aux-cache" {
        "it holds inode numbers and times, and is only a cache: `rm -f /var/cache/ldconfig/aux-cache` in the same step"
    } else if path.starts_with("/var/log/") {
        "logs tell the time: `rm -rf /var/log/*.log /var/log/apt` in the same step"
    } else if path.starts_with("/var/lib/apt/lists/") || path.starts_with("/var/cache/apt/") {
        "what apt knows changes every day: `rm -rf /var/lib/apt/lists/* /var/cache/apt/*` in the same step"
    } else if path.starts_with("/var/cache/debconf/") {
        "it is only a cache: `rm -f /var/cache/debconf/*-old` in the same step"
    } else if ["/etc/machine-id", "/var/lib/dbus/machine-id"].contains(&path) {
        "it is random, and made again when it is empty: `truncate -s0 /etc/machine-id` in the same step"
    } else if path.starts_with("/etc/ssh/ssh_host_") {
        "a key in an image is everybody's key: `rm -f /etc/ssh/ssh_host_*`, and make keys when a container starts"
    } else if ["/etc/shadow", "/etc/shadow-"].contains(&path) {
        "it tells the day of the last password: `chage -d 0`, or a useradd that knows SOURCE_DATE_EPOCH"
    } else if path.contains("/__pycache__/") || ends(&[".pyc"]) {
        "`python3 -m compileall --invalidation-mode=checked-hash`, or PYTHONDONTWRITEBYTECODE=1 to leave them out"
    } else if ends(&[".a"]) {
        "`ar rcsD`, and `ranlib -D`, write no times"
    } else if ends(&[".gz", ".tgz"]) {
        "`gzip -n` writes no time, `tar --sort=name --mtime=@$SOURCE_DATE_EPOCH --owner=0 --group=0` steady archives"
    } else if ends(&[".tar", ".tar.xz", ".tar.zst", ".tar.bz2"]) {
        "`tar --sort=name --mtime=@$SOURCE_DATE_EPOCH --owner=0 --group=0` writes steady archives"
    } else if ends(&[".zip", ".jar", ".whl", ".war"]) {
        "archives hold times: `touch -d @$SOURCE_DATE_EPOCH` the files, sort them, and `zip -X`"
    } else if path.starts_with("/tmp/") || path.starts_with("/var/tmp/") || path.contains("/.cache/") {
        "nobody needs it in an image: remove it in the same step, or mount a cache or a tmpfs there"
    } else {
        return None;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_culprits_have_advice_when_their_bytes_differ() {
        let content = [Change::Content { offset: 0 }];
        for path in [
            "/var/cache/ldconfig/aux-cache",
            "/var/log/dpkg.log",
            "/etc/machine-id",
            "/app/__pycache__/a.cpython-311.pyc",
            "/usr/lib/libx.a",
            "/srv/site.tar.gz",
        ] {
            assert!(hint(path, &content).is_some(), "{path}");
        }
        assert_eq!(hint("/app/main", &content), None);
        assert_eq!(hint("/var/log", &[Change::Mtime { values: [1, 2] }]), None);
    }
}
