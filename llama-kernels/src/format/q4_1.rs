//! Q4_1: 32 nibbles, a scale and an offset; `w = d * q + m`.
//!
//! Byte `i` holds weight `i` in its low nibble and weight `i + 16` in its high one.

use super::{Block, IntegerBlock, Lane, Minimum, Of32, Scales, bits, search};
use crate::ops::pack::Sixteen;
use crate::simd::{LANES, Simd};
use half::f16;

/// 20 bytes for 32 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Q4_1 {
    d: [u8; 2],
    m: [u8; 2],
    q: [u8; 16],
}

const _: () = assert!(size_of::<Q4_1>() == 20 && align_of::<Q4_1>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for Q4_1 {
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let (d, m) = (f16::from_le_bytes(self.d).to_f32(), f16::from_le_bytes(self.m).to_f32());
        assert_eq!(out.len(), Self::LEN);
        for (i, &q) in self.q.iter().enumerate() {
            out[i] = d * f32::from(q & 15) + m;
            out[i + 16] = d * f32::from(q >> 4) + m;
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let (d, m, q) = search::affine(x, importance, 15.0);
        Q4_1 { d: d.to_le_bytes(), m: m.to_le_bytes(), q: std::array::from_fn(|i| q[i] | q[i + 16] << 4) }
    }
}

impl IntegerBlock for Q4_1 {
    type Lanes = Lane<4, Of32, Minimum>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        Scales {
            scale: s.strided8_f16::<20>(bits::eight(span)),
            min: s.mul8(s.splat8(-1.0), s.floats8_f16(std::array::from_fn(|i| span[i].m))),
        }
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        bits::nibble_halves(s, s.strided::<20>(bits::eight(span), pair))
    }

    #[inline(always)]
    fn in_order<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        bits::nibbles_in_order::<S, 20>(s, bits::eight(span), pair)
    }

    #[inline(always)]
    fn in_words<S: Simd>(s: S, span: &[Self], stripe: usize) -> [S::I; 2] {
        [bits::nibbles_in_words(s, &span[2 * stripe].q), bits::nibbles_in_words(s, &span[2 * stripe + 1].q)]
    }

    #[inline(always)]
    fn arranged<S: Simd>(s: S, span: &[Self]) -> [S::I; 4] {
        let blocks = bits::eight(span);
        bits::arranged_nibbles(s, [s.strided::<20>(blocks, 0), s.strided::<20>(blocks, 1)])
    }

    #[inline(always)]
    fn pack<S: Simd>(s: S, rows: &[&[Self]; LANES], to: &mut Sixteen<'_>) {
        bits::pack_nibbles::<S, Self, { 8 * 20 }>(s, rows, to, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_and_the_highest_weight_are_kept() {
        let x: [f32; 32] = std::array::from_fn(|i| [3.0, -1.0, 6.5, 0.4][i % 4]);
        let mut y = [0.0; 32];
        Q4_1::quantize(&x, None).dequantize(&mut y);
        assert_eq!(y[..4], [3.0, -1.0, 6.5, 0.5]); // d = 0.5
    }
}
