//! Paths inside a root: names joined by `/`, `b""` is the root.

use std::cmp::Ordering;

use layer::entry::{join_path, split_path};

use crate::fault::Fault;

/// What a lookup finds: nothing, a symbolic link with its text, or something else.
pub(crate) enum Step {
    Missing,
    Link(Vec<u8>),
    Other,
}

const MAX_LINKS: usize = 255;

/// Resolves every symbolic link of a path inside its root, also a last one when `last` is set. What does not exist is
/// taken as it is written.
pub(crate) fn resolve(
    path: &[u8],
    last: bool,
    lstat: &mut dyn FnMut(&[u8]) -> Result<Step, Fault>,
) -> Result<Vec<u8>, Fault> {
    let mut rest: Vec<Vec<u8>> = names(path).rev().map(<[u8]>::to_vec).collect();
    let mut current: Vec<u8> = Vec::new();
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == b".." {
            current = split_path(&current).0.to_vec();
            continue;
        }
        let next = join_path(&current, &name);
        if rest.is_empty() && !last {
            return Ok(next);
        }
        match lstat(&next)? {
            Step::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Fault::new(format!("`/{}` goes through too many symbolic links", lossy(path))));
                }
                if target.starts_with(b"/") {
                    current.clear();
                }
                rest.extend(names(&target).rev().map(<[u8]>::to_vec));
            }
            Step::Missing | Step::Other => current = next,
        }
    }
    Ok(current)
}

/// Yields a path's names, without empty ones and `.`.
pub(crate) fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// Compares paths as a walk meets them: a folder, then all that is in it, then what comes after it.
pub(crate) fn walk_order(one: &[u8], other: &[u8]) -> Ordering {
    let differs = one.iter().zip(other).position(|(one, other)| one != other);
    let rank = |byte: Option<&u8>| byte.map(|byte| if *byte == b'/' { 0 } else { *byte });
    match differs {
        Some(at) => rank(one.get(at)).cmp(&rank(other.get(at))),
        None => one.len().cmp(&other.len()),
    }
}

/// Takes `..` and `.` out of a path by its text alone, as Go's `filepath.Join("/", path)` does.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let mut clean: Vec<&[u8]> = Vec::new();
    for name in names(path) {
        if name == b".." {
            clean.pop();
        } else {
            clean.push(name);
        }
    }
    clean.join(&b'/')
}

/// Tells whether a path is inside a folder.
pub(crate) fn is_below(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/"))
}

/// Yields the folders above a path, nearest first, without the root.
pub(crate) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(split_path(path).0), |path| Some(split_path(path).0)).take_while(|path| !path.is_empty())
}

/// Returns a path for people.
pub(crate) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_inside_the_root() {
        let files = |path: &[u8]| {
            Ok(match path {
                b"abs" => Step::Link(b"/dir/in".to_vec()),
                b"up" => Step::Link(b"../../../dir".to_vec()),
                b"dir/in" => Step::Link(b"./file".to_vec()),
                b"loop" => Step::Link(b"loop".to_vec()),
                b"dir" | b"dir/file" => Step::Other,
                _ => Step::Missing,
            })
        };
        let resolve = |path: &str, last| resolve(path.as_bytes(), last, &mut { files }).map(|path| lossy(&path));
        assert_eq!(resolve("abs", true).expect("found"), "dir/file");
        assert_eq!(resolve("abs", false).expect("found"), "abs");
        assert_eq!(resolve("up/in", true).expect("found"), "dir/file");
        assert_eq!(resolve("up/new/../x", true).expect("found"), "dir/x");
        assert_eq!(resolve("/../..", true).expect("found"), "");
        assert!(resolve("loop", true).is_err());
    }

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, cleaned) in [("/a/../b", "b"), ("../../a", "a"), ("a//./b/", "a/b"), ("/", ""), ("a/..", "")] {
            assert_eq!(lossy(&clean(path.as_bytes())), cleaned);
        }
        assert_eq!(ancestors(b"a/b/c").collect::<Vec<_>>(), [b"a/b".as_slice(), b"a"]);
    }
}
