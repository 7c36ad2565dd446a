//! The inner loops of the integer engine: sixteen rows times a tile's tokens.
//!
//! They are `asm!` that keeps its place. The compiler would load all lines of weights first, spill them, and do one
//! token after the other, each a chain of dependent products.
//!
//! Without VNNI, a whole group of columns is one block of assembly, from its bytes to the sums in `f32`: it is the number
//! of instructions that takes the time. The sums of a tile are added up where they lie, in C: in registers there is no
//! room for them beside the group's own, so that the compiler spilled them, and moved around what it did not. Products of
//! small weights are added up in 16 bits, and converted once a group.
//!
//! Scales that are whole numbers (Q6_K, Q3_K) are multiplied in integers, by the instruction that widens the sums, so that both
//! halves of a group are converted once, and scaled by what a span has in common once in 256 columns. (Two Zen 4 cores, 2048 x
//! 4096, in turns, 16, 64 and 512 tokens: Q6_K 1.00, 1.02 and 1.04 times as fast, Q3_K 1.04, 0.97 and 1.02; a tile in the
//! first-level cache 1.07 to 1.13, more while a neighbour is on the core.)
//!
//! With VNNI, four lines are one block, and the rest is the compiler's: a whole group as one block ran at 0.87 to 1.02 of that
//! (on Zen 4, whose AVX512-VNNI has the same instructions for these registers). All weights without a minimum are unsigned there,
//! moved up to a zero of 128, in place of signs that move over to the activations: with 16, 64 and 512 tokens Q8_0 1.45, 1.52 and
//! 1.58 times as fast, Q6_K, whose zero point is free so, 1.11 to 1.12, Q4_0 1.01, 1.04 and 1.0.
//!
//! Tried, with no gain: a group's scaling woven into the products of the next one (on Zen 4 1.04 to 1.06 times as fast while a
//! neighbour is on the core, 0.92 to 0.97 while it is not); asking for lines of the panel, or of the tile itself, before they
//! are read (the second-level cache has them); blocks of 512 and 256 columns, whose panels stay in the first-level cache (0.97
//! and 0.85 of the speed: sums are reloaded, and loops entered, more often); three rows by three tokens, or six by two, in
//! place of two by four (in registers, 1.0 to 1.03).

use super::{Avx2, TILE};
use crate::acts::{GROUP, TILE_WORDS};
use crate::format::{Grouping, Lanes, Subtrahend};
use crate::ops::pack::{Coming, Integers};
use crate::simd::{LANES, SPAN, STRIPE, Simd};
use core::arch::asm;
use core::arch::x86_64::*;

/// Lines of a group's weights: four columns each.
const QUADS: usize = GROUP / 4;

/// Four columns of sixteen rows, in two registers, times those of a tile's tokens.
#[rustfmt::skip]
macro_rules! quad {
    ($line:literal, $kind:ident, $($how:tt)*) => {
        concat!(rows!($line), $kind!("rows"),
                columns!($line, 0), $kind!($($how)*, 0, "a", "b"), columns!($line, 1), $kind!($($how)*, 1, "c", "d"),
                columns!($line, 2), $kind!($($how)*, 2, "e", "f"), columns!($line, 3), $kind!($($how)*, 3, "g", "h"))
    };
}

/// One token's four columns, in all lanes.
#[rustfmt::skip]
macro_rules! columns {
    ($line:literal, $token:literal) => {
        concat!("vpbroadcastd {x}, dword ptr [{p} + {stride} * ", $line, " + 4 * ", $token, "]\n")
    };
}

/// Unsigned weights times one token's four columns, in 16 bits: the first of a sum, which starts from the token's offset
/// times two to the power of the zero point (`start` is where the offsets lie) or from nothing, or one more.
#[rustfmt::skip]
macro_rules! narrow {
    ("rows") => { "" };
    ("first", $t:literal, $a:literal, $b:literal) => {
        concat!("vpmaddubsw {", $a, "}, {v}, {x}\n", "vpmaddubsw {", $b, "}, {w}, {x}\n")
    };
    ("first", $start:literal, $t:literal, $a:literal, $b:literal) => {
        concat!("vpbroadcastd {y}, dword ptr [{p} + ", $start, " + 4 * ", $t, "]\n", "vpsllw {y}, {y}, {zero}\n",
                narrow!("first", $t, $a, $b),
                "vpaddw {", $a, "}, {", $a, "}, {y}\n", "vpaddw {", $b, "}, {", $b, "}, {y}\n")
    };
    ("more", $t:literal, $a:literal, $b:literal) => {
        concat!("vpmaddubsw {y}, {v}, {x}\n", "vpmaddubsw {x}, {w}, {x}\n",
                "vpaddw {", $a, "}, {", $a, "}, {y}\n", "vpaddw {", $b, "}, {", $b, "}, {x}\n")
    };
}

