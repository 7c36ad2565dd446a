//! NVFP4: 64 four-bit floats (E2M1), and an eight-bit float (unsigned E4M3) as scale for each 16.
//!
//! Of each 16 weights, byte `i` holds weight `i` in its low nibble and weight `i + 8` in its high one.
//! In integers: the doubled values, with half of the scale. The scale of the whole tensor, which makes up for
//! the small range, is no part of the format: files hold it in a tensor of its own.

use super::mxfp4::{E2M1, E2M1_LANES};
use super::{Block, IntegerBlock, Lane, Of16, Random, Scales, Zero};
use crate::simd::Simd;

/// 36 bytes for 64 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct NVFP4 {
    scales: [u8; 4],
    q: [[u8; 8]; 4],
}

const _: () = assert!(size_of::<NVFP4>() == 36 && align_of::<NVFP4>() == 1);

/// The bits of half of each unsigned E4M3 number. Bit 7 counts for nothing, but that 127, which is no number, is zero.
static HALF_SCALES: [u32; 256] = {
    let mut scales = [0; 256];
    let mut x = 0;
    while x < 256 {
        let (exponent, mantissa) = (x as u32 >> 3 & 15, x as u32 & 7);
        scales[x] = match exponent {
            _ if x == 127 => 0,
            0 => (mantissa as f32 / 1024.0).to_bits(),
            _ => (exponent + 127 - 8) << 23 | mantissa << 20,
        };
        x += 1;
    }
    scales
};

/// Half of an unsigned E4M3 number.
fn half_scale(x: u8) -> f32 {
    f32::from_bits(HALF_SCALES[usize::from(x)])
}

impl NVFP4 {
    /// Scales of about `d`: between two representable ones, as many of the higher as makes up for the lower.
    fn set_scale(&mut self, d: f32) {
        for (i, scale) in self.scales.iter_mut().enumerate() {
            let below = (0..126).rfind(|&x| half_scale(x) <= d).unwrap_or(0).min(125);
            let (low, high) = (half_scale(below), half_scale(below + 1));
            *scale = below + u8::from((d - low) / (high - low) > (i as f32 + 0.5) / 4.0);
        }
    }
}

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for NVFP4 {
    const LEN: usize = 64;
    const RANDOM: Option<Random<Self>> = Some(Random { std: 5.85, set_scale: NVFP4::set_scale });

    fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(out.len(), Self::LEN);
        for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let d = half_scale(self.scales[i]);
            for (j, &q) in self.q[i].iter().enumerate() {
                out[j] = d * f32::from(E2M1[usize::from(q & 15)]);
                out[j + 8] = d * f32::from(E2M1[usize::from(q >> 4)]);
            }
        }
    }
}

impl NVFP4 {
    /// The integers of 64 consecutive weights of a span.
    #[inline(always)]
    fn stripe<S: Simd>(s: S, span: &[Self], stripe: usize) -> S::I {
        let block = &span[stripe];
        let nibbles = |i: usize| u64::from_le_bytes(block.q[i / 2]) >> (i % 2 * 4) & 0x0f0f_0f0f_0f0f_0f0f;
        s.lookup(&E2M1_LANES, s.words(std::array::from_fn(nibbles)))
    }
}

impl IntegerBlock for NVFP4 {
    type Lanes = Lane<5, Of16, Zero<4>>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        let index = std::array::from_fn(|i| usize::from(span[i / 4].scales[i % 4]));
        Scales::new(s.bit_cast(s.quads(&HALF_SCALES, index)))
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
        let mut block = NVFP4 { scales: [0x38, 0x01, 0x7e, 0x7f], q: [[0x7f; 8]; 4] };
        block.q[0][1] = 0x21;
        let mut out = [0.0; 64];
        block.dequantize(&mut out);
        assert_eq!((out[0], out[1], out[8], out[9]), (-6.0, 0.5, 6.0, 1.0)); // E4M3 0x38 is 1
        assert_eq!((out[16], out[31]), (-6.0 / 512.0, 6.0 / 512.0)); // the smallest scale, 2^-9
        assert_eq!((out[40], out[63]), (448.0 * 6.0, 0.0)); // the largest one, and none
    }
}
