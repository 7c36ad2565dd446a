//! Q5_0: 32 weights of five bits and a scale; `w = d * (q - 16)`.
//!
//! Byte `i` holds the low bits of weight `i` in its low nibble and those of weight `i + 16` in its high
//! one; bit `i` of `high` is the fifth bit of weight `i`.

use super::{Block, IntegerBlock, Lane, Scales, search};
use crate::simd::Simd;
use half::f16;

/// 22 bytes for 32 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Q5_0 {
    d: [u8; 2],
    high: [u8; 4],
    q: [u8; 16],
}

const _: () = assert!(size_of::<Q5_0>() == 22 && align_of::<Q5_0>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for Q5_0 {
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        let high = u32::from_le_bytes(self.high);
        assert_eq!(out.len(), Self::LEN);
        for (i, out) in out.iter_mut().enumerate() {
            let low = self.q[i % 16] >> (i / 16 * 4) & 15;
            let q = low | ((high >> i & 1) as u8) << 4;
            *out = d * (f32::from(q) - 16.0);
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let (d, q) = search::symmetric(x, importance, 16.0);
        let (high, q) = split(&q);
        Q5_0 { d: d.to_le_bytes(), high, q }
    }
}

/// Five bits as one and four, as Q5_0 and Q5_1 store them.
pub(super) fn split(q: &[u8; 32]) -> ([u8; 4], [u8; 16]) {
    let high = (0..32).fold(0, |bits, i| bits | u32::from(q[i] >> 4) << i);
    (high.to_le_bytes(), std::array::from_fn(|i| q[i] & 15 | q[i + 16] << 4))
}

/// The fifth bits of two blocks in their place.
#[inline(always)]
pub(super) fn fifth<S: Simd>(s: S, a: [u8; 4], b: [u8; 4]) -> S::I {
    let bits = u64::from(u32::from_le_bytes(a)) | u64::from(u32::from_le_bytes(b)) << 32;
    s.and(s.mask(bits), s.splat_u8(16))
}

impl IntegerBlock for Q5_0 {
    type Lanes = Lane<5, false, false>;
    const ZERO: Option<u32> = Some(4);

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S> {
        Scales::new(s.pairs_f16(std::array::from_fn(|i| span[i].d)))
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        let (a, b) = (&span[2 * stripe], &span[2 * stripe + 1]);
        s.or(s.nibbles16(&a.q, &b.q), fifth(s, a.high, b.high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_reached() {
        let x: [f32; 32] = std::array::from_fn(|i| (i as f32 * 7.0) % 32.0 - 16.0);
        let mut y = [0.0; 32];
        Q5_0::quantize(&x, None).dequantize(&mut y);
        assert_eq!(x, y);
    }
}
