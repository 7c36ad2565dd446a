//! IQ1_S: an index into 2048 points of -1, 0 and 1 for each 8 weights, a scale and a shift for each 32.
//!
//! `w = d * (2 * s + 1) * (point + 1/8)`, or minus an eighth. In integers: eight times as much.

use super::grids::{self, IQ1 as POINTS};
use super::{Block, IntegerBlock, Lane, Of32, Random, Scales, Zero};
use crate::simd::Simd;
use half::f16;

/// 50 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IQ1_S {
    d: [u8; 2],
    /// The low eight bits of the indices.
    q: [[u8; 8]; 4],
    /// For each 32 weights a word: four times three high bits of indices, three bits of scale, and
    /// whether the shift is negative.
    high: [[u8; 4]; 4],
}

const _: () = assert!(size_of::<IQ1_S>() == 50 && align_of::<IQ1_S>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for IQ1_S {
    const LEN: usize = 256;
    const RANDOM: Option<Random<Self>> =
        Some(Random { std: 7.2, set_scale: |block, d| block.d = f16::from_f32(d).to_le_bytes() });

    fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(out.len(), Self::LEN);
        let d = f16::from_le_bytes(self.d).to_f32();
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let word = u16::from_le_bytes(self.high.as_flattened().as_chunks::<2>().0[i / 4]);
            let scale = d * f32::from(2 * (word >> 12 & 7) + 1);
            let index = u16::from(self.q.as_flattened()[i]) | (word >> (i % 4 * 3) & 7) << 8;
            *out = grids::shifted(scale, POINTS[usize::from(index)], word >> 15 == 1);
        }
    }
}

impl IQ1_S {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        let block = &span[0];
        let (q, words) = (&block.q[stripe], u32::from_le_bytes(block.high[stripe]));
        let [a, b] = [words as u16, (words >> 16) as u16];
        let point = |i: usize, word: u16| usize::from(q[i]) | usize::from(word >> (i % 4 * 3) & 7) << 8;
        let points = std::array::from_fn(|i| point(i, if i < 4 { a } else { b }));
        let minus = |word: u16| u64::from(word >> 15) * 0xffff_ffff;
        grids::shift(s, s.octets(&POINTS, points), minus(a) | minus(b) << 32)
    }
}

impl IntegerBlock for IQ1_S {
    type Lanes = Lane<5, Of32, Zero<4>>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        let block = &span[0];
        let odd = |i: usize| (block.high[i / 2][i % 2 * 2 + 1] >> 4 & 7) * 2 + 1;
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
        let mut block = IQ1_S { d: f16::from_f32(8.0).to_le_bytes(), q: [[0; 8]; 4], high: [[0; 4]; 4] };
        // Weights 32..64: three times the scale, shifted down; the last eight are all 1, the others all -1.
        (block.q[0][7], block.high[0][2], block.high[0][3]) = (255, 0, 0x9e);
        let mut out = [0.0; 256];
        block.dequantize(&mut out);
        assert_eq!(out[55..57], [24.0 * -1.125, 24.0 * 0.875]);
        assert_eq!(out[0], 8.0 * -0.875);
    }
}
