//! The inner loops of the float engine: four rows times the columns of two or three tokens, both where they lie.
//!
//! Eight columns at a time: a register of each token stays while each row's is loaded, widened and multiplied by all of
//! them. Twelve sums, three tokens and one row are the sixteen registers. They are `asm!`: the compiler keeps sums in
//! memory, or moves each from register to register once a column.

use super::Avx2;
use crate::format::{FloatBlock, FloatKind};
use crate::ops::dots;
use crate::simd::LANES;
use core::arch::asm;
use core::arch::x86_64::*;

/// Rows and tokens of a tile.
pub(super) const ROWS: usize = 4;
pub(super) const TOKENS: usize = 3;

/// Rows and tokens of a loop, and how far ahead weights are asked for, in bytes.
struct Tile<const T: usize> {
    w: [*const u8; ROWS],
    x: [*const f32; T],
    /// In halves of a line of activations: eight columns.
    eights: usize,
    ahead: usize,
}

/// Eight weights of a row as floats.
#[rustfmt::skip]
macro_rules! widen {
    (f32, $row:literal, $step:literal) => {
        concat!("vmovups {v}, ymmword ptr [{", $row, "} + 4 * {i} + 32 * ", $step, "]\n")
    };
    (f16, $row:literal, $step:literal) => {
        concat!("vcvtph2ps {v}, xmmword ptr [{", $row, "} + 2 * {i} + 16 * ", $step, "]\n")
    };
    (bf16, $row:literal, $step:literal) => {
        concat!("vpmovzxwd {v}, xmmword ptr [{", $row, "} + 2 * {i} + 16 * ", $step, "]\n",
                "vpslld {v}, {v}, 16\n")
    };
}

/// Asks for a line of each row.
#[rustfmt::skip]
macro_rules! ask {
    (f32) => { ask!("4") };
    (f16) => { ask!("2") };
    (bf16) => { ask!("2") };
    ($size:literal) => {
        concat!("lea {n}, [{ahead} + ", $size, " * {i}]\n", "prefetcht1 [{a} + {n}]\n", "prefetcht1 [{b} + {n}]\n",
                "prefetcht1 [{c} + {n}]\n", "prefetcht1 [{d} + {n}]\n")
    };
}

/// Eight columns of a row times those of the tokens.
#[rustfmt::skip]
macro_rules! row {
    ($kind:ident, $row:literal, $step:literal, $($sum:literal $x:literal)*) => {
        concat!(widen!($kind, $row, $step), $("vfmadd231ps {", $sum, "}, {v}, {", $x, "}\n"),*)
    };
}

/// Eight columns of a token.
macro_rules! token {
    ($x:literal, $token:literal, $step:literal) => {
        concat!("vmovups {", $x, "}, ymmword ptr [{", $token, "} + 4 * {i} + 32 * ", $step, "]\n")
    };
}

/// Eight columns of four rows and two tokens.
#[rustfmt::skip]
macro_rules! two {
    ($kind:ident, $step:literal) => {
        concat!(token!("x", "p", $step), token!("y", "q", $step),
                row!($kind, "a", $step, "a0" "x" "a1" "y"), row!($kind, "b", $step, "b0" "x" "b1" "y"),
                row!($kind, "c", $step, "c0" "x" "c1" "y"), row!($kind, "d", $step, "d0" "x" "d1" "y"))
    };
}

/// Eight columns of four rows and three tokens.
#[rustfmt::skip]
macro_rules! three {
    ($kind:ident, $step:literal) => {
        concat!(token!("x", "p", $step), token!("y", "q", $step), token!("z", "r", $step),
                row!($kind, "a", $step, "a0" "x" "a1" "y" "a2" "z"), row!($kind, "b", $step, "b0" "x" "b1" "y" "b2" "z"),
                row!($kind, "c", $step, "c0" "x" "c1" "y" "c2" "z"), row!($kind, "d", $step, "d0" "x" "d1" "y" "d2" "z"))
    };
}

