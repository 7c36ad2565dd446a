//! The inner loops of the integer engine: sixteen rows times the four tokens of a tile.
//!
//! * `sdot` multiplies by one lane of a register, which holds four columns of all four tokens: sixteen
//!   accumulators, no shuffles.
//! * `smmla` multiplies two tokens by two rows, eight columns at a time, twice the work of `sdot`. The
//!   panel is rearranged for it once, the tokens as they are read, the results once in a group: 88
//!   instructions for 32 columns where `sdot` takes 128. (With the rows paired here too it would be 120.)
//! * NEON alone adds up as many products as fit 16 bits before it widens them.

use super::{Neon, TILE};
use crate::format::Lanes;
use crate::simd::{STRIPE, Simd};
use core::arch::aarch64::*;
use core::arch::asm;

impl<const LEVEL: u32> Neon<LEVEL> {
    /// [`Simd::arrange_panel`] for `smmla`: two lines of four columns become two of eight columns, in
    /// which pairs of rows lie side by side.
    #[inline(always)]
    pub(super) fn arrange_i8mm(self, lines: &mut [[u8; STRIPE]]) {
        for lines in lines.as_chunks_mut::<2>().0 {
            let [a, b] = [self.load4(&lines[0]), self.load4(&lines[1])];
            let (low, high) = (each!(vzip1q_s32, a, b), each!(vzip2q_s32, a, b));
            self.store_bytes([low[0], high[0], low[1], high[1]], &mut lines[0]);
            self.store_bytes([low[2], high[2], low[3], high[3]], &mut lines[1]);
        }
    }

    /// [`Simd::dot_panel`] with `smmla`: two tokens times two rows, eight columns at a time.
    #[inline(always)]
    pub(super) fn panel_i8mm<const QUADS: usize, const MT: usize>(
        self,
        w: &[[u8; STRIPE]; QUADS],
        x: &[[i32; MT]; QUADS],
    ) -> [[int32x4_t; 4]; MT] {
        let mut tokens01 = [neon! { vdupq_n_s32(0) }; 8];
        let mut tokens23 = tokens01;
        for (w, x) in w.as_chunks::<2>().0.iter().zip(x.as_chunks::<2>().0) {
            let [a, b] = [self.four_tokens(&x[0]), self.four_tokens(&x[1])];
            let (x01, x23) = neon! { (vzip1q_s32(a, b), vzip2q_s32(a, b)) };
            for (pair, w) in w.as_flattened().as_chunks::<16>().0.iter().enumerate() {
                let w = self.load1(w);
                neon! {
                    tokens01[pair] = smmla(tokens01[pair], x01, w);
                    tokens23[pair] = smmla(tokens23[pair], x23, w);
                }
            }
        }
        // Each register has two tokens of two rows.
        let mut acc = [self.splat_i32(0); MT];
        for i in 0..4 {
            for (pair, x) in [tokens01, tokens23].iter().enumerate() {
                neon! {
                    let (a, b) = (vreinterpretq_s64_s32(x[2 * i]), vreinterpretq_s64_s32(x[2 * i + 1]));
                    acc[2 * pair][i] = vreinterpretq_s32_s64(vzip1q_s64(a, b));
                    acc[2 * pair + 1][i] = vreinterpretq_s32_s64(vzip2q_s64(a, b));
                }
            }
        }
        acc
    }

    /// [`Simd::dot_panel`] with `sdot`, which multiplies by one lane of a register: by one token.
    #[inline(always)]
    pub(super) fn panel_dotprod<const QUADS: usize, const MT: usize>(
        self,
        w: &[[u8; STRIPE]; QUADS],
        x: &[[i32; MT]; QUADS],
    ) -> [[int32x4_t; 4]; MT] {
        let mut acc = [self.splat_i32(0); MT];
        for (w, x) in w.iter().zip(x) {
            let (w, x) = (self.load4(w), self.four_tokens(x));
            for i in 0..4 {
                neon! {
                    acc[0][i] = sdot_lane::<0>(acc[0][i], w[i], x);
                    acc[1][i] = sdot_lane::<1>(acc[1][i], w[i], x);
                    acc[2][i] = sdot_lane::<2>(acc[2][i], w[i], x);
                    acc[3][i] = sdot_lane::<3>(acc[3][i], w[i], x);
                }
            }
        }
        acc
    }

    /// [`Simd::dot_panel`] of plain NEON: as many products as fit are added in 16 bits before they are
    /// widened. Two tokens at a time, whose sums take sixteen registers.
    #[inline(always)]
    pub(super) fn panel_base<L: Lanes, const QUADS: usize, const MT: usize>(
        self,
        w: &[[u8; STRIPE]; QUADS],
        x: &[[i32; MT]; QUADS],
    ) -> [[int32x4_t; 4]; MT] {
        let largest = if L::BITS < 8 { (1 << L::BITS) - 1 } else { 128 };
        let headroom = 32767 / (127 * largest);
        let mut acc = [self.splat_i32(0); MT];
        for (pair, acc) in acc.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            for (w, x) in w.chunks(headroom).zip(x.chunks(headroom)) {
                let mut narrow = [[[neon! { vdupq_n_s16(0) }; 2]; 4]; 2];
                for (w, x) in w.iter().zip(x) {
                    let w = self.load4(w);
                    for (narrow, &x) in narrow.iter_mut().zip(&x[2 * pair..2 * pair + 2]) {
                        let x = neon! { vreinterpretq_s8_s32(vdupq_n_s32(x)) };
                        for (sums, w) in narrow.iter_mut().zip(w) {
                            neon! {
                                let w = vreinterpretq_s8_s32(w);
                                sums[0] = vmlal_s8(sums[0], vget_low_s8(w), vget_low_s8(x));
                                sums[1] = vmlal_high_s8(sums[1], w, x);
                            }
                        }
                    }
                }
                for (acc, narrow) in acc.as_flattened_mut().iter_mut().zip(narrow.as_flattened()) {
                    neon! {
                        let sums = vpaddq_s32(vpaddlq_s16(narrow[0]), vpaddlq_s16(narrow[1]));
                        *acc = vaddq_s32(*acc, sums);
                    }
                }
            }
        }
        acc
    }

    /// Four columns of each token of a tile.
    #[inline(always)]
    fn four_tokens<const MT: usize>(self, x: &[i32; MT]) -> int32x4_t {
        const { assert!(MT == TILE) };
        neon! { vld1q_s32(x.as_ptr()) }
    }
}

/// `acc` plus the sums of four products of signed bytes: the same four, lane `LANE` of `b`, each time.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn sdot_lane<const LANE: usize>(mut acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: reads and writes registers only.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]", inout(vreg) acc, in(vreg) a, in(vreg) b, const LANE,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// `acc` plus the product of `a`, two rows of eight signed bytes, and `b`, two columns of eight.
#[target_feature(enable = "neon,i8mm")]
#[inline]
fn smmla(mut acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: reads and writes registers only.
    unsafe {
        asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) acc, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}
