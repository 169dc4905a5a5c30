//! Processor time, so that what costs more than it should is found before it hangs.

use rustix::time::{ClockId, clock_gettime};

/// The processor time of this thread, in milliseconds. Unlike a clock on the wall it ignores other processes.
fn now() -> i64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// Picks one input in sixteen, always the same ones, for what is too dear to be done with each.
pub fn chosen(data: &[u8]) -> bool {
    data.iter().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte)) % 16 == 0
}

/// Repeats `unit` to some 64 KiB and refuses a job on it that takes what only a square of that can take.
///
/// A linear job takes some 10 ms even with sanitizers.
pub fn is_linear<T>(head: &[u8], unit: &[u8], job: impl Fn(&[u8]) -> T) {
    const SIZE: usize = 60 << 10;
    const MOST: i64 = 2000;
    if unit.is_empty() {
        return;
    }
    let mut text = head.to_vec();
    text.extend(unit.iter().cycle().take(SIZE / unit.len() * unit.len()));
    let start = now();
    job(&text);
    let took = now() - start;
    assert!(took < MOST, "{} bytes took {took} ms", text.len());
}
