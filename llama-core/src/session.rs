//! A conversation with a model: text or tokens in, text or logits out.

use crate::evaluation::Evaluation;
use crate::generate::Generate;
use crate::kv_cache::{self, KvCache};
use crate::model::Model;
use crate::plan::Plan;
use crate::state::State;
use crate::stats::Stats;
use crate::tokenizer::Prompt;
use crate::{Error, Result, RopeOptions, Sampler, Token};
use llama_kernels::{Cpu, KvType};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// How a [`Session`] is to be set up.
///
/// ```
/// # use llama_core::Options;
/// let options = Options::default().context(2048).deterministic(true);
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) context: Option<usize>,
    pub(crate) ubatch: usize,
    pub(crate) cpu: Option<Arc<Cpu>>,
    pub(crate) deterministic: bool,
    pub(crate) cancel: Option<Arc<AtomicBool>>,
    pub(crate) cache_type_k: KvType,
    pub(crate) cache_type_v: KvType,
    pub(crate) rope: RopeOptions,
    pub(crate) keep: Option<usize>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            context: None,
            ubatch: 512,
            cpu: None,
            deterministic: false,
            cancel: None,
            cache_type_k: KvType::default(),
            cache_type_v: KvType::default(),
            rope: RopeOptions::default(),
            keep: None,
        }
    }
}

impl Options {
    /// Positions of the context: prompt and generated tokens together. Default: the model's own.
    pub fn context(mut self, positions: usize) -> Options {
        self.context = Some(positions);
        self
    }

    /// The most tokens that go through the model at once. Default: 512.
    ///
    /// Larger values cost scratch memory; smaller ones slow prompts down.
    pub fn ubatch(mut self, tokens: usize) -> Options {
        self.ubatch = tokens;
        self
    }

    /// What computes. Default: one [`Cpu`] that all sessions of the model share.
    pub fn cpu(mut self, cpu: Arc<Cpu>) -> Options {
        self.cpu = Some(cpu);
        self
    }

    /// Whether logits must not depend, to the bit, on how the tokens were divided among calls.
    ///
    /// By default a prompt's matrix products add up in another order than those of a single token.
    /// If this is set, one kind of kernel and one order of summation serve every batch size, and
    /// prompts are slower. Default: `false`.
    pub fn deterministic(mut self, on: bool) -> Options {
        self.deterministic = on;
        self
    }

    /// What keys are cached as. Default: [`KvType::F16`].
    ///
    /// [`KvType::Q8_0`] halves the cache and reads half the memory for each generated token; texts stay
    /// close to those of half precision. [`KvType::Q4_0`] quarters it, and keys suffer more from that
    /// than values.
    ///
    /// ```
    /// # use llama_core::Options;
    /// use llama_kernels::KvType;
    ///
    /// let options = Options::default().cache_type_k(KvType::Q8_0).cache_type_v(KvType::Q4_0);
    /// ```
    pub fn cache_type_k(mut self, kind: KvType) -> Options {
        self.cache_type_k = kind;
        self
    }

    /// What values are cached as; independent of the keys. Default: [`KvType::F16`].
    pub fn cache_type_v(mut self, kind: KvType) -> Options {
        self.cache_type_v = kind;
        self
    }

    /// What changes of the model's rotary embedding, for contexts longer than those of its training.
    pub fn rope(mut self, rope: RopeOptions) -> Options {
        self.rope = rope;
        self
    }

    /// Goes on when the context is full, by forgetting: the first `keep` tokens stay (and before them the
    /// token that begins a text), half of the others leave, and the rest move up. Default: a full context
    /// ends the generation.
    ///
    /// What moved up was computed in the presence of what left, so its keys and values are not those of a
    /// text that never had it; that is what makes the step cheap.
    pub fn context_shift(mut self, keep: usize) -> Options {
        self.keep = Some(keep);
        self
    }

