//! The inner loop of the engine in fixed point of 14 bits: a panel of sixteen rows times the tokens of a tile.
//!
//! `vpmaddwd` multiplies two columns of eight rows, and an addition follows; with AVX-VNNI, `vpdpwssd` does both. A group of 32
//! columns is one block of assembly, as in [`super::panel`]: its sums fill the registers, and what they are added to stays where it
//! lies.

use super::Avx2;
use crate::ops::fixed_point::SHORT_WORDS;
use crate::simd::{LANES, STRIPE};
use core::arch::asm;
use core::arch::x86_64::*;

/// One token's two columns, in all lanes.
#[rustfmt::skip]
macro_rules! columns {
    ($line:literal, $tokens:literal, $t:literal) => {
        concat!("vpbroadcastd {x}, dword ptr [{p} + 4 * ", $tokens, " * ", $line, " + 4 * ", $t, "]\n")
    };
}

/// The products of both: the first of a sum, one more, or one more with VNNI.
#[rustfmt::skip]
macro_rules! products {
    (first, $a:literal, $b:literal) => {
        concat!("vpmaddwd {", $a, "}, {v}, {x}\n", "vpmaddwd {", $b, "}, {w}, {x}\n")
    };
    (plain, $a:literal, $b:literal) => {
        concat!("vpmaddwd {y}, {v}, {x}\n", "vpmaddwd {x}, {w}, {x}\n",
                "vpaddd {", $a, "}, {", $a, "}, {y}\n", "vpaddd {", $b, "}, {", $b, "}, {x}\n")
    };
    (vnni, $a:literal, $b:literal) => {
        concat!("{{vex}} vpdpwssd {", $a, "}, {v}, {x}\n", "{{vex}} vpdpwssd {", $b, "}, {w}, {x}\n")
    };
}

/// Something of each token.
#[rustfmt::skip]
macro_rules! tokens {
    (5, $what:ident $($how:tt)*) => {
        concat!($what!(5, 0, "a", "b" $($how)*), $what!(5, 1, "c", "d" $($how)*), $what!(5, 2, "e", "f" $($how)*),
                $what!(5, 3, "g", "h" $($how)*), $what!(5, 4, "i", "j" $($how)*))
    };
    (6, $what:ident $($how:tt)*) => {
        concat!($what!(6, 0, "a", "b" $($how)*), $what!(6, 1, "c", "d" $($how)*), $what!(6, 2, "e", "f" $($how)*),
                $what!(6, 3, "g", "h" $($how)*), $what!(6, 4, "i", "j" $($how)*), $what!(6, 5, "k", "l" $($how)*))
    };
}

/// One line times one token.
#[rustfmt::skip]
macro_rules! token {
    ($tokens:literal, $t:literal, $a:literal, $b:literal, $line:literal, $kind:ident) => {
        concat!(columns!($line, $tokens, $t), products!($kind, $a, $b))
    };
}

/// Some lines times all tokens.
#[rustfmt::skip]
macro_rules! lines {
    ($tokens:tt, $kind:ident, $($line:literal),*) => {
        concat!($(rows!($line), tokens!($tokens, token, $line, $kind)),*)
    };
}

/// Adds a token's sums, scaled, to what there is.
#[rustfmt::skip]
macro_rules! add {
    ($tokens:literal, $t:literal, $a:literal, $b:literal) => {
        concat!("vcvtdq2ps {", $a, "}, {", $a, "}\n", "vcvtdq2ps {", $b, "}, {", $b, "}\n",
                "vbroadcastss {x}, dword ptr [{p} + 4 * ", $tokens, " * 16 + 4 * ", $t, "]\n",
                "vfmadd213ps {", $a, "}, {x}, ymmword ptr [{sums} + 64 * ", $t, "]\n",
                "vfmadd213ps {", $b, "}, {x}, ymmword ptr [{sums} + 64 * ", $t, " + 32]\n",
                "vmovups ymmword ptr [{sums} + 64 * ", $t, "], {", $a, "}\n",
                "vmovups ymmword ptr [{sums} + 64 * ", $t, " + 32], {", $b, "}\n")
    };
}

/// A group's products for so many tokens.
macro_rules! group {
    ($name:ident, $tokens:tt, $kind:ident, $features:literal, $($a:ident)*) => {
        #[target_feature(enable = $features)]
        #[inline]
        fn $name(lines: &[[u8; STRIPE]; LANES], x: &[[i32; $tokens]; SHORT_WORDS], sums: &mut [[__m256; 2]; $tokens]) {
            // SAFETY: reads the lines and the words, and reads and writes the sums; the features are enabled.
            unsafe {
                asm!(lines!($tokens, first, 0),
                     lines!($tokens, $kind, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                     tokens!($tokens, add),
                     "/* {y} */",
                     r = in(reg) lines.as_ptr(), p = in(reg) x.as_ptr(), sums = in(reg) sums.as_mut_ptr(),
                     v = out(ymm_reg) _, w = out(ymm_reg) _, x = out(ymm_reg) _, y = out(ymm_reg) _,
                     $($a = out(ymm_reg) _,)*
                     options(nostack, preserves_flags));
            }
        }
    };
}

group!(five, 5, plain, "avx2,fma", a b c d e f g h i j);
group!(six, 6, plain, "avx2,fma", a b c d e f g h i j k l);
group!(five_vnni, 5, vnni, "avx2,fma,avxvnni", a b c d e f g h i j);
group!(six_vnni, 6, vnni, "avx2,fma,avxvnni", a b c d e f g h i j k l);

/// [`Simd::add_shorts`](crate::simd::Simd::add_shorts) of a panel.
#[inline(always)]
pub(super) fn add<const VNNI: bool, const T: usize>(
    _proof: Avx2<VNNI>,
    sums: &mut [[__m256; 2]; T],
    lines: &[[u8; STRIPE]; LANES],
    x: &[[i32; T]; SHORT_WORDS],
) {
    const { assert!(T == 5 || T == 6, "tiles of five or six") };
    let (x, sums) = (x.as_flattened(), &mut sums[..]);
    if T == 5 {
        let x = x.as_chunks().0.try_into().expect("five tokens");
        let sums = sums.try_into().expect("five tokens");
        avx2! { if VNNI { five_vnni(lines, x, sums) } else { five(lines, x, sums) } }
    } else {
        let x = x.as_chunks().0.try_into().expect("six tokens");
        let sums = sums.try_into().expect("six tokens");
        avx2! { if VNNI { six_vnni(lines, x, sums) } else { six(lines, x, sums) } }
    }
}
