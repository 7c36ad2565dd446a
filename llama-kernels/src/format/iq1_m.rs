//! IQ1_M: an index into 2048 points of -1, 0 and 1 and a shift for each 8 weights, a scale for each 16.
//!
//! `w = d * (2 * s + 1) * (point + 1/8)`, or minus an eighth. In integers: eight times as much.
//! The half-precision `d` lies in the highest four bits of the four words of scales.

use super::grids::{self, IQ1 as POINTS};
use super::{Block, IntegerBlock, Lane, Of16, Random, Scales, Zero, bits};
use crate::simd::Simd;
use half::f16;

/// 56 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IQ1_M {
    /// The low eight bits of the indices.
    q: [[u8; 8]; 4],
    /// For each 8 weights a nibble: three high bits of the index, and whether the shift is negative.
    high: [[u8; 4]; 4],
    /// For each 64 weights a word: four times three bits of scale, and four bits of `d`, the low ones first.
    scales: [[u8; 2]; 4],
}

const _: () = assert!(size_of::<IQ1_M>() == 56 && align_of::<IQ1_M>() == 1);

impl IQ1_M {
    /// The half-precision scale of the block.
    #[inline(always)]
    fn d(&self) -> [u8; 2] {
        let [[_, a], [_, b], [_, c], [_, d]] = self.scales;
        [a >> 4 | b & 0xf0, c >> 4 | d & 0xf0]
    }

    fn set_d(&mut self, d: f32) {
        let d = f16::from_f32(d).to_bits();
        for (i, [_, high]) in self.scales.iter_mut().enumerate() {
            *high = *high & 15 | ((d >> (4 * i) & 15) as u8) << 4;
        }
    }
}

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for IQ1_M {
    const LEN: usize = 256;
    const RANDOM: Option<Random<Self>> = Some(Random { std: 7.2, set_scale: IQ1_M::set_d });

    fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(out.len(), Self::LEN);
        let d = f16::from_le_bytes(self.d()).to_f32();
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let scale = u16::from_le_bytes(self.scales[i / 8]) >> (i / 2 % 4 * 3) & 7;
            let nibble = self.high.as_flattened()[i / 2] >> (i % 2 * 4) & 15;
            let index = u16::from_le_bytes([self.q.as_flattened()[i], nibble & 7]);
            *out = grids::shifted(d * f32::from(2 * scale + 1), POINTS[usize::from(index)], nibble >= 8);
        }
    }
}

impl IQ1_M {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        let block = &span[0];
        let (q, high) = (&block.q[stripe], u32::from_le_bytes(block.high[stripe]));
        let points = std::array::from_fn(|i| usize::from(q[i]) | ((high >> (4 * i) & 7) as usize) << 8);
        let minus = bits::nibbles(high) >> 3 & 0x0101_0101_0101_0101;
        grids::shift(s, s.octets(&POINTS, points), minus * 255)
    }
}

impl IntegerBlock for IQ1_M {
    type Lanes = Lane<5, Of16, Zero<4>>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        let block = &span[0];
        let d = s.mul(s.splat_f16(block.d()), s.splat(1.0 / 8.0));
        let odd = bits::threes(block.scales).map(|scale| 2 * scale + 1);
        Scales::new(s.mul(d, s.floats_i8(odd)))
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
        let mut block = IQ1_M { q: [[0; 8]; 4], high: [[0; 4]; 4], scales: [[0; 2]; 4] };
        block.set_d(-8.0);
        // Weights 72..80 are all 1, shifted down; their 16 have five times the scale.
        (block.q[1][1], block.high[1][0], block.scales[1][0]) = (255, 0xf0, 2);
        let mut out = [0.0; 256];
        block.dequantize(&mut out);
        assert_eq!(out[71..81], [[35.0; 1].as_slice(), &[-35.0; 8], &[7.0]].concat());
        assert_eq!(block.d(), f16::from_f32(-8.0).to_le_bytes());
    }
}
