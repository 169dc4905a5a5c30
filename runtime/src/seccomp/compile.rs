//! Compiles a profile to BPF.
//!
//! ```text
//! load the architecture        one tree for each; an unknown one is killed
//!   load the number            binary search over ranges of numbers with the same fate
//!     range                    return, or compare arguments rule by rule, then return
//! ```
//!
//! A number above all that the profile knows gives ENOSYS, as from an older kernel, so that programs
//! fall back instead of failing (runc does the same).

use super::arch::{self, Table};
use crate::start_error::StartError;
use libc::sock_filter;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A compiled filter.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) instructions: Vec<sock_filter>,
    pub(crate) flags: u32,
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

impl Filter {
    /// Whether installing it gives a listener.
    pub(crate) fn listens(&self) -> bool {
        self.flags & NEW_LISTENER != 0
    }
}

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
const NEW_LISTENER: u32 = 8;

/// Where the kernel's `seccomp_data` has what.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

/// The most instructions that the kernel takes.
const LONGEST: usize = 4096;

fn plain(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter { code, jt: yes, jf: no, k }
}

/// Compiles a profile, or gives the filter that the last one came to when it is the same: the steps of a build have one.
pub(crate) fn compiled(profile: &LinuxSeccomp) -> Result<Arc<Filter>, StartError> {
    static LAST: Mutex<Option<(LinuxSeccomp, Arc<Filter>)>> = Mutex::new(None);
    let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, filter)) = last().as_ref().filter(|(known, _)| known == profile) {
        return Ok(filter.clone());
    }
    let filter = Arc::new(compile(profile)?);
    *last() = Some((profile.clone(), filter.clone()));
    Ok(filter)
}

/// Compiles a profile.
fn compile(profile: &LinuxSeccomp) -> Result<Filter, StartError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let native = [arch::NATIVE];
    let architectures = profile.architectures().as_deref().unwrap_or(&native);
    let mut trees: BTreeMap<u32, Vec<Table>> = BTreeMap::new();
    for table in std::iter::once(arch::NATIVE).chain(architectures.iter().copied()).filter_map(Table::of) {
        let tables = trees.entry(table.audit).or_default();
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    let mut code = vec![plain(LOAD, ARCHITECTURE)];
    for (audit, tables) in trees {
        let mut tree = vec![plain(LOAD, NUMBER)];
        tree.extend(search(&ranges(profile, &tables, default)?));
        // A far jump, as the near one reaches 255 instructions only.
        code.push(branch(IF_EQUAL, audit, 1, 0));
        code.push(plain(JUMP, tree.len() as u32));
        code.extend(tree);
    }
    code.push(plain(RETURN, KILL_PROCESS));
    if code.len() > LONGEST {
        return Err(StartError::BadSpec { what: format!("the seccomp profile needs {} instructions", code.len()) });
    }
    Ok(Filter { instructions: code, flags: flags(profile)? })
}

/// `SPEC_ALLOW` unless the profile says otherwise, as runc.
fn flags(profile: &LinuxSeccomp) -> Result<u32, StartError> {
    const LOG: u32 = 2;
    const SPEC_ALLOW: u32 = 4;
    const WAIT_KILLABLE_RECV: u32 = 32;
    let mut bits = 0;
    match profile.flags() {
        None => bits |= SPEC_ALLOW,
        Some(flags) => {
            for flag in flags {
                bits |= match flag {
                    LinuxSeccompFilterFlag::SeccompFilterFlagLog => LOG,
                    LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
                    LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
                    // The program starts with one thread.
                    LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
                }
            }
        }
    }
    let notifies = |action| action == LinuxSeccompAction::ScmpActNotify;
    let notified = profile.syscalls().iter().flatten().filter(|syscall| notifies(syscall.action()));
    let names: Vec<_> = notified.flat_map(oci_spec::runtime::LinuxSyscall::names).collect();
    let bad = |what: &str| Err(StartError::BadSpec { what: what.to_owned() });
    if notifies(profile.default_action()) {
        return bad("SCMP_ACT_NOTIFY cannot be the default action: nobody would hand the listener over");
    }
    if names.iter().any(|name| matches!(name.as_str(), "write" | "sendmsg")) {
        return bad("SCMP_ACT_NOTIFY cannot be the action for `write` and `sendmsg`, which hand the listener over");
    }
    if names.is_empty() {
        if bits & WAIT_KILLABLE_RECV != 0 {
            return bad("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs SCMP_ACT_NOTIFY");
        }
    } else if profile.listener_path().is_none() {
        return bad("SCMP_ACT_NOTIFY needs `listenerPath`");
    } else {
        bits |= NEW_LISTENER;
    }
    Ok(bits)
}

