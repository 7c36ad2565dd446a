//! What some models do to queries, keys and values before they turn.

use super::profile::Work;
use super::{Ops, Parts};

impl Ops<'_> {
    /// `x[t] += bias` for each token; no bias is no work.
    ///
    /// # Panics
    /// If `x` is not whole rows of `bias.len()` features.
    pub fn add_bias(&self, x: &mut [f32], bias: &[f32]) {
        let features = bias.len();
        if features == 0 {
            return;
        }
        assert!(x.len().is_multiple_of(features), "{} values are no rows of {features}", x.len());
        let _span = self.span(|| Work::bias(x.len()));
        let (tokens, x) = (x.len() / features, Parts::new(x));
        self.team.split(tokens, &|_, t| {
            // SAFETY: each piece writes the row of its own token.
            let x = unsafe { x.part(t * features..(t + 1) * features) };
            x.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
        });
    }

    /// The norm of [`rmsnorm`](Self::rmsnorm) for each of a token's first heads on its own, in place. `norms`
    /// has the number of heads and their weight, as wide as a head, for one kind of heads after another;
    /// empty weights are no norm, and if all are empty, there is no work.
    ///
    /// # Panics
    /// If the weights that are not empty differ in length, or the heads do not fit a token's features.
    pub fn head_norms(&self, x: &mut [f32], tokens: usize, norms: [(usize, &[f32]); 2], eps: f32) {
        let Some(dim) = norms.iter().map(|(_, weight)| weight.len()).find(|&len| len > 0) else { return };
        let Some(features) = x.len().checked_div(tokens) else { return };
        let heads: usize = norms.iter().map(|(heads, _)| heads).sum();
        assert!(
            x.len() == tokens * features && heads * dim <= features,
            "{heads} heads of {dim} within {features}"
        );
        assert!(norms.iter().all(|(_, w)| w.is_empty() || w.len() == dim), "weights for heads of {dim}");
        let _span = self.span(|| Work::rmsnorm(tokens * heads * dim));
        let x = Parts::new(x);
        self.team.split(tokens, &|_, t| {
            // SAFETY: each piece writes the row of its own token.
            let x = unsafe { x.part(t * features..t * features + heads * dim) };
            let weights = norms.iter().flat_map(|&(heads, weight)| std::iter::repeat_n(weight, heads));
            let mut head = vec![0.0; dim];
            for (x, weight) in x.chunks_exact_mut(dim).zip(weights).filter(|(_, w)| !w.is_empty()) {
                head.copy_from_slice(x);
                self.cpu.backend.rmsnorm(x, &head, weight, eps);
            }
        });
    }
}
