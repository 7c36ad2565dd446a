//! One test: what it evaluates, and how long that takes.

use crate::failure::Failure;
use llama_core::{Session, Token};
use std::fmt;
use std::time::Instant;

/// Tokens of a prompt, tokens generated after it, and those that the context holds before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Test {
    pub(super) prompt: u32,
    pub(super) generated: u32,
    pub(super) depth: u32,
}

/// As llama-bench calls it: `pp512`, `tg128`, `pp512+tg128`, `tg128 @ d4096`.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.prompt, self.generated) {
            (prompt, 0) => write!(f, "pp{prompt}")?,
            (0, generated) => write!(f, "tg{generated}")?,
            (prompt, generated) => write!(f, "pp{prompt}+tg{generated}")?,
        }
        match self.depth {
            0 => Ok(()),
            depth => write!(f, " @ d{depth}"),
        }
    }
}

/// The times of one repetition, in seconds.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// All of it.
    pub(super) total: f64,
    /// Until there were logits to choose a first token from.
    pub(super) first: f64,
    /// Each generated token.
    pub(super) tokens: Vec<f64>,
}

impl Test {
    /// Tokens that a repetition evaluates.
    pub(super) fn tokens(self) -> u32 {
        self.prompt + self.generated
    }

    /// Positions of the context that it needs.
    pub(super) fn context(self) -> usize {
        self.depth as usize + self.tokens() as usize
    }

    /// What a repetition that does not count evaluates: enough to bring weights and caches into memory,
    /// the threads up and the clock to speed.
    pub(super) fn warm_up(self) -> Test {
        Test { generated: self.generated.min(1), ..self }
    }

    /// Evaluates the test once, on a session that holds [`depth`](Depth) tokens. A prompt goes in pieces of
    /// `batch` tokens, a generation token by token, without sampling.
    pub(super) fn sample(self, session: &mut Session, batch: usize) -> Result<Sample, Failure> {
        let prompt = tokens(session, self.prompt);
        let generated = tokens(session, self.generated);
        let mut times = Vec::with_capacity(generated.len());
        let clock = Instant::now();
        let mut first = None;
        for piece in prompt.chunks(batch) {
            session.forward(piece)?;
        }
        if !prompt.is_empty() {
            first = Some(clock.elapsed().as_secs_f64());
        }
        let mut before = clock.elapsed().as_secs_f64();
        for token in &generated {
            session.forward(std::slice::from_ref(token))?;
            let now = clock.elapsed().as_secs_f64();
            times.push(now - before);
            first.get_or_insert(now);
            before = now;
        }
        let total = clock.elapsed().as_secs_f64().max(1e-9);
        Ok(Sample { total, first: first.unwrap_or(total), tokens: times })
    }
}

/// Any ids will do, but not always the same row of the embedding.
fn tokens(session: &Session, n: u32) -> Vec<Token> {
    let vocab = session.model().config().vocab as u64;
    (0..u64::from(n)).map(|i| Token((i * 7919 % vocab) as u32)).collect()
}

/// The first tokens of a session, which tests start from again and again without evaluating them anew.
#[derive(Default)]
pub(super) struct Depth {
    filled: u32,
}

impl Depth {
    /// Leaves the session with exactly `depth` tokens, all of them in its cache.
    pub(super) fn go_to(&mut self, session: &mut Session, depth: u32) -> Result<(), Failure> {
        session.truncate(self.filled.min(depth) as usize);
        let missing = tokens(session, depth.saturating_sub(self.filled));
        self.filled = self.filled.max(depth);
        if depth > 0 {
            // With nothing missing this evaluates the last token, which `truncate` forgot.
            session.forward(&missing)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_called_as_llama_bench_calls_them() {
        let label = |prompt, generated, depth| Test { prompt, generated, depth }.to_string();
        assert_eq!(label(512, 0, 0), "pp512");
        assert_eq!(label(0, 128, 0), "tg128");
        assert_eq!(label(512, 128, 0), "pp512+tg128");
        assert_eq!(label(0, 128, 4096), "tg128 @ d4096");
    }
}
