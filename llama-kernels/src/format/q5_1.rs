//! Q5_1: 32 weights of five bits, a scale and an offset; `w = d * q + m`. The bits lie as in
//! [`Q5_0`](super::Q5_0).

use super::q5_0::{fifth, split};
use super::{Block, IntegerBlock, Lane, Minimum, Of32, Scales, bits, search};
use crate::simd::Simd;
use half::f16;

/// 24 bytes for 32 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Q5_1 {
    d: [u8; 2],
    m: [u8; 2],
    high: [u8; 4],
    q: [u8; 16],
}

const _: () = assert!(size_of::<Q5_1>() == 24 && align_of::<Q5_1>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for Q5_1 {
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let (d, m) = (f16::from_le_bytes(self.d).to_f32(), f16::from_le_bytes(self.m).to_f32());
        let high = u32::from_le_bytes(self.high);
        assert_eq!(out.len(), Self::LEN);
        for (i, out) in out.iter_mut().enumerate() {
            let low = self.q[i % 16] >> (i / 16 * 4) & 15;
            let q = low | ((high >> i & 1) as u8) << 4;
            *out = d * f32::from(q) + m;
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let (d, m, q) = search::affine(x, importance, 31.0);
        let (high, q) = split(&q);
        Q5_1 { d: d.to_le_bytes(), m: m.to_le_bytes(), high, q }
    }
}

impl IntegerBlock for Q5_1 {
    type Lanes = Lane<5, Of32, Minimum>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        Scales {
            scale: s.strided8_f16::<24>(bits::eight(span)),
            min: s.mul8(s.splat8(-1.0), s.floats8_f16(std::array::from_fn(|i| span[i].m))),
        }
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        let [a, b] = bits::nibble_halves(s, s.strided::<24>(bits::eight(span), pair));
        let [high_a, high_b] = fifth(s, std::array::from_fn(|i| span[4 * pair + i].high));
        [s.or(a, high_a), s.or(b, high_b)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_reached() {
        let x: [f32; 32] = std::array::from_fn(|i| (i as f32 * 7.0) % 32.0 + 3.0);
        let mut y = [0.0; 32];
        Q5_1::quantize(&x, None).dequantize(&mut y);
        assert_eq!(x, y);
    }
}
