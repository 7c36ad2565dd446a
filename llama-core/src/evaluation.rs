//! The part of a session that computes.
//!
//! One invariant carries it: *the cache holds a prefix of the tokens; when it holds all of them, the
//! scratch holds the logits of the last one.* New tokens are appended behind that prefix, and
//! [`Evaluation::catch_up`] evaluates what is missing. So a generated token that nobody has evaluated
//! yet, a prompt that was cancelled half-way and a truncated conversation need no bookkeeping of
//! their own. Tokens that leave a full context leave tokens and cache alike, and the last one never does.

use crate::forward::{Outputs, Pass, forward};
use crate::kv_cache::KvCache;
use crate::model::Model;
use crate::rope::Rope;
use crate::session::StopReason;
use crate::state::State;
use crate::stats::Stats;
use crate::{Error, Result, Token};
use llama_kernels::{Cpu, Rotation};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tokens, the cache of their keys and values, and the scratch of a pass.
pub(crate) struct Evaluation {
    pub(crate) model: Model,
    pub(crate) cpu: Arc<Cpu>,
    pub(crate) cancel: Option<Arc<AtomicBool>>,
    pub(crate) deterministic: bool,
    /// Tokens of one pass at most.
    pub(crate) ubatch: usize,
    /// What tokens are kept when the context is full and others are forgotten; `None` forgets nothing.
    pub(crate) keep: Option<usize>,
    /// Places to which a full context may forget as well as to the middle, as they were counted from the beginning
    /// of all tokens: where turns begin.
    pub(crate) turns: Vec<usize>,
    pub(crate) rope: Rope,
    /// How the cached keys have turned, in texts up to `stage`.
    pub(crate) rotation: Rotation,
    pub(crate) stage: usize,
    pub(crate) kv: KvCache,
    pub(crate) state: State,
    pub(crate) tokens: Vec<Token>,
    pub(crate) stats: Stats,
    pub(crate) stopped: Option<StopReason>,
}

impl Evaluation {
    /// Appends tokens behind the evaluated ones, or leaves everything as it was. If earlier ones may be
    /// forgotten, that makes room.
    pub(crate) fn append(&mut self, tokens: &[Token]) -> Result<()> {
        let vocab = self.vocab();
        if let Some(&token) = tokens.iter().find(|token| token.0 as usize >= vocab) {
            return Err(Error::Token { token, vocab });
        }
        let context = self.kv.context();
        let room = context - self.tokens.len() + self.forgettable();
        if tokens.len() > room {
            return Err(Error::Context { tokens: tokens.len(), room, context });
        }
        self.make_room(tokens.len());
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// Evaluates what the cache lacks.
    pub(crate) fn catch_up(&mut self) -> Result<()> {
        while self.is_behind() {
            self.pass(Outputs::Last)?;
        }
        Ok(())
    }

    /// The same, collecting the logits of every token.
    pub(crate) fn catch_up_all(&mut self) -> Result<Vec<f32>> {
        let mut logits = Vec::with_capacity((self.tokens.len() - self.kv.len()) * self.vocab());
        while self.is_behind() {
            self.pass(Outputs::All)?;
            logits.extend_from_slice(self.state.logits());
        }
        Ok(logits)
    }

    /// The logits of the last token, which must have been evaluated.
    pub(crate) fn logits(&self) -> &[f32] {
        debug_assert!(!self.tokens.is_empty() && !self.is_behind(), "there are no logits yet");
        let logits = self.state.logits();
        &logits[logits.len() - self.vocab()..]
    }

    /// Keeps the first `len` tokens.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        // The last token is evaluated again, for its logits.
        self.kv.truncate(self.kv.len().min(len.saturating_sub(1)));
    }

    /// Forgets tokens until there is room for so many, and tells whether there is: whole turns if there are any, else
    /// half of the tokens that are not to be kept, or more if that is too few.
    pub(crate) fn make_room(&mut self, tokens: usize) -> bool {
        let room = self.kv.context() - self.tokens.len();
        let missing = tokens.saturating_sub(room);
        let forgettable = self.forgettable();
        if missing > forgettable {
            return false;
        }
        if missing > 0 {
            let count = self.leaving(missing).unwrap_or_else(|| missing.max(forgettable.div_ceil(2)));
            let start = self.tokens.len() - 1 - forgettable;
            self.tokens.drain(start..start + count);
            self.kv.remove(start..start + count, &self.cpu, &self.rotation);
            self.stats.forgotten_tokens += count;
        }
        true
    }

    /// How many tokens leave with whole turns if so many have to: as near to half of them as turns allow.
    pub(crate) fn leaving(&self, missing: usize) -> Option<usize> {
        let (kept, forgettable) = (self.kept(), self.forgettable());
        let counts =
            self.turns.iter().filter_map(|turn| turn.checked_sub(self.stats.forgotten_tokens + kept));
        nearest(counts, missing.max(1), forgettable, forgettable.div_ceil(2))
    }

    /// How many tokens may be forgotten: all but those at the beginning that are to be kept and the last.
    fn forgettable(&self) -> usize {
        if self.keep.is_none() {
            return 0;
        }
        self.tokens.len().saturating_sub(self.kept().saturating_add(1))
    }

    /// How many of the first tokens a full context does not forget.
    pub(crate) fn kept(&self) -> usize {
        let bos = self.model.tokenizer().bos();
        let start = usize::from(bos.is_some() && self.tokens.first().copied() == bos);
        self.keep.unwrap_or(0).saturating_add(start)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    fn is_behind(&self) -> bool {
        self.kv.len() < self.tokens.len()
    }

    /// One pass through the model, over the next tokens.
    fn pass(&mut self, outputs: Outputs) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let start = self.kv.len();
        let stage = self.rope.stage_end(start);
        let end = self.tokens.len().min(start + self.ubatch).min(stage);
        let parts = self.model.parts();
        if stage != self.stage {
            let rotation = self.rope.rotation(stage, parts.weights.rope_freqs.as_deref());
            self.kv.turn(&self.cpu, &self.rotation, &rotation);
            (self.rotation, self.stage) = (rotation, stage);
        }
        let (cpu, rotation, deterministic) = (&*self.cpu, &self.rotation, self.deterministic);
        let pass = Pass { cpu, rotation, outputs, deterministic };
        forward(&pass, parts, &self.tokens[start..end], &mut self.kv, &mut self.state);
        Ok(())
    }

    fn vocab(&self) -> usize {
        self.model.config().vocab
    }
}

/// Of these counts from `least` to `most` the one that is nearest to `wanted`.
pub(crate) fn nearest(
    counts: impl Iterator<Item = usize>,
    least: usize,
    most: usize,
    wanted: usize,
) -> Option<usize> {
    counts.filter(|count| (least..=most).contains(count)).min_by_key(|count| count.abs_diff(wanted))
}

#[cfg(test)]
mod tests;
