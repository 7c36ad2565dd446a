//! Q6_K: 256 weights of six bits in 16 groups, each with a signed scale of eight bits;
//! `w = d * scale * (q - 32)`.
//!
//! Each half of the block has 64 bytes of low nibbles: byte `i` holds weight `i` of its 128 and, above,
//! weight `i + 64`. Its 32 bytes of high bits hold those of weights `i`, `i + 32`, `i + 64` and `i + 96`,
//! from the lowest bits up.

use super::search::{Levels, Symmetric};
use super::{Block, IntegerBlock, Lane, Of16, Scales, Zero, q2_k};
use crate::simd::{LANES, Simd};
use half::f16;

/// 210 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Q6_K {
    low: [[u8; 64]; 2],
    high: [[u8; 32]; 2],
    /// Signed.
    scales: [u8; 16],
    d: [u8; 2],
}

const _: () = assert!(size_of::<Q6_K>() == 210 && align_of::<Q6_K>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for Q6_K {
    const LEN: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        assert_eq!(out.len(), Self::LEN);
        for (i, out) in out.iter_mut().enumerate() {
            let scale = self.scales[i / 16] as i8;
            let low = self.low[i / 128][i % 64] >> (i % 128 / 64 * 4) & 15;
            let high = self.high[i / 128][i % 32] >> (i % 128 / 32 * 2) & 3;
            *out = d * f32::from(scale) * (f32::from(low | high << 4) - 32.0);
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let levels = Levels { lo: -32.0, hi: 31.0 };
        let found = Symmetric::<16, 16>::new(x, importance, levels, Levels { lo: -128.0, hi: 127.0 });
        let q = found.q.as_flattened();
        let mut low = [[0; 64]; 2];
        for (i, q) in q.iter().enumerate() {
            low[i / 128][i % 64] |= (q & 15) << (i % 128 / 64 * 4);
        }
        let high: Vec<u8> = q.iter().map(|q| q >> 4).collect();
        Q6_K { low, high: q2_k::pack(&high), scales: found.scales.map(|s| s as u8), d: found.d.to_le_bytes() }
    }
}

impl Q6_K {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        let block = &span[0];
        let (low, high) = (s.load_bytes(&block.low[stripe / 2]), &block.high[stripe / 2]);
        let high = s.halves(high, high);
        // The bits of the first stripe are the lower ones of each byte.
        match stripe % 2 {
            0 => s.or(s.bits(low, [0; 4], 15), s.bits(high, [-4, -4, -2, -2], 0x30)),
            _ => s.or(s.bits(low, [4; 4], 15), s.bits(high, [0, 0, 2, 2], 0x30)),
        }
    }
}

impl IntegerBlock for Q6_K {
    type Lanes = Lane<6, Of16, Zero<5>, true>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        let block = &span[0];
        Scales::new(s.mul(s.splat_f16(block.d), s.floats_i8(block.scales)))
    }

    #[inline(always)]
    fn whole(span: &[Self]) -> [u8; LANES] {
        span[0].scales
    }

    #[inline(always)]
    fn unit(span: &[Self]) -> f32 {
        f16::from_le_bytes(span[0].d).to_f32()
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
    fn what_it_can_hold_is_kept() {
        // Scales of both signs, -128 among them, and the lowest level in each group.
        let x: [f32; 256] = std::array::from_fn(|i| {
            let scale = (i / 16 * 16) as f32 - 128.0;
            scale * if i % 16 == 3 { -32.0 } else { (i * 37 % 64) as f32 - 32.0 }
        });
        let mut y = [0.0; 256];
        Q6_K::quantize(&x, None).dequantize(&mut y);
        assert_eq!(x, y);
    }
}
