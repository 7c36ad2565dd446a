//! TQ2_0: 256 ternary weights of two bits and one scale; `w = d * (q - 1)`.
//!
//! The bits lie as in [`Q2_K`](super::Q2_K).

use super::{Block, IntegerBlock, Lane, Of32, Scales, Zero, q2_k};
use crate::simd::Simd;
use half::f16;

/// 66 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct TQ2_0 {
    q: [[u8; 32]; 2],
    d: [u8; 2],
}

const _: () = assert!(size_of::<TQ2_0>() == 66 && align_of::<TQ2_0>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for TQ2_0 {
    const LEN: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        assert_eq!(out.len(), Self::LEN);
        for (i, out) in out.iter_mut().enumerate() {
            let q = self.q[i / 128][i % 32] >> (i % 128 / 32 * 2) & 3;
            *out = d * (f32::from(q) - 1.0);
        }
    }

    /// Importance has no influence: the scale of weights that were trained to be ternary is given.
    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        let (d, q) = ternary(x);
        TQ2_0 { q: q2_k::pack(&q), d: d.to_le_bytes() }
    }
}

/// The largest magnitude, and the multiples of it (plus 1) that the weights are closest to.
///
/// # Panics
/// If there are not 256 weights.
pub(super) fn ternary(x: &[f32]) -> (f16, [u8; 256]) {
    let x: &[f32; 256] = x.try_into().expect("weights of a block");
    let d = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    (f16::from_f32(d), x.map(|v| ((v * inverse).round() + 1.0).min(2.0) as u8))
}

impl TQ2_0 {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        q2_k::unpack(s, &span[0].q, stripe)
    }
}

impl IntegerBlock for TQ2_0 {
    type Lanes = Lane<2, Of32, Zero<0>>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        Scales::new(s.splat8_f16(span[0].d))
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
    fn ternary_weights_are_kept() {
        let x: [f32; 256] = std::array::from_fn(|i| ((i * i / 7 + i) % 3) as f32 * 0.5 - 0.5);
        let mut y = [0.0; 256];
        TQ2_0::quantize(&x, None).dequantize(&mut y);
        assert_eq!(x, y);
    }
}
