//! Q5_K: 256 weights of five bits in eight groups, each with a scale and a minimum of six bits;
//! `w = d * scale * q - dmin * min`.
//!
//! Scales and low bits lie as in [`Q4_K`](super::Q4_K); bit `j` of byte `i` of `high` is the fifth bit of
//! weight `32 * j + i`.

use super::q4_k::{self, SixBitHead};
use super::search::Affine;
use super::{Block, IntegerBlock, Lane, Minimum, Of32, Scales, bits};
use crate::ops::pack::Sixteen;
use crate::simd::{LANES, Simd};

/// 176 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Q5_K {
    head: SixBitHead,
    high: [u8; 32],
    q: [[u8; 32]; 4],
}

const _: () = assert!(size_of::<Q5_K>() == 176 && align_of::<Q5_K>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for Q5_K {
    const LEN: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        let [d, dmin] = self.head.factors();
        assert_eq!(out.len(), Self::LEN);
        for (i, out) in out.iter_mut().enumerate() {
            let (scale, min) = self.head.scales.group(i / 32);
            let low = self.q[i / 64][i % 32] >> (i % 64 / 32 * 4) & 15;
            let q = low | (self.high[i % 32] >> (i / 32) & 1) << 4;
            *out = d * f32::from(scale) * f32::from(q) - dmin * f32::from(min);
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let found = Affine::<8, 32>::new(x, importance, 31.0, 63.0);
        let mut high = [0; 32];
        for (i, q) in found.q.as_flattened().iter().enumerate() {
            high[i % 32] |= (q >> 4) << (i / 32);
        }
        Q5_K { head: SixBitHead::new(&found), high, q: q4_k::pack(found.q.as_flattened()) }
    }
}

/// The fifth bits of the halves of four groups: bits `4 * pair` and the three next ones go to bit 4.
#[inline(always)]
fn fifth<S: Simd>(s: S, high: &[u8; 16], pair: usize) -> S::I {
    let high = s.quarters([high; 4]);
    let first = 4 * pair as i32 - 4;
    s.bits(high, [first, first + 1, first + 2, first + 3], 16)
}

impl IntegerBlock for Q5_K {
    type Lanes = Lane<5, Of32, Minimum>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        span[0].head.apply(s)
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        let block = &span[0];
        let [a, b] = q4_k::nibbles(s, &block.q, pair);
        let [first, second] = bits::split(&block.high);
        [s.or(a, fifth(s, first, pair)), s.or(b, fifth(s, second, pair))]
    }

    #[inline(always)]
    fn arranged<S: Simd>(s: S, span: &[Self]) -> [S::I; 4] {
        let (mut all, (high, _)) = (q4_k::arranged(s, &span[0].q), span[0].high.as_chunks::<8>());
        // Of each eight bytes the bit of the group that is multiplied there.
        let bits = s.words([0, 4, 1, 5, 2, 6, 3, 7].map(|group| 0x0101_0101_0101_0101 << group));
        for (q, high) in all.iter_mut().zip(high) {
            *q = s.add_where(*q, s.words([u64::from_le_bytes(*high); 8]), bits, 16);
        }
        all
    }

    #[inline(always)]
    fn pack<S: Simd>(s: S, rows: &[&[Self]; LANES], to: &mut Sixteen<'_>) {
        to.bytes_by_rows::<S, Self>(s, rows);
        q4_k::pack_scales(s, &bits::spans::<Self, 176>(rows), to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_can_hold_is_kept() {
        let x: [f32; 256] = std::array::from_fn(|i| {
            let group = i / 32;
            (9 * group) as f32 * (i * 7 % 32) as f32 - (63 - 9 * group) as f32 / 4.0
        });
        let mut y = [0.0; 256];
        Q5_K::quantize(&x, None).dequantize(&mut y);
        assert_eq!(x, y);
    }
}
