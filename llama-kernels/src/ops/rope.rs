//! Rotary position embedding: two features of a head turn together,
//! `(a, b) -> (a cos - b sin, a sin + b cos)`.
//!
//! The table of one position holds for each rotated dimension its `cos`, then for each what its partner is
//! multiplied by: `-sin` for the first of a pair, `sin` for the second. A rotation is then two
//! multiplications of whole registers; where pairs are adjacent, one of them after a swap of neighbours.

use crate::simd::{Kernel, LANES, Simd};

/// Which two features of a head turn together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Pairs {
    /// Neighbours, `2i` and `2i + 1`: GGUF's order for Llama.
    #[default]
    Adjacent,
    /// One of each half of what turns, `i` and `i + dims / 2`: the order of GPT-NeoX and Qwen.
    Halves,
}

/// How a head turns with its position.
#[derive(Clone, PartialEq, Debug)]
pub struct Rotation {
    /// Radians per position for each pair.
    pub frequencies: Vec<f64>,
    /// What turned features are multiplied by: 1, but for YaRN.
    pub magnitude: f64,
    /// Which features are a pair.
    pub pairs: Pairs,
}

impl Rotation {
    /// Values in one position's table: four for each pair.
    pub fn table_len(&self) -> usize {
        4 * self.frequencies.len()
    }

    /// Writes one position's table, computed in double precision. A negative position turns back.
    ///
    /// # Panics
    /// If `out` is not [`table_len`](Self::table_len) long.
    pub fn table(&self, out: &mut [f32], position: f64) {
        self.turn(out, |frequency| position * frequency, self.magnitude);
    }

    /// Writes the table that turns what this rotation has turned at `position` to where `target` turns it
    /// at `position - back`.
    ///
    /// # Panics
    /// As [`table`](Self::table), or if the two turn different numbers of pairs.
    pub fn change(&self, out: &mut [f32], position: f64, target: &Rotation, back: f64) {
        assert_eq!(self.frequencies.len(), target.frequencies.len(), "pairs of a head");
        let mut targets = target.frequencies.iter();
        let angle = |frequency| {
            let target = targets.next().expect("as many pairs");
            (position - back) * target - position * frequency
        };
        self.turn(out, angle, target.magnitude / self.magnitude);
    }

    fn turn(&self, out: &mut [f32], mut angle: impl FnMut(f64) -> f64, magnitude: f64) {
        assert_eq!(out.len(), self.table_len(), "four values a pair");
        let pairs = self.frequencies.len();
        let (cos, sin) = out.split_at_mut(2 * pairs);
        for (i, frequency) in self.frequencies.iter().enumerate() {
            let (sine, cosine) = angle(*frequency).sin_cos();
            let (first, second) = match self.pairs {
                Pairs::Adjacent => (2 * i, 2 * i + 1),
                Pairs::Halves => (i, i + pairs),
            };
            (cos[first], cos[second]) = ((cosine * magnitude) as f32, (cosine * magnitude) as f32);
            (sin[first], sin[second]) = ((-sine * magnitude) as f32, (sine * magnitude) as f32);
        }
    }
}

/// Rotates the first `table.len() / 2` features of each head of one token.
pub(crate) struct Rope<'a> {
    /// Consecutive heads.
    pub heads: &'a mut [f32],
    pub head_dim: usize,
    pub table: &'a [f32],
    pub pairs: Pairs,
}

impl Kernel for Rope<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Rope { heads, head_dim, table, pairs } = self;
        let (cos, sin) = table.split_at(table.len() / 2);
        for head in heads.chunks_exact_mut(head_dim) {
            let x = &mut head[..cos.len()];
            match pairs {
                Pairs::Adjacent => adjacent(s, x, cos, sin),
                Pairs::Halves => halves(s, x, cos, sin),
            }
        }
    }
}

#[inline(always)]
fn adjacent<S: Simd>(s: S, x: &mut [f32], cos: &[f32], sin: &[f32]) {
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

#[inline(always)]
fn halves<S: Simd>(s: S, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let pairs = x.len() / 2;
    let (first, second) = x.split_at_mut(pairs);
    let (cos, sin) = (&cos[pairs..], &sin[pairs..]);
    let (a, a_tail) = first.as_chunks_mut::<LANES>();
    let (b, b_tail) = second.as_chunks_mut::<LANES>();
    let (cos, cos_tail) = cos.as_chunks::<LANES>();
    let (sin, sin_tail) = sin.as_chunks::<LANES>();
    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let (u, v, cos, sin) = (s.load(a), s.load(b), s.load(cos), s.load(sin));
        s.store(s.sub(s.mul(u, cos), s.mul(v, sin)), a);
        s.store(s.fma(u, sin, s.mul(v, cos)), b);
    }
    for (((a, b), cos), sin) in a_tail.iter_mut().zip(b_tail).zip(cos_tail).zip(sin_tail) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}