/// Signed weights likewise, in 32 bits: their signs move over to the activations.
#[rustfmt::skip]
macro_rules! wide {
    ("rows") => { "vpabsb {m}, {v}\nvpabsb {n}, {w}\n" };
    ("products") => {
        concat!("vpsignb {y}, {x}, {v}\n", "vpsignb {x}, {x}, {w}\n",
                "vpmaddubsw {y}, {m}, {y}\n", "vpmaddubsw {x}, {n}, {x}\n")
    };
    ("first", $t:literal, $a:literal, $b:literal) => {
        concat!(wide!("products"),
                "vpmaddwd {", $a, "}, {y}, {ones}\n", "vpmaddwd {", $b, "}, {x}, {ones}\n")
    };
    ("more", $t:literal, $a:literal, $b:literal) => {
        concat!(wide!("products"), "vpmaddwd {y}, {y}, {ones}\n", "vpmaddwd {x}, {x}, {ones}\n",
                "vpaddd {", $a, "}, {", $a, "}, {y}\n", "vpaddd {", $b, "}, {", $b, "}, {x}\n")
    };
}

/// Weights with VNNI, unsigned.
#[rustfmt::skip]
macro_rules! vnni {
    ("rows") => { "" };
    ("more", $t:literal, $a:literal, $b:literal) => {
        concat!("{{vex}} vpdpbusd {", $a, "}, {v}, {x}\n", "{{vex}} vpdpbusd {", $b, "}, {w}, {x}\n")
    };
}

/// Four lines from the `first` on, or all eight.
#[rustfmt::skip]
macro_rules! four {
    (0, $kind:ident, $($first:tt)*) => {
        concat!(quad!(0, $kind, $($first)*), quad!(1, $kind, "more"), quad!(2, $kind, "more"), quad!(3, $kind, "more"))
    };
    (4, $kind:ident, $($first:tt)*) => {
        concat!(quad!(4, $kind, $($first)*), quad!(5, $kind, "more"), quad!(6, $kind, "more"), quad!(7, $kind, "more"))
    };
}
macro_rules! eight {
    ($kind:ident, $($first:tt)*) => { concat!(four!(0, $kind, $($first)*), four!(4, $kind, "more")) };
}

/// Adds a tile's sums to C: widened, if they are narrow, converted, and scaled.
#[rustfmt::skip]
macro_rules! add {
    ($kind:ident, $half:literal $(, $total:literal)?) => {
        concat!(add!(0, "a", "b", $kind, $half $(, $total)?), add!(1, "c", "d", $kind, $half $(, $total)?),
                add!(2, "e", "f", $kind, $half $(, $total)?), add!(3, "g", "h", $kind, $half $(, $total)?))
    };
    ($t:literal, $a:literal, $b:literal, $kind:ident, $half:literal $(, $total:literal)?) => {
        concat!(widen!($kind, $a), widen!($kind, $b),
                "vcvtdq2ps {", $a, "}, {", $a, "}\n", "vcvtdq2ps {", $b, "}, {", $b, "}\n",
                "vbroadcastss {x}, dword ptr [{p} + 128 + 4 * ", $t, "]\n",
                "vmulps {y}, {x}, ymmword ptr [{scales} + {second} * ", $half, "]\n",
                "vmulps {x}, {x}, ymmword ptr [{scales} + {second} * ", $half, " + 32]\n",
                "vfmadd213ps {", $a, "}, {y}, ymmword ptr [{sums} + 64 * ", $t, "]\n",
                "vfmadd213ps {", $b, "}, {x}, ymmword ptr [{sums} + 64 * ", $t, " + 32]\n",
                $("vbroadcastss {x}, dword ptr [{p} + ", $total, " + 4 * ", $t, "]\n",
                  "vfmadd231ps {", $a, "}, {x}, ymmword ptr [{mins} + {second} * ", $half, "]\n",
                  "vfmadd231ps {", $b, "}, {x}, ymmword ptr [{mins} + {second} * ", $half, " + 32]\n",)?
                "vmovups ymmword ptr [{sums} + 64 * ", $t, "], {", $a, "}\n",
                "vmovups ymmword ptr [{sums} + 64 * ", $t, " + 32], {", $b, "}\n")
    };
}
macro_rules! widen {
    (narrow, $a:literal) => {
        concat!("vpmaddwd {", $a, "}, {", $a, "}, {ones}\n")
    };
    (wide, $a:literal) => {
        ""
    };
}

