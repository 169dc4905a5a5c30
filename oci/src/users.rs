//! Users and groups of an image: `user[:group]` resolved against the text of its `/etc/passwd` and `/etc/group`.
//!
//! The rules are those of runc's `libcontainer/user`, which docker and BuildKit use. The text comes from images, so
//! nothing in it is trusted: broken lines are skipped, and numbers must fit.

/// A user as a process has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessUser {
    /// User ID.
    pub uid: u32,
    /// Primary group ID.
    pub gid: u32,
    /// Supplementary group IDs.
    pub additional_gids: Vec<u32>,
    /// Home folder; `/` when the user has no line in `/etc/passwd`.
    pub home: String,
}

/// Why a `user[:group]` names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum UserError {
    #[error("unable to find user `{name}`: no matching entries in the image's /etc/passwd")]
    UnknownUser { name: String },
    #[error("unable to find group `{name}`: no matching entries in the image's /etc/group")]
    UnknownGroup { name: String },
    #[error("user or group ID `{text}` does not fit in 31 bits")]
    OutOfRange { text: String },
}

/// The users and groups of one image, as lines of text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Users<'a> {
    /// The text of `/etc/passwd`; empty when there is none.
    pub passwd: &'a str,
    /// The text of `/etc/group`; empty when there is none.
    pub group: &'a str,
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Users<'a> {
    fn passwd_lines(self) -> impl Iterator<Item = PasswdLine<'a>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1).unwrap_or("");
            Some(PasswdLine { name, uid, gid, home })
        })
    }

    fn group_lines(self) -> impl Iterator<Item = GroupLine<'a>> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let gid = fields.nth(1)?.parse().ok()?;
            let members = fields.next().unwrap_or("");
            Some(GroupLine { name, gid, members })
        })
    }

    /// Finds the user that a process runs as (`USER`, `--user`): empty text is user 0.
    ///
    /// A number that nobody has is used as it is, with group 0; a name that
    /// nobody has is an error. An explicit group replaces the supplementary ones.
    pub fn process_user(self, text: &str) -> Result<ProcessUser, UserError> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let number = parse_id(user)?;
        let line = self.passwd_lines().find(|line| match (user, number) {
            ("", _) => line.uid == 0,
            (_, Some(uid)) => line.uid == uid || line.name == user,
            (name, None) => line.name == name,
        });
        let mut found = match (&line, user, number) {
            (Some(line), _, _) => ProcessUser {
                uid: number.unwrap_or(line.uid),
                gid: line.gid,
                additional_gids: Vec::new(),
                home: line.home.to_owned(),
            },
            (None, "", _) => ProcessUser { uid: 0, gid: 0, additional_gids: Vec::new(), home: "/".into() },
            (None, _, Some(uid)) => ProcessUser { uid, gid: 0, additional_gids: Vec::new(), home: "/".into() },
            (None, name, None) => return Err(UserError::UnknownUser { name: name.into() }),
        };
        if found.home.is_empty() {
            found.home = "/".into();
        }
        if !group.is_empty() {
            found.gid = self.group_id(group)?;
        } else if let Some(line) = &line {
            let is_member = |group: &GroupLine<'_>| group.members.split(',').any(|member| member.trim() == line.name);
            found.additional_gids = self.group_lines().filter(is_member).map(|group| group.gid).collect();
            found.additional_gids.dedup();
        }
        Ok(found)
    }

    fn group_id(self, group: &str) -> Result<u32, UserError> {
        let number = parse_id(group)?;
        let line = self.group_lines().find(|line| line.name == group || Some(line.gid) == number);
        number.or(line.map(|line| line.gid)).ok_or_else(|| UserError::UnknownGroup { name: group.into() })
    }

    /// Finds the owner that `COPY --chown` names. BuildKit: a lone number is the group too, a lone name has its primary
    /// group, a user that nobody has is 0, and a group that nobody has is as good as none.
    pub fn owner(self, text: &str) -> (u32, u32) {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let by_name = |name: &str| self.passwd_lines().find(|line| line.name == name);
        let (uid, primary) = match owner_id(user) {
            Some(uid) => (uid, uid),
            None => by_name(user).map_or((0, 0), |line| (line.uid, line.gid)),
        };
        let by_name = |name: &str| self.group_lines().find(|line| line.name == name).map(|line| line.gid);
        (uid, group.and_then(|group| owner_id(group).or_else(|| by_name(group))).unwrap_or(primary))
    }

    /// Tells whether an owner is all numbers, so that [`Users::owner`] looks nothing up.
    pub fn is_numeric(owner: &str) -> bool {
        owner.splitn(2, ':').all(|part| owner_id(part).is_some())
    }
}

/// Parses a part of an owner as BuildKit does: 32 bits with a sign, of which -1 leaves what is there, `root`, or nothing,
/// which is 0; `None` when it is a name.
fn owner_id(part: &str) -> Option<u32> {
    match part {
        "" | "root" | "-1" => Some(0),
        part => part.parse::<i32>().ok().map(i32::cast_unsigned),
    }
}

/// Parses an all-digit ID; `None` when the text is a name.
fn parse_id(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= i32::MAX.unsigned_abs() => Ok(Some(id)),
        _ => Err(UserError::OutOfRange { text: text.chars().take(40).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: Users<'_> = Users {
        passwd: "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/var/www:/bin/false\nbig:x:99999999999:1::/:\n",
        group: "root:x:0:root\nwheel:x:10:root\nweb:x:34:\nextra:x:50:web,root\n",
    };

    fn ids(text: &str) -> Result<(u32, u32, Vec<u32>, String), UserError> {
        USERS.process_user(text).map(|user| (user.uid, user.gid, user.additional_gids, user.home))
    }

    #[test]
    fn processes_get_their_user_and_groups() {
        assert_eq!(ids(""), Ok((0, 0, vec![0, 10, 50], "/root".into())));
        assert_eq!(ids("web"), Ok((33, 34, vec![50], "/var/www".into())));
        assert_eq!(ids("33"), Ok((33, 34, vec![50], "/var/www".into())));
        assert_eq!(ids("web:wheel"), Ok((33, 10, vec![], "/var/www".into())));
        assert_eq!(ids("1234"), Ok((1234, 0, vec![], "/".into())));
        assert_eq!(ids("1234:77"), Ok((1234, 77, vec![], "/".into())));
        assert_eq!(ids("nobody"), Err(UserError::UnknownUser { name: "nobody".into() }));
        assert_eq!(ids("big"), Err(UserError::UnknownUser { name: "big".into() }));
        assert_eq!(ids("web:none"), Err(UserError::UnknownGroup { name: "none".into() }));
        assert_eq!(ids("4294967295"), Err(UserError::OutOfRange { text: "4294967295".into() }));
        assert_eq!(Users::default().process_user("").map(|user| user.home), Ok("/".into()));
    }

    #[test]
    fn owners_follow_buildkit() {
        for (text, expected) in [
            ("web", (33, 34)),
            ("12", (12, 12)),
            ("12:wheel", (12, 10)),
            ("ghost", (0, 0)),
            ("web:ghost", (33, 34)),
            ("12:ghost", (12, 12)),
            ("ghost:wheel", (0, 10)),
            ("web:", (33, 0)),
            ("12:", (12, 0)),
            (":12", (0, 12)),
            ("+12", (12, 12)),
            ("-1", (0, 0)),
            ("root:web", (0, 34)),
            ("4294967296", (0, 0)),
            ("12:wheel:extra", (12, 12)),
        ] {
            assert_eq!(USERS.owner(text), expected, "{text}");
        }
    }
}
