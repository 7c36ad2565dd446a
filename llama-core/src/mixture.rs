//! A mixture of experts: each token goes through the few networks that the router likes best.
//!
//! ```text
//! p = softmax(Wr x); the k largest of p, divided by their sum: w
//! x += sum over these experts of w_e * mlp_e(x)
//! ```
//!
//! The softmax of all, cut and divided again, is the softmax of the chosen logits: so Mixtral is trained
//! (Jiang et al. 2024). Tokens are sorted by expert, so that each expert's matrices are read once for all
//! tokens that chose it, and never for another.

use crate::weights::{Mlp, Tensor};
use llama_kernels::Ops;
use std::ops::Range;

/// Room for the ways of so many tokens.
pub(crate) struct Routes {
    experts: usize,
    used: usize,
    /// The router's logits: `[n, experts]`.
    logits: Vec<f32>,
    /// The weights of each token's experts, the likeliest first: `[n, used]`.
    weights: Vec<f32>,
    /// Which experts these are.
    chosen: Vec<u32>,
    /// Where each of them has its row, if rows are sorted by expert: `[n, used]`.
    rows: Vec<u32>,
    /// The token of each row.
    tokens: Vec<u32>,
    /// The end of each expert's rows.
    ends: Vec<usize>,
    /// The rows: what goes into the experts, then what comes out of them.
    features: Vec<f32>,
}

impl Routes {
    pub(crate) fn new(ubatch: usize, experts: usize, used: usize, d_model: usize) -> Routes {
        let each = ubatch * used;
        Routes {
            experts,
            used,
            logits: vec![0.0; ubatch * experts],
            weights: vec![0.0; each],
            chosen: vec![0; each],
            rows: vec![0; each],
            tokens: vec![0; each],
            ends: vec![0; experts],
            features: vec![0.0; each * d_model],
        }
    }

    /// Bytes for so many tokens; saturates.
    pub(crate) fn bytes(ubatch: usize, experts: usize, used: usize, d_model: usize) -> u64 {
        let each = used as u64 * (d_model as u64 + 4) + experts as u64;
        (4 * each).saturating_mul(ubatch as u64).saturating_add(8 * experts as u64)
    }

    /// Chooses the experts of `n` tokens by their logits, and sorts rows by expert.
    fn choose(&mut self, n: usize) {
        let Routes { experts, used, .. } = *self;
        let mut order: Vec<u32> = Vec::with_capacity(experts);
        self.ends.fill(0);
        for (t, logits) in self.logits[..n * experts].chunks_exact(experts).enumerate() {
            order.clear();
            order.extend(0..experts as u32);
            // Of equals the first; what is no number comes last.
            let key = |expert: u32| {
                let logit = logits[expert as usize];
                if logit.is_nan() { f32::NEG_INFINITY } else { logit }
            };
            order.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
            let chosen = &order[..used];
            let largest = key(chosen[0]);
            let weights = &mut self.weights[t * used..(t + 1) * used];
            let exp = |&expert: &u32| (logits[expert as usize] - largest).exp();
            weights.iter_mut().zip(chosen).for_each(|(weight, expert)| *weight = exp(expert));
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= sum);
            self.chosen[t * used..(t + 1) * used].copy_from_slice(chosen);
            chosen.iter().for_each(|&expert| self.ends[expert as usize] += 1);
        }
        // From counts to beginnings, which become ends as rows are dealt out.
        let mut start = 0;
        for end in &mut self.ends {
            (*end, start) = (start, start + *end);
        }
        for (i, &expert) in self.chosen[..n * used].iter().enumerate() {
            let row = &mut self.ends[expert as usize];
            (self.rows[i], self.tokens[*row]) = (*row as u32, (i / used) as u32);
            *row += 1;
        }
    }

    /// The rows of each expert that has any.
    fn runs(ends: &[usize]) -> impl Iterator<Item = (usize, Range<usize>)> {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(ends).map(|(start, &end)| start..end).enumerate().filter(|(_, rows)| !rows.is_empty())
    }
}

/// `x[t] += sum over the experts of xn[t] of weight * mlp(xn[t])`, with room for their hidden activations.
pub(crate) fn mixture(
    cpu: &Ops<'_>,
    x: &mut [f32],
    xn: &[f32],
    (router, experts): (&Tensor, &[Mlp]),
    hidden: &mut [f32],
    routes: &mut Routes,
) {
    let (d_model, n) = (router.matrix().cols(), xn.len() / router.matrix().cols());
    cpu.matmul(&mut routes.logits[..n * experts.len()], &[router.matrix()], xn); // [n, experts]
    routes.choose(n);
    let each = n * routes.used;
    let features = &mut routes.features[..each * d_model];
    cpu.gather(features, xn, d_model, &routes.tokens[..each]); // [n * used, d_model], by expert
    for (expert, rows) in Routes::runs(&routes.ends) {
        let Mlp { gate, up, down } = &experts[expert];
        let own = &mut features[rows.start * d_model..rows.end * d_model];
        let h = &mut hidden[..rows.len() * gate.matrix().rows()];
        cpu.swiglu(h, gate.matrix(), up.matrix(), own);
        cpu.matmul(own, &[down.matrix()], h);
    }
    cpu.add_weighted(x, features, d_model, &routes.rows[..each], &routes.weights[..each]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_experts_share_one_weight() {
        let mut routes = Routes::new(3, 4, 2, 1);
        let ln = |x: f32| x.ln();
        routes.logits = vec![
            ln(1.0),
            ln(6.0),
            ln(2.0),
            ln(1.0), // 1 and 2, three to one
            ln(8.0),
            ln(1.0),
            ln(1.0),
            ln(8.0), // 0 and 3, equal
            0.0,
            f32::NAN,
            1e4,
            -1e4, // 2 and 0, the second one for nothing
        ];
        routes.choose(3);
        assert_eq!(routes.chosen, [1, 2, 0, 3, 2, 0]);
        let expected = [0.75, 0.25, 0.5, 0.5, 1.0, 0.0];
        assert!(
            routes.weights.iter().zip(expected).all(|(w, e)| (w - e).abs() < 1e-6),
            "{:?}",
            routes.weights
        );
        // Rows by expert: 0 has those of tokens 1 and 2, 1 of token 0, and so on.
        let runs: Vec<_> = Routes::runs(&routes.ends).collect();
        assert_eq!(runs, [(0, 0..2), (1, 2..3), (2, 3..5), (3, 5..6)]);
        assert_eq!(
            (&routes.tokens[..], &routes.rows[..]),
            (&[1, 2, 0, 0, 2, 1][..], &[2, 3, 0, 5, 4, 1][..])
        );
        // A smaller batch leaves nothing of the larger one behind.
        routes.choose(1);
        assert_eq!(Routes::runs(&routes.ends).collect::<Vec<_>>(), [(1, 0..1), (2, 1..2)]);
    }
}
