//! Root-mean-square normalisation: `out = x / sqrt(mean(x^2) + eps) * weight`.

use crate::simd::{Kernel, LANES, Simd};

/// One token's features.
pub(crate) struct RmsNorm<'a> {
    pub out: &'a mut [f32],
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub eps: f32,
}

impl Kernel for RmsNorm<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let RmsNorm { out, x, weight, eps } = self;
        assert!(out.len() == x.len() && weight.len() == x.len(), "one weight and one result a feature");
        let mut acc = [s.splat(0.0); 2];
        let (whole, tail) = x.as_chunks::<LANES>();
        for (i, x) in whole.iter().enumerate() {
            let x = s.load(x);
            acc[i % 2] = s.fma(x, x, acc[i % 2]);
        }
        let squares = s.sum(s.add(acc[0], acc[1])) + tail.iter().map(|x| x * x).sum::<f32>();
        let inverse = 1.0 / (squares / x.len() as f32 + eps).sqrt();
        let (out, out_tail) = out.as_chunks_mut::<LANES>();
        let (weight, weight_tail) = weight.as_chunks::<LANES>();
        for ((out, x), w) in out.iter_mut().zip(whole).zip(weight) {
            s.store(s.mul(s.mul(s.load(x), s.splat(inverse)), s.load(w)), out);
        }
        for ((out, x), w) in out_tail.iter_mut().zip(tail).zip(weight_tail) {
            *out = x * inverse * w;
        }
    }
}
