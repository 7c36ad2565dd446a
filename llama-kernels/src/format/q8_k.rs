//! Q8_K: 256 signed bytes (kept as `u8`) and one single-precision scale; `w = d * q`.
//!
//! ggml quantizes activations to it; files that hold weights in it are rare.

use super::{Block, IntegerBlock, Lane, Nothing, Of32, Scales};
use crate::simd::Simd;

/// 292 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Q8_K {
    d: [u8; 4],
    q: [[u8; 64]; 4],
    /// Sums of 16 integers each, 16 bits; nothing here reads them.
    sums: [[u8; 2]; 16],
}

const _: () = assert!(size_of::<Q8_K>() == 292 && align_of::<Q8_K>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for Q8_K {
    const LEN: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        let d = f32::from_le_bytes(self.d);
        assert_eq!(out.len(), Self::LEN);
        for (out, &q) in out.iter_mut().zip(self.q.as_flattened()) {
            *out = d * f32::from(q as i8);
        }
    }

    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        assert_eq!(x.len(), Self::LEN);
        let d = x.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let q = |i: usize| (x[i] * inverse).round() as i8;
        Q8_K {
            d: d.to_le_bytes(),
            q: std::array::from_fn(|j| std::array::from_fn(|i| q(64 * j + i) as u8)),
            sums: std::array::from_fn(|g| {
                (0..16).map(|i| i16::from(q(16 * g + i))).sum::<i16>().to_le_bytes()
            }),
        }
    }
}

impl Q8_K {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        s.load_bytes(&span[0].q[stripe])
    }
}

impl IntegerBlock for Q8_K {
    type Lanes = Lane<8, Of32, Nothing>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        Scales::new(s.splat8(f32::from_le_bytes(span[0].d)))
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
    fn integers_and_their_sums_are_kept() {
        let x: [f32; 256] = std::array::from_fn(|i| (i as f32 * 0.5 - 63.5) * 2.0);
        let (block, mut y) = (Q8_K::quantize(&x, None), [0.0; 256]);
        block.dequantize(&mut y);
        for (x, y) in x.iter().zip(y) {
            assert!((x - y).abs() <= 0.51 * 128.0 / 127.0, "{x} {y}");
        }
        let sum: i16 = block.q[0][..16].iter().map(|&q| i16::from(q as i8)).sum();
        assert_eq!(block.sums[0], sum.to_le_bytes());
    }
}
