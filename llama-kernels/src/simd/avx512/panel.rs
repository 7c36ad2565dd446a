//! The inner loops of the integer engine: sixteen rows times a tile's tokens.
//!
//! * `vpdpbusd`: 32 rows times four tokens. A line of weights serves the whole tile, and a token's word, broadcast by
//!   its load, both panels: six loads for eight products. (Two per cycle are what Zen 5 has of either: sixteen rows times
//!   twelve tokens, thirteen loads for twelve products, ran at 0.85 of the peak, and this at all of it. With scales, and
//!   operands in the first-level cache, a tile runs at 406 of 551 multiplications a nanosecond where 441 are possible,
//!   for of five instructions on the units that multiply four are products; with 32 rows times six tokens at 400.)
//! * Without VNNI, as on AVX2: small weights leave room in 16 bits for several products.

use super::Avx512;
use crate::format::Lanes;
use crate::simd::{STRIPE, Simd};
use core::arch::asm;
use core::arch::x86_64::*;

/// Panels that are multiplied at once, and tokens in a tile.
pub(super) const PANELS: usize = 2;
pub(super) const TILE: usize = 4;

/// Four columns of sixteen rows of both panels.
#[rustfmt::skip]
macro_rules! quad {
    ($line:literal) => {
        concat!("vmovdqu64 {v}, zmmword ptr [{p} + 64 * ", $line, "]\n",
                "vmovdqu64 {w}, zmmword ptr [{q} + 64 * ", $line, "]\n",
                token!($line, 0, "a", "b"), token!($line, 1, "c", "d"), token!($line, 2, "e", "f"), token!($line, 3, "g", "h"))
    };
}

/// The same times those of one token.
#[rustfmt::skip]
macro_rules! token {
    ($line:literal, $t:literal, $a:literal, $b:literal) => {
        concat!("vpbroadcastd {x}, dword ptr [{r} + 16 * ", $line, " + 4 * ", $t, "]\n",
                "vpdpbusd {", $a, "}, {v}, {x}\n", "vpdpbusd {", $b, "}, {w}, {x}\n")
    };
}

/// Lines that are one block of assembly.
const LINES: usize = 4;

/// Some lines of two panels times a tile's tokens: the sums of the first panel, then those of the second. It is `asm!`
/// that keeps its place: the compiler would do one token after the other, each a chain of dependent products, and spill.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn lines(
    acc: &mut [__m512i; PANELS * TILE],
    first: &[[u8; STRIPE]; LINES],
    second: &[[u8; STRIPE]; LINES],
    x: &[i32; LINES * TILE],
) {
    let [mut a, mut c, mut e, mut g, mut b, mut d, mut f, mut h] = *acc;
    // Named, for the compiler takes an unnamed register of this class for one of bytes.
    let (_v, _w, _x): (__m512i, __m512i, __m512i);
    // SAFETY: reads the lines of both panels and of `x`; the features are enabled.
    unsafe {
        asm!(quad!(0), quad!(1), quad!(2), quad!(3),
             p = in(reg) first.as_ptr(), q = in(reg) second.as_ptr(), r = in(reg) x.as_ptr(),
             v = out(zmm_reg) _v, w = out(zmm_reg) _w, x = out(zmm_reg) _x,
             a = inout(zmm_reg) a, b = inout(zmm_reg) b, c = inout(zmm_reg) c, d = inout(zmm_reg) d,
             e = inout(zmm_reg) e, f = inout(zmm_reg) f, g = inout(zmm_reg) g, h = inout(zmm_reg) h,
             options(pure, readonly, nostack, preserves_flags));
    }
    *acc = [a, c, e, g, b, d, f, h];
}

/// [`Simd::dot_panels`] with VNNI.
#[inline(always)]
pub(super) fn pairs<const LEVEL: u32, const P: usize, const QUADS: usize, const MT: usize>(
    _: Avx512<LEVEL>,
    start: [[__m512i; MT]; P],
    w: [&[[u8; STRIPE]; QUADS]; P],
    x: &[[i32; MT]; QUADS],
) -> [[__m512i; MT]; P] {
    const { assert!(QUADS.is_multiple_of(LINES), "whole blocks") };
    let mut acc = start;
    let sums: &mut [_; PANELS * TILE] = acc.as_flattened_mut().try_into().expect("the sums of both panels");
    let (first, second, x) = (w[0].as_chunks().0, w[P - 1].as_chunks().0, x.as_flattened().as_chunks().0);
    for ((first, second), x) in first.iter().zip(second).zip(x) {
        avx512! { lines(sums, first, second, x) }
    }
    acc
}

/// [`Simd::dot_panel`] with VNNI.
#[inline(always)]
pub(super) fn vnni<const LEVEL: u32, const QUADS: usize, const MT: usize>(
    s: Avx512<LEVEL>,
    start: [__m512i; MT],
    w: &[[u8; STRIPE]; QUADS],
    x: &[[i32; MT]; QUADS],
) -> [__m512i; MT] {
    let mut acc = start;
    for (w, x) in w.iter().zip(x) {
        let w = s.load_bytes(w);
        for (acc, &x) in acc.iter_mut().zip(x) {
            *acc = avx512! { _mm512_dpbusd_epi32(*acc, w, s.splat_i32(x)) };
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
