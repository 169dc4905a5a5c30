//! What the numbers of users and groups in a container are outside of it.

use crate::start_error::StartError;
use oci::IdRange;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Which numbers inside are which outside; ready for `uid_map` and `gid_map`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdMaps {
    users: Vec<IdRange>,
    groups: Vec<IdRange>,
}

/// The kernel's limit.
const MOST_RANGES: usize = 340;

/// Returns the maps of a spec, if it has any, and a user namespace that they are for.
pub(crate) fn maps_of_spec(spec: &Spec) -> Result<Option<IdMaps>, StartError> {
    let linux = spec.linux().as_ref();
    let mut namespaces = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    if !namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
        return Ok(None);
    }
    let users = linux.and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default();
    let groups = linux.and_then(|linux| linux.gid_mappings().as_deref()).unwrap_or_default();
    IdMaps::new(users, groups)
}

impl IdMaps {
    /// Takes the mappings of a spec; none when both lists are empty.
    pub(crate) fn new(users: &[LinuxIdMapping], groups: &[LinuxIdMapping]) -> Result<Option<IdMaps>, StartError> {
        match (ranges(users, "uidMappings")?, ranges(groups, "gidMappings")?) {
            (users, groups) if users.is_empty() && groups.is_empty() => Ok(None),
            (users, groups) if !users.is_empty() && !groups.is_empty() => Ok(Some(IdMaps { users, groups })),
            _ => Err(StartError::BadSpec { what: "`uidMappings` and `gidMappings` need each other".to_owned() }),
        }
    }

    /// This user as root, and nobody else.
    pub(crate) fn of_user_alone() -> IdMaps {
        IdMaps::with_subordinates(&[], &[])
    }

    /// This user as root, and from 1 on the numbers that are theirs: the first outside, and how many.
    pub(crate) fn with_subordinates(users: &[(u32, u32)], groups: &[(u32, u32)]) -> IdMaps {
        let ranges = |own: u32, others: &[(u32, u32)]| {
            let mut all = vec![IdRange { inside: 0, outside: own, size: 1 }];
            let mut inside = 1u32;
            for &(outside, size) in others.iter().take(MOST_RANGES - 1) {
                // What does not fit below the last number cannot be mapped.
                let Some(next) = inside.checked_add(size) else { break };
                all.push(IdRange { inside, outside, size });
                inside = next;
            }
            all
        };
        let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        IdMaps { users: ranges(user, users), groups: ranges(group, groups) }
    }

    /// Which user outside a user inside is.
    pub(crate) fn outside_user(&self, inside: u32) -> Option<u32> {
        self.users.iter().find_map(|range| range.outside_of(inside))
    }

