//! Instructions that the compiler would replace by slower ones: lookups in tables that fit no register, and
//! a permutation.
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

/// Any eight of eight lanes. A `_mm256_permutevar8x32_ps` with known indices becomes two shuffles, so as to
/// load no constant, and shuffles are what AVX2's kernels have most of.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn permute(a: __m256, index: __m256i) -> __m256 {
    let out;
    // SAFETY: reads and writes registers only.
    unsafe {
        asm!("vpermps {out}, {index}, {a}", out = lateout(ymm_reg) out, index = in(ymm_reg) index,
             a = in(ymm_reg) a, options(pure, nomem, nostack, preserves_flags));
    }
    out
}

/// Asks for a line that is soon written to. (Unless a feature is enabled, the intrinsic asks for it to be read; CPUs
/// without that feature take the instruction for none.)
#[inline(always)]
pub(super) fn prefetch_to_write(p: *const u8) {
    // SAFETY: no effect but on caches, whatever the address.
    unsafe { asm!("prefetchw [{}]", in(reg) p, options(readonly, nostack, preserves_flags)) }
}
