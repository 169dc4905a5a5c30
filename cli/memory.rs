//! Copying and comparing memory, in place of musl's: those start a `rep movs` for each few bytes, and compare byte by byte,
//! which is a third of what a build does that looks at ten thousand files.
//!
//! The names that the compiler calls (`memcpy`, `memmove`, `memcmp`, `bcmp`) are taken only in the static binary; what they
//! do has names of its own, so that the tests reach it anywhere.

use std::arch::global_asm;

// In assembly, because a compiler makes a call of `memcpy` of whatever looks like one. Only SSE2, which every x86-64 has.
//
// Up to 32 bytes, and at the ends of what is longer, two loads that may overlap: no loop, and no byte by itself. All that is
// stored over was loaded before, so that one function is both `memcpy` and `memmove`.
global_asm!(
    "
    .pushsection .text.slipway_memory, \"ax\", @progbits
    .p2align 5
    .globl slipway_copy
    .hidden slipway_copy
    .type slipway_copy, @function
slipway_copy:                       # rdi: to, rsi: from, rdx: how many; returns rdi
    mov rax, rdi
    cmp rdx, 16
    jb 20f
    movups xmm0, [rsi]              # the first bytes
    movups xmm1, [rsi + rdx - 16]   # the last
    cmp rdx, 32
    ja 2f
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm1
    ret
2:  movups xmm2, [rsi + 16]
    movups xmm3, [rsi + rdx - 32]
    cmp rdx, 64
    ja 3f
    movups [rdi], xmm0
    movups [rdi + 16], xmm2
    movups [rdi + rdx - 32], xmm3
    movups [rdi + rdx - 16], xmm1
    ret
3:  mov rcx, rdi
    sub rcx, rsi
    cmp rcx, rdx
    jb 6f                           # it begins inside of what is copied
    lea r8, [rdi + rdx - 32]        # where the last 32 bytes go
    cmp rdx, 1024
    jae 5f
4:  movups xmm0, [rsi]
    movups xmm2, [rsi + 16]
    movups [rdi], xmm0
    movups [rdi + 16], xmm2
    add rsi, 32
    add rdi, 32
    cmp rdi, r8
    jb 4b
    movups [r8], xmm3
    movups [r8 + 16], xmm1
    ret
5:  mov rcx, rdx
    shr rcx, 3
    rep movsq
    movups [r8 + 16], xmm1          # what is left of it is no whole eight bytes
    ret
6:  movups xmm1, [rsi + rdx - 16]   # from the last to the first
    movups xmm3, [rsi + rdx - 32]
    movups [rdi + rdx - 16], xmm1
    movups [rdi + rdx - 32], xmm3
    sub rdx, 32
    cmp rdx, 32
    ja 6b
    movups [rdi], xmm0
    movups [rdi + 16], xmm2
    ret
20: cmp edx, 8
    jb 21f
    mov rcx, [rsi]
    mov r8, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], r8
    ret
21: cmp edx, 4
    jb 22f
    mov ecx, [rsi]
    mov r8d, [rsi + rdx - 4]
    mov [rdi], ecx
    mov [rdi + rdx - 4], r8d
    ret
22: test edx, edx
    je 23f
    mov r9d, edx
    shr r9d, 1
    movzx ecx, byte ptr [rsi]       # the first, one in the middle, and the last are all
    movzx r8d, byte ptr [rsi + r9]
    movzx r10d, byte ptr [rsi + rdx - 1]
    mov [rdi], cl
    mov [rdi + r9], r8b
    mov [rdi + rdx - 1], r10b
23: ret
    .size slipway_copy, . - slipway_copy

    .p2align 5
    .globl slipway_compare
    .hidden slipway_compare
    .type slipway_compare, @function
slipway_compare:                    # rdi, rsi: two pieces, rdx: how many bytes; returns the difference of the first that differ
    xor ecx, ecx
    sub rdx, 16
    jb 34f
    je 32f
31: movups xmm0, [rdi + rcx]
    movups xmm1, [rsi + rcx]
    pcmpeqb xmm0, xmm1
    pmovmskb eax, xmm0
    xor eax, 0xffff
    jne 33f
    add rcx, 16
    cmp rcx, rdx
    jb 31b