/// What the filter returns for an action.
fn action(action: LinuxSeccompAction, number: Option<u32>) -> Result<u32, StartError> {
    let errno = number.unwrap_or(libc::EPERM as u32) & 0xffff;
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 0,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActErrno => ERRNO | errno,
        LinuxSeccompAction::ScmpActTrace => 0x7ff0_0000 | errno,
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
        LinuxSeccompAction::ScmpActNotify => 0x7fc0_0000,
    })
}

/// What happens to a system call.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Return(u32),
    Code(Vec<Instruction>),
}

/// A `sock_filter` that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction(u16, u8, u8, u32);

/// Returns which fate begins at which number, without gaps, from 0 on.
fn ranges(profile: &LinuxSeccomp, tables: &[Table], default: u32) -> Result<Vec<(u32, Fate)>, StartError> {
    let unknown = if profile.default_action() == LinuxSeccompAction::ScmpActErrno {
        Fate::Return(ERRNO | libc::ENOSYS as u32)
    } else {
        Fate::Return(default)
    };
    let mut ranges: Vec<(u32, Fate)> = Vec::new();
    let mut push = |start: u32, fate: Fate| {
        if ranges.last().is_none_or(|(_, last)| *last != fate) {
            ranges.push((start, fate));
        }
    };
    let mut tables = tables.to_vec();
    tables.sort_by_key(|table| table.first());
    for table in tables {
        let fates = fates(profile, table, default)?;
        let mut next = table.first();
        for (number, fate) in fates {
            if number > next {
                push(next, Fate::Return(default));
            }
            push(number, fate);
            next = number + 1;
        }
        push(next, unknown.clone());
    }
    Ok(ranges)
}

/// A rule: the arguments that it wants, and what it does.
type Rule<'a> = (&'a [LinuxSeccompArg], u32);

