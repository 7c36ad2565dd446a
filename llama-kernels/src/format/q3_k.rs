//! Q3_K: 256 weights of three bits in 16 groups, each with a scale of six bits;
//! `w = d * (scale - 32) * (q - 4)`.
//!
//! The low two bits of the weights lie as in [`Q2_K`](super::Q2_K); bit `j` of byte `i` of `high` is the
//! third bit of weight `32 * j + i`. Scale `j` has its low four bits in a nibble of byte `j % 8` (the low
//! one for `j < 8`) and its high two in byte `8 + j % 4`, from the lowest bits up.

use super::search::{Levels, Symmetric};
use super::{Block, IntegerBlock, Lane, Of16, Scales, Zero, bits, q2_k};
use crate::simd::{LANES, Simd};
use half::f16;

/// 110 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Q3_K {
    high: [u8; 32],
    q: [[u8; 32]; 2],
    scales: [u8; 12],
    d: [u8; 2],
}

const _: () = assert!(size_of::<Q3_K>() == 110 && align_of::<Q3_K>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for Q3_K {
    const LEN: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        assert_eq!(out.len(), Self::LEN);
        for (i, out) in out.iter_mut().enumerate() {
            let g = i / 16;
            let scale =
                self.scales[g % 8] >> (g / 8 * 4) & 15 | (self.scales[8 + g % 4] >> (g / 4 * 2) & 3) << 4;
            let low = self.q[i / 128][i % 32] >> (i % 128 / 32 * 2) & 3;
            let q = low | (self.high[i % 32] >> (i / 32) & 1) << 2;
            *out = d * (f32::from(scale) - 32.0) * (f32::from(q) - 4.0);
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let levels = Levels { lo: -4.0, hi: 3.0 };
        let found = Symmetric::<16, 16>::new(x, importance, levels, Levels { lo: -32.0, hi: 31.0 });
        let (mut high, mut scales) = ([0; 32], [0; 12]);
        for (i, q) in found.q.as_flattened().iter().enumerate() {
            high[i % 32] |= (q >> 2) << (i / 32);
        }
        for (g, scale) in found.scales.iter().enumerate() {
            let scale = (scale + 32) as u8;
            scales[g % 8] |= (scale & 15) << (g / 8 * 4);
            scales[8 + g % 4] |= (scale >> 4) << (g / 4 * 2);
        }
        Q3_K { high, q: q2_k::pack(found.q.as_flattened()), scales, d: found.d.to_le_bytes() }
    }
}

impl Q3_K {
    /// The sixteen scales, signed.
    #[inline(always)]
    fn scales(&self) -> [u8; 16] {
        let &[a, b, c, d, e, f, g, h, ref high @ ..] = &self.scales;
        let low = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let high = u64::from(u32::from_le_bytes(*high));
        let high = high | high << 30;
        let with_high = |low: u64, high: u64| {
            bits::less_32(low & 0x0f0f_0f0f_0f0f_0f0f | (high & 0x0303_0303_0303_0303) << 4)
        };
        bits::bytes(with_high(low, high), with_high(low >> 4, high >> 4))
    }
}

impl Q3_K {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        let block = &span[0];
        // Bits `2 * stripe` and the next one go to bit 2.
        let high = s.halves(&block.high, &block.high);
        let shift = 2 * stripe as i32 - 2;
        s.or(q2_k::unpack(s, &block.q, stripe), s.bits(high, [shift, shift, shift + 1, shift + 1], 4))
    }
}

impl IntegerBlock for Q3_K {
    type Lanes = Lane<3, Of16, Zero<2>, true>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        let block = &span[0];
        Scales::new(s.mul(s.splat_f16(block.d), s.floats_i8(block.scales())))
    }

    #[inline(always)]
    fn whole(span: &[Self]) -> [u8; LANES] {
        span[0].scales()
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
        // All eight levels in each group; scales of both signs, -32 among them.
        let x: [f32; 256] = std::array::from_fn(|i| {
            let scale = (i / 16 * 4) as f32 - 32.0;
            scale * ((i * 5 % 8) as f32 - 4.0)
        });
        let mut y = [0.0; 256];
        Q3_K::quantize(&x, None).dequantize(&mut y);
        assert_eq!(x, y);
    }
}