32: movups xmm0, [rdi + rdx]        # the last 16, some of them again
    movups xmm1, [rsi + rdx]
    pcmpeqb xmm0, xmm1
    pmovmskb eax, xmm0
    mov rcx, rdx
    xor eax, 0xffff
    jne 33f
    ret
33: bsf eax, eax
    add rcx, rax
    movzx eax, byte ptr [rdi + rcx]
    movzx ecx, byte ptr [rsi + rcx]
    sub eax, ecx
    ret
34: add edx, 16
    cmp edx, 8
    jb 35f
    mov rax, [rdi]
    mov rcx, [rsi]
    cmp rax, rcx
    jne 37f
    mov rax, [rdi + rdx - 8]
    mov rcx, [rsi + rdx - 8]
    cmp rax, rcx
    jne 37f
    xor eax, eax
    ret
35: cmp edx, 4
    jb 36f
    mov eax, [rdi]
    mov ecx, [rsi]
    cmp eax, ecx
    jne 37f
    mov eax, [rdi + rdx - 4]
    mov ecx, [rsi + rdx - 4]
    cmp eax, ecx
    jne 37f
    xor eax, eax
    ret
36: xor eax, eax
    test edx, edx
    je 38f
    movzx eax, byte ptr [rdi]
    movzx ecx, byte ptr [rsi]
    sub eax, ecx
    jne 38f
    inc rdi
    inc rsi
    dec edx
    jmp 36b
37: bswap rax                       # the first byte weighs most; of four bytes, both lower halves are 0 then
    bswap rcx
    cmp rax, rcx
    sbb eax, eax
    or eax, 1
38: ret
    .size slipway_compare, . - slipway_compare
    .popsection
    "
);

#[cfg(target_env = "musl")]
global_asm!(
    "
    .pushsection .text.slipway_memory_names, \"ax\", @progbits
    .globl memcpy, memmove, memcmp, bcmp
    .type memcpy, @function
    .type memmove, @function
    .type memcmp, @function
    .type bcmp, @function
memcpy:
memmove:
    jmp slipway_copy
memcmp:
bcmp:
    jmp slipway_compare
    .popsection
    "
);

#[cfg(test)]
mod tests {
    unsafe extern "C" {
        fn slipway_copy(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
        fn slipway_compare(one: *const u8, other: *const u8, count: usize) -> i32;
    }

    /// Lengths around every limit of the assembly.
    fn lengths() -> impl Iterator<Item = usize> {
        (0..200).chain(1000..1100).chain([4095, 4096, 70_001])
    }

    fn pattern(count: usize) -> Vec<u8> {
        (0..count).map(|index| (index * 7 + index / 251) as u8).collect()
    }

    #[test]
    fn bytes_are_copied_wherever_they_lie_and_nothing_beside_them() {
        for count in lengths() {
            for (from, to) in [(0, 0), (1, 0), (0, 1), (7, 300), (300, 7), (3, 19), (19, 3), (0, 33), (33, 0), (5, 5)] {
                let mut memory = pattern(count + 400);
                let mut expected = memory.clone();
                expected.copy_within(from..from + count, to);
                let start = memory.as_mut_ptr();
                // SAFETY: both pieces lie within the vector.
                let returned = unsafe { slipway_copy(start.add(to), start.add(from), count) };
                assert_eq!(returned, start.wrapping_add(to));
                assert!(memory == expected, "{count} bytes from {from} to {to}");
            }
        }
    }

    #[test]
    fn the_first_byte_that_differs_decides() {
        for count in lengths().filter(|count| *count < 5000) {
            let one = pattern(count + 3);
            for place in (0..count).step_by(1 + count / 100).chain([count]) {
                let mut other = one.clone();
                for byte in &mut other[3..][place..count] {
                    // All behind it differ, too, the other way round.
                    *byte = byte.wrapping_sub(1);
                }
                if let Some(byte) = other[3..][..count].get_mut(place) {
                    *byte = byte.wrapping_add(2);
                }
                // SAFETY: both vectors have three bytes more than `count`.
                let told = unsafe { slipway_compare(one[3..].as_ptr(), other[3..].as_ptr(), count) };
                assert_eq!(told.signum(), one[3..][..count].cmp(&other[3..][..count]) as i32, "{place} of {count}");
            }
        }
    }
}