/// Returns what the profile says about each number of one table, in the order of the numbers.
fn fates(profile: &LinuxSeccomp, table: Table, default: u32) -> Result<Vec<(u32, Fate)>, StartError> {
    let mut rules: Vec<(u32, Rule<'_>)> = Vec::new();
    for syscall in profile.syscalls().iter().flatten() {
        let action = action(syscall.action(), syscall.errno_ret().or(profile.default_errno_ret()))?;
        let arguments = syscall.args().as_deref().unwrap_or_default();
        let numbers = syscall.names().iter().filter_map(|name| table.number(name));
        rules.extend(numbers.map(|number| (number, (arguments, action))));
    }
    // Those for the same number stay in their order.
    rules.sort_by_key(|(number, _)| *number);
    rules.chunk_by(|one, other| one.0 == other.0).map(|same| Ok((same[0].0, fate(same, default)?))).collect()
}

/// Turns the rules for one system call into a fate. A rule for any arguments wins over all others.
fn fate(rules: &[(u32, Rule<'_>)], default: u32) -> Result<Fate, StartError> {
    let rules = rules.iter().map(|(_, rule)| rule);
    if let Some((_, action)) = rules.clone().find(|(arguments, _)| arguments.is_empty()) {
        return Ok(Fate::Return(*action));
    }
    let mut code = Vec::new();
    for (arguments, action) in rules {
        let start = code.len();
        for argument in *arguments {
            compare(argument, &mut code)?;
        }
        code.push(Instruction(RETURN, 0, 0, *action));
        // Now it is known where the next rule begins.
        let end = code.len();
        for (index, instruction) in code.iter_mut().enumerate().skip(start) {
            let distance = u8::try_from(end - index - 1).ok().filter(|&distance| distance < NEXT_RULE);
            let distance = distance
                .ok_or_else(|| StartError::BadSpec { what: "a seccomp rule has too many arguments".to_owned() })?;
            if instruction.1 == NEXT_RULE {
                instruction.1 = distance;
            }
            if instruction.2 == NEXT_RULE {
                instruction.2 = distance;
            }
        }
    }
    code.push(Instruction(RETURN, 0, 0, default));
    Ok(Fate::Code(code))
}

/// Stands for the distance to the next rule while that is not known.
const NEXT_RULE: u8 = 255;

/// Compares one argument, as two halves of 32 bits; goes on when it holds, else to the next rule.
fn compare(argument: &LinuxSeccompArg, code: &mut Vec<Instruction>) -> Result<(), StartError> {
    if argument.index() > 5 {
        return Err(StartError::BadSpec { what: format!("a system call has no argument {}", argument.index()) });
    }
    let place = ARGUMENTS + 8 * argument.index() as u32;
    let (value, second) = (argument.value(), argument.value_two().unwrap_or(0));
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let ((high, low), (second_high, second_low)) = (halves(value), halves(second));
    let load_high = Instruction(LOAD, 0, 0, place + 4);
    let load_low = Instruction(LOAD, 0, 0, place);
    code.push(load_high);
    match argument.op() {
        LinuxSeccompOperator::ScmpCmpEq => {
            code.extend([
                Instruction(IF_EQUAL, 0, NEXT_RULE, high),
                load_low,
                Instruction(IF_EQUAL, 0, NEXT_RULE, low),
            ]);
        }
        LinuxSeccompOperator::ScmpCmpNe => {
            code.extend([Instruction(IF_EQUAL, 0, 2, high), load_low, Instruction(IF_EQUAL, NEXT_RULE, 0, low)]);
        }
        LinuxSeccompOperator::ScmpCmpMaskedEq => code.extend([
            Instruction(AND, 0, 0, high),
            Instruction(IF_EQUAL, 0, NEXT_RULE, second_high),
            load_low,
            Instruction(AND, 0, 0, low),
            Instruction(IF_EQUAL, 0, NEXT_RULE, second_low),
        ]),
        op @ (LinuxSeccompOperator::ScmpCmpLt | LinuxSeccompOperator::ScmpCmpLe) => {
            let too_much = if op == LinuxSeccompOperator::ScmpCmpLt { IF_AT_LEAST } else { IF_GREATER };
            code.extend([
                Instruction(IF_GREATER, NEXT_RULE, 0, high),
                Instruction(IF_EQUAL, 0, 2, high),
                load_low,
                Instruction(too_much, NEXT_RULE, 0, low),
            ]);
        }
        op @ (LinuxSeccompOperator::ScmpCmpGt | LinuxSeccompOperator::ScmpCmpGe) => {
            let enough = if op == LinuxSeccompOperator::ScmpCmpGt { IF_GREATER } else { IF_AT_LEAST };
            code.extend([
                Instruction(IF_GREATER, 3, 0, high),
                Instruction(IF_EQUAL, 0, NEXT_RULE, high),
                load_low,
                Instruction(enough, 0, NEXT_RULE, low),
            ]);
        }
    }
    Ok(())
}

/// Returns code that finds the range of the loaded number.
fn search(ranges: &[(u32, Fate)]) -> Vec<sock_filter> {
    match ranges {
        [] => Vec::new(),
        [(_, Fate::Return(action))] => vec![plain(RETURN, *action)],
        [(_, Fate::Code(code))] => {
            code.iter().map(|&Instruction(code, jt, jf, k)| sock_filter { code, jt, jf, k }).collect()
        }
        _ => {
            let (below, from) = ranges.split_at(ranges.len() / 2);
            let first = from[0].0;
            let (below, from) = (search(below), search(from));
            let mut code = match u8::try_from(below.len()) {
                Ok(length) => vec![branch(IF_AT_LEAST, first, length, 0)],
                Err(_) => vec![branch(IF_AT_LEAST, first, 0, 1), plain(JUMP, below.len() as u32)],
            };
            code.extend(below);
            code.extend(from);
            code
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities;
    use crate::seccomp::default_profile;
    use oci_spec::runtime::{Capabilities, Capability};
    use rstest::rstest;

    const ALLOW: u32 = 0x7fff_0000;
    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;

    /// Runs a filter as the kernel would.
    fn run(filter: &Filter, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(architecture.to_le_bytes());
        data.extend([0; 8]);
        data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let (mut at, mut a) = (0, 0u32);
        loop {
            let instruction = filter.instructions[at];
            let k = instruction.k;
            at += 1;
            let mut jump = |yes: bool| at += usize::from(if yes { instruction.jt } else { instruction.jf });
            match instruction.code {
                LOAD => a = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
                AND => a &= k,
                JUMP => at += k as usize,
                IF_EQUAL => jump(a == k),
                IF_GREATER => jump(a > k),
                IF_AT_LEAST => jump(a >= k),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn default() -> Filter {
        compile(&default_profile(&capabilities::DEFAULT.into_iter().collect())).unwrap()
    }

    #[rstest]
    #[case::read(0, [0; 6], ALLOW)]
    #[case::mount(165, [0; 6], ERRNO | 1)]
    #[case::keyctl(250, [0; 6], ERRNO | 1)]
    #[case::chroot_by_its_capability(161, [0; 6], ALLOW)]
    #[case::clone_of_a_thread(56, [0x3d0f00, 0, 0, 0, 0, 0], ALLOW)]
    #[case::clone_into_a_user_namespace(56, [0x1000_0000, 0, 0, 0, 0, 0], ERRNO | 1)]
    #[case::clone3(435, [0; 6], ERRNO | 38)]
    #[case::personality_linux(135, [0; 6], ALLOW)]
    #[case::personality_ask(135, [0xffff_ffff, 0, 0, 0, 0, 0], ALLOW)]
    #[case::personality_no_random_addresses(135, [0x4_0000, 0, 0, 0, 0, 0], ERRNO | 1)]
    #[case::socket_inet(41, [2, 0, 0, 0, 0, 0], ALLOW)]
    #[case::socket_alg(41, [38, 0, 0, 0, 0, 0], ERRNO | 1)]
    #[case::socket_vsock(41, [40, 0, 0, 0, 0, 0], ERRNO | 1)]
    #[case::socket_above(41, [44, 0, 0, 0, 0, 0], ALLOW)]
    #[case::io_uring(425, [0; 6], ERRNO | 1)]
    #[case::of_a_later_kernel(1000, [0; 6], ERRNO | 38)]
    #[case::x32_read(0x4000_0000, [0; 6], ALLOW)]
    #[case::x32_execve(0x4000_0000 | 520, [0; 6], ALLOW)]
    #[case::x32_mount(0x4000_0000 | 165, [0; 6], ERRNO | 1)]
    fn the_default_profile_answers_as_dockers(#[case] number: u32, #[case] arguments: [u64; 6], #[case] answer: u32) {
        assert_eq!(run(&default(), X86_64, number, arguments), answer, "call {number}");
    }

    #[test]
    fn a_32_bit_program_has_numbers_of_its_own() {
        assert_eq!(run(&default(), I386, 11, [0; 6]), ALLOW); // execve
        assert_eq!(run(&default(), I386, 21, [0; 6]), ERRNO | 1); // mount
        assert_eq!(run(&default(), 0x4000_0028, 0, [0; 6]), KILL_PROCESS); // arm
    }

    #[test]
    fn a_capability_adds_its_calls() {
        let mut granted: Capabilities = capabilities::DEFAULT.into_iter().collect();
        granted.insert(Capability::SysAdmin);
        let filter = compile(&default_profile(&granted)).unwrap();
        for call in [165, 272, 435, 56] {
            assert_eq!(run(&filter, X86_64, call, [0x1000_0000; 6]), ALLOW, "call {call}");
        }
    }

    #[rstest]
    #[case(LinuxSeccompOperator::ScmpCmpEq, |a, v| a == v)]
    #[case(LinuxSeccompOperator::ScmpCmpNe, |a, v| a != v)]
    #[case(LinuxSeccompOperator::ScmpCmpLt, |a, v| a < v)]
    #[case(LinuxSeccompOperator::ScmpCmpLe, |a, v| a <= v)]
    #[case(LinuxSeccompOperator::ScmpCmpGt, |a, v| a > v)]
    #[case(LinuxSeccompOperator::ScmpCmpGe, |a, v| a >= v)]
    fn arguments_are_compared_in_all_64_bits(#[case] op: LinuxSeccompOperator, #[case] holds: fn(u64, u64) -> bool) {
        use oci_spec::runtime::{LinuxSeccompArgBuilder, LinuxSyscall};
        let numbers = [0, 1, 0xffff_ffff, 1 << 32, (1 << 32) + 1, (1 << 33) - 1, 1 << 33, u64::MAX];
        for value in numbers {
            let mut syscall = LinuxSyscall::default();
            syscall.set_names(vec!["read".to_owned()]);
            syscall.set_action(LinuxSeccompAction::ScmpActAllow);
            let argument = LinuxSeccompArgBuilder::default().index(2usize).op(op).value(value).build().unwrap();
            syscall.set_args(Some(vec![argument]));
            let mut profile = LinuxSeccomp::default();
            profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
            profile.set_syscalls(Some(vec![syscall]));
            let filter = compile(&profile).unwrap();
            for number in numbers {
                let allowed = run(&filter, X86_64, 0, [0, 0, number, 0, 0, 0]) == ALLOW;
                assert_eq!(allowed, holds(number, value), "{number:#x} {op:?} {value:#x}");
            }
        }
    }

    #[test]
    fn every_name_of_the_profile_is_a_call_of_this_machine() {
        let profile = default_profile(&capabilities::ALL.into_iter().collect());
        let tables = [Table::of(arch::NATIVE).unwrap(), Table::of(oci_spec::runtime::Arch::ScmpArchX86).unwrap()];
        for name in profile.syscalls().iter().flatten().flat_map(oci_spec::runtime::LinuxSyscall::names) {
            assert!(tables.iter().any(|table| table.number(name).is_some()), "{name}");
        }
    }
}
