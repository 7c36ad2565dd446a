//! The steps between logits and a token: maps and filters over the candidates.
//!
//! Candidates stay in the order of their ids, and a filter only drops some. So the vocabulary is never sorted (a
//! selection in linear time finds the worst candidate that stays), and what is drawn depends on the set alone, not
//! on how it was found. Better means a higher logit, or an equal logit and a lower id.

use super::rng::Rng;
use crate::tokenizer::Token;
use std::cmp::Reverse;

/// A score from the model: logarithmic, not normalised, never NaN.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
struct Logit(f32);

impl Logit {
    /// A NaN, which a broken model may give, counts as impossible.
    fn new(logit: f32) -> Logit {
        // Adding zero turns -0.0 into 0.0, so that equal logits have equal bits.
        Logit(if logit.is_nan() { f32::NEG_INFINITY } else { logit + 0.0 })
    }

    fn is_possible(self) -> bool {
        self.0 > f32::NEG_INFINITY
    }

    fn penalized(self, penalty: f32) -> Logit {
        Logit::new(if self.0 > 0.0 { self.0 / penalty } else { self.0 * penalty })
    }
}

/// How likely a token is, as a multiple of the likeliest: a probability that is not divided by the sum yet.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
struct Odds(f64);

impl Odds {
    /// The odds of `logit` where `best` is the highest.
    fn new(logit: Logit, best: Logit, temperature: f32) -> Odds {
        // Also keeps infinity minus infinity out.
        if logit >= best {
            return Odds(1.0);
        }
        Odds(((f64::from(logit.0) - f64::from(best.0)) / f64::from(temperature)).exp())
    }
}

/// A token that may be chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Candidate {
    token: Token,
    logit: Logit,
}

impl Candidate {
    fn rank(self) -> Rank {
        let bits = self.logit.0.to_bits();
        // Floats compare as integers once the negative ones are turned around.
        let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        Rank(u64::from(ordered) << 32 | u64::from(!self.token.0))
    }
}

/// A logit and an id in one number: greater is better, and no two candidates are equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Rank(u64);

/// The tokens that may be chosen, and memory for the steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    ranks: Vec<Rank>,
    odds: Vec<(Rank, Odds)>,
}

impl Candidates {
    /// Starts from the model's logits, by token id: the logits of `recent` tokens, if positive, are divided by
    /// `penalty`, else multiplied (Keskar et al., 2019, as corrected since), once however often a token occurs.
    pub(super) fn load(&mut self, logits: &[f32], recent: &[Token], penalty: f32) {
        self.list.clear();
        self.list.extend(
            logits.iter().zip(0..).map(|(&l, id)| Candidate { token: Token(id), logit: Logit::new(l) }),
        );
        for token in recent {
            let at = token.0 as usize;
            if let (Some(candidate), Some(&logit)) = (self.list.get_mut(at), logits.get(at)) {
                candidate.logit = Logit::new(logit).penalized(penalty);
            }
        }
        self.list.retain(|candidate| candidate.logit.is_possible());
    }

    /// The best candidate's token; `None` if there are no candidates.
    pub(super) fn best(&self) -> Option<Token> {
        self.list.iter().max_by_key(|candidate| candidate.rank()).map(|best| best.token)
    }

    /// Keeps the best `k`.
    pub(super) fn top_k(&mut self, k: usize) {
        if k == 0 || k >= self.list.len() {
            return;
        }
        self.ranks.clear();
        self.ranks.extend(self.list.iter().map(|candidate| candidate.rank()));
        let (_, &mut worst, _) = self.ranks.select_nth_unstable_by_key(k - 1, |&rank| Reverse(rank));
        self.list.retain(|candidate| candidate.rank() >= worst);
    }

    /// Keeps the fewest of the best whose probabilities add up to `p`, at least one.
    pub(super) fn top_p(&mut self, p: f32) {
        if p >= 1.0 || self.list.is_empty() {
            return;
        }
        self.weigh(1.0);
        let mut missing = f64::from(p) * sum(&self.odds);
        // The worst that stays is in `part`, and all that are better than those in `part` lack `missing`.
        let mut part = self.odds.as_mut_slice();
        while part.len() > 1 {
            let half = part.len() / 2;
            part.select_nth_unstable_by_key(half, |&(rank, _)| Reverse(rank));
            let (better, rest) = part.split_at_mut(half);
            let mass = sum(better);
            if mass >= missing {
                part = better;
            } else {
                missing -= mass;
                part = rest;
            }
        }
        let (worst, _) = part[0];
        self.list.retain(|candidate| candidate.rank() >= worst);
    }

