//! Q4_K: 256 nibbles in eight groups, each with a scale and a minimum of six bits;
//! `w = d * scale * q - dmin * min`.
//!
//! Byte `i` of each 32 holds weight `i` of its 64 in its low nibble and weight `i + 32` in its high one.

use super::search::Affine;
use super::{Block, IntegerBlock, Lane, Lanes, Minimum, Of32, Scales, bits};
use crate::ops::pack::Sixteen;
use crate::simd::{LANES, Simd};
use half::f16;
use std::mem::offset_of;

/// 144 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Q4_K {
    head: SixBitHead,
    q: [[u8; 32]; 4],
}

const _: () = assert!(size_of::<Q4_K>() == 144 && align_of::<Q4_K>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for Q4_K {
    const LEN: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        let [d, dmin] = self.head.factors();
        assert_eq!(out.len(), Self::LEN);
        for (i, out) in out.iter_mut().enumerate() {
            let (scale, min) = self.head.scales.group(i / 32);
            let q = self.q[i / 64][i % 32] >> (i % 64 / 32 * 4) & 15;
            *out = d * f32::from(scale) * f32::from(q) - dmin * f32::from(min);
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let found = Affine::<8, 32>::new(x, importance, 15.0, 63.0);
        Q4_K { head: SixBitHead::new(&found), q: pack(found.q.as_flattened()) }
    }
}

/// The low nibbles of 256 weights, as Q4_K and Q5_K store them.
pub(super) fn pack(q: &[u8]) -> [[u8; 32]; 4] {
    let mut packed = [[0; 32]; 4];
    for (i, q) in q.iter().enumerate() {
        packed[i / 64][i % 32] |= (q & 15) << (i % 64 / 32 * 4);
    }
    packed
}

/// The scales and minimums of eight groups, six bits each.
///
/// Bytes 0 to 3 hold the scales of the first four groups in their low six bits, bytes 4 to 7 their
/// minimums; bytes 8 to 11 hold the low four bits of the last four groups' scales and minimums, whose
/// high two bits are the high two of bytes 0 to 3 and 4 to 7.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct SixBits([u8; 12]);

impl SixBits {
    pub(super) fn new(scales: &[u8; 8], mins: &[u8; 8]) -> SixBits {
        let mut bytes = [0; 12];
        for i in 0..4 {
            bytes[i] = scales[i] | scales[i + 4] >> 4 << 6;
            bytes[i + 4] = mins[i] | mins[i + 4] >> 4 << 6;
            bytes[i + 8] = scales[i + 4] & 15 | mins[i + 4] << 4;
        }
        SixBits(bytes)
    }

    /// A group's scale and minimum.
    pub(super) fn group(&self, i: usize) -> (u8, u8) {
        let bytes = &self.0;
        match i.checked_sub(4) {
            None => (bytes[i] & 63, bytes[i + 4] & 63),
            Some(i) => (bytes[i + 8] & 15 | bytes[i] >> 6 << 4, bytes[i + 8] >> 4 | bytes[i + 4] >> 6 << 4),
        }
    }

    /// The eight scales as bytes, and the minimums.
    #[inline(always)]
    pub(crate) fn bytes(self) -> [u64; 2] {
        let word = |i: usize| u64::from(u32::from_le_bytes([0, 1, 2, 3].map(|j| self.0[4 * i + j])));
        let (first, last) = (word(0) | word(1) << 32, word(2));
        // Scales in the lower halves, minimums in the upper ones.
        let high = first >> 2 & 0x3030_3030_3030_3030 | (last | last << 28) & 0x0f0f_0f0f_0f0f_0f0f;
        let low = first & 0x3f3f_3f3f_3f3f_3f3f;
        [low & 0xffff_ffff | high << 32, low >> 32 | high & !0xffff_ffff]
    }
}

/// What a block begins with: the factors of all scales and of all minimums, and these.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SixBitHead {
    pub(crate) d: [u8; 2],
    pub(crate) dmin: [u8; 2],
    pub(crate) scales: SixBits,
}

impl SixBitHead {
    pub(super) fn new(found: &Affine<8, 32>) -> SixBitHead {
        let scales = SixBits::new(&found.scales, &found.mins);
        SixBitHead { d: found.d.to_le_bytes(), dmin: found.dmin.to_le_bytes(), scales }
    }

    /// The factor of the scales and that of the minimums.
    pub(super) fn factors(&self) -> [f32; 2] {
        [self.d, self.dmin].map(|x| f16::from_le_bytes(x).to_f32())
    }

    #[cfg(test)]
    pub(crate) fn of_bytes([a, b, c, d, rest @ ..]: [u8; 16]) -> SixBitHead {
        SixBitHead { d: [a, b], dmin: [c, d], scales: SixBits(rest) }
    }

    /// The scales and minimums as numbers.
    #[inline(always)]
    pub(super) fn apply<S: Simd, L: Lanes<Grouping = Of32>>(&self, s: S) -> Scales<S, L> {
        let [scale, min] = s.six_bits(self);
        Scales { scale, min }
    }
}

