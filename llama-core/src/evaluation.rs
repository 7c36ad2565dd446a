//! The part of a session that computes.
//!
//! One invariant carries it: *the cache holds a prefix of the tokens; when it holds all of them, the
//! scratch holds the logits of the last one.* New tokens are appended behind that prefix, and
//! [`Evaluation::catch_up`] evaluates what is missing. So a generated token that nobody has evaluated
//! yet, a prompt that was cancelled half-way and a truncated conversation need no bookkeeping of
//! their own.

use crate::forward::{Outputs, forward};
use crate::kv_cache::KvCache;
use crate::model::Model;
use crate::session::StopReason;
use crate::state::State;
use crate::stats::Stats;
use crate::{Error, Result, Token};
use llama_kernels::Cpu;
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
    pub(crate) kv: KvCache,
    pub(crate) state: State,
    pub(crate) tokens: Vec<Token>,
    pub(crate) stats: Stats,
    pub(crate) stopped: Option<StopReason>,
}

impl Evaluation {
    /// Appends tokens behind the evaluated ones, or leaves everything as it was.
    pub(crate) fn append(&mut self, tokens: &[Token]) -> Result<()> {
        let vocab = self.vocab();
        if let Some(&token) = tokens.iter().find(|token| token.0 as usize >= vocab) {
            return Err(Error::Token { token, vocab });
        }
        let context = self.kv.context();
        let room = context - self.tokens.len();
        if tokens.len() > room {
            return Err(Error::Context { tokens: tokens.len(), room, context });
        }
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

    pub(crate) fn is_full(&self) -> bool {
        self.tokens.len() == self.kv.context()
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
        let end = self.tokens.len().min(start + self.ubatch);
        let tokens = &self.tokens[start..end];
        forward(
            &self.cpu,
            self.model.parts(),
            tokens,
            &mut self.kv,
            &mut self.state,
            outputs,
            self.deterministic,
        );
        Ok(())
    }

    fn vocab(&self) -> usize {
        self.model.config().vocab
    }
}
