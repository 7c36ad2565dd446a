//! Choosing the next token.

mod rng;
mod steps;

use crate::tokenizer::Token;
use rng::Rng;
use steps::Candidates;

/// Chooses tokens from logits: the best, or one at random by the model's probabilities.
///
/// The steps are those of llama.cpp, in its order: repetition penalty, top-k, top-p, min-p, temperature, draw. So
/// the filters see the model's own probabilities and the temperature only shapes what they leave. Each is off until
/// it is asked for. The same seed and the same logits give the same tokens, in every version of this library.
///
/// ```
/// use llama_core::{Sampler, Token};
///
/// let mut sampler = Sampler::new(42).top_k(2).temperature(0.7);
/// let token = sampler.sample(&[0.1, 3.0, 2.5, -1.0], &[]);
/// assert!(token == Token(1) || token == Token(2));
/// assert_eq!(Sampler::greedy().sample(&[0.1, 3.0, 2.5, -1.0], &[]), Token(1));
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    choice: Choice,
    rng: Rng,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    penalty: f32,
    last_n: usize,
    candidates: Candidates,
}

/// How the last step chooses.
#[derive(Clone, Copy, Debug)]
enum Choice {
    Greedy,
    Random { temperature: f32 },
}

impl Sampler {
    /// Draws by the model's own probabilities (temperature 1, no filter).
    pub fn new(seed: u64) -> Sampler {
        Sampler {
            choice: Choice::Random { temperature: 1.0 },
            rng: Rng::new(seed),
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            penalty: 1.0,
            last_n: 0,
            candidates: Candidates::default(),
        }
    }

    /// Takes the token with the highest logit, of equals the lowest id.
    ///
    /// Of the settings only [`repeat_penalty`](Self::repeat_penalty) makes a difference; a positive
    /// [`temperature`](Self::temperature) makes it `Sampler::new(0)` with the same settings.
    pub fn greedy() -> Sampler {
        Sampler { choice: Choice::Greedy, ..Sampler::new(0) }
    }

    /// Divides the logits that the filters leave: below 1 the likely tokens gain, above 1 the unlikely ones.
    ///
    /// Zero, a negative number or NaN means greedy.
    pub fn temperature(mut self, temperature: f32) -> Sampler {
        self.choice = match temperature {
            t if t > 0.0 => Choice::Random { temperature: t.min(f32::MAX) },
            _ => Choice::Greedy,
        };
        self
    }

    /// Keeps the `k` tokens with the highest logits; 0 keeps all.
    pub fn top_k(mut self, k: usize) -> Sampler {
        self.top_k = k;
        self
    }

    /// Keeps the fewest of the likeliest tokens whose probabilities add up to `p` (Holtzman et al., 2020).
    ///
    /// 1 or more, or NaN, keeps all; 0 or less keeps one.
    pub fn top_p(mut self, p: f32) -> Sampler {
        self.top_p = if p.is_nan() { 1.0 } else { p };
        self
    }

    /// Keeps the tokens at least `p` times as likely as the likeliest (Nguyen et al., 2024).
    ///
    /// 0 or less, or NaN, keeps all; 1 or more keeps the likeliest.
    pub fn min_p(mut self, p: f32) -> Sampler {
        self.min_p = if p.is_nan() { 0.0 } else { p.min(1.0) };
        self
    }

    /// Makes the tokens among the `last_n` of the history less likely: their logits are divided by `penalty` if
    /// positive, else multiplied, once however often a token occurs.
    ///
    /// 1 changes nothing, nor does a number that is not positive and finite.
    pub fn repeat_penalty(mut self, penalty: f32, last_n: usize) -> Sampler {
        self.penalty = if penalty > 0.0 && penalty.is_finite() { penalty } else { 1.0 };
        self.last_n = last_n;
        self
    }

    /// Where the random choice is.
    pub(crate) fn rng_state(&self) -> [u64; 4] {
        self.rng.state()
    }

    /// Continues the random choice from there.
    pub(crate) fn set_rng_state(&mut self, state: [u64; 4]) {
        self.rng = Rng::at(state);
    }

    /// The next token, given the `logits` of all tokens by id and the `history` before it, oldest first.
    ///
    /// Whatever the logits, there is an answer: NaN counts as minus infinity, several infinities are equally
    /// likely, and if no logit is above minus infinity, or there is none, the answer is `Token(0)`. Reuses its
    /// memory from call to call.
    pub fn sample(&mut self, logits: &[f32], history: &[Token]) -> Token {
        let recent = &history[history.len().saturating_sub(self.last_n)..];
        let candidates = &mut self.candidates;
        candidates.load(logits, recent, self.penalty);
        let token = match self.choice {
            Choice::Greedy => candidates.best(),
            Choice::Random { temperature } => {
                candidates.top_k(self.top_k);
                candidates.top_p(self.top_p);
                candidates.min_p(self.min_p);
                candidates.draw(temperature, &mut self.rng)
            }
        };
        token.unwrap_or(Token(0))
    }
}
