//! The inner loops of the integer engine: sixteen rows times a tile's tokens.
//!
//! They are `asm!` that keeps its place. The compiler would load all lines of weights first, spill them, and do one
//! token after the other, each a chain of dependent products.

use super::{Avx2, TILE};
use crate::format::{Lanes, Subtrahend};
use crate::simd::{STRIPE, Simd};
use core::arch::asm;
use core::arch::x86_64::*;

/// Columns that one block of assembly multiplies, by four.
const FOUR: usize = 4;

/// One token's four columns, in all lanes.
#[rustfmt::skip]
macro_rules! broadcast {
    ($line:literal, $at:literal) => {
        concat!("vpbroadcastd {x}, dword ptr [{p} + {stride} * ", $line, " + ", $at, "]\n")
    };
}

/// One line of weights, in two registers, times the four tokens of a tile.
#[rustfmt::skip]
macro_rules! weights {
    ($line:literal, $token:ident) => {
        concat!(
            "vmovdqu {v}, ymmword ptr [{r} + 64 * ", $line, "]\n",
            "vmovdqu {w}, ymmword ptr [{r} + 64 * ", $line, " + 32]\n",
            $token!("before"),
            broadcast!($line, 0), $token!("a", "b"), broadcast!($line, 4), $token!("c", "d"),
            broadcast!($line, 8), $token!("e", "f"), broadcast!($line, 12), $token!("g", "h")
        )
    };
}

/// Unsigned weights times one token's four columns, added up in 16 bits.
#[rustfmt::skip]
macro_rules! narrow {
    ("before") => { "" };
    ($a:literal, $b:literal) => {
        concat!(
            "vpmaddubsw {y}, {v}, {x}\n", "vpmaddubsw {x}, {w}, {x}\n",
            "vpaddw {", $a, "}, {", $a, "}, {y}\n", "vpaddw {", $b, "}, {", $b, "}, {x}\n"
        )
    };
}

/// Signed weights likewise, added up in 32 bits: their signs move over to the activations.
#[rustfmt::skip]
macro_rules! wide {
    ("before") => { "vpabsb {m}, {v}\nvpabsb {n}, {w}\n" };
    ($a:literal, $b:literal) => {
        concat!(
            "vpsignb {y}, {x}, {v}\n", "vpsignb {x}, {x}, {w}\n",
            "vpmaddubsw {y}, {m}, {y}\n", "vpmaddubsw {x}, {n}, {x}\n",
            "vpmaddwd {y}, {y}, {ones}\n", "vpmaddwd {x}, {x}, {ones}\n",
            "vpaddd {", $a, "}, {", $a, "}, {y}\n", "vpaddd {", $b, "}, {", $b, "}, {x}\n"
        )
    };
}

/// Unsigned weights with VNNI.
#[rustfmt::skip]
macro_rules! unsigned_vnni {
    ("before") => { "" };
    ($a:literal, $b:literal) => {
        concat!("{{vex}} vpdpbusd {", $a, "}, {v}, {x}\n", "{{vex}} vpdpbusd {", $b, "}, {w}, {x}\n")
    };
}

/// Signed weights with VNNI.
#[rustfmt::skip]
macro_rules! signed_vnni {
    ("before") => { wide!("before") };
    ($a:literal, $b:literal) => {
        concat!(
            "vpsignb {y}, {x}, {v}\n", "vpsignb {x}, {x}, {w}\n",
            "{{vex}} vpdpbusd {", $a, "}, {m}, {y}\n", "{{vex}} vpdpbusd {", $b, "}, {n}, {x}\n"
        )
    };
}

