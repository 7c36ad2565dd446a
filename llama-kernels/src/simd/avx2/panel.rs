//! The inner loops of the integer engine: sixteen rows times a tile's tokens.
//!
//! They are `asm!` that keeps its place. The compiler would load all lines of weights first, spill them, and do one
//! token after the other, each a chain of dependent products.

use super::{Avx2, TILE};
use crate::format::Lanes;
use crate::simd::{LANES, STRIPE, Simd};
use core::arch::asm;
use core::arch::x86_64::*;

/// Columns that one block of assembly multiplies, by four.
const FOUR: usize = 4;

/// One line of weights, in two registers, times the four tokens of a tile.
macro_rules! line {
    ($line:literal, $token:ident) => {
        concat!(
            "vmovdqu {v}, ymmword ptr [{r} + 64 * ",
            $line,
            "]\n",
            "vmovdqu {w}, ymmword ptr [{r} + 64 * ",
            $line,
            " + 32]\n",
            $token!("before"),
            $token!($line, 0, "a", "b"),
            $token!($line, 4, "c", "d"),
            $token!($line, 8, "e", "f"),
            $token!($line, 12, "g", "h")
        )
    };
}

/// Unsigned weights times one token's four columns, which the line before it broadcasts: added up in 16 bits.
macro_rules! narrow {
    ("before") => {
        ""
    };
    ($line:literal, $at:literal, $a:literal, $b:literal) => {
        concat!(
            "vpbroadcastd {x}, dword ptr [{p} + {stride} * ",
            $line,
            " + ",
            $at,
            "]\n",
            "vpmaddubsw {y}, {v}, {x}\n",
            "vpmaddubsw {x}, {w}, {x}\n",
            "vpaddw {",
            $a,
            "}, {",
            $a,
            "}, {y}\n",
            "vpaddw {",
            $b,
            "}, {",
            $b,
            "}, {x}\n"
        )
    };
}

/// Signed weights likewise, added up in 32 bits: their signs move over to the activations.
macro_rules! wide {
    ("before") => {
        "vpabsb {m}, {v}\nvpabsb {n}, {w}\n"
    };
    ($line:literal, $at:literal, $a:literal, $b:literal) => {
        concat!(
            "vpbroadcastd {x}, dword ptr [{p} + {stride} * ",
            $line,
            " + ",
            $at,
            "]\n",
            "vpsignb {y}, {x}, {v}\n",
            "vpsignb {x}, {x}, {w}\n",
            "vpmaddubsw {y}, {m}, {y}\n",
            "vpmaddubsw {x}, {n}, {x}\n",
            "vpmaddwd {y}, {y}, {ones}\n",
            "vpmaddwd {x}, {x}, {ones}\n",
            "vpaddd {",
            $a,
            "}, {",
            $a,
            "}, {y}\n",
            "vpaddd {",
            $b,
            "}, {",
            $b,
            "}, {x}\n"
        )
    };
}

/// Unsigned weights with VNNI.
macro_rules! unsigned_vnni {
    ("before") => {
        ""
    };
    ($line:literal, $at:literal, $a:literal, $b:literal) => {
        concat!(
            "vpbroadcastd {x}, dword ptr [{p} + {stride} * ",
            $line,
            " + ",
            $at,
            "]\n",
            "{{vex}} vpdpbusd {",
            $a,
            "}, {v}, {x}\n",
            "{{vex}} vpdpbusd {",
            $b,
            "}, {w}, {x}\n"
        )
    };
}

