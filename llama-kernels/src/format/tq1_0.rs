//! TQ1_0: 256 ternary weights, five to a byte, and one scale; `w = d * (q - 1)`.
//!
//! A byte is a fraction of 256: of three times its value, what carries out is the first of its weights,
//! and what remains holds the others. Byte `i` of the first 32 holds weights `i + 32 * n`, `n` in 0..5;
//! byte `i` of the next 16 weights `160 + i + 16 * n`; byte `i` of the last four weights
//! `240 + i + 4 * n`, `n` in 0..4.

use super::{Block, IntegerBlock, Lane, Of32, Scales, Zero, tq2_0};
use crate::simd::{STRIPE, Simd};
use half::f16;

/// 54 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct TQ1_0 {
    q: [u8; 52],
    d: [u8; 2],
}

const _: () = assert!(size_of::<TQ1_0>() == 54 && align_of::<TQ1_0>() == 1);

/// Which byte holds a weight, and as which of its weights.
const fn place(i: usize) -> (usize, usize) {
    match i {
        0..160 => (i % 32, i / 32),
        160..240 => (32 + i % 16, (i - 160) / 16),
        _ => (48 + i % 4, (i - 240) / 4),
    }
}

/// Multiplied by three to the power of `n`, a byte has weight `n` at its front.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for TQ1_0 {
    const LEN: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        assert_eq!(out.len(), Self::LEN);
        for (i, out) in out.iter_mut().enumerate() {
            let (byte, n) = place(i);
            let fraction = self.q[byte].wrapping_mul(POWERS[n]);
            let q = (u16::from(fraction) * 3) >> 8;
            *out = d * (f32::from(q) - 1.0);
        }
    }

    /// Importance has no influence: the scale of weights that were trained to be ternary is given.
    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        let (d, q) = tq2_0::ternary(x);
        let mut numbers = [0u16; 52];
        for (i, q) in q.into_iter().enumerate() {
            let (byte, n) = place(i);
            numbers[byte] += u16::from(q * POWERS[4 - n]);
        }
        // Below 3^5; as a fraction it is rounded up, so that no carry is missed.
        TQ1_0 { q: numbers.map(|v| (v * 256).div_ceil(243) as u8), d: d.to_le_bytes() }
    }
}

/// [`POWERS`] for each lane of each stripe.
const FRONT: [[u8; STRIPE]; 4] = {
    let mut front = [[0; STRIPE]; 4];
    let mut i = 0;
    while i < 256 {
        front[i / STRIPE][i % STRIPE] = POWERS[place(i).1];
        i += 1;
    }
    front
};

impl TQ1_0 {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        let block = &span[0];
        let (words, last) = block.q.as_chunks::<8>();
        let [a, b, c, d, e, f] = std::array::from_fn(|i| u64::from_le_bytes(words[i]));
        let last = last.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)) * 0x1_0000_0001;
        let bytes = s.words(match stripe {
            0 | 1 => [a, b, c, d, a, b, c, d],
            2 => [a, b, c, d, e, f, e, f],
            _ => [e, f, e, f, e, f, last, last],
        });
        let fraction = s.mul_u8(bytes, s.load_bytes(&FRONT[stripe]));
        // `3 * f / 256` without a ninth bit: it is the high two bits of `f - f / 4 - 1`, except that they
        // are 3 where `f` is 0.
        let quarter = s.and(s.shr_halves(fraction, 2, 2), s.splat_u8(63));
        let scaled = s.sub_u8(s.sub_u8(fraction, quarter), s.splat_u8(1));
        let high = s.and(s.shr_halves(scaled, 6, 6), s.splat_u8(3));
        s.lookup(&[0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], high)
    }
}

impl IntegerBlock for TQ1_0 {
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
        TQ1_0::quantize(&x, None).dequantize(&mut y);
        assert_eq!(x, y);
    }
}
