//! IQ3_S: an index into 512 points for each 4 weights, a sign for each, a scale for each 32.
//!
//! The scale is `d * (2 * s + 1)`.

use super::grids::{self, IQ3_S as POINTS};
use super::{Block, IntegerBlock, Lane, Of32, Random, Scales, Zero, bits};
use crate::simd::Simd;
use half::f16;

/// 110 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IQ3_S {
    d: [u8; 2],
    /// The low eight bits of the indices.
    q: [[u8; 16]; 4],
    /// Their ninth bits.
    high: [[u8; 2]; 4],
    signs: [[u8; 8]; 4],
    /// A nibble for each 32 weights.
    scales: [u8; 4],
}

const _: () = assert!(size_of::<IQ3_S>() == 110 && align_of::<IQ3_S>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for IQ3_S {
    const LEN: usize = 256;
    const RANDOM: Option<Random<Self>> =
        Some(Random { std: 140.2, set_scale: |block, d| block.d = f16::from_f32(d).to_le_bytes() });

    fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(out.len(), Self::LEN);
        let d = f16::from_le_bytes(self.d).to_f32();
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let scale = d * f32::from(1 + 2 * (self.scales[i / 8] >> (i / 4 % 2 * 4) & 15));
            let point = |i: usize| {
                let high = self.high.as_flattened()[i / 8] >> (i % 8) & 1;
                u64::from(POINTS[usize::from(u16::from_le_bytes([self.q.as_flattened()[i], high]))])
            };
            let signs = self.signs.as_flattened()[i];
            *out = grids::weights(scale, point(2 * i) | point(2 * i + 1) << 32, signs);
        }
    }
}

impl IQ3_S {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        let block = &span[0];
        let (q, high) = (&block.q[stripe], u16::from_le_bytes(block.high[stripe]));
        let points = std::array::from_fn(|i| usize::from(q[i]) | usize::from(high >> i & 1) << 8);
        // 16 + q or 16 - q: the magnitudes are odd and below 16, so five unsigned bits hold the sign too.
        let mask = s.mask(u64::from_le_bytes(block.signs[stripe]));
        s.sub_u8(s.xor(s.quads(&POINTS, points), mask), s.sub_u8(mask, s.splat_u8(16)))
    }
}

impl IntegerBlock for IQ3_S {
    type Lanes = Lane<5, Of32, Zero<4>>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        let block = &span[0];
        let odd = bits::nibbles(u32::from_le_bytes(block.scales)) << 1 | 0x0101_0101_0101_0101;
        Scales::new(s.mul8(s.splat8_f16(block.d), s.floats8_i8(odd)))
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
        let mut block = IQ3_S {
            d: f16::from_f32(0.5).to_le_bytes(),
            q: [[0; 16]; 4],
            high: [[0; 2]; 4],
            signs: [[0; 8]; 4],
            scales: [0x70; 4],
        };
        // Weights 124..128: point 511, the last one negative.
        (block.q[1][15], block.high[1][1], block.signs[1][7]) = (255, 0x80, 0x80);
        let mut out = [0.0; 256];
        block.dequantize(&mut out);
        let [a, b, c, d] = POINTS[511].to_le_bytes().map(|v| 7.5 * f32::from(v));
        assert_eq!(out[124..128], [a, b, c, -d]);
        assert_eq!((out[0], out[32]), (0.5, 7.5));
    }
}