    /// A flag that stops the evaluation soon after it becomes true: between two micro-batches of a
    /// prompt, and between two generated tokens. Default: none.
    pub fn cancel(mut self, flag: Arc<AtomicBool>) -> Options {
        self.cancel = Some(flag);
        self
    }
}

/// Why a generation came to its end; see [`Session::stopped`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum StopReason {
    /// The model chose a token that [ends](crate::Tokenizer::ends) a text.
    Eos,
    /// The context is full, and nothing of it may be forgotten.
    Context,
    /// The flag of [`Options::cancel`] is set.
    Cancelled,
    /// The text reached where the chat format begins the next turn ([`Conversation::reply`](crate::Conversation::reply)).
    Turn,
}

/// A conversation with a model: owns its cache and its scratch, shares everything else.
///
/// Sessions are independent of each other and may live on different threads.
pub struct Session {
    pub(crate) model: Model,
    pub(crate) evaluation: Evaluation,
}

impl Session {
    pub(crate) fn new(model: &Model, options: Options) -> Result<Session> {
        let plan = Plan::of(model.config(), model.gguf().file_bytes(), &options)?;
        let layer = kv_cache::shape(model.config(), plan.context, &options);
        let cpu = match options.cpu {
            Some(cpu) => cpu,
            None => model.default_cpu()?,
        };
        let (config, divisors) = (model.config(), model.weights().rope_freqs.as_deref());
        let rope = config.rope.with(&options.rope)?;
        let stage = rope.stage_end(0);
        let rotation = rope.rotation(stage, divisors);
        let kv = KvCache::new(layer, config.n_layers, config.window).ok_or_else(|| Error::Option {
            option: "context",
            expected: format!("one whose cache of {} bytes can be allocated", plan.kv),
            found: plan.context.to_string(),
        })?;
        // Refused here it is an error; in the state's constructor it would end the process.
        let scratch = usize::try_from(plan.scratch).unwrap_or(usize::MAX);
        Vec::<u8>::new().try_reserve_exact(scratch).map_err(|_| Error::Option {
            option: "ubatch",
            expected: format!("one whose scratch of {scratch} bytes can be allocated"),
            found: plan.ubatch.to_string(),
        })?;
        let evaluation = Evaluation {
            model: model.clone(),
            cpu,
            cancel: options.cancel,
            deterministic: options.deterministic,
            keep: options.keep,
            turns: Vec::new(),
            rope,
            rotation,
            stage,
            kv,
            state: State::new(model.config(), plan.ubatch),
            ubatch: plan.ubatch,
            tokens: Vec::new(),
            stats: Stats::default(),
            stopped: None,
        };
        Ok(Session { model: model.clone(), evaluation })
    }

    /// Appends a text or typed segments, and evaluates them at once.
    ///
    /// An empty session starts with the beginning-of-text token if the vocabulary asks for it and
    /// the prompt does not bring it along.
    ///
    /// # Errors
    /// [`Error::Context`] if the prompt is longer than the room left, or with
    /// [`Options::context_shift`] than the room that forgetting can make: nothing is evaluated, the
    /// session is unchanged. [`Error::Cancelled`] if the flag of [`Options::cancel`] stopped it:
    /// the session holds the whole prompt, and the next call evaluates what is missing.
    pub fn push(&mut self, prompt: impl Into<Prompt>) -> Result<()> {
        let prompt = prompt.into();
        let tokenizer = self.model.tokenizer();
        let is_start = self.evaluation.tokens.is_empty();
        let tokens = if is_start { tokenizer.encode_start(&prompt) } else { tokenizer.encode(&prompt) };
        self.extend(&tokens)
    }

    /// Appends tokens and evaluates them; without room for them, all but the first `kept` tokens leave.
    pub(crate) fn extend_anew(&mut self, kept: usize, tokens: &[Token]) -> Result<()> {
        let gone = self.tokens().len() - kept;
        self.truncate(kept);
        self.evaluation.stats.forgotten_tokens += gone;
        self.extend(tokens)
    }

