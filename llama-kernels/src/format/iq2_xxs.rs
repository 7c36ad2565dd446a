//! IQ2_XXS: an index into 256 points for each 8 weights, and 28 sign bits and a scale for each 32.
//!
//! The scale is `d * (s + 1/2) / 4`. Seven of eight signs are stored: the number of minuses is even.

use super::grids::{self, IQ2_XXS as POINTS};
use super::{Block, IntegerBlock, Lane, Nothing, Of32, Random, Scales, bits};
use crate::simd::Simd;
use half::f16;

/// 66 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IQ2_XXS {
    d: [u8; 2],
    /// For each 32 weights four indices, then a word of four times seven signs and a 4-bit scale.
    q: [[u8; 16]; 4],
}

const _: () = assert!(size_of::<IQ2_XXS>() == 66 && align_of::<IQ2_XXS>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for IQ2_XXS {
    const LEN: usize = 256;
    const RANDOM: Option<Random<Self>> =
        Some(Random { std: 53.4, set_scale: |block, d| block.d = f16::from_f32(d).to_le_bytes() });

    fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(out.len(), Self::LEN);
        let d = f16::from_le_bytes(self.d).to_f32();
        let groups = self.q.as_flattened().as_chunks::<8>().0;
        for (&[a, b, c, e, word @ ..], out) in groups.iter().zip(out.as_chunks_mut::<32>().0) {
            let word = u32::from_le_bytes(word);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
            let signs = bits::even_signs(bits::sevens(word).into()).to_le_bytes();
            for (i, index) in [a, b, c, e].into_iter().enumerate() {
                let point = POINTS[usize::from(index)];
                out[8 * i..8 * i + 8].copy_from_slice(&grids::weights(scale, point, signs[i]));
            }
        }
    }
}

impl IQ2_XXS {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        let q = &span[0].q[stripe];
        let points = std::array::from_fn(|i| usize::from(q[i / 4 * 8 + i % 4]));
        let [_, a, _, b] = q.as_chunks::<4>().0 else { unreachable!("four words") };
        let (a, b) = (u32::from_le_bytes(*a), u32::from_le_bytes(*b));
        let signs = u64::from(bits::sevens(a)) | u64::from(bits::sevens(b)) << 32;
        grids::negate(s, s.octets(&POINTS, points), bits::even_signs(signs))
    }
}

impl IntegerBlock for IQ2_XXS {
    type Lanes = Lane<8, Of32, Nothing>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        let block = &span[0];
        let odd = |i: usize| (block.q[i / 2][i % 2 * 8 + 7] >> 4) * 2 + 1;
        let d = s.mul8(s.splat8_f16(block.d), s.splat8(1.0 / 8.0));
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
        let mut block = IQ2_XXS { d: f16::from_f32(2.0).to_le_bytes(), q: [[0; 16]; 4] };
        // Weights 72..80: point 1 with signs 1 and 3 (so no eighth one), scale 2 * (3 + 1/2) / 4.
        block.q[1][9] = 1;
        block.q[1][12..].copy_from_slice(&(0b101 << 7 | 3u32 << 28).to_le_bytes());
        let mut out = [0.0; 256];
        block.dequantize(&mut out);
        let point = POINTS[1].to_le_bytes().map(|v| 1.75 * f32::from(v));
        assert_eq!(
            out[104..112],
            [-point[0], point[1], -point[2], point[3], point[4], point[5], point[6], point[7]]
        );
        assert_eq!(out[0], 2.0);
    }
}