/// Two bits above the low nibble of each byte.
#[inline(always)]
fn six<S: Simd>(s: S, low: S::I, high: S::I) -> S::I {
    s.or(s.and(low, s.splat_u8(15)), s.bits(high, [2; 4], 0x30))
}

/// The scales and minimums of sixteen rows, which their blocks begin with.
#[inline(always)]
pub(super) fn pack_scales<S: Simd, const N: usize>(s: S, blocks: &[&[u8; N]; LANES], to: &mut Sixteen<'_>) {
    let [factors, first, second, last] = s.fours(blocks, 0);
    let [d, dmin] = s.floats_f16(factors);
    let whole = s.splat_u8(63);
    let (scales, last_scales) = to.scales.split_at_mut(4);
    bits::scale_bytes(s, s.and(first, whole), d, scales);
    bits::scale_bytes(s, six(s, last, first), d, last_scales);
    let (mins, last_mins) = to.mins.split_at_mut(4);
    bits::scale_bytes(s, s.and(second, whole), dmin, mins);
    bits::scale_bytes(s, six(s, s.shr_halves(last, 4, 4), second), dmin, last_mins);
}

/// The nibbles of 128 weights, whose groups of 32 take turns in the halves of the bytes.
#[inline(always)]
pub(super) fn nibbles<S: Simd>(s: S, q: &[[u8; 32]; 4], pair: usize) -> [S::I; 2] {
    let ([a, b], [c, d]) = (bits::split(&q[2 * pair]), bits::split(&q[2 * pair + 1]));
    let (first, second) = (s.quarters([a, a, c, c]), s.quarters([b, b, d, d]));
    [s.bits(first, [0, 4, 0, 4], 15), s.bits(second, [0, 4, 0, 4], 15)]
}

/// The nibbles of a span, [arranged](super::Grouping::arrange).
#[inline(always)]
pub(super) fn arranged<S: Simd>(s: S, q: &[[u8; 32]; 4]) -> [S::I; 4] {
    let mut all = [s.eights::<0>(q), s.eights::<1>(q), s.eights::<2>(q), s.eights::<3>(q)];
    for q in &mut all {
        *q = s.bits(*q, [0, 4, 0, 4], 15);
    }
    all
}

impl IntegerBlock for Q4_K {
    type Lanes = Lane<4, Of32, Minimum>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        span[0].head.apply(s)
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        nibbles(s, &span[0].q, pair)
    }

    #[inline(always)]
    fn in_order<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        let [a, b] = [&span[0].q[2 * pair], &span[0].q[2 * pair + 1]];
        let mut stripes = [s.halves(a, a), s.halves(b, b)];
        for stripe in &mut stripes {
            *stripe = s.bits(*stripe, [0, 0, 4, 4], 15);
        }
        stripes
    }

    #[inline(always)]
    fn in_words<S: Simd>(s: S, span: &[Self], stripe: usize) -> [S::I; 2] {
        let both = s.widen_u8(bits::split(&span[0].q[stripe]));
        [s.bits(both, [0; 4], 15), s.bits(both, [4; 4], 15)]
    }

    #[inline(always)]
    fn arranged<S: Simd>(s: S, span: &[Self]) -> [S::I; 4] {
        arranged(s, &span[0].q)
    }

    #[inline(always)]
    fn pack<S: Simd>(s: S, rows: &[&[Self]; LANES], to: &mut Sixteen<'_>) {
        let blocks = bits::spans::<Self, 144>(rows);
        pack_scales(s, &blocks, to);
        for (i, lines) in to.bytes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let [low, other_low, high, other_high] = lines.as_chunks_mut().0 else {
                unreachable!("16 lines")
            };
            for (half, (low, high)) in [(low, high), (other_low, other_high)].into_iter().enumerate() {
                let rows = 4 * i + 2 * half;
                to.next.ask::<S, Self>(s, rows..rows + 2);
                let words = s.fours(&blocks, offset_of!(Self, q) + 32 * i + 16 * half);
                bits::store_nibbles::<S, Self>(s, &words, None, low, high);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_kept() {
        let (scales, mins) = ([0, 63, 1, 32, 16, 15, 62, 5], [63, 0, 31, 33, 48, 7, 1, 60]);
        let packed = SixBits::new(&scales, &mins);
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 6, 7].map(|i| packed.group(i)),
            std::array::from_fn(|i| (scales[i], mins[i]))
        );
        assert_eq!(packed.bytes(), [scales, mins].map(u64::from_le_bytes));
    }

    #[test]
    fn what_it_can_hold_is_kept() {
        let x: [f32; 256] = std::array::from_fn(|i| {
            let group = i / 32;
            (9 * group) as f32 * (i * 7 % 16) as f32 - (63 - 9 * group) as f32 / 4.0
        });
        let mut y = [0.0; 256];
        Q4_K::quantize(&x, None).dequantize(&mut y);
        assert_eq!(x, y);
    }
}