    /// Appends tokens and evaluates them.
    pub(crate) fn extend(&mut self, tokens: &[Token]) -> Result<()> {
        self.evaluation.append(tokens)?;
        self.as_prompt(Evaluation::catch_up)
    }

    /// Appends tokens as they are, evaluates them and returns the logits of the last one: as many
    /// values as the vocabulary has pieces, not normalised.
    ///
    /// With no tokens, the logits of the session's last token.
    ///
    /// # Errors
    /// [`Error::Token`] if an id is not in the vocabulary, [`Error::Context`] if there is no room,
    /// [`Error::Option`] if session and `tokens` are both empty: the session is unchanged.
    /// [`Error::Cancelled`] as in [`push`](Self::push).
    ///
    /// ```no_run
    /// use llama_core::{Model, Options, Token};
    ///
    /// # fn main() -> llama_core::Result<()> {
    /// let model = Model::read("llama-2-7b.Q4_0.gguf")?;
    /// let mut session = model.session(Options::default())?;
    /// let logits = session.forward(&[Token(1), Token(15043)])?; // <s>, ▁Hello
    /// let next = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn forward(&mut self, tokens: &[Token]) -> Result<&[f32]> {
        if self.evaluation.tokens.is_empty() && tokens.is_empty() {
            return Err(nothing_to_evaluate());
        }
        self.evaluation.append(tokens)?;
        self.as_prompt(Evaluation::catch_up)?;
        Ok(self.evaluation.logits())
    }

    /// The same, with the logits of every one of `tokens`: `tokens.len()` rows of the vocabulary's
    /// size, row-major.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), but no tokens are no error.
    pub fn forward_all(&mut self, tokens: &[Token]) -> Result<Vec<f32>> {
        self.as_prompt(Evaluation::catch_up)?;
        self.evaluation.append(tokens)?;
        self.as_prompt(Evaluation::catch_up_all)
    }

    /// Generates text after what the session holds, token by token; see [`Generate`].
    ///
    /// An empty session starts from the beginning-of-text token alone.
    pub fn generate<'a>(&'a mut self, sampler: &'a mut Sampler) -> Generate<'a> {
        let tokenizer = self.model.tokenizer();
        let mut stream = tokenizer.stream();
        stream.skip(&self.evaluation.tokens);
        Generate::new(&mut self.evaluation, stream, sampler, tokenizer)
    }

    /// Why the last generation ended; `None` if it did not: it may go on.
    pub fn stopped(&self) -> Option<StopReason> {
        self.evaluation.stopped
    }

    /// All tokens so far, prompts and generated ones, but for those that a full context has forgotten.
    pub fn tokens(&self) -> &[Token] {
        &self.evaluation.tokens
    }

    /// The most tokens that the session can hold.
    pub fn context(&self) -> usize {
        self.evaluation.kv.context()
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What was evaluated and how fast, since the session was made. Loading is not included.
    pub fn stats(&self) -> Stats {
        self.evaluation.stats
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Forgets all but the first `len` tokens; does nothing if there are no more than that.
    pub fn truncate(&mut self, len: usize) {
        if len < self.tokens().len() {
            self.evaluation.truncate(len);
        }
    }

    /// Counts what `evaluate` puts into the cache as prompt, even if it fails half-way.
    fn as_prompt<T>(&mut self, evaluate: impl FnOnce(&mut Evaluation) -> Result<T>) -> Result<T> {
        let (clock, start) = (Instant::now(), self.evaluation.kv.len());
        let result = evaluate(&mut self.evaluation);
        let stats = &mut self.evaluation.stats;
        stats.prompt_tokens += self.evaluation.kv.len() - start;
        stats.prompt_time += clock.elapsed();
        result
    }
}

/// A session without a single token has no logits.
pub(crate) fn nothing_to_evaluate() -> Error {
    Error::Option {
        option: "prompt",
        expected: "at least one token, as the vocabulary has none to begin a text with".into(),
        found: "none".into(),
    }
}

#[cfg(test)]
mod tests;
