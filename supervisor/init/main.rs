//! The first process of a container that was asked for an init: it passes signals on to the program, and reaps whoever
//! ends.
//!
//! It is a program of its own, with nothing but the kernel's calls, so that it runs in every image and so that none gets to
//! see this machine's own program. Its arguments are its name, `--`, and the program with its own.

#![no_std]
#![no_main]
// There is no library in which a loop could be looked up that sets or counts bytes.
#![no_builtins]

use core::arch::{asm, global_asm};
use core::mem::MaybeUninit;
use core::ptr::null;

// What the kernel leaves on the stack is where the arguments are.
global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call {run}", "ud2", run = sym run);

const WRITE: usize = 1;
const SET_SIGNAL_MASK: usize = 14;
const IOCTL: usize = 16;
const GETPID: usize = 39;
const FORK: usize = 57;
const EXECVE: usize = 59;
const WAIT4: usize = 61;
const KILL: usize = 62;
const SETPGID: usize = 109;
const WAIT_FOR_SIGNAL: usize = 128;
const EXIT_GROUP: usize = 231;

const SIGCHLD: isize = 17;
/// What tells a program in the background that the terminal is not its own.
const TERMINAL_SIGNALS: [isize; 2] = [21, 22];
const TIOCSPGRP: usize = 0x5410;
const WNOHANG: usize = 1;
const NOT_FOUND: [isize; 2] = [2, 20];
const FORBIDDEN: isize = 13;

/// A text with a zero at its end, and a list of such with a null at its end.
type Text = *const u8;
type Texts = *const Text;

fn call(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let result;
    // SAFETY: every use passes what the call expects, and what it points to lives.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

fn exit(code: i32) -> ! {
    loop {
        call(EXIT_GROUP, [code as usize, 0, 0, 0]);
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(125)
}

/// What `core` was compiled to call; nothing here unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// # Safety
///
/// `stack` is what the kernel gave: how many arguments there are, they, and the environment.
unsafe extern "C" fn run(stack: *const usize) -> ! {
    // SAFETY: as the kernel made it.
    let (count, arguments) = unsafe { (*stack, stack.add(1) as Texts) };
    if count < 3 {
        say(&[b"it takes `--` and a program\n"]);
        exit(125);
    }
    // SAFETY: there are so many, and a null behind them.
    let (arguments, environment) = unsafe { (arguments.add(2), arguments.add(count + 1)) };
    // All of them wait until they are asked for, also those that end a program.
    let (all, mut before) = (u64::MAX, 0u64);
    call(SET_SIGNAL_MASK, [0, &raw const all as usize, &raw mut before as usize, 8]);
    let program = call(FORK, [0; 4]);
    if program < 0 {
        say(&[b"cannot make a process\n"]);
        exit(125);
    }
    if program == 0 {
        // The terminal, if there is one, is the program's: what is typed there reaches it alone.
        let own = call(GETPID, [0; 4]) as i32;
        call(SETPGID, [0; 4]);
        call(IOCTL, [0, TIOCSPGRP, &raw const own as usize, 0]);
        call(SET_SIGNAL_MASK, [2, &raw const before as usize, 0, 8]);
        // SAFETY: the lists are the kernel's.
        exit(unsafe { start(arguments, environment) });
    }
    loop {
        match call(WAIT_FOR_SIGNAL, [&raw const all as usize, 0, 0, 8]) {
            SIGCHLD => {
                if let Some(code) = reap(program) {
                    exit(code);
                }
            }
            signal if signal > 0 && !TERMINAL_SIGNALS.contains(&signal) => {
                call(KILL, [program as usize, signal as usize, 0, 0]);
            }
            _ => {}
        }
    }
}

/// Takes note of all who have ended; gives the exit code if the program is among them.
fn reap(program: isize) -> Option<i32> {
    let mut code = None;
    loop {
        let mut status = 0i32;
        let pid = call(WAIT4, [usize::MAX, &raw mut status as usize, WNOHANG, 0]);
        if pid <= 0 {
            return code;
        }
        if pid == program {
            let signal = status & 0x7f;
            code = Some(if signal == 0 { status >> 8 & 0xff } else { 128 + signal });
        }
    }
}

/// Becomes the program, which is a path or in a folder of `PATH`; gives the exit code that says why it cannot.
///
/// # Safety
///
/// Both are lists of texts.
unsafe fn start(arguments: Texts, environment: Texts) -> i32 {
    // SAFETY: there is one argument at least.
    let name = unsafe { bytes(*arguments) };
    let execute = |path: Text| -call(EXECVE, [path as usize, arguments as usize, environment as usize, 0]);
    let mut error = NOT_FOUND[0];
    if name.contains(&b'/') {
        error = execute(name.as_ptr());
    } else if !name.is_empty() {
        // SAFETY: it is a list of texts.
        let path = unsafe { search_path(environment) };
        for folder in path.split(|&byte| byte == b':') {
            let mut place = MaybeUninit::uninit();
            let parts = [if folder.is_empty() { b"." } else { folder }, b"/", name];
            let Some(path) = join(&parts, &mut place) else { continue };
            match execute(path) {
                other if NOT_FOUND.contains(&other) => {}
                // Another folder may have one that is allowed.
                FORBIDDEN => error = FORBIDDEN,
                other => {
                    error = other;
                    break;
                }
            }
        }
    }
    let (code, reason): (_, &[u8]) = match error {
        error if NOT_FOUND.contains(&error) => (127, b"executable file not found\n"),
        FORBIDDEN => (126, b"permission denied\n"),
        _ => (126, b"it cannot be executed\n"),
    };
    say(&[b"exec: `", name, b"`: ", reason]);
    code
}

/// # Safety
///
/// `environment` is a list of texts.
unsafe fn search_path<'a>(mut environment: Texts) -> &'a [u8] {
    const NAME: &[u8] = b"PATH=";
    // SAFETY: as promised.
    unsafe {
        while *environment != null() {
            let variable = bytes(*environment);
            if variable.iter().take(NAME.len()).eq(NAME) {
                return &variable[NAME.len()..];
            }
            environment = environment.add(1);
        }
    }
    b""
}

/// # Safety
///
/// `text` has a zero at its end.
unsafe fn bytes<'a>(text: Text) -> &'a [u8] {
    let mut length = 0;
    // SAFETY: as promised.
    unsafe {
        while *text.add(length) != 0 {
            length += 1;
        }
        core::slice::from_raw_parts(text, length)
    }
}

/// The longest path that the kernel takes.
const MOST: usize = 4096;

/// Writes texts one after another, with a zero behind, if they fit.
fn join(parts: &[&[u8]], place: &mut MaybeUninit<[u8; MOST]>) -> Option<Text> {
    let start: *mut u8 = place.as_mut_ptr().cast();
    let mut length = 0;
    for &byte in parts.iter().flat_map(|part| part.iter()).chain(&[0]) {
        if length == MOST {
            return None;
        }
        // SAFETY: it is inside of the array.
        unsafe { start.add(length).write(byte) };
        length += 1;
    }
    Some(start)
}

fn say(parts: &[&[u8]]) {
    let name: &[u8] = b"docker-init: ";
    for part in core::iter::once(&name).chain(parts) {
        call(WRITE, [2, part.as_ptr() as usize, part.len(), 0]);
    }
}
