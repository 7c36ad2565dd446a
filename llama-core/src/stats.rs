//! What a session did, in tokens and seconds.

use std::fmt;
use std::time::Duration;

/// What a session evaluated, and in which time.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Tokens evaluated by [`push`](crate::Session::push) and the `forward`s.
    pub prompt_tokens: usize,
    /// Time that they took.
    pub prompt_time: Duration,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Tokens evaluated in order to generate: one less than `generated_tokens` for each
    /// generation, because the first comes from the prompt's logits and the last is not evaluated.
    pub generation_steps: usize,
    /// Tokens that left the context to make room ([`Options::context_shift`](crate::Options::context_shift)).
    pub forgotten_tokens: usize,
    /// Time that evaluation and sampling took; the time between two pieces is not counted.
    pub generation_time: Duration,
}

impl Stats {
    /// Prompt tokens per second; zero if there were none.
    pub fn prompt_speed(&self) -> f64 {
        speed(self.prompt_tokens, self.prompt_time)
    }

    /// Steps of generation per second; zero if there were none.
    pub fn generation_speed(&self) -> f64 {
        speed(self.generation_steps, self.generation_time)
    }
}

fn speed(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 { 0.0 } else { tokens as f64 / time.as_secs_f64().max(1e-9) }
}

/// Two lines, without a final newline.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, what, tokens, time: Duration, speed| {
            write!(f, "{what}: {tokens} tokens in {:.3} s, {speed:.2} tokens/s", time.as_secs_f64())
        };
        line(f, "prompt", self.prompt_tokens, self.prompt_time, self.prompt_speed())?;
        writeln!(f)?;
        line(f, "generation", self.generated_tokens, self.generation_time, self.generation_speed())
    }
}
