//! IQ3_XXS: an index into 256 points for each 4 weights, 28 sign bits and a scale for each 32.
//!
//! The scale is `d * (s + 1/2) / 2`. Seven of eight signs are stored: the number of minuses is even.

use super::grids::{self, IQ3_XXS as POINTS};
use super::{Block, IntegerBlock, Lane, Nothing, Of32, Random, Scales, bits};
use crate::simd::Simd;
use half::f16;

/// 98 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IQ3_XXS {
    d: [u8; 2],
    q: [[u8; 16]; 4],
    /// Words of four times seven signs and a 4-bit scale.
    signs: [[u8; 8]; 4],
}

const _: () = assert!(size_of::<IQ3_XXS>() == 98 && align_of::<IQ3_XXS>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for IQ3_XXS {
    const LEN: usize = 256;
    const RANDOM: Option<Random<Self>> =
        Some(Random { std: 142.4, set_scale: |block, d| block.d = f16::from_f32(d).to_le_bytes() });

    fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(out.len(), Self::LEN);
        let d = f16::from_le_bytes(self.d).to_f32();
        let pairs = self.q.as_flattened().as_chunks::<2>().0;
        for (i, (&pair, out)) in pairs.iter().zip(out.as_chunks_mut::<8>().0).enumerate() {
            let word = u32::from_le_bytes(self.signs.as_flattened().as_chunks::<4>().0[i / 4]);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
            let signs = bits::even_signs((word >> (7 * (i % 4)) & 127).into()) as u8;
            let [low, high] = pair.map(|index| u64::from(POINTS[usize::from(index)]));
            *out = grids::weights(scale, low | high << 32, signs);
        }
    }
}

impl IQ3_XXS {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        let block = &span[0];
        let points = block.q[stripe].map(usize::from);
        let words = u64::from_le_bytes(block.signs[stripe]);
        let (a, b) = (words as u32, (words >> 32) as u32);
        let signs = u64::from(bits::sevens(a)) | u64::from(bits::sevens(b)) << 32;
        grids::negate(s, s.quads(&POINTS, points), bits::even_signs(signs))
    }
}

impl IntegerBlock for IQ3_XXS {
    type Lanes = Lane<8, Of32, Nothing>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        let block = &span[0];
        let odd = |i: usize| (block.signs[i / 2][i % 2 * 4 + 3] >> 4) * 2 + 1;
        let d = s.mul8(s.splat8_f16(block.d), s.splat8(1.0 / 4.0));
        Scales::new(s.mul8(d, s.floats8_i8(u64::from_le_bytes(std::array::from_fn(odd)))))
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        s.regroup(Self::stripe(s, span, 2 * pair), Self::stripe(s, span, 2 * pair + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_by_hand() {
        let mut block = IQ3_XXS { d: f16::from_f32(2.0).to_le_bytes(), q: [[0; 16]; 4], signs: [[0; 8]; 4] };
        // Weights 236..240: point 255; of 232..240 the first and the fifth are negative.
        block.q[3][11] = 255;
        block.signs[3][4..].copy_from_slice(&(0b1_0001 << 7 | 2u32 << 28).to_le_bytes());
        let mut out = [0.0; 256];
        block.dequantize(&mut out);
        let [a, b, c, d] = POINTS[255].to_le_bytes().map(|v| 2.5 * f32::from(v));
        assert_eq!(out[232..240], [-10.0, 10.0, 10.0, 10.0, -a, b, c, d]);
        assert_eq!(out[0], 2.0);
    }
}