    /// Keeps those at least `p` times as likely as the best.
    pub(super) fn min_p(&mut self, p: f32) {
        if p <= 0.0 {
            return;
        }
        let best = self.best_logit();
        self.list.retain(|candidate| Odds::new(candidate.logit, best, 1.0) >= Odds(f64::from(p)));
    }

    /// Draws a token by the probabilities at a temperature; `None` if there are no candidates.
    pub(super) fn draw(&mut self, temperature: f32, rng: &mut Rng) -> Option<Token> {
        self.weigh(temperature);
        // Adding in the same order as `sum` does, the running sum ends at exactly that sum, which is more than `at`.
        let at = rng.unit() * sum(&self.odds);
        let mut passed = 0.0;
        let drawn = self.list.iter().zip(&self.odds).find(|&(_, &(_, Odds(odds)))| {
            passed += odds;
            at < passed
        });
        drawn.map(|(candidate, _)| candidate.token)
    }

    /// Fills `odds`, candidate by candidate.
    fn weigh(&mut self, temperature: f32) {
        let best = self.best_logit();
        self.odds.clear();
        self.odds.extend(self.list.iter().map(|c| (c.rank(), Odds::new(c.logit, best, temperature))));
    }

    fn best_logit(&self) -> Logit {
        let logits = self.list.iter().map(|candidate| candidate.logit.0);
        Logit(logits.fold(f32::NEG_INFINITY, f32::max))
    }
}

fn sum(odds: &[(Rank, Odds)]) -> f64 {
    odds.iter().map(|&(_, Odds(odds))| odds).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(logits: &[f32], step: impl Fn(&mut Candidates)) -> Vec<u32> {
        let mut candidates = Candidates::default();
        candidates.load(logits, &[], 1.0);
        step(&mut candidates);
        candidates.list.iter().map(|candidate| candidate.token.0).collect()
    }

    #[test]
    fn equal_logits_go_by_id_and_zero_has_no_sign() {
        let logits = [0.0, 1.0, -0.0, 1.0, -1.0, 0.0, 1.0];
        assert_eq!(left(&logits, |c| c.top_k(1)), [1]);
        assert_eq!(left(&logits, |c| c.top_k(2)), [1, 3]);
        assert_eq!(left(&logits, |c| c.top_k(5)), [0, 1, 2, 3, 6]);
        assert_eq!(left(&logits, |c| c.top_k(7)).len(), 7);
    }

    #[test]
    fn top_p_keeps_the_candidate_that_reaches_p() {
        // Probabilities 0.125, 0.5, 0.25, 0.125.
        let logits = [0.125f32, 0.5, 0.25, 0.125].map(f32::ln);
        for (p, expected) in [
            (0.0, &[1][..]),
            (0.49, &[1]),
            (0.51, &[1, 2]),
            (0.76, &[0, 1, 2]),
            (0.88, &[0, 1, 2, 3]),
            (1.0, &[0, 1, 2, 3]),
        ] {
            assert_eq!(left(&logits, |c| c.top_p(p)), expected, "p = {p}");
        }
    }

    #[test]
    fn impossible_tokens_are_no_candidates() {
        let logits = [f32::NAN, f32::NEG_INFINITY, -1e38, f32::INFINITY, 3.0, f32::INFINITY];
        assert_eq!(left(&logits, |_| ()), [2, 3, 4, 5]);
        assert_eq!(left(&logits, |c| c.top_p(0.7)), [3, 5]);
        assert_eq!(left(&logits, |c| c.min_p(1e-9)), [3, 5]);
        assert_eq!(left(&[f32::NAN], |c| c.min_p(0.5)), [0u32; 0]);
    }

    #[test]
    fn nothing_is_allocated_after_the_first_token() {
        let logits: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut candidates = Candidates::default();
        let mut rng = Rng::new(1);
        let mut memory = Vec::new();
        for _ in 0..3 {
            candidates.load(&logits, &[Token(3)], 1.1);
            candidates.top_k(900);
            candidates.top_p(0.9);
            candidates.min_p(0.01);
            candidates.draw(0.8, &mut rng);
            memory.push((candidates.list.as_ptr(), candidates.ranks.as_ptr(), candidates.odds.as_ptr()));
        }
        assert!(memory.iter().all(|pointers| *pointers == memory[0]));
    }
}
