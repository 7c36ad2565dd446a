//! Text, token by token.

use crate::evaluation::Evaluation;
use crate::session::{StopReason, nothing_to_evaluate};
use crate::tokenizer::{Stream, Tokenizer};
use crate::{Error, Result, Sampler, Token};
use std::iter::FusedIterator;
use std::time::Instant;

/// Generates a text: the iterator that [`Session::generate`](crate::Session::generate) returns.
///
/// Each item is one token's text, in whole UTF-8 characters, so `.take(256)` means 256 tokens; an
/// item is empty if its token completes no character. It ends where the model ends the text, where
/// the context is full (unless [`Options::context_shift`](crate::Options::context_shift) goes on) or where the session was cancelled
/// ([`Session::stopped`](crate::Session::stopped) tells which), or after an error.
///
/// Nothing is lost by dropping it: the session holds every token that was handed out, and the next
/// generation goes on with the next one, in the middle of a character if need be. A token that ends
/// the text is handed out by no item, but the session holds it.
pub struct Generate<'a> {
    evaluation: &'a mut Evaluation,
    stream: Stream<'a>,
    sampler: &'a mut Sampler,
    tokenizer: &'a Tokenizer,
    /// Whether a token that ends the text must not be chosen.
    ignore_eos: bool,
    /// Ends the text as well.
    end: Option<Token>,
    /// The logits without these.
    logits: Vec<f32>,
    done: bool,
}

impl<'a> Generate<'a> {
    /// `stream`, one of `tokenizer`'s, has seen all of the session's tokens.
    pub(crate) fn new(
        evaluation: &'a mut Evaluation,
        stream: Stream<'a>,
        sampler: &'a mut Sampler,
        tokenizer: &'a Tokenizer,
    ) -> Generate<'a> {
        evaluation.stopped = None;
        Generate {
            evaluation,
            stream,
            sampler,
            tokenizer,
            ignore_eos: false,
            end: None,
            logits: Vec::new(),
            done: false,
        }
    }

    /// Makes the tokens that [end](crate::Tokenizer::ends) a text impossible: only a full context or a
    /// cancellation ends the iteration then.
    pub fn ignore_eos(mut self) -> Generate<'a> {
        self.ignore_eos = true;
        self
    }

    /// Lets one more token end the text.
    pub(crate) fn ends_with(mut self, end: Option<Token>) -> Generate<'a> {
        self.end = end;
        self
    }

    /// Ends the text, of whose last tokens these stand in place of so many; tells whether the session still had them.
    pub(crate) fn take_back(&mut self, count: usize, instead: &[Token]) -> bool {
        let evaluation = &mut *self.evaluation;
        self.done = true;
        evaluation.stopped = Some(StopReason::Turn);
        let forgot = evaluation.stats.forgotten_tokens > 0;
        match evaluation.tokens.len().checked_sub(count) {
            Some(len) if len >= evaluation.kept() || !forgot => {
                evaluation.truncate(len);
                evaluation.append(instead).is_ok()
            }
            _ => false,
        }
    }

    /// Whose tokens it generates.
    pub(crate) fn tokenizer(&self) -> &'a Tokenizer {
        self.tokenizer
    }

    /// Why it came to its end.
    pub(crate) fn stopped(&self) -> Option<StopReason> {
        self.evaluation.stopped
    }

    /// How many tokens the session has generated.
    pub(crate) fn generated(&self) -> usize {
        self.evaluation.stats.generated_tokens
    }

    /// The session's last token.
    pub(crate) fn last_token(&self) -> Option<Token> {
        self.evaluation.tokens.last().copied()
    }

    /// Chooses the next token, and returns it unless it ends the text.
    fn step(&mut self) -> Result<Option<Token>> {
        let evaluation = &mut *self.evaluation;
        if evaluation.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if evaluation.tokens.is_empty() {
            let bos = self.tokenizer.bos().filter(|_| self.tokenizer.add_bos());
            evaluation.append(&[bos.ok_or_else(nothing_to_evaluate)?])?;
        }
        let behind = evaluation.kv.len();
        let result = evaluation.catch_up();
        evaluation.stats.generation_steps += evaluation.kv.len() - behind;
        result?;
        if !evaluation.make_room(1) {
            evaluation.stopped = Some(StopReason::Context);
            return Ok(None);
        }
        let logits = if self.ignore_eos {
            self.logits.clear();
            self.logits.extend_from_slice(evaluation.logits());
            for end in self.tokenizer.end_tokens() {
                self.logits[end.0 as usize] = f32::NEG_INFINITY;
            }
            &self.logits
        } else {
            evaluation.logits()
        };
        let token = self.sampler.sample(logits, &evaluation.tokens);
        evaluation.append(&[token])?;
        evaluation.stats.generated_tokens += 1;
        if self.tokenizer.ends(token) || self.end == Some(token) {
            evaluation.stopped = Some(StopReason::Eos);
            return Ok(None);
        }
        Ok(Some(token))
    }
}

impl Iterator for Generate<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        if self.done {
            return None;
        }
        let clock = Instant::now();
        let step = self.step();
        self.evaluation.stats.generation_time += clock.elapsed();
        self.done = !matches!(step, Ok(Some(_)));
        match step {
            Ok(Some(token)) => Some(Ok(self.stream.push(token).to_owned())),
            Ok(None) => None,
            Err(Error::Cancelled) => {
                self.evaluation.stopped = Some(StopReason::Cancelled);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl FusedIterator for Generate<'_> {}
