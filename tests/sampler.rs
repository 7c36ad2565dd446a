//! The sampler draws exactly the distribution that its settings define.
//!
//! The definition here sorts everything and works in f64; the sampler does neither of the two twice.

use llama_core::{Sampler, Token};
use proptest::prelude::*;

/// The settings, with every step off.
#[derive(Clone, Copy, Debug)]
struct Settings {
    penalty: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    temperature: f32,
}

const OFF: Settings = Settings { penalty: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, temperature: 1.0 };

impl Settings {
    fn sampler(self, seed: u64) -> Sampler {
        Sampler::new(seed)
            .repeat_penalty(self.penalty, usize::MAX)
            .top_k(self.top_k)
            .top_p(self.top_p)
            .min_p(self.min_p)
            .temperature(self.temperature)
    }

    /// The probability of each token by the textbook: sort, cut, scale, normalise.
    fn definition(self, logits: &[f32], history: &[Token]) -> Vec<f64> {
        let mut sorted: Vec<(usize, f64)> =
            logits.iter().map(|&logit| f64::from(logit)).enumerate().collect();
        for (id, logit) in &mut sorted {
            if history.contains(&Token(*id as u32)) {
                let penalty = f64::from(self.penalty);
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if self.top_k > 0 {
            sorted.truncate(self.top_k);
        }
        let mut passed = 0.0;
        let probabilities = softmax(&sorted, 1.0);
        let nucleus = probabilities.iter().position(|p| {
            passed += p;
            passed >= f64::from(self.top_p)
        });
        sorted.truncate(nucleus.map_or(sorted.len(), |last| last + 1));
        let probabilities = softmax(&sorted, 1.0);
        let likely = probabilities.iter().filter(|&p| *p >= f64::from(self.min_p) * probabilities[0]).count();
        sorted.truncate(likely);
        let mut all = vec![0.0; logits.len()];
        for ((id, _), p) in sorted.iter().zip(softmax(&sorted, f64::from(self.temperature))) {
            all[*id] = p;
        }
        all
    }
}

fn softmax(logits: &[(usize, f64)], temperature: f64) -> Vec<f64> {
    let max = logits.iter().map(|&(_, logit)| logit).fold(f64::NEG_INFINITY, f64::max);
    let odds: Vec<f64> = logits.iter().map(|&(_, logit)| ((logit - max) / temperature).exp()).collect();
    let sum: f64 = odds.iter().sum();
    odds.iter().map(|odds| odds / sum).collect()
}

fn counts(sampler: &mut Sampler, logits: &[f32], history: &[Token], draws: usize) -> Vec<usize> {
    let mut counts = vec![0; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(logits, history).0 as usize] += 1;
    }
    counts
}

/// Pearson's chi-square test; wrongly false for one seed in about a million, and the seeds are fixed.
fn fits(counts: &[usize], expected: &[f64]) -> bool {
    let draws: usize = counts.iter().sum();
    let mut statistic = 0.0;
    let mut cells = 0.0;
    for (&count, &p) in counts.iter().zip(expected) {
        if p == 0.0 {
            if count > 0 {
                return false;
            }
            continue;
        }
        let mean = p * draws as f64;
        assert!(mean > 5.0, "a cell of {mean} expected draws is too small for the test");
        statistic += (count as f64 - mean).powi(2) / mean;
        cells += 1.0;
    }
    // Wilson and Hilferty's approximation of the quantile at 4.75 sigma.
    let freedom: f64 = cells - 1.0;
    let spread = 2.0 / (9.0 * freedom.max(1.0));
    statistic <= freedom.max(1.0) * (1.0 - spread + 4.75 * spread.sqrt()).powi(3)
}

const LOGITS: [f32; 8] = [1.0, -0.5, 2.5, 0.25, -2.0, 2.0, 1.5, -1.0];
const HISTORY: [Token; 4] = [Token(2), Token(4), Token(2), Token(99)];
const DRAWS: usize = 40_000;

#[test]
fn each_step_draws_its_distribution() {
    let all = [
        OFF,
        Settings { temperature: 0.6, ..OFF },
        Settings { temperature: 1.7, ..OFF },
        Settings { top_k: 3, ..OFF },
        Settings { top_p: 0.8, ..OFF },
        Settings { min_p: 0.2, ..OFF },
        Settings { penalty: 1.5, ..OFF },
        Settings { penalty: 0.8, ..OFF },
        Settings { penalty: 1.3, top_k: 6, top_p: 0.9, min_p: 0.1, temperature: 0.8 },
    ];
    for (seed, settings) in (0..).zip(all) {
        let expected = settings.definition(&LOGITS, &HISTORY);
        let counts = counts(&mut settings.sampler(seed), &LOGITS, &HISTORY, DRAWS);
        assert!(fits(&counts, &expected), "{settings:?}: drew {counts:?}, expected {expected:?}");
    }
}

#[test]
fn the_chi_square_test_rejects_the_usual_mistakes() {
    let settings = Settings { penalty: 1.5, top_p: 0.8, temperature: 1.7, ..OFF };
    let drawn = |s: Settings| counts(&mut s.sampler(7), &LOGITS, &HISTORY, DRAWS);
    assert!(fits(&drawn(settings), &settings.definition(&LOGITS, &HISTORY)));

    // Raw logits taken for probabilities: shifted to be positive and divided by their sum.
    let sum: f32 = LOGITS.iter().map(|logit| logit + 2.1).sum();
    let raw = LOGITS.map(|logit| f64::from((logit + 2.1) / sum));
    assert!(!fits(&drawn(OFF), &raw));
    // The temperature before top-p, which lets more tokens in.
    let heated = LOGITS.map(|logit| logit / 1.7);
    let early = Settings { top_p: 0.8, ..OFF }.definition(&heated, &[]);
    assert!(!fits(&drawn(Settings { top_p: 0.8, temperature: 1.7, ..OFF }), &early));
    // A penalty that divides negative logits too, and one that counts occurrences.
    let mut divided = LOGITS;
    divided[2] /= 1.5;
    divided[4] /= 1.5;
    let mut counted = LOGITS;
    counted[2] /= 1.5 * 1.5;
    counted[4] *= 1.5;
    for wrong in [divided, counted] {
        assert!(!fits(&drawn(Settings { penalty: 1.5, ..OFF }), &OFF.definition(&wrong, &[])));
    }
    // A temperature one twentieth off.
    assert!(!fits(&drawn(OFF), &Settings { temperature: 1.05, ..OFF }.definition(&LOGITS, &[])));
}

proptest! {
    /// At an endless temperature what the filters leave is equally likely, so enough draws show all of it.
    #[test]
    fn the_filters_keep_exactly_the_sets_that_they_define(
        logits in prop_oneof![
            prop::collection::vec(-6.0f32..6.0, 1..14),
            prop::collection::vec((-4i8..5).prop_map(f32::from), 1..14),
        ],
        top_k in 0usize..16,
        top_p in prop_oneof![Just(1.0f32), 0.0f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..1.0],
        seed: u64,
    ) {
        let settings = Settings { top_k, top_p, min_p, temperature: f32::INFINITY, ..OFF };
        // Where a sum or a quotient meets its threshold but for rounding, either answer is right.
        let kept = |s: Settings| s.definition(&logits, &[]).iter().map(|p| *p > 0.0).collect::<Vec<_>>();
        let near = |x: f32, by: f32| if x == 1.0 || x == 0.0 { x } else { x + by };
        for by in [-1e-6, 1e-6] {
            let other = Settings { top_p: near(top_p, by), min_p: near(min_p, by), ..settings };
            prop_assume!(kept(other) == kept(settings));
        }
        let drawn = counts(&mut settings.sampler(seed), &logits, &[], 64 * logits.len());
        let drawn: Vec<bool> = drawn.iter().map(|count| *count > 0).collect();
        prop_assert_eq!(drawn, kept(settings));
    }

    /// Whatever comes in, a token comes out, and one of the vocabulary.
    #[test]
    fn no_logits_and_no_settings_panic(
        logits in prop::collection::vec(prop_oneof![
            any::<f32>(), Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(f32::MAX), Just(0.0),
        ], 0..20),
        history in prop::collection::vec((0u32..25).prop_map(Token), 0..10),
        settings in [any::<f32>(), any::<f32>(), any::<f32>(), any::<f32>()],
        top_k: usize,
        last_n: usize,
    ) {
        let [penalty, top_p, min_p, temperature] = settings;
        let base = Sampler::new(1).repeat_penalty(penalty, last_n).top_k(top_k);
        for mut sampler in [base.clone(), base.clone().top_p(top_p), base.min_p(min_p).temperature(temperature)] {
            let token = sampler.sample(&logits, &history).0 as usize;
            prop_assert!(token < logits.len().max(1));
            let possible = |logit: &f32| *logit > f32::NEG_INFINITY;
            // A huge penalty may make the last possible token impossible.
            if logits.iter().any(possible) && history.is_empty() {
                prop_assert!(possible(&logits[token]), "token {} of {:?}", token, logits);
            }
        }
    }
}

#[test]
fn the_filters_find_few_among_many() {
    // Mixed signs, not monotone, with equal logits all over.
    let logits: Vec<f32> = (0..32_000u64).map(|i| (i * i * 7919 % 1001) as f32 / 50.0 - 8.0).collect();
    for settings in [
        Settings { top_k: 40, ..OFF },
        Settings { top_p: 0.01, ..OFF },
        Settings { min_p: 0.99, ..OFF },
        Settings { top_k: 1000, top_p: 0.1, min_p: 0.95, ..OFF },
    ] {
        let settings = Settings { temperature: f32::INFINITY, ..settings };
        let expected: Vec<bool> = settings.definition(&logits, &[]).iter().map(|p| *p > 0.0).collect();
        let kept = expected.iter().filter(|kept| **kept).count();
        assert!((2..300).contains(&kept), "{settings:?} keeps {kept}");
        let drawn = counts(&mut settings.sampler(5), &logits, &[], 16 * kept);
        assert_eq!(drawn.iter().map(|count| *count > 0).collect::<Vec<_>>(), expected, "{settings:?}");
    }
}

#[test]
fn greedy_takes_the_best_and_of_equals_the_lowest_id() {
    let greedy = |logits: &[f32]| Sampler::greedy().sample(logits, &[]).0;
    assert_eq!(greedy(&LOGITS), 2);
    assert_eq!(greedy(&[-1.0, 3.0, f32::NAN, 3.0]), 1);
    assert_eq!(greedy(&[-0.0, 0.0]), 0);
    assert_eq!(greedy(&[f32::NAN, f32::NEG_INFINITY, -f32::MAX]), 2);
    assert_eq!(greedy(&[f32::NAN, f32::NEG_INFINITY]), 0);
    assert_eq!(greedy(&[]), 0);
    for temperature in [0.0, -1.0, f32::NAN] {
        let mut cold = Sampler::new(3).temperature(temperature);
        assert!((0..100).all(|_| cold.sample(&LOGITS, &[]) == Token(2)));
    }
}

#[test]
fn penalties_reach_back_no_further_than_asked() {
    let logits = [2.0, 1.5, 1.0, -1.0];
    let history = [Token(0), Token(1)];
    let best = |last_n| Sampler::greedy().repeat_penalty(4.0, last_n).sample(&logits, &history).0;
    assert_eq!([best(0), best(1), best(2), best(100)], [0, 0, 2, 2]);
    // Negative logits are multiplied: division would lift token 0 above token 1.
    let mut sampler = Sampler::greedy().repeat_penalty(4.0, 64);
    assert_eq!(sampler.sample(&[-1.0, -1.5], &[Token(0)]), Token(1));
}

#[test]
fn the_same_seed_gives_the_same_tokens() {
    let sequence = |mut sampler: Sampler| [(); 16].map(|()| sampler.sample(&LOGITS, &[]).0);
    let settings = |seed| Sampler::new(seed).top_p(0.95).temperature(0.9);
    assert_eq!(sequence(settings(42)), sequence(settings(42)));
    assert_ne!(sequence(settings(42)), sequence(settings(43)));
    // Of this library's every version.
    assert_eq!(sequence(Sampler::new(42)), [5, 2, 6, 5, 5, 5, 2, 5, 2, 6, 3, 6, 5, 0, 2, 3]);
}
