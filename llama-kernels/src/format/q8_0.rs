//! Q8_0: 32 signed bytes (kept as `u8`) and one half-precision scale; `w = d * q`.

use super::{Block, IntegerBlock, Lane, Nothing, Of32, Scales, bits};
use crate::ops::pack::{Sixteen, lanes};
use crate::simd::{LANES, Simd};
use half::f16;

/// 34 bytes for 32 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Q8_0 {
    d: [u8; 2],
    q: [u8; 32],
}

const _: () = assert!(size_of::<Q8_0>() == 34 && align_of::<Q8_0>() == 1);

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for Q8_0 {
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        assert_eq!(out.len(), Self::LEN);
        for (out, &q) in out.iter_mut().zip(&self.q) {
            *out = f32::from(q as i8) * d;
        }
    }

    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        assert_eq!(x.len(), Self::LEN);
        let d = x.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        Q8_0 {
            d: f16::from_f32(d).to_le_bytes(),
            q: std::array::from_fn(|i| (x[i] * inverse).round() as i8 as u8), // half away from zero, as ggml rounds
        }
    }
}

impl IntegerBlock for Q8_0 {
    type Lanes = Lane<8, Of32, Nothing>;

    const BYTES_AT: Option<usize> = Some(std::mem::offset_of!(Self, q));

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        Scales::new(s.strided8_f16::<34>(bits::eight(span)))
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        let [a, b, c, d] = &span[4 * pair..][..4] else { unreachable!("four blocks") };
        s.regroup(s.halves(&a.q, &b.q), s.halves(&c.q, &d.q))
    }

    #[inline(always)]
    fn in_order<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        let [a, b, c, d] = &span[4 * pair..][..4] else { unreachable!("four blocks") };
        [s.halves(&a.q, &b.q), s.halves(&c.q, &d.q)]
    }

    #[inline(always)]
    fn pack<S: Simd>(s: S, rows: &[&[Self]; LANES], to: &mut Sixteen<'_>) {
        let bytes = bits::spans::<Self, { 8 * 34 }>(rows);
        for (i, lines) in to.bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            to.next.ask::<S, Self>(s, i..i + 1);
            // By reference: by value, the loop would not be unrolled.
            for (q, line) in s.fours(&bytes, i / 2 * 34 + 2 + i % 2 * 16).iter().zip(lines.iter_mut()) {
                s.store_bytes(lanes::<S, Self>(s, *q), line);
            }
        }
        to.numbers_by_rows::<S, Self>(s, rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_at_most_half_a_step() {
        let x: [f32; 32] = std::array::from_fn(|i| (i as f32 * 1.7 - 20.0).sin() * 3.0);
        let mut y = [0.0; 32];
        Q8_0::quantize(&x, None).dequantize(&mut y);
        let step = 3.0 / 127.0;
        for (x, y) in x.iter().zip(y) {
            assert!((x - y).abs() <= 0.51 * step, "{x} {y}");
        }
    }
}
