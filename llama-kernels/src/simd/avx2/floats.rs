//! The inner loops of the float engine: a panel of sixteen rows times the tokens of a tile.
//!
//! They are `asm!`: the compiler moves each sum from register to register once a column. Many tokens, dealt out evenly
//! to tiles of at most six, make tiles of five and six only.

use super::Avx2;
use crate::simd::{LANES, STRIPE, Simd};
use core::arch::asm;

/// Sixteen rows times one token's column.
#[rustfmt::skip]
macro_rules! token {
    ($column:literal, $token:literal, $a:literal, $b:literal) => {
        concat!(
            "vbroadcastss {x}, dword ptr [", $token, " + 4 * ", $column, "]\n",
            "vfmadd231ps {", $a, "}, {v}, {x}\n", "vfmadd231ps {", $b, "}, {w}, {x}\n"
        )
    };
}

/// One column of sixteen rows times that of four tokens.
#[rustfmt::skip]
macro_rules! column_of_four {
    ($column:literal) => {
        concat!(
            "vmovups {v}, ymmword ptr [{r} + 64 * ", $column, "]\n",
            "vmovups {w}, ymmword ptr [{r} + 64 * ", $column, " + 32]\n",
            token!($column, "{p}", "a", "b"), token!($column, "{p} + {s}", "c", "d"),
            token!($column, "{p} + 2 * {s}", "e", "f"), token!($column, "{q}", "g", "h")
        )
    };
}

/// The same of five.
macro_rules! column_of_five {
    ($column:literal) => {
        concat!(column_of_four!($column), token!($column, "{q} + {s}", "i", "j"))
    };
}

/// The same of six.
macro_rules! column_of_six {
    ($column:literal) => {
        concat!(column_of_five!($column), token!($column, "{q} + 2 * {s}", "k", "l"))
    };
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
            let (r, p, q) = (panel.as_ptr(), x.as_ptr(), x[3 * stride..].as_ptr());
            let (fours, ones) = (panel.len() / 4, panel.len() % 4);
            let [$([mut $a, mut $b]),*] = c.each_ref().map(|c| Avx2::<false>(()).load(c));
            // SAFETY: reads the lines of the panel, and as many words of each token, whose last one was found in `x`.
            unsafe {
                asm!("test {n}, {n}", "jz 3f", "2:", $column!(0), $column!(1), $column!(2), $column!(3),
                     "add {r}, 256", "add {p}, 16", "add {q}, 16", "dec {n}", "jnz 2b", "3:",
                     "test {m}, {m}", "jz 5f", "4:", $column!(0),
                     "add {r}, 64", "add {p}, 4", "add {q}, 4", "dec {m}", "jnz 4b", "5:",
                     n = inout(reg) fours => _, m = inout(reg) ones => _, s = in(reg) 4 * stride,
                     r = inout(reg) r => _, p = inout(reg) p => _, q = inout(reg) q => _,
                     v = out(ymm_reg) _, w = out(ymm_reg) _, x = out(ymm_reg) _,
                     $($a = inout(ymm_reg) $a, $b = inout(ymm_reg) $b,)*
                     options(readonly, nostack));
            }
            for (c, sums) in c.iter_mut().zip([$([$a, $b]),*]) {
                Avx2::<false>(()).store(sums, c);
            }
        }
    };
}

floats!(five, 5, column_of_five, a b c d e f g h i j);
floats!(six, 6, column_of_six, a b c d e f g h i j k l);