/// Multiplies the first half's sums by its scales, in integers, and keeps them behind the tile's own, 256 bytes further on; the
/// second half's likewise, and adds both to the tile's, times the activations' scales.
#[rustfmt::skip]
macro_rules! whole {
    ($half:ident) => {
        concat!(whole!($half, 0, "a", "b"), whole!($half, 1, "c", "d"), whole!($half, 2, "e", "f"), whole!($half, 3, "g", "h"))
    };
    (first, $t:literal, $a:literal, $b:literal) => {
        concat!("vpmaddwd {", $a, "}, {", $a, "}, ymmword ptr [{scales}]\n",
                "vpmaddwd {", $b, "}, {", $b, "}, ymmword ptr [{scales} + 32]\n",
                "vmovdqu ymmword ptr [{sums} + 256 + 64 * ", $t, "], {", $a, "}\n",
                "vmovdqu ymmword ptr [{sums} + 256 + 64 * ", $t, " + 32], {", $b, "}\n")
    };
    (second, $t:literal, $a:literal, $b:literal) => {
        concat!("vpmaddwd {", $a, "}, {", $a, "}, ymmword ptr [{scales} + 64]\n",
                "vpmaddwd {", $b, "}, {", $b, "}, ymmword ptr [{scales} + 96]\n",
                "vpaddd {", $a, "}, {", $a, "}, ymmword ptr [{sums} + 256 + 64 * ", $t, "]\n",
                "vpaddd {", $b, "}, {", $b, "}, ymmword ptr [{sums} + 256 + 64 * ", $t, " + 32]\n",
                "vcvtdq2ps {", $a, "}, {", $a, "}\n", "vcvtdq2ps {", $b, "}, {", $b, "}\n",
                "vbroadcastss {x}, dword ptr [{p} + 128 + 4 * ", $t, "]\n",
                "vfmadd213ps {", $a, "}, {x}, ymmword ptr [{sums} + 64 * ", $t, "]\n",
                "vfmadd213ps {", $b, "}, {x}, ymmword ptr [{sums} + 64 * ", $t, " + 32]\n",
                "vmovups ymmword ptr [{sums} + 64 * ", $t, "], {", $a, "}\n",
                "vmovups ymmword ptr [{sums} + 64 * ", $t, " + 32], {", $b, "}\n")
    };
}

