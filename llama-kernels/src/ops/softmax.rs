//! `softmax(x)_i = e^(x_i - max x) / sum_j e^(x_j - max x)`, in place.

use crate::simd::{Kernel, LANES, Simd, exp::exp};

pub(crate) struct Softmax<'a>(pub &'a mut [f32]);

impl Kernel for Softmax<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let max = self.0.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
        if max == f32::NEG_INFINITY {
            return; // nothing, or nothing that could be weighed
        }
        let shift = s.splat(max);
        let mut sum = s.splat(0.0);
        let mut tail_sum = 0.0;
        let (whole, tail) = self.0.as_chunks_mut::<LANES>();
        for x in whole.iter_mut() {
            let e = exp(s, s.sub(s.load(x), shift));
            sum = s.add(sum, e);
            s.store(e, x);
        }
        if !tail.is_empty() {
            let mut x = [f32::NEG_INFINITY; LANES];
            x[..tail.len()].copy_from_slice(tail);
            s.store(exp(s, s.sub(s.load(&x), shift)), &mut x);
            tail.copy_from_slice(&x[..tail.len()]);
            tail_sum = tail.iter().sum();
        }
        let inverse = 1.0 / (s.sum(sum) + tail_sum);
        for x in whole.iter_mut() {
            s.store(s.mul(s.load(x), s.splat(inverse)), x);
        }
        tail.iter_mut().for_each(|x| *x *= inverse);
    }
}
