//! IQ2_S: an index into 1024 points and eight signs for each 8 weights, a scale for each 16.
//!
//! The scale is `d * (s + 1/2) / 4`.

use super::grids::{self, IQ2_S as POINTS};
use super::{Block, IntegerBlock, Lane, Nothing, Of16, Random, Scales, bits};
use crate::simd::Simd;
use half::f16;

/// 82 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IQ2_S {
    d: [u8; 2],
    /// The low eight bits of the indices.
    q: [[u8; 8]; 4],
    signs: [[u8; 8]; 4],
    /// The high two bits of the indices.
    high: [[u8; 2]; 4],
    /// A nibble for each 16 weights.
    scales: [[u8; 2]; 4],
}

const _: () = assert!(size_of::<IQ2_S>() == 82 && align_of::<IQ2_S>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for IQ2_S {
    const LEN: usize = 256;
    const RANDOM: Option<Random<Self>> =
        Some(Random { std: 56.4, set_scale: |block, d| block.d = f16::from_f32(d).to_le_bytes() });

    fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(out.len(), Self::LEN);
        let d = f16::from_le_bytes(self.d).to_f32();
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let scale = self.scales.as_flattened()[i / 4] >> (i / 2 % 2 * 4) & 15;
            let scale = d * (0.5 + f32::from(scale)) * 0.25;
            let high = self.high.as_flattened()[i / 4] >> (i % 4 * 2) & 3;
            let index = u16::from_le_bytes([self.q.as_flattened()[i], high]);
            *out = grids::weights(scale, POINTS[usize::from(index)], self.signs.as_flattened()[i]);
        }
    }
}

impl IQ2_S {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        let block = &span[0];
        let (q, high) = (&block.q[stripe], u16::from_le_bytes(block.high[stripe]));
        let points = std::array::from_fn(|i| usize::from(q[i]) | usize::from(high >> (2 * i) & 3) << 8);
        grids::negate(s, s.octets(&POINTS, points), u64::from_le_bytes(block.signs[stripe]))
    }
}

impl IntegerBlock for IQ2_S {
    type Lanes = Lane<8, Of16, Nothing>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        let block = &span[0];
        let d = s.mul(s.splat_f16(block.d), s.splat(1.0 / 8.0));
        Scales::new(s.mul(d, s.floats_i8(bits::odd_nibbles(block.scales))))
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        [Self::stripe(s, span, 2 * pair), Self::stripe(s, span, 2 * pair + 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_by_hand() {
        let mut block = IQ2_S {
            d: f16::from_f32(8.0).to_le_bytes(),
            q: [[0; 8]; 4],
            signs: [[0; 8]; 4],
            high: [[0; 2]; 4],
            scales: [[0x31; 2]; 4],
        };
        // Weights 88..96: point 1023, only the first weight negative.
        (block.q[1][3], block.high[1][0], block.signs[1][3]) = (255, 0b1100_0000, 1);
        let mut out = [0.0; 256];
        block.dequantize(&mut out);
        let [a, b, c, d, e, f, g, h] = POINTS[1023].to_le_bytes().map(|v| 7.0 * f32::from(v));
        assert_eq!(out[88..96], [-a, b, c, d, e, f, g, h]);
        assert_eq!((out[0], out[16]), (24.0, 56.0));
    }
}
