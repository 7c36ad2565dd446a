//! How many weights share a scale, and how a span's weights lie in registers so that few instructions scale
//! them.
//!
//! | grouping | scales of a span | 128 weights in two registers, by sixteen |
//! |----------|------------------|------------------------------------------|
//! | [`Of32`] | 8, half a register | `0 2 4 6`, `1 3 5 7`: the halves of four groups |
//! | [`Of16`] | 16               | `0 1 2 3`, `4 5 6 7`: the order of the row |
//!
//! With groups of 32, each quarter of both registers belongs to one group, so the products of both are added in
//! integers, and 128 weights are converted, scaled and added up at once. (In the order of the row, 64 at a time,
//! Q4_0 took 8.4 ns for 256 weights on AVX-512, and 6.6 so; nibbles of 32-weight blocks lie like this anyway.)
//!
//! Where registers are as wide as these are ([`Simd::SPANS`]), products with few tokens go further: the four registers of a
//! span are [arranged](Grouping::arrange) so that a lane holds the same group in all of them. The products of all four are
//! added in integers, and a whole span is converted, scaled and added up at once. A few shuffles for a row do that, whatever
//! the number of tokens; activations are quantized in that order, with a scale for each lane, and with the numbers that a zero
//! point makes the sums start at.
//!
//! | grouping | the group of each lane |
//! |----------|------------------------|
//! | [`Of32`] | `0 0 4 4 1 1 5 5 2 2 6 6 3 3 7 7` |
//! | [`Of16`] | `0 4 8 12 1 5 9 13 2 6 10 14 3 7 11 15` |
//!
//! (One Zen 4 core, weights in cache, 1, 2 and 4 tokens: AVX512-VNNI Q4_0 1.01, 1.10 and 1.18 times as fast, Q4_K 1.01, 1.11
//! and 1.19, Q5_K 0.98, 1.11 and 1.17, Q6_K 0.98, 1.20 and 1.46, Q8_0 0.98, 1.04 and 1.10. On AVX2, with two shuffles for
//! each of these, Q4_K 0.87, 0.90 and 1.02, Q6_K 0.90, 1.0 and 1.13: it multiplies halves.)

use super::Lanes;
use crate::acts::{Acts, Span};
use crate::simd::{LANES, Simd};

/// A number of weights that share a scale: [`Of16`] or [`Of32`].
pub trait Grouping: Copy + 'static {
    /// Weights in a group.
    const LEN: usize;

    /// A number for each group of a span.
    type Scale<S: Simd>: Copy;

    /// All groups' number `x`.
    fn splat<S: Simd>(s: S, x: f32) -> Self::Scale<S>;
    /// `a * b`
    fn mul<S: Simd>(s: S, a: Self::Scale<S>, b: Self::Scale<S>) -> Self::Scale<S>;
    /// `a * b + c`
    fn fma<S: Simd>(s: S, a: Self::Scale<S>, b: Self::Scale<S>, c: Self::Scale<S>) -> Self::Scale<S>;
    /// A full register with the same sum.
    fn widen<S: Simd>(s: S, a: Self::Scale<S>) -> S::F;
    /// Writes the number of each 16 weights.
    fn each16<S: Simd>(s: S, a: Self::Scale<S>, out: &mut [f32; LANES]);
    /// Writes the number of each group.
    fn store<S: Simd>(s: S, a: Self::Scale<S>, out: &mut [f32]);
    /// The two pairs of registers of a span as they are multiplied: where that is done at once, each lane has one group's
    /// columns in all of them.
    fn arrange<S: Simd>(s: S, w: [[S::I; 2]; 2]) -> [S::I; 4];
    /// The number of each lane of a span that is multiplied at once.
    fn lanes<S: Simd>(s: S, scale: Self::Scale<S>) -> S::F;
    /// `acc` plus the scaled products of the `pair`th half of a span.
    fn accumulate<S: Simd, L: Lanes>(
        s: S,
        pair: usize,
        w: [S::I; 2],
        x: [S::I; 2],
        scale: Self::Scale<S>,
        acc: S::F,
    ) -> S::F;
    /// Where four bytes of a pair's register belong: the `dword`th of the `half`th register holds these four
    /// columns of the pair's 32 times four.
    fn columns(half: usize, dword: usize) -> usize;

    /// The powers of two that lie at zero in such formats' lanes, [as they are multiplied](Lanes::zero).
    const ZEROS: [u32; 4];
    /// One token's activations, their bytes in the order of the weights.
    fn row(acts: &Acts, token: usize) -> &[Span];
    /// `M` tokens' from `token` on.
    fn rows<const M: usize>(acts: &Acts, token: usize) -> [&[Span]; M] {
        std::array::from_fn(|t| Self::row(acts, token + t))
    }
    /// A span of activations in the order of the row, arranged as weights are.
    fn arrange_row<S: Simd>(s: S, x: [S::I; 4]) -> [S::I; 4];
    /// A number for each group.
    fn load<S: Simd>(s: S, numbers: &[f32; LANES]) -> Self::Scale<S>;
}

/// The sums of four products.
#[inline(always)]
fn dot<S: Simd, L: Lanes>(s: S, w: S::I, x: S::I) -> S::I {
    let zero = s.splat_i32(0);
    if L::BITS < 8 { s.dot_unsigned(zero, w, x) } else { s.dot_signed(zero, w, x) }
}

/// A scale for each 16 weights.
#[derive(Clone, Copy)]
pub struct Of16;

impl Grouping for Of16 {
    const LEN: usize = 16;
    type Scale<S: Simd> = S::F;

