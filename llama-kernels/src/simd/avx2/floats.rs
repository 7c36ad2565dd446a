//! The inner loops of the float engine: a panel of sixteen rows times the tokens of a tile.
//!
//! They are `asm!`: the compiler moves each sum from register to register once a column.

use super::Avx2;
use crate::simd::{LANES, STRIPE, Simd};
use core::arch::asm;

/// One column of sixteen rows times that of one of so many tokens.
#[rustfmt::skip]
macro_rules! token {
    ($column:literal, $tokens:literal, $t:literal, $a:literal, $b:literal) => {
        concat!("vbroadcastss {x}, dword ptr [{p} + 4 * ", $tokens, " * ", $column, " + 4 * ", $t, "]\n",
                "vfmadd231ps {", $a, "}, {v}, {x}\n", "vfmadd231ps {", $b, "}, {w}, {x}\n")
    };
}

/// One column of sixteen rows times that of so many tokens.
#[rustfmt::skip]
macro_rules! all_tokens {
    ($column:literal, $tokens:tt) => {
        concat!(rows!($column),
                token!($column, $tokens, 0, "a", "b"), token!($column, $tokens, 1, "c", "d"),
                token!($column, $tokens, 2, "e", "f"), token!($column, $tokens, 3, "g", "h"),
                token!($column, $tokens, 4, "i", "j"), sixth!($column, $tokens))
    };
}

/// The last token of six.
#[rustfmt::skip]
macro_rules! sixth {
    ($column:literal, 5) => { "" };
    ($column:literal, 6) => { token!($column, 6, 5, "k", "l") };
}

/// A panel's columns times the activations of some tokens, four columns at a time.
macro_rules! floats {
    ($name:ident, $tokens:tt, $($a:ident $b:ident)*) => {
        /// [`Simd::float_panel`] for so many tokens.
        #[target_feature(enable = "avx2,fma")]
        #[inline]
        pub(super) fn $name(panel: &[[u8; STRIPE]], x: &[i32], c: &mut [[f32; LANES]]) {
            let c: &mut [[f32; LANES]; $tokens] = c.first_chunk_mut().expect("room for a tile");
            assert!(x.len() >= $tokens * panel.len(), "a column of each token for each line");
            let (r, p) = (panel.as_ptr(), x.as_ptr());
            let (fours, ones) = (panel.len() / 4, panel.len() % 4);
            let mut sums = [Avx2::<false>(()).splat(0.0); $tokens];
            for (sums, c) in sums.iter_mut().zip(&*c) {
                *sums = Avx2::<false>(()).load(c);
            }
            let [$([mut $a, mut $b]),*] = sums;
            // SAFETY: reads the lines of the panel, and `$tokens` words of `x` for each.
            unsafe {
                asm!("test {n}, {n}", "jz 3f", "2:",
                     all_tokens!(0, $tokens), all_tokens!(1, $tokens), all_tokens!(2, $tokens), all_tokens!(3, $tokens),
                     "add {r}, 256", "add {p}, 16 * {t}", "dec {n}", "jnz 2b", "3:",
                     "test {m}, {m}", "jz 5f", "4:", all_tokens!(0, $tokens),
                     "add {r}, 64", "add {p}, 4 * {t}", "dec {m}", "jnz 4b", "5:",
                     t = const $tokens, n = inout(reg) fours => _, m = inout(reg) ones => _,
                     r = inout(reg) r => _, p = inout(reg) p => _,
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

floats!(five, 5, a b c d e f g h i j);
floats!(six, 6, a b c d e f g h i j k l);