    /// Gives the user namespace of `pid` its users and groups. Gives whether its processes may set their groups.
    ///
    /// Who may map anything writes the files; a plain user may map the ranges of `/etc/subuid` by the programs
    /// `newuidmap` and `newgidmap`, and without them only themselves.
    pub(crate) fn give_to(&self, pid: u32) -> Result<(), StartError> {
        let failed = |file: &str| {
            let what = format!("map users into the container (`{file}`)");
            move |source| StartError::Setup { what, source }
        };
        let written = |file: &str, text: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::OpenOptions::new().write(true).open(path).and_then(|mut file| {
                // The kernel takes it in one write only.
                io::Write::write_all(&mut file, text.as_bytes())
            })
        };
        if let Err(error) = written("uid_map", &text(&self.users)) {
            if error.kind() != io::ErrorKind::PermissionDenied {
                return Err(failed("uid_map")(error));
            }
            by_program("newuidmap", pid, &self.users)?;
        }
        match written("gid_map", &text(&self.groups)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(failed("gid_map")(error)),
            Ok(()) => return Ok(()),
        }
        let Err(refused) = by_program("newgidmap", pid, &self.groups) else { return Ok(()) };
        // One's own group alone needs nobody's help, but then nobody inside may leave a group.
        written("setgroups", "deny").map_err(failed("setgroups"))?;
        written("gid_map", &text(&self.groups)).map_err(|_| refused)
    }

    /// Makes a user namespace with these maps that nobody is in, for mounts.
    pub(crate) fn namespace(&self) -> Result<OwnedFd, StartError> {
        let failed = |source: io::Error| StartError::Setup { what: "make a user namespace".to_owned(), source };
        let mut pidfd: i32 = -1;
        let arguments = crate::sys::CloneArguments {
            flags: libc::CLONE_NEWUSER as u64 | libc::CLONE_PIDFD as u64,
            pidfd: &raw mut pidfd as u64,
            exit_signal: libc::SIGCHLD as u64,
            ..Default::default()
        };
        // SAFETY: the child does raw system calls alone.
        let pid =
            unsafe { crate::sys::clone3(&arguments) }.map_err(|error| failed(io::Error::from_raw_os_error(error)))?;
        if pid == 0 {
            // Should the parent die, nobody would ever end this.
            let _ = crate::sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0);
            loop {
                crate::sys::pause();
            }
        }
        // SAFETY: the kernel has just put a new descriptor there.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let given = self.give_to(pid as u32);
        let opened = std::fs::File::open(format!("/proc/{pid}/ns/user")).map_err(failed);
        // It can only fail when the process is gone.
        let _ = crate::sys::kill(pidfd.as_raw_fd(), libc::SIGKILL);
        let _ = crate::sys::wait(pidfd.as_raw_fd());
        given?;
        Ok(opened?.into())
    }
}

fn ranges(mappings: &[LinuxIdMapping], what: &str) -> Result<Vec<IdRange>, StartError> {
    if mappings.len() > MOST_RANGES {
        return Err(StartError::BadSpec { what: format!("`{what}` has more than {MOST_RANGES} ranges") });
    }
    mappings
        .iter()
        .map(|one| match one.size() {
            0 => Err(StartError::BadSpec { what: format!("a range of `{what}` is empty") }),
            size => Ok(IdRange { inside: one.container_id(), outside: one.host_id(), size }),
        })
        .collect()
}

fn text(ranges: &[IdRange]) -> String {
    let mut text = String::new();
    for IdRange { inside, outside, size } in ranges {
        writeln!(text, "{inside} {outside} {size}").expect("a String takes everything");
    }
    text
}

#[expect(clippy::disallowed_methods, reason = "only a set-uid program may map a plain user's further numbers")]
fn by_program(program: &str, pid: u32, ranges: &[IdRange]) -> Result<(), StartError> {
    let numbers = ranges.iter().flat_map(|range| [range.inside, range.outside, range.size]);
    let output = std::process::Command::new(program)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .output()
        .map_err(|source| StartError::Setup {
            what: format!("`{program}`, which maps users of a plain user"),
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(StartError::Setup { what: format!("`{program}`"), source: io::Error::other(said) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxIdMappingBuilder;

    fn mapping(inside: u32, outside: u32, size: u32) -> LinuxIdMapping {
        LinuxIdMappingBuilder::default().container_id(inside).host_id(outside).size(size).build().unwrap()
    }

    #[test]
    fn a_user_inside_is_somebody_outside() {
        let list = [mapping(0, 100_000, 10), mapping(50, 1000, 1)];
        let maps = IdMaps::new(&list, &list).unwrap().unwrap();
        let outside: Vec<_> = [0, 9, 10, 50, 51].map(|inside| maps.outside_user(inside)).into();
        assert_eq!(outside, [Some(100_000), Some(100_009), None, Some(1000), None]);
        assert_eq!(text(&maps.users), "0 100000 10\n50 1000 1\n");
    }

    #[test]
    fn maps_that_make_no_sense_are_refused() {
        let one = [mapping(0, 1, 1)];
        assert_eq!(IdMaps::new(&[], &[]).unwrap(), None);
        assert!(IdMaps::new(&one, &[]).is_err());
        assert!(IdMaps::new(&[mapping(0, 1, 0)], &one).is_err());
        assert!(IdMaps::new(&vec![mapping(0, 1, 1); 341], &one).is_err());
    }
}
