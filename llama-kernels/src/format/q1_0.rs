//! Q1_0: 128 signs and one half-precision scale; a weight is `d` where the bit is set, `-d` elsewhere.

use super::{Block, IntegerBlock, Lane, Of32, Random, Scales, Zero};
use crate::simd::Simd;
use half::f16;

/// 18 bytes for 128 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Q1_0 {
    d: [u8; 2],
    q: [[u8; 8]; 2],
}

const _: () = assert!(size_of::<Q1_0>() == 18 && align_of::<Q1_0>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for Q1_0 {
    const LEN: usize = 128;
    const RANDOM: Option<Random<Self>> =
        Some(Random { std: 1.0, set_scale: |block, d| block.d = f16::from_f32(d).to_le_bytes() });

    fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(out.len(), Self::LEN);
        let d = f16::from_le_bytes(self.d).to_f32();
        for (i, out) in out.iter_mut().enumerate() {
            *out = if self.q.as_flattened()[i / 8] >> (i % 8) & 1 == 1 { d } else { -d };
        }
    }
}

impl Q1_0 {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        let bits = u64::from_le_bytes(span[stripe / 2].q[stripe % 2]);
        s.and(s.mask(bits), s.splat_u8(2))
    }
}

impl IntegerBlock for Q1_0 {
    type Lanes = Lane<2, Of32, Zero<0>>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        Scales::new(s.floats8_f16(std::array::from_fn(|i| span[i / 4].d)))
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
        let mut block = Q1_0 { d: f16::from_f32(1.5).to_le_bytes(), q: [[0; 8]; 2] };
        block.q[1][0] = 0b100;
        let mut out = [0.0; 128];
        block.dequantize(&mut out);
        assert_eq!(out[64..68], [-1.5, -1.5, 1.5, -1.5]);
    }
}
