//! IQ2_XS: for each 8 weights an index into 512 points and seven signs, for each 16 a scale.
//!
//! The scale is `d * (s + 1/2) / 4`. The eighth sign makes the number of minuses even.

use super::grids::{self, IQ2_XS as POINTS};
use super::{Block, IntegerBlock, Lane, Nothing, Of16, Random, Scales, bits};
use crate::simd::Simd;
use half::f16;

/// 74 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IQ2_XS {
    d: [u8; 2],
    /// Words of nine bits of index and seven of signs.
    q: [[u8; 16]; 4],
    /// A nibble for each 16 weights.
    scales: [[u8; 2]; 4],
}

const _: () = assert!(size_of::<IQ2_XS>() == 74 && align_of::<IQ2_XS>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for IQ2_XS {
    const LEN: usize = 256;
    const RANDOM: Option<Random<Self>> =
        Some(Random { std: 55.9, set_scale: |block, d| block.d = f16::from_f32(d).to_le_bytes() });

    fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(out.len(), Self::LEN);
        let d = f16::from_le_bytes(self.d).to_f32();
        let words = self.q.as_flattened().as_chunks::<2>().0;
        for (i, (word, out)) in words.iter().zip(out.as_chunks_mut::<8>().0).enumerate() {
            let word = u16::from_le_bytes(*word);
            let scale = self.scales.as_flattened()[i / 4] >> (i / 2 % 2 * 4) & 15;
            let scale = d * (0.5 + f32::from(scale)) * 0.25;
            let signs = bits::even_signs((word >> 9).into()) as u8;
            *out = grids::weights(scale, POINTS[usize::from(word & 511)], signs);
        }
    }
}

impl IQ2_XS {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        let q = &span[0].q[stripe];
        let words = u128::from_le_bytes(*q);
        let (low, high) = (words as u64, (words >> 64) as u64);
        let points = std::array::from_fn(|i| (if i < 4 { low } else { high } >> (i % 4 * 16)) as usize);
        let signs = bits::low_sevens(low >> 9) | bits::low_sevens(high >> 9) << 32;
        grids::negate(s, s.octets(&POINTS, points), bits::even_signs(signs))
    }
}

impl IntegerBlock for IQ2_XS {
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
        let mut block =
            IQ2_XS { d: f16::from_f32(-4.0).to_le_bytes(), q: [[0; 16]; 4], scales: [[0x20; 2]; 4] };
        // Weights 216..224: the last point, the second weight negative, and so the eighth.
        block.q[3][6..8].copy_from_slice(&(0b10 << 9 | 511u16).to_le_bytes());
        let mut out = [0.0; 256];
        block.dequantize(&mut out);
        let [a, b, c, d, e, f, g, h] = POINTS[511].to_le_bytes().map(|v| -2.5 * f32::from(v));
        assert_eq!(out[216..224], [a, -b, c, d, e, f, g, -h]);
        assert_eq!((out[0], out[16]), (-4.0, -20.0));
    }
}
