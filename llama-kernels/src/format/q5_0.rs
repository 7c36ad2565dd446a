//! Q5_0: 32 weights of five bits and a scale; `w = d * (q - 16)`.
//!
//! Byte `i` holds the low bits of weight `i` in its low nibble and those of weight `i + 16` in its high
//! one; bit `i` of `high` is the fifth bit of weight `i`.

use super::{Block, IntegerBlock, Lane, Of32, Scales, Zero, bits, search};
use crate::simd::Simd;
use half::f16;

/// 22 bytes for 32 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Q5_0 {
    d: [u8; 2],
    high: [u8; 4],
    q: [u8; 16],
}

const _: () = assert!(size_of::<Q5_0>() == 22 && align_of::<Q5_0>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for Q5_0 {
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        let high = u32::from_le_bytes(self.high);
        assert_eq!(out.len(), Self::LEN);
        for (i, out) in out.iter_mut().enumerate() {
            let low = self.q[i % 16] >> (i / 16 * 4) & 15;
            let q = low | ((high >> i & 1) as u8) << 4;
            *out = d * (f32::from(q) - 16.0);
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let (d, q) = search::symmetric(x, importance, 16.0);
        let (high, q) = split(&q);
        Q5_0 { d: d.to_le_bytes(), high, q }
    }
}

/// Five bits as one and four, as Q5_0 and Q5_1 store them.
pub(super) fn split(q: &[u8; 32]) -> ([u8; 4], [u8; 16]) {
    let high = (0..32).fold(0, |bits, i| bits | u32::from(q[i] >> 4) << i);
    (high.to_le_bytes(), std::array::from_fn(|i| q[i] & 15 | q[i + 16] << 4))
}

/// The fifth bits of four blocks in their place: of the first halves, and of the second ones.
#[inline(always)]
pub(super) fn fifth<S: Simd>(s: S, high: [[u8; 4]; 4]) -> [S::I; 2] {
    let half = |i: usize| {
        high.iter().rev().fold(0, |bits, h| bits << 16 | u64::from(u16::from_le_bytes([h[i], h[i + 1]])))
    };
    [s.and(s.mask(half(0)), s.splat_u8(16)), s.and(s.mask(half(2)), s.splat_u8(16))]
}

impl IntegerBlock for Q5_0 {
    type Lanes = Lane<5, Of32, Zero<4>>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        Scales::new(s.strided8_f16::<22>(bits::eight(span)))
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        let [a, b] = bits::nibble_halves(s, s.strided::<22>(bits::eight(span), pair));
        let [high_a, high_b] = fifth(s, std::array::from_fn(|i| span[4 * pair + i].high));
        [s.or(a, high_a), s.or(b, high_b)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_reached() {
        let x: [f32; 32] = std::array::from_fn(|i| (i as f32 * 7.0) % 32.0 - 16.0);
        let mut y = [0.0; 32];
        Q5_0::quantize(&x, None).dequantize(&mut y);
        assert_eq!(x, y);
    }
}
