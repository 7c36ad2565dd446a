//! Rotary position embedding over adjacent pairs, GGUF's layout for Llama:
//! `(x0, x1) -> (x0 cos - x1 sin, x0 sin + x1 cos)`.
//!
//! The table of one position holds for each rotated dimension `cos` (twice per pair), then for each
//! `-sin, sin`: a rotation is then two multiplications of whole registers, one of them after a swap
//! of neighbours.

use crate::simd::{Kernel, LANES, Simd};

/// Rotates the first `table.len() / 2` features of each head of one token.
pub(crate) struct Rope<'a> {
    /// Consecutive heads.
    pub heads: &'a mut [f32],
    pub head_dim: usize,
    pub table: &'a [f32],
}

impl Kernel for Rope<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Rope { heads, head_dim, table } = self;
        let (cos, sin) = table.split_at(table.len() / 2);
        for head in heads.chunks_exact_mut(head_dim) {
            let x = &mut head[..cos.len()];
            let (x, x_tail) = x.as_chunks_mut::<LANES>();
            let (cos, cos_tail) = cos.as_chunks::<LANES>();
            let (sin, sin_tail) = sin.as_chunks::<LANES>();
            for ((x, cos), sin) in x.iter_mut().zip(cos).zip(sin) {
                let v = s.load(x);
                s.store(s.fma(v, s.load(cos), s.mul(s.swap_pairs(v), s.load(sin))), x);
            }
            for (i, x) in x_tail.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let (cos, sin) = (cos_tail[2 * i], sin_tail[2 * i + 1]);
                *x = [x[0] * cos - x[1] * sin, x[0] * sin + x[1] * cos];
            }
        }
    }
}

/// Writes one position's table: `angle = position * frequency` for each pair, in double precision.
///
/// `out` has two values per rotated dimension: `out.len() == 4 * frequencies.len()`.
pub fn table(out: &mut [f32], position: usize, frequencies: &[f64]) {
    assert_eq!(out.len(), 4 * frequencies.len(), "four values a pair");
    let (cos, sin) = out.split_at_mut(2 * frequencies.len());
    for (i, frequency) in frequencies.iter().enumerate() {
        let (sine, cosine) = (position as f64 * frequency).sin_cos();
        cos[2 * i..2 * i + 2].fill(cosine as f32);
        sin[2 * i] = -sine as f32;
        sin[2 * i + 1] = sine as f32;
    }
}