    #[inline(always)]
    fn splat<S: Simd>(s: S, x: f32) -> S::F {
        s.splat(x)
    }
    #[inline(always)]
    fn mul<S: Simd>(s: S, a: S::F, b: S::F) -> S::F {
        s.mul(a, b)
    }
    #[inline(always)]
    fn fma<S: Simd>(s: S, a: S::F, b: S::F, c: S::F) -> S::F {
        s.fma(a, b, c)
    }
    #[inline(always)]
    fn widen<S: Simd>(_: S, a: S::F) -> S::F {
        a
    }
    #[inline(always)]
    fn each16<S: Simd>(s: S, a: S::F, out: &mut [f32; LANES]) {
        s.store(a, out);
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, a: S::F, out: &mut [f32]) {
        s.store(a, out.first_chunk_mut().expect("a number for each group"));
    }
    /// Of each sixteen bytes of all four, the first fours, the second ones, and so on.
    #[inline(always)]
    fn arrange<S: Simd>(s: S, [[a, b], [c, d]]: [[S::I; 2]; 2]) -> [S::I; 4] {
        if !S::SPANS {
            return [a, b, c, d];
        }
        Of32::arrange(s, [s.zip::<4>(a, b), s.zip::<4>(c, d)])
    }
    #[inline(always)]
    fn lanes<S: Simd>(s: S, scale: S::F) -> S::F {
        s.turn(scale)
    }
    #[inline(always)]
    fn accumulate<S: Simd, L: Lanes>(
        s: S,
        pair: usize,
        w: [S::I; 2],
        x: [S::I; 2],
        scale: S::F,
        acc: S::F,
    ) -> S::F {
        let (first, second) = match pair {
            0 => (s.quarter::<0>(scale), s.quarter::<1>(scale)),
            _ => (s.quarter::<2>(scale), s.quarter::<3>(scale)),
        };
        let acc = s.fma(s.to_f32(dot::<S, L>(s, w[0], x[0])), first, acc);
        s.fma(s.to_f32(dot::<S, L>(s, w[1], x[1])), second, acc)
    }
    #[inline(always)]
    fn columns(half: usize, dword: usize) -> usize {
        16 * half + dword
    }
    const ZEROS: [u32; 4] = [2, 4, 5, 7];
    fn row(acts: &Acts, token: usize) -> &[Span] {
        acts.row16(token)
    }
    #[inline(always)]
    fn arrange_row<S: Simd>(s: S, [a, b, c, d]: [S::I; 4]) -> [S::I; 4] {
        Self::arrange(s, [[a, b], [c, d]])
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, numbers: &[f32; LANES]) -> S::F {
        s.load(numbers)
    }
}

/// A scale for each 32 weights.
#[derive(Clone, Copy)]
pub struct Of32;

impl Grouping for Of32 {
    const LEN: usize = 32;
    type Scale<S: Simd> = S::H;

    #[inline(always)]
    fn splat<S: Simd>(s: S, x: f32) -> S::H {
        s.splat8(x)
    }
    #[inline(always)]
    fn mul<S: Simd>(s: S, a: S::H, b: S::H) -> S::H {
        s.mul8(a, b)
    }
    #[inline(always)]
    fn fma<S: Simd>(s: S, a: S::H, b: S::H, c: S::H) -> S::H {
        s.fma8(a, b, c)
    }
    #[inline(always)]
    fn widen<S: Simd>(s: S, a: S::H) -> S::F {
        s.widen8(a)
    }
    #[inline(always)]
    fn each16<S: Simd>(s: S, a: S::H, out: &mut [f32; LANES]) {
        let mut eight = [0.0; LANES / 2];
        s.store8(a, &mut eight);
        for (out, scale) in out.as_chunks_mut::<2>().0.iter_mut().zip(eight) {
            *out = [scale; 2];
        }
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, a: S::H, out: &mut [f32]) {
        s.store8(a, out.first_chunk_mut().expect("a number for each group"));
    }
    /// Of each sixteen bytes of both pairs, the first halves, and the second ones.
    #[inline(always)]
    fn arrange<S: Simd>(s: S, [[a, b], [c, d]]: [[S::I; 2]; 2]) -> [S::I; 4] {
        if !S::SPANS {
            return [a, b, c, d];
        }
        let ([first, second], [third, last]) = (s.zip::<8>(a, c), s.zip::<8>(b, d));
        [first, second, third, last]
    }
    #[inline(always)]
    fn lanes<S: Simd>(s: S, scale: S::H) -> S::F {
        s.twice(scale)
    }
    #[inline(always)]
    fn accumulate<S: Simd, L: Lanes>(
        s: S,
        pair: usize,
        w: [S::I; 2],
        x: [S::I; 2],
        scale: S::H,
        acc: S::F,
    ) -> S::F {
        let scale = if pair == 0 { s.half::<0>(scale) } else { s.half::<1>(scale) };
        s.fma(s.to_f32(s.dot_pair::<L>(w, x)), scale, acc)
    }
    #[inline(always)]
    fn columns(half: usize, dword: usize) -> usize {
        dword / 4 * 8 + 4 * half + dword % 4
    }
    const ZEROS: [u32; 4] = [0, 3, 4, 7];
    fn row(acts: &Acts, token: usize) -> &[Span] {
        acts.row32(token)
    }
    #[inline(always)]
    fn arrange_row<S: Simd>(s: S, [a, b, c, d]: [S::I; 4]) -> [S::I; 4] {
        Self::arrange(s, [s.regroup(a, b), s.regroup(c, d)])
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, numbers: &[f32; LANES]) -> S::H {
        s.load8(numbers.first_chunk().expect("eight of sixteen"))
    }
}
