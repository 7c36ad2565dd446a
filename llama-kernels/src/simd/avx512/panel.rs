//! The inner loops of the integer engine: sixteen rows times a tile's tokens.
//!
//! * `vpdpbusd` multiplies by a word that it broadcasts from memory: a line of weights serves the whole tile.
//! * Without VNNI, as on AVX2: small weights leave room in 16 bits for several products.

use super::Avx512;
use crate::format::Lanes;
use crate::simd::{STRIPE, Simd};
use core::arch::asm;
use core::arch::x86_64::*;

/// [`Simd::dot_panel`] with VNNI, four tokens at a time.
#[inline(always)]
pub(super) fn vnni<const LEVEL: u32, const QUADS: usize, const MT: usize>(
    _: Avx512<LEVEL>,
    start: [__m512i; MT],
    w: &[[u8; STRIPE]; QUADS],
    x: &[[i32; MT]; QUADS],
) -> [__m512i; MT] {
    const { assert!(MT.is_multiple_of(4), "whole fours") };
    let mut acc = start;
    for (w, x) in w.iter().zip(x) {
        for (acc, x) in acc.as_chunks_mut::<4>().0.iter_mut().zip(x.as_chunks::<4>().0) {
            avx512! { dot_quad(acc, w, x) }
        }
    }
    acc
}

/// The same without.
#[inline(always)]
pub(super) fn base<L: Lanes, const LEVEL: u32, const QUADS: usize, const MT: usize>(
    s: Avx512<LEVEL>,
    start: [__m512i; MT],
    w: &[[u8; STRIPE]; QUADS],
    x: &[[i32; MT]; QUADS],
) -> [__m512i; MT] {
    let (mut acc, mut narrow) = (start, [s.splat_i32(0); MT]);
    for (i, (w, x)) in w.iter().zip(x).enumerate() {
        let w = s.load_bytes(w);
        for t in 0..MT {
            let x = s.splat_i32(x[t]);
            if L::BITS == 8 {
                acc[t] = s.dot_signed(acc[t], w, x);
                continue;
            }
            let headroom = (32767 / (2 * 127 * ((1 << L::BITS) - 1))) as usize;
            let pairs = s.pairs(w, x);
            narrow[t] = if i % headroom == 0 {
                pairs
            } else {
                avx512! { _mm512_add_epi16(narrow[t], pairs) }
            };
            if (i + 1) % headroom == 0 || i + 1 == QUADS {
                acc[t] = s.widen(acc[t], narrow[t]);
            }
        }
    }
    acc
}

/// Four columns of sixteen rows times four of a tile's tokens. It is `asm!` that keeps its place: the compiler would
/// do one token after the other, each a chain of dependent products, and spill.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn dot_quad(acc: &mut [__m512i; 4], w: &[u8; STRIPE], x: &[i32; 4]) {
    let [mut a, mut b, mut c, mut d] = *acc;
    // SAFETY: reads the 64 bytes of `w` and the four words of `x`; the features are enabled.
    unsafe {
        let w = _mm512_loadu_si512(w.as_ptr().cast());
        asm!("vpdpbusd {a}, {q}, dword ptr [{x}]{{1to16}}", "vpdpbusd {b}, {q}, dword ptr [{x} + 4]{{1to16}}",
             "vpdpbusd {c}, {q}, dword ptr [{x} + 8]{{1to16}}", "vpdpbusd {d}, {q}, dword ptr [{x} + 12]{{1to16}}",
             q = in(zmm_reg) w, x = in(reg) x.as_ptr(),
             a = inout(zmm_reg) a, b = inout(zmm_reg) b, c = inout(zmm_reg) c, d = inout(zmm_reg) d,
             options(readonly, nostack, preserves_flags));
    }
    *acc = [a, b, c, d];
}