/// A function that multiplies four lines of weights with a tile's tokens, the `first` of `x` and its neighbours, and
/// needs some more registers.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $features:literal, [$($free:ident)*] $(, $operand:ident = $value:expr)?) => {
        $(#[$doc])*
        #[target_feature(enable = $features)]
        #[inline]
        fn $name<const MT: usize>(
            acc: &mut [[__m256i; 2]; TILE],
            w: &[[u8; STRIPE]; FOUR],
            x: &[[i32; MT]; FOUR],
            first: usize,
        ) {
            assert!(first + TILE <= MT, "a tile of the tokens");
            let x = &x.as_flattened()[first..];
            let [[mut a, mut b], [mut c, mut d], [mut e, mut f], [mut g, mut h]] = *acc;
            // SAFETY: reads four lines of weights and, of four lines of `x`, the words from `first` on, `TILE` of each;
            // the features are enabled.
            unsafe {
                asm!(weights!(0, $name), weights!(1, $name), weights!(2, $name), weights!(3, $name),
                     r = in(reg) w.as_ptr(), p = in(reg) x.as_ptr(), stride = const 4 * MT,
                     v = out(ymm_reg) _, w = out(ymm_reg) _, x = out(ymm_reg) _,
                     $($free = out(ymm_reg) _,)* $($operand = in(ymm_reg) $value,)?
                     a = inout(ymm_reg) a, b = inout(ymm_reg) b, c = inout(ymm_reg) c, d = inout(ymm_reg) d,
                     e = inout(ymm_reg) e, f = inout(ymm_reg) f, g = inout(ymm_reg) g, h = inout(ymm_reg) h,
                     options(pure, readonly, nostack, preserves_flags));
            }
            *acc = [[a, b], [c, d], [e, f], [g, h]];
        }
    };
}

kernel!(
    /// Small weights, in 16 bits.
    narrow, "avx2", [y]);
kernel!(
    /// Signed bytes.
    wide, "avx2", [y m n], ones = _mm256_set1_epi16(1));
kernel!(
    /// Small weights.
    unsigned_vnni, "avx2,avxvnni", []);
kernel!(
    /// Signed bytes.
    signed_vnni, "avx2,avxvnni", [y m n]);

/// [`Simd::dot_panel`] with VNNI.
#[inline(always)]
pub(super) fn vnni<L: Lanes, const QUADS: usize, const MT: usize>(
    start: [[__m256i; 2]; MT],
    w: &[[u8; STRIPE]; QUADS],
    x: &[[i32; MT]; QUADS],
) -> [[__m256i; 2]; MT] {
    const { assert!(MT.is_multiple_of(TILE) && QUADS.is_multiple_of(FOUR), "whole tiles, whole blocks") };
    let mut acc = start;
    for (tile, acc) in acc.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
        for (w, x) in w.as_chunks::<FOUR>().0.iter().zip(x.as_chunks::<FOUR>().0) {
            match L::BITS {
                8 => avx2! { signed_vnni(acc, w, x, tile * TILE) },
                _ => avx2! { unsigned_vnni(acc, w, x, tile * TILE) },
            }
        }
    }
    acc
}

/// [`Simd::dot_panel`] without VNNI. Small weights leave room in 16 bits: several products are added before one
/// `vpmaddwd` widens them. It is the sums that have to fit, of weights less their zero point, if there is one:
/// what lies between may wrap around.
#[inline(always)]
pub(super) fn base<L: Lanes, const QUADS: usize, const MT: usize>(
    s: Avx2<false>,
    start: [[__m256i; 2]; MT],
    w: &[[u8; STRIPE]; QUADS],
    x: &[[i32; MT]; QUADS],
) -> [[__m256i; 2]; MT] {
    const { assert!(MT.is_multiple_of(TILE) && QUADS.is_multiple_of(FOUR), "whole tiles, whole blocks") };
    let mut acc = start;
    let (w, x) = (w.as_chunks::<FOUR>().0, x.as_chunks::<FOUR>().0);
    let zero = L::Less::ZERO;
    let largest = zero.map_or((1 << L::BITS) - 1, |zero| (1 << zero).max((1 << L::BITS) - 1 - (1 << zero)));
    let fitting = 32767 / (2 * 127 * largest) / FOUR;
    assert!(L::BITS == 8 || fitting >= if zero.is_some() { w.len() } else { 1 }, "sums that fit in 16 bits");
    let ones = avx2! { [_mm256_set1_epi16(1); 2] };
    for (tile, acc) in acc.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
        let first = tile * TILE;
        if L::BITS == 8 {
            for (w, x) in w.iter().zip(x) {
                avx2! { wide(acc, w, x, first) }
            }
            continue;
        }
        let mut total = [s.splat_i32(0); TILE];
        for (w, x) in w.chunks(fitting).zip(x.chunks(fitting)) {
            for (w, x) in w.iter().zip(x) {
                avx2! { narrow(acc, w, x, first) }
            }
            for (acc, total) in acc.iter_mut().zip(&mut total) {
                *total = s.add_i32(*total, both!(_mm256_madd_epi16, *acc, ones));
                *acc = s.splat_i32(0);
            }
        }
        *acc = total;
    }
    acc
}