/// A loop over a tile's columns, sixteen at a time.
macro_rules! kernel {
    ($name:ident, $kind:ident, $columns:ident, $tokens:literal, $($p:ident $x:ident $($sum:ident)*),*) => {
        /// The sums of eight, `[token][row]`.
        ///
        /// # Safety
        /// As many columns as `tile` says, two eights at least and a multiple of them, lie behind each of its pointers.
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline]
        unsafe fn $name(tile: &Tile<$tokens>) -> [[__m256; ROWS]; $tokens] {
            let ([a, b, c, d], [$($p),*]) = (tile.w, tile.x);
            $($(let mut $sum = _mm256_setzero_ps();)*)*
            // SAFETY: reads what the caller promises; a prefetch has no effect but on caches, whatever the address.
            unsafe {
                asm!("2:", ask!($kind), $columns!($kind, 0), $columns!($kind, 1),
                     "add {i}, 16", "cmp {i}, {end}", "jb 2b",
                     a = in(reg) a, b = in(reg) b, c = in(reg) c, d = in(reg) d, $($p = in(reg) $p,)*
                     i = inout(reg) 0usize => _, end = in(reg) 8 * tile.eights, ahead = in(reg) tile.ahead,
                     n = out(reg) _, v = out(ymm_reg) _, $($x = out(ymm_reg) _, $($sum = inout(ymm_reg) $sum,)*)*
                     options(readonly, nostack));
            }
            [$([$($sum),*]),*]
        }
    };
}

kernel!(two_f32, f32, two, 2, p x a0 b0 c0 d0, q y a1 b1 c1 d1);
kernel!(two_f16, f16, two, 2, p x a0 b0 c0 d0, q y a1 b1 c1 d1);
kernel!(two_bf16, bf16, two, 2, p x a0 b0 c0 d0, q y a1 b1 c1 d1);
kernel!(three_f32, f32, three, 3, p x a0 b0 c0 d0, q y a1 b1 c1 d1, r z a2 b2 c2 d2);
kernel!(three_f16, f16, three, 3, p x a0 b0 c0 d0, q y a1 b1 c1 d1, r z a2 b2 c2 d2);
kernel!(three_bf16, bf16, three, 3, p x a0 b0 c0 d0, q y a1 b1 c1 d1, r z a2 b2 c2 d2);

/// The sums of four registers.
#[target_feature(enable = "avx2")]
#[inline]
fn sums([a, b, c, d]: [__m256; ROWS]) -> [f32; ROWS] {
    let four = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let four = _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps::<1>(four));
    let mut out = [0.0; ROWS];
    // SAFETY: four floats to four floats.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), four) };
    out
}

/// [`dot_floats`](crate::simd::Simd::dot_floats), here for whole tiles, in the terms of [`Simd`](crate::simd::Simd) for
/// what is left of rows.
#[inline(always)]
pub(super) fn dot<const VNNI: bool, B: FloatBlock, const R: usize, const T: usize>(
    s: Avx2<VNNI>,
    w: [&[B]; R],
    x: [&[f32]; T],
    ahead: usize,
) -> [[f32; R]; T] {
    let n = x[0].len();
    if R != ROWS || !(2..=TOKENS).contains(&T) || n == 0 {
        return dots::floats(s, w, x, ahead);
    }
    assert!(n.is_multiple_of(LANES), "{n} columns are not whole registers");
    assert!(w.iter().all(|w| w.len() == n) && x.iter().all(|x| x.len() == n), "slices of the same length");
    let mut out = [[0.0; R]; T];
    let w = std::array::from_fn(|r| w[r].as_ptr().cast());
    let eights = n / 8;
    // SAFETY: `s` proves AVX2, FMA and F16C; `n` columns are in each slice, a multiple of sixteen and not none.
    unsafe {
        if T == 2 {
            let tile = Tile { w, x: [x[0].as_ptr(), x[1].as_ptr()], eights, ahead };
            let all = match B::KIND {
                FloatKind::F32 => two_f32(&tile),
                FloatKind::F16 => two_f16(&tile),
                FloatKind::BF16 => two_bf16(&tile),
            };
            for (out, all) in out.iter_mut().zip(all) {
                out.copy_from_slice(&sums(all));
            }
        } else {
            let tile = Tile { w, x: [x[0].as_ptr(), x[1].as_ptr(), x[2 % T].as_ptr()], eights, ahead };
            let all = match B::KIND {
                FloatKind::F32 => three_f32(&tile),
                FloatKind::F16 => three_f16(&tile),
                FloatKind::BF16 => three_bf16(&tile),
            };
            for (out, all) in out.iter_mut().zip(all) {
                out.copy_from_slice(&sums(all));
            }
        }
    }
    out
}
