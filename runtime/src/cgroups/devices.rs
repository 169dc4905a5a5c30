//! The allow list of devices as a BPF program on a v2 cgroup, which has no file for it.
//!
//! ```text
//! r2 = type, r3 = access, r4 = major, r5 = minor
//! for each rule, the last first:  if it matches, return 1 (allow) or 0 (deny)
//! return what the last rule for all devices says
//! ```

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// One instruction: operation, registers, jump distance, number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high.
    registers: u8,
    offset: i16,
    number: i32,
}

const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const MOVE_REGISTER: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const AND: u8 = 0x57; // BPF_ALU64 | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x77; // BPF_ALU64 | BPF_RSH | BPF_K
const IF_NOT: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const IF_NOT_REGISTER: u8 = 0x5d; // BPF_JMP | BPF_JNE | BPF_X
const IF_EQUAL: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

fn instruction(code: u8, destination: u8, source: u8, offset: i16, number: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, number }
}

/// Stands for the distance to the next rule while that is not known.
const NEXT_RULE: i16 = i16::MAX;

/// Writes the program for a list of rules.
fn program(rules: &[LinuxDeviceCgroup]) -> Vec<Instruction> {
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let start = code.len();
        let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::B => Some(1),
            LinuxDeviceType::C | LinuxDeviceType::U => Some(2),
            _ => None,
        };
        if let Some(kind) = kind {
            code.push(instruction(IF_NOT, 2, 0, NEXT_RULE, kind));
        }
        let access = access_bits(rule.access().as_deref().unwrap_or("rwm"));
        if access != 7 {
            code.push(instruction(MOVE_REGISTER, 1, 3, 0, 0));
            code.push(instruction(AND, 1, 0, 0, access));
            if rule.allow() {
                // All that is asked for must be allowed…
                code.push(instruction(IF_NOT_REGISTER, 1, 3, NEXT_RULE, 0));
            } else {
                // …and any of it can be denied.
                code.push(instruction(IF_EQUAL, 1, 0, NEXT_RULE, 0));
            }
        }
        for (register, number) in [(4, rule.major()), (5, rule.minor())] {
            if let Some(number) = number.and_then(|number| i32::try_from(number).ok()).filter(|&number| number >= 0) {
                code.push(instruction(IF_NOT, register, 0, NEXT_RULE, number));
            }
        }
        code.push(instruction(MOVE, 0, 0, 0, i32::from(rule.allow())));
        code.push(instruction(EXIT, 0, 0, 0, 0));
        let end = code.len();
        for (index, instruction) in code.iter_mut().enumerate().skip(start) {
            if instruction.offset == NEXT_RULE {
                instruction.offset = (end - index - 1) as i16;
            }
        }
        if end == start + 2 {
            // It matches everything: no earlier rule counts, and code that is never reached is refused.
            return code;
        }
    }
    // Without a rule for all, the list starts from everything denied.
    code.push(instruction(MOVE, 0, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

fn access_bits(access: &str) -> i32 {
    access.bytes().fold(0, |bits, letter| {
        bits | match letter {
            b'm' => 1,
            b'r' => 2,
            b'w' => 4,
            _ => 0,
        }
    })
}

/// Loads the program for `rules` and attaches it to the cgroup at `path`.
pub(super) fn attach(path: &Path, rules: &[LinuxDeviceCgroup]) -> io::Result<()> {
    const PROG_LOAD: i32 = 5;
    const PROG_ATTACH: i32 = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    /// The kernel's `union bpf_attr` for loading; the rest of it is zero.
    #[repr(C)]
    struct Load {
        kind: u32,
        length: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Attach {
        target: i32,
        program: i32,
        kind: u32,
        flags: u32,
    }
    let program = program(rules);
    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        length: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the struct and what it points to live until the call returns.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    if loaded < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor. It is not needed once the program is attached.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded as i32) };
    let cgroup = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let attach = Attach {
        target: cgroup.as_raw_fd(),
        program: loaded.as_raw_fd(),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: as above.
    let attached = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if attached < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let Instruction { code, registers: pair, offset, number } = program[at];
            let (destination, source) = (usize::from(pair & 15), usize::from(pair >> 4));
            at += 1;
            let number = number as u64;
            let mut jump = |yes: bool| at += if yes { offset as usize } else { 0 };
            match code {
                LOAD_WORD => registers[destination] = context[offset as usize / 4].into(),
                MOVE => registers[destination] = number,
                MOVE_REGISTER => registers[destination] = registers[source],
                AND => registers[destination] &= number,
                SHIFT_RIGHT => registers[destination] >>= number,
                IF_NOT => jump(registers[destination] != number),
                IF_NOT_REGISTER => jump(registers[destination] != registers[source]),
                IF_EQUAL => jump(registers[destination] == number),
                EXIT => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const BLOCK: u32 = 1;
    const CHARACTER: u32 = 2;
    const MAKE: u32 = 1;
    const READ: u32 = 2;
    const WRITE: u32 = 4;

    #[test]
    fn dockers_list_allows_making_any_node_and_using_a_few() {
        let options = crate::SpecOptions { args: vec!["x".to_owned()], ..Default::default() };
        let spec = crate::default_spec(&options).unwrap();
        let rules = spec.linux().as_ref().unwrap().resources().as_ref().unwrap().devices().clone().unwrap();
        let program = program(&rules);
        assert!(run(&program, CHARACTER, READ | WRITE, 1, 3));
        assert!(run(&program, CHARACTER, READ, 136, 7));
        assert!(run(&program, BLOCK, MAKE, 8, 0));
        assert!(!run(&program, BLOCK, READ, 8, 0));
        assert!(!run(&program, BLOCK, READ | MAKE, 8, 0));
        assert!(!run(&program, CHARACTER, WRITE, 1, 1));
    }
}