/// Signed weights with VNNI.
macro_rules! signed_vnni {
    ("before") => {
        "vpabsb {m}, {v}\nvpabsb {n}, {w}\n"
    };
    ($line:literal, $at:literal, $a:literal, $b:literal) => {
        concat!(
            "vpbroadcastd {x}, dword ptr [{p} + {stride} * ",
            $line,
            " + ",
            $at,
            "]\n",
            "vpsignb {y}, {x}, {v}\n",
            "vpsignb {x}, {x}, {w}\n",
            "{{vex}} vpdpbusd {",
            $a,
            "}, {m}, {y}\n",
            "{{vex}} vpdpbusd {",
            $b,
            "}, {n}, {x}\n"
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
            let x = &x[0][first..first + TILE];
            let [[mut a, mut b], [mut c, mut d], [mut e, mut f], [mut g, mut h]] = *acc;
            // SAFETY: reads four lines of weights and, of four lines of `x`, the words from `first` on; the features
            // are enabled.
            unsafe {
                asm!(line!(0, $name), line!(1, $name), line!(2, $name), line!(3, $name),
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
/// `vpmaddwd` widens them. It is the sums that have to fit, of weights less their zero point if `zero` is given:
/// what lies between may wrap around.
#[inline(always)]
pub(super) fn base<L: Lanes, const QUADS: usize, const MT: usize>(
    s: Avx2<false>,
    start: [[__m256i; 2]; MT],
    w: &[[u8; STRIPE]; QUADS],
    x: &[[i32; MT]; QUADS],
    zero: Option<u32>,
) -> [[__m256i; 2]; MT] {
    const { assert!(MT.is_multiple_of(TILE) && QUADS.is_multiple_of(FOUR), "whole tiles, whole blocks") };
    let mut acc = start;
    let (w, x) = (w.as_chunks::<FOUR>().0, x.as_chunks::<FOUR>().0);
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

/// A panel's columns times the activations of some tokens, four columns at a time.
macro_rules! floats {
    ($name:ident, $tokens:literal, $column:ident, $($a:ident $b:ident)*) => {
        /// [`Simd::float_panel`] for so many tokens.
        #[target_feature(enable = "avx2,fma")]
        #[inline]
        pub(super) fn $name(panel: &[[u8; STRIPE]], x: &[f32], stride: usize, c: &mut [[f32; LANES]]) {
            let c: &mut [[f32; LANES]; $tokens] = c.first_chunk_mut().expect("room for a tile");
            assert!(x[($tokens - 1) * stride..].len() >= panel.len(), "a column of each token for each line");
            // The tokens from the fourth on have a pointer of their own.
            let (w, p, q) = (panel.as_ptr(), x.as_ptr(), x[3 * stride..].as_ptr());
            let (fours, ones) = (panel.len() / 4, panel.len() % 4);
            let [$([mut $a, mut $b]),*] = c.each_ref().map(|c| Avx2::<false>(()).load(c));
            // SAFETY: reads the lines of the panel, and as many words of each token, whose last one was found in `x`.
            unsafe {
                asm!("test {n}, {n}", "jz 3f", "2:", $column!(0), $column!(1), $column!(2), $column!(3),
                     "add {w}, 256", "add {p}, 16", "add {q}, 16", "dec {n}", "jnz 2b", "3:",
                     "test {m}, {m}", "jz 5f", "4:", $column!(0),
                     "add {w}, 64", "add {p}, 4", "add {q}, 4", "dec {m}", "jnz 4b", "5:",
                     n = inout(reg) fours => _, m = inout(reg) ones => _, s = in(reg) 4 * stride,
                     w = inout(reg) w => _, p = inout(reg) p => _, q = inout(reg) q => _,
                     v = out(ymm_reg) _, u = out(ymm_reg) _, x = out(ymm_reg) _,
                     $($a = inout(ymm_reg) $a, $b = inout(ymm_reg) $b,)*
                     options(readonly, nostack));
            }
            for (c, sums) in c.iter_mut().zip([$([$a, $b]),*]) {
                Avx2::<false>(()).store(sums, c);
            }
        }
    };
}

/// Sixteen rows times one token's column.
macro_rules! float_token {
    ($column:literal, $token:literal, $a:literal, $b:literal) => {
        concat!(
            "vbroadcastss {x}, dword ptr [",
            $token,
            " + 4 * ",
            $column,
            "]\n",
            "vfmadd231ps {",
            $a,
            "}, {v}, {x}\n",
            "vfmadd231ps {",
            $b,
            "}, {u}, {x}\n"
        )
    };
}

/// One column of sixteen rows times that of four tokens.
macro_rules! column_of_four {
    ($column:literal) => {
        concat!(
            "vmovups {v}, ymmword ptr [{w} + 64 * ",
            $column,
            "]\n",
            "vmovups {u}, ymmword ptr [{w} + 64 * ",
            $column,
            " + 32]\n",
            float_token!($column, "{p}", "a", "b"),
            float_token!($column, "{p} + {s}", "c", "d"),
            float_token!($column, "{p} + 2 * {s}", "e", "f"),
            float_token!($column, "{q}", "g", "h")
        )
    };
}

/// The same of five.
macro_rules! column_of_five {
    ($column:literal) => {
        concat!(column_of_four!($column), float_token!($column, "{q} + {s}", "i", "j"))
    };
}

/// The same of six.
macro_rules! column_of_six {
    ($column:literal) => {
        concat!(column_of_five!($column), float_token!($column, "{q} + 2 * {s}", "k", "l"))
    };
}

floats!(four, 4, column_of_four, a b c d e f g h);
floats!(five, 5, column_of_five, a b c d e f g h i j);
floats!(six, 6, column_of_six, a b c d e f g h i j k l);
