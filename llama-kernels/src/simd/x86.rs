//! What AVX2 and AVX-512 share: lookups in tables that fit no register.
//!
//! The compiler turns several loads from one table into a gather, which current CPUs run as slow microcode
//! (a patch against data sampling): 27 ns instead of 9 for 256 weights of NVFP4. Inline assembly keeps them
//! loads.

use core::arch::asm;
use core::arch::x86_64::*;

/// Two entries of a table; indices are taken modulo its length, a power of two.
#[inline(always)]
pub(super) fn octets<const N: usize>(table: &[u64; N], i: usize, j: usize) -> __m128i {
    const { assert!(N.is_power_of_two()) };
    let out;
    // SAFETY: both addresses lie in the table; AVX is there, since only AVX2 and better call this.
    unsafe {
        asm!("vmovq {x}, qword ptr [{t} + 8 * {i}]", "vmovhps {x}, {x}, qword ptr [{t} + 8 * {j}]",
             x = out(xmm_reg) out, t = in(reg) table, i = in(reg) i & (N - 1), j = in(reg) j & (N - 1),
             options(pure, readonly, nostack, preserves_flags));
    }
    out
}

/// Four entries of a table; indices are taken modulo its length, a power of two.
#[inline(always)]
pub(super) fn quads<const N: usize>(table: &[u32; N], [i, j, k, l]: [usize; 4]) -> __m128i {
    const { assert!(N.is_power_of_two()) };
    let out;
    // SAFETY: all addresses lie in the table; AVX is there, since only AVX2 and better call this.
    unsafe {
        asm!("vmovd {x}, dword ptr [{t} + 4 * {i}]", "vpinsrd {x}, {x}, dword ptr [{t} + 4 * {j}], 1",
             "vpinsrd {x}, {x}, dword ptr [{t} + 4 * {k}], 2", "vpinsrd {x}, {x}, dword ptr [{t} + 4 * {l}], 3",
             x = out(xmm_reg) out, t = in(reg) table, i = in(reg) i & (N - 1), j = in(reg) j & (N - 1),
             k = in(reg) k & (N - 1), l = in(reg) l & (N - 1),
             options(pure, readonly, nostack, preserves_flags));
    }
    out
}
