//! Q4_0: 32 nibbles and one half-precision scale; `w = d * (q - 8)`.
//!
//! Byte `i` holds weight `i` in its low nibble and weight `i + 16` in its high one.

use super::{Block, IntegerBlock, Lane, Of32, Scales, Zero, bits, search};
use crate::ops::pack::Sixteen;
use crate::simd::{LANES, Simd};
use half::f16;

/// 18 bytes for 32 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Q4_0 {
    d: [u8; 2],
    q: [u8; 16],
}

const _: () = assert!(size_of::<Q4_0>() == 18 && align_of::<Q4_0>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for Q4_0 {
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        assert_eq!(out.len(), Self::LEN);
        for (i, &q) in self.q.iter().enumerate() {
            out[i] = d * (f32::from(q & 15) - 8.0);
            out[i + 16] = d * (f32::from(q >> 4) - 8.0);
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let (d, q) = search::symmetric(x, importance, 8.0);
        Q4_0 { d: d.to_le_bytes(), q: std::array::from_fn(|i| q[i] | q[i + 16] << 4) }
    }
}

impl IntegerBlock for Q4_0 {
    type Lanes = Lane<4, Of32, Zero<3>>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        Scales::new(s.strided8_f16::<18>(bits::eight(span)))
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        bits::nibble_halves(s, s.strided::<18>(bits::eight(span), pair))
    }

    #[inline(always)]
    fn in_order<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        bits::nibbles_in_order::<S, 18>(s, bits::eight(span), pair)
    }

    #[inline(always)]
    fn in_words<S: Simd>(s: S, span: &[Self], stripe: usize) -> [S::I; 2] {
        [bits::nibbles_in_words(s, &span[2 * stripe].q), bits::nibbles_in_words(s, &span[2 * stripe + 1].q)]
    }

    #[inline(always)]
    fn arranged<S: Simd>(s: S, span: &[Self]) -> [S::I; 4] {
        let blocks = bits::eight(span);
        bits::arranged_nibbles(s, [s.strided::<18>(blocks, 0), s.strided::<18>(blocks, 1)])
    }

    #[inline(always)]
    fn pack<S: Simd>(s: S, rows: &[&[Self]; LANES], to: &mut Sixteen<'_>) {
        bits::pack_nibbles::<S, Self, { 8 * 18 }>(s, rows, to, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extreme_weight_is_kept() {
        let x: [f32; 32] = std::array::from_fn(|i| if i == 7 { -4.0 } else { (i as f32).cos() });
        let mut y = [0.0; 32];
        Q4_0::quantize(&x, None).dequantize(&mut y);
        assert_eq!(y[7], -4.0);
        for (x, y) in x.iter().zip(y) {
            assert!((x - y).abs() <= 0.26, "{x} {y}");
        }
    }
}
