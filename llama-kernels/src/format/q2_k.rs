//! Q2_K: 256 weights of two bits in 16 groups, each with a scale and a minimum of four bits;
//! `w = d * scale * q - dmin * min`.
//!
//! Byte `i` of each 32 holds weights `i`, `i + 32`, `i + 64` and `i + 96` of its 128, from the lowest
//! bits up.

use super::search::Affine;
use super::{Block, IntegerBlock, Lane, Minimum, Of16, Scales};
use crate::simd::Simd;
use half::f16;

/// 84 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Q2_K {
    /// Scales in the low nibbles, minimums in the high ones.
    scales: [u8; 16],
    q: [[u8; 32]; 2],
    d: [u8; 2],
    dmin: [u8; 2],
}

const _: () = assert!(size_of::<Q2_K>() == 84 && align_of::<Q2_K>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for Q2_K {
    const LEN: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        let (d, dmin) = (f16::from_le_bytes(self.d).to_f32(), f16::from_le_bytes(self.dmin).to_f32());
        assert_eq!(out.len(), Self::LEN);
        for (i, out) in out.iter_mut().enumerate() {
            let (scale, min) = (self.scales[i / 16] & 15, self.scales[i / 16] >> 4);
            let q = self.q[i / 128][i % 32] >> (i % 128 / 32 * 2) & 3;
            *out = d * f32::from(scale) * f32::from(q) - dmin * f32::from(min);
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let found = Affine::<16, 16>::new(x, importance, 3.0, 15.0);
        Q2_K {
            scales: std::array::from_fn(|g| found.scales[g] | found.mins[g] << 4),
            q: pack(found.q.as_flattened()),
            d: found.d.to_le_bytes(),
            dmin: found.dmin.to_le_bytes(),
        }
    }
}

/// The low two bits of 256 weights, as Q2_K and others store them.
pub(super) fn pack(q: &[u8]) -> [[u8; 32]; 2] {
    let mut packed = [[0; 32]; 2];
    for (i, q) in q.iter().enumerate() {
        packed[i / 128][i % 32] |= (q & 3) << (i % 128 / 32 * 2);
    }
    packed
}

/// The inverse for 64 weights.
#[inline(always)]
pub(super) fn unpack<S: Simd>(s: S, q: &[[u8; 32]; 2], stripe: usize) -> S::I {
    let bytes = &q[stripe / 2];
    let shift = stripe as i32 % 2 * 4;
    s.bits(s.halves(bytes, bytes), [shift, shift, shift + 2, shift + 2], 3)
}

impl Q2_K {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        unpack(s, &span[0].q, stripe)
    }
}

impl IntegerBlock for Q2_K {
    type Lanes = Lane<2, Of16, Minimum>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        let block = &span[0];
        let scales = u128::from_le_bytes(block.scales);
        let nibbles = |x: u128| (x & u128::from_le_bytes([15; 16])).to_le_bytes();
        Scales {
            scale: s.mul(s.splat_f16(block.d), s.floats_i8(nibbles(scales))),
            min: s.mul(s.splat_f16(block.dmin), s.floats_i8(nibbles(scales >> 4))),
        }
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
        // Groups that use all four levels, with scales and minimums that are multiples of 1 and 0.5.
        let x: [f32; 256] =
            std::array::from_fn(|i| ((i / 16 + 1).min(15) * (i * 7 % 4)) as f32 - (i / 16) as f32 / 2.0);
        let mut y = [0.0; 256];
        Q2_K::quantize(&x, None).dequantize(&mut y);
        assert_eq!(x, y);
    }
}
