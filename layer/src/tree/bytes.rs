//! A [`Node`] as bytes, for lists of so many that memory does not hold them.

use super::{Node, NodeKind};
use crate::Timestamp;

const KINDS: [NodeKind; 7] = [
    NodeKind::File,
    NodeKind::Directory,
    NodeKind::Symlink,
    NodeKind::CharDevice,
    NodeKind::BlockDevice,
    NodeKind::Fifo,
    NodeKind::Socket,
];

impl Node {
    /// Appends the node as bytes that mean something to this process only. Which folders show through at a directory is
    /// not kept: what [`Node::from_bytes`] makes of it has nothing in it.
    pub fn write_bytes(&self, bytes: &mut Vec<u8>) {
        let Self { path, kind, mode, uid, gid, size, mtime, ctime, dev, ino, nlink, rdev, target, layer, layers: _ } =
            self;
        let kind = KINDS.iter().position(|known| known == kind).unwrap_or_default() as u64;
        let ids = |one: u32, other: u32| (u64::from(one) << 32) | u64::from(other);
        let has_target = u64::from(target.is_some()) << 8;
        let numbers = [
            kind | has_target | (*layer as u64) << 16,
            u64::from(*mode),
            ids(*uid, *gid),
            *size,
            mtime.seconds.cast_unsigned(),
            ctime.seconds.cast_unsigned(),
            ids(mtime.nanos, ctime.nanos),
            *dev,
            *ino,
            *nlink,
            ids(rdev.0, rdev.1),
        ];
        numbers.iter().for_each(|number| put_number(bytes, *number));
        for text in [path, target.as_ref().unwrap_or(&Vec::new())] {
            put_number(bytes, text.len() as u64);
            bytes.extend_from_slice(text);
        }
    }

    /// Reads what [`Node::write_bytes`] wrote; `None` when that is not what the bytes are.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let mut numbers = [0; 11];
        for number in &mut numbers {
            *number = take_number(bytes)?;
        }
        let [head, mode, owner, size, mtime, ctime, nanos, dev, ino, nlink, rdev] = numbers;
        let (path, target) = (take_text(bytes)?, take_text(bytes)?);
        let ids = |both: u64| ((both >> 32) as u32, both as u32);
        Some(Self {
            path,
            kind: *KINDS.get(usize::from(head as u8))?,
            mode: mode as u32,
            uid: ids(owner).0,
            gid: ids(owner).1,
            size,
            mtime: Timestamp { seconds: mtime.cast_signed(), nanos: ids(nanos).0 },
            ctime: Timestamp { seconds: ctime.cast_signed(), nanos: ids(nanos).1 },
            dev,
            ino,
            nlink,
            rdev: ids(rdev),
            target: (head >> 8 & 1 == 1).then_some(target),
            layer: (head >> 16) as usize,
            layers: Vec::new(),
        })
    }
}

/// Writes seven bits a byte, the lowest first: most numbers are small.
fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take_text(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let length = usize::try_from(take_number(bytes)?).ok()?;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(text.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_comes_back_as_it_was() {
        for (kind, target) in
            [(NodeKind::File, None), (NodeKind::Symlink, Some(b"to".to_vec())), (NodeKind::Socket, None)]
        {
            let node = Node {
                path: b"a/\xff".to_vec(),
                kind,
                mode: 0o7755,
                uid: u32::MAX,
                gid: 1,
                size: u64::MAX,
                mtime: Timestamp { seconds: -1, nanos: 999_999_999 },
                ctime: Timestamp { seconds: i64::MAX, nanos: 1 },
                dev: 1 << 40,
                ino: 1 << 50,
                nlink: 3,
                rdev: (4, u32::MAX),
                target,
                layer: 500,
                layers: Vec::new(),
            };
            let mut bytes = Vec::new();
            node.write_bytes(&mut bytes);
            assert_eq!(Node::from_bytes(&bytes), Some(node));
            for length in 0..bytes.len() {
                assert_eq!(Node::from_bytes(&bytes[..length]), None, "{length}");
            }
        }
    }
}