/// A function that adds the products of a group of columns with a tile's tokens to C, and asks for the line at `next`. The
/// activations lie with their scales, totals and offsets as [`crate::acts`] has it; the second half of the columns has the
/// scales and minimums that lie `SECOND` bytes further on. Behind C there may be room for something else.
macro_rules! group {
    ($(#[$doc:meta])* $name:ident, $lines:expr, $($body:expr),*) => {
        $(#[$doc])*
        #[target_feature(enable = "avx2,fma")]
        #[inline]
        fn $name<const ZERO: u32, const SECOND: usize>(
            w: &[[u8; STRIPE]; QUADS],
            x: &[[i32; TILE]; TILE_WORDS],
            next: *const u8,
            scales: &[f32],
            mins: &[f32],
            sums: &mut [[f32; LANES]; $lines],
        ) {
            let end = SECOND / 4 + LANES;
            let (scales, mins) = (&scales[..end], &mins[..end]);
            // SAFETY: reads the group's weights, the words of its activations, one or two lines of scales and of minimums,
            // and reads and writes the sums; the features are enabled.
            unsafe {
                // The comment names every operand, for not every body has a use for all of them.
                asm!("/* {ones} {mins} {m} {n} {zero} {second} */",
                     "prefetcht1 [{next}]", $($body),*,
                     next = in(reg) next,
                     r = in(reg) w.as_ptr(), p = in(reg) x.as_ptr(), scales = in(reg) scales.as_ptr(),
                     mins = in(reg) mins.as_ptr(), sums = in(reg) sums.as_mut_ptr(),
                     stride = const 4 * TILE, zero = const ZERO, second = const SECOND, ones = in(ymm_reg) _mm256_set1_epi16(1),
                     v = out(ymm_reg) _, w = out(ymm_reg) _, x = out(ymm_reg) _, y = out(ymm_reg) _,
                     m = out(ymm_reg) _, n = out(ymm_reg) _,
                     a = out(ymm_reg) _, b = out(ymm_reg) _, c = out(ymm_reg) _, d = out(ymm_reg) _,
                     e = out(ymm_reg) _, f = out(ymm_reg) _, g = out(ymm_reg) _, h = out(ymm_reg) _,
                     options(nostack, preserves_flags));
            }
        }
    };
}

group!(
    /// Small weights with a zero point.
    zero, TILE, eight!(narrow, "first", 192), add!(narrow, 0));
group!(
    /// The same in two halves.
    zero_halves, TILE, four!(0, narrow, "first", 208), add!(narrow, 0), four!(4, narrow, "first", 224), add!(narrow, 1));
group!(
    /// The same with scales that are whole numbers.
    whole_halves, 2 * TILE, four!(0, narrow, "first", 208), whole!(first), four!(4, narrow, "first", 224), whole!(second));
group!(
    /// Small weights with a minimum.
    minimum, TILE, eight!(narrow, "first"), add!(narrow, 0, 144));
group!(
    /// The same in two halves.
    minimum_halves, TILE, four!(0, narrow, "first"), add!(narrow, 0, 160), four!(4, narrow, "first"), add!(narrow, 1, 176));
group!(
    /// Signed weights.
    signed, TILE, eight!(wide, "first"), add!(wide, 0));
group!(
    /// The same in two halves.
    signed_halves, TILE, four!(0, wide, "first"), add!(wide, 0), four!(4, wide, "first"), add!(wide, 1));

/// [`Simd::integer_tile`] without VNNI. It is the sums that have to fit in 16 bits, of weights less their zero point, if there
/// is one: what lies between may wrap around.
#[inline(always)]
pub(super) fn tile<L: Lanes>(
    s: Avx2<false>,
    panel: &Integers,
    x: &[i32],
    coming: &mut Coming,
    sums: &mut [[f32; LANES]; TILE],
) {
    /// Bytes of a line of scales.
    const LINE: usize = size_of::<[f32; LANES]>();
    let (x, _) = x.as_chunks::<TILE>().0.as_chunks::<TILE_WORDS>();
    if const { L::WHOLE } {
        return whole_tile::<L>(s, panel, x, coming, sums);
    }
    let lines = GROUP / L::Grouping::LEN * LANES;
    let scales = panel.scales.as_flattened().chunks_exact(lines);
    let mins = panel.mins.as_flattened().chunks_exact(lines);
    let groups = panel.bytes.as_chunks().0.iter().zip(x).zip(scales).zip(mins);
    for (((w, x), scales), mins) in groups {
        let next = coming.ask_but_one(s);
        avx2! {
            match (L::BITS, L::Grouping::LEN, L::Less::ZERO) {
                (8, 32, _) => signed::<0, 0>(w, x, next, scales, mins, sums),
                (8, ..) => signed_halves::<0, LINE>(w, x, next, scales, mins, sums),
                (_, 32, Some(0)) => zero::<0, 0>(w, x, next, scales, mins, sums),
                (_, 32, Some(3)) => zero::<3, 0>(w, x, next, scales, mins, sums),
                (_, 32, Some(4)) => zero::<4, 0>(w, x, next, scales, mins, sums),
                (_, _, Some(4)) => zero_halves::<4, LINE>(w, x, next, scales, mins, sums),
                (0..=4, 32, None) => minimum::<0, 0>(w, x, next, scales, mins, sums),
                (_, 32, None) => minimum_halves::<0, 0>(w, x, next, scales, mins, sums),
                (_, _, None) => minimum_halves::<0, LINE>(w, x, next, scales, mins, sums),
                _ => unreachable!("no format has such lanes"),
            }
        }
    }
}

/// The same with a scale for each 16 columns that is a whole number. The sums of a span are multiplied by its unit once.
///
/// What is added up in 32 bits is no more than 32 times 32 times 127 times 128, which a float holds exactly.
#[inline(always)]
fn whole_tile<L: Lanes>(
    s: Avx2<false>,
    panel: &Integers,
    x: &[[[i32; TILE]; TILE_WORDS]],
    coming: &mut Coming,
    sums: &mut [[f32; LANES]; TILE],
) {
    const LINE: usize = size_of::<[f32; LANES]>();
    let spans = panel.bytes.as_chunks::<QUADS>().0.chunks(SPAN / GROUP).zip(x.chunks(SPAN / GROUP));
    let scales = panel.scales.chunks_exact(SPAN / 16).zip(panel.mins.chunks_exact(SPAN / 16));
    for ((lines, x), (scales, units)) in spans.zip(scales) {
        let mut parts = [[0.0; LANES]; 2 * TILE];
        for ((w, x), scales) in lines.iter().zip(x).zip(scales.as_chunks::<2>().0) {
            let (next, scales) = (coming.ask_but_one(s), scales.as_flattened());
            avx2! {
                match (L::Grouping::LEN, L::Less::ZERO) {
                    (16, Some(2)) => whole_halves::<2, LINE>(w, x, next, scales, scales, &mut parts),
                    (16, Some(5)) => whole_halves::<5, LINE>(w, x, next, scales, scales, &mut parts),
                    _ => unreachable!("no format has such lanes"),
                }
            }
        }
        let unit = s.load(&units[0]);
        for (sums, parts) in sums.iter_mut().zip(&parts) {
            s.store(s.fma(s.load(parts), unit, s.load(sums)), sums);
        }
    }
}

/// The dot products of a tile alone, of small weights: what bounds the engine.
pub(super) fn multiply(_proof: Avx2<false>, rounds: usize) -> usize {
    #[target_feature(enable = "avx2")]
    fn dots(w: &[[u8; STRIPE]; QUADS], x: &[[i32; TILE]; QUADS]) {
        // SAFETY: reads the weights and the activations; the feature is enabled.
        unsafe {
            asm!(eight!(narrow, "first"), r = in(reg) w.as_ptr(), p = in(reg) x.as_ptr(), stride = const 4 * TILE,
                 v = out(ymm_reg) _, w = out(ymm_reg) _, x = out(ymm_reg) _, y = out(ymm_reg) _,
                 a = out(ymm_reg) _, b = out(ymm_reg) _, c = out(ymm_reg) _, d = out(ymm_reg) _,
                 e = out(ymm_reg) _, f = out(ymm_reg) _, g = out(ymm_reg) _, h = out(ymm_reg) _,
                 options(readonly, nostack, preserves_flags));
        }
    }
    let (w, x) = ([[7; STRIPE]; QUADS], [[0x0102_0304; TILE]; QUADS]);
    for _ in 0..rounds {
        avx2! { dots(&w, &x) }
    }
    QUADS * STRIPE * TILE
}

/// Columns that are one block of assembly with VNNI, by four.
const FOUR: usize = 4;

/// Multiplies four lines of weights with a tile's tokens, the `first` of `x` and its neighbours.
#[target_feature(enable = "avx2,avxvnni")]
#[inline]
fn four_lines<const MT: usize>(
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
        asm!(four!(0, vnni, "more"),
             r = in(reg) w.as_ptr(), p = in(reg) x.as_ptr(), stride = const 4 * MT,
             v = out(ymm_reg) _, w = out(ymm_reg) _, x = out(ymm_reg) _,
             a = inout(ymm_reg) a, b = inout(ymm_reg) b, c = inout(ymm_reg) c, d = inout(ymm_reg) d,
             e = inout(ymm_reg) e, f = inout(ymm_reg) f, g = inout(ymm_reg) g, h = inout(ymm_reg) h,
             options(pure, readonly, nostack, preserves_flags));
    }
    *acc = [[a, b], [c, d], [e, f], [g, h]];
}

/// [`Simd::dot_panel`] with VNNI. Signed weights have been [moved up](Simd::SIGNED_ZERO).
#[inline(always)]
pub(super) fn vnni<const QUADS: usize, const MT: usize>(
    start: [[__m256i; 2]; MT],
    w: &[[u8; STRIPE]; QUADS],
    x: &[[i32; MT]; QUADS],
) -> [[__m256i; 2]; MT] {
    const { assert!(MT.is_multiple_of(TILE) && QUADS.is_multiple_of(FOUR), "whole tiles, whole blocks") };
    let mut acc = start;
    for (tile, acc) in acc.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
        for (w, x) in w.as_chunks::<FOUR>().0.iter().zip(x.as_chunks::<FOUR>().0) {
            avx2! { four_lines(acc, w, x, tile * TILE) }
        }
    }
    acc
}
