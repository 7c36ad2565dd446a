//! A conversation with a model: text or tokens in, text or logits out.

use crate::evaluation::Evaluation;
use crate::generate::Generate;
use crate::kv_cache::{self, KvCache};
use crate::model::Model;
use crate::plan::Plan;
use crate::state::State;
use crate::stats::Stats;
use crate::tokenizer::{Prompt, Segment};
use crate::{Error, Result, Sampler, Token};
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
    /// The model chose the end-of-text token.
    Eos,
    /// The context is full.
    Context,
    /// The flag of [`Options::cancel`] is set.
    Cancelled,
}

/// A conversation with a model: owns its cache and its scratch, shares everything else.
///
/// Sessions are independent of each other and may live on different threads.
pub struct Session {
    model: Model,
    evaluation: Evaluation,
}

impl Session {
    pub(crate) fn new(model: &Model, options: Options) -> Result<Session> {
        let plan = Plan::of(model.config(), model.gguf().file_bytes(), &options)?;
        let layer = kv_cache::shape(model.config(), plan.context, &options);
        let cpu = match options.cpu {
            Some(cpu) => cpu,
            None => model.default_cpu()?,
        };
        let kv = KvCache::new(layer, model.config().n_layers).ok_or_else(|| Error::Option {
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
    /// [`Error::Context`] if the prompt is longer than the room left: nothing is evaluated, the
    /// session is unchanged. [`Error::Cancelled`] if the flag of [`Options::cancel`] stopped it:
    /// the session holds the whole prompt, and the next call evaluates what is missing.
    pub fn push(&mut self, prompt: impl Into<Prompt>) -> Result<()> {
        let prompt = prompt.into();
        let tokenizer = self.model.tokenizer();
        let mut tokens = tokenizer.encode(&prompt);
        if let Some(bos) = tokenizer.bos()
            && tokenizer.add_bos()
            && self.evaluation.tokens.is_empty()
            && prompt.segments().first() != Some(&Segment::Special(bos))
        {
            tokens.insert(0, bos);
        }
        self.evaluation.append(&tokens)?;
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
        let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
        Generate::new(&mut self.evaluation, stream, sampler, bos, tokenizer.eos())
    }

    /// Why the last generation ended; `None` if it did not: it may go on.
    pub fn stopped(&self) -> Option<StopReason> {
        self.evaluation.stopped
    }

    /// All tokens so far, prompts and generated ones.
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
mod tests {
    use super::*;
    use crate::gguf::Gguf;
    use crate::synth::{Shape, Spec, Synth};
    use llama_kernels::Format;
    use std::sync::atomic::Ordering;

    const PROMPT: &str = "Once upon a time there was a prompt";

    /// A model of one small layer.
    fn model() -> Model {
        let file = tempfile::NamedTempFile::new().unwrap();
        let shape = Shape { layers: 1, d_model: 64, d_ff: 96, ..Shape::from_name("tiny").unwrap() };
        let spec = Spec { shape, format: Format::F32.into(), seed: 7 };
        Synth::new(&spec).unwrap().write(file.as_file(), |_| ()).unwrap();
        Model::from_gguf(Gguf::read(file.path()).unwrap()).unwrap()
    }

    fn session(model: &Model, context: usize) -> Session {
        model.session(Options::default().context(context).deterministic(true)).unwrap()
    }

    fn greedy(session: &mut Session, n: usize) -> Vec<String> {
        session.generate(&mut Sampler::greedy()).take(n).map(Result::unwrap).collect()
    }

    #[test]
    fn sessions_and_models_may_cross_threads() {
        fn check<T: Send + 'static>() {}
        fn check_shared<T: Send + Sync + Clone + 'static>() {}
        check::<Session>();
        check_shared::<Model>();
    }

    #[test]
    fn bos_comes_once_and_only_at_the_start() {
        let model = model();
        let bos = model.tokenizer().bos().unwrap();
        let count = |session: &Session| session.tokens().iter().filter(|&&token| token == bos).count();
        let mut session = session(&model, 64);
        session.push("a").unwrap();
        session.push("b").unwrap();
        assert_eq!((session.tokens()[0], count(&session)), (bos, 1));
        session.clear();
        session.push(Prompt::new().special(bos).text("a")).unwrap();
        assert_eq!(count(&session), 1);
        session.clear();
        session.push("").unwrap();
        assert_eq!(session.tokens(), [bos]);
    }

    #[test]
    fn an_empty_session_starts_from_bos_alone() {
        let model = model();
        let mut pushed = session(&model, 64);
        pushed.push("").unwrap();
        let mut empty = session(&model, 64);
        assert_eq!(greedy(&mut empty, 5), greedy(&mut pushed, 5));
        assert_eq!(empty.tokens().len(), 6);
    }

    #[test]
    fn one_item_is_one_token_and_none_is_lost_between_generations() {
        let model = model();
        let mut whole = session(&model, 64);
        whole.push(PROMPT).unwrap();
        let start = whole.tokens().len();
        let expected = greedy(&mut whole, 12);
        assert_eq!((expected.len(), whole.tokens().len()), (12, start + 12));

        let mut parts = session(&model, 64);
        parts.push(PROMPT).unwrap();
        let mut text = Vec::new();
        for n in [1, 0, 4, 7] {
            text.extend(greedy(&mut parts, n));
        }
        assert_eq!((text, parts.tokens()), (expected, whole.tokens()));
        assert_eq!(parts.stopped(), None);
    }

    #[test]
    fn a_full_context_ends_the_generation() {
        let model = model();
        let mut session = session(&model, 8);
        let mut sampler = Sampler::greedy();
        let pieces = session.generate(&mut sampler).ignore_eos().count();
        assert_eq!((pieces, session.tokens().len()), (7, 8));
        assert_eq!(session.stopped(), Some(StopReason::Context));
        assert_eq!(greedy(&mut session, 5).len(), 0);
    }

    #[test]
    fn too_long_a_prompt_changes_nothing() {
        let model = model();
        let mut session = session(&model, 8);
        session.push("a").unwrap();
        let before = session.tokens().to_vec();
        let error = session.push("b".repeat(100)).unwrap_err();
        assert!(
            matches!(error, Error::Context { room, context: 8, .. } if room == 8 - before.len()),
            "{error}"
        );
        let vocab = model.config().vocab;
        let error = session.forward(&[Token(vocab as u32)]).unwrap_err();
        assert!(matches!(error, Error::Token { .. }), "{error}");
        assert_eq!(session.tokens(), before);
        assert_eq!(session.stats().prompt_tokens, before.len());
    }

    #[test]
    fn logits_do_not_depend_on_how_tokens_are_divided() {
        let model = model();
        let tokens: Vec<Token> = (0..20).map(|i| Token(1 + i * 37)).collect();
        let vocab = model.config().vocab;
        let mut whole = session(&model, 32);
        let all = whole.forward_all(&tokens).unwrap();
        assert_eq!(all.len(), 20 * vocab);

        let mut parts = session(&model, 32);
        let (first, rest) = tokens.split_at(7);
        assert_eq!(parts.forward(first).unwrap(), &all[6 * vocab..7 * vocab]);
        assert_eq!(parts.forward(rest).unwrap(), &all[19 * vocab..]);
        assert_eq!(parts.forward(&[]).unwrap(), &all[19 * vocab..]);
        assert_ne!(all[..vocab], all[vocab..2 * vocab], "the logits depend on the tokens");
        assert!(session(&model, 32).forward(&[]).is_err());
    }

    #[test]
    fn micro_batches_cover_every_token() {
        let model = model();
        let tokens: Vec<Token> = (0..20).map(|i| Token(1 + i * 37)).collect();
        for ubatch in [1, 7, 20, 64] {
            let mut session = model.session(Options::default().context(32).ubatch(ubatch)).unwrap();
            assert_eq!(session.forward_all(&tokens).unwrap().len(), 20 * model.config().vocab);
            assert_eq!(session.stats().prompt_tokens, 20);
        }
    }

    #[test]
    fn truncating_goes_back_in_time() {
        let model = model();
        let mut session = session(&model, 64);
        session.push(PROMPT).unwrap();
        let len = session.tokens().len();
        let first = greedy(&mut session, 6);
        session.truncate(len + 100);
        assert_eq!(session.tokens().len(), len + 6);
        session.truncate(len);
        assert_eq!(greedy(&mut session, 6), first);
        session.clear();
        assert!(session.tokens().is_empty());
    }

    #[test]
    fn a_cancelled_prompt_is_continued_by_the_next_call() {
        let model = model();
        let flag = Arc::new(AtomicBool::new(true));
        let mut session = model.session(Options::default().context(64).cancel(flag.clone())).unwrap();
        assert!(matches!(session.push(PROMPT), Err(Error::Cancelled)));
        let len = session.tokens().len();
        assert!(greedy(&mut session, 3).is_empty());
        assert_eq!(session.stopped(), Some(StopReason::Cancelled));

        flag.store(false, Ordering::Relaxed);
        let mut expected = model.session(Options::default().context(64)).unwrap();
        expected.push(PROMPT).unwrap();
        assert_eq!(greedy(&mut session, 3), greedy(&mut expected, 3));
        assert_eq!(session.tokens().len(), len + 3);
    }

    #[test]
    fn two_sessions_of_one_model_run_at_once() {
        let model = model();
        let mut expected = session(&model, 64);
        expected.push(PROMPT).unwrap();
        let expected = greedy(&mut expected, 8);
        std::thread::scope(|scope| {
            let text = || {
                let mut session = session(&model, 64);
                session.push(PROMPT).unwrap();
                greedy(&mut session, 8)
            };
            let threads = [scope.spawn(text), scope.spawn(text)];
            assert_eq!(threads.map(|thread| thread.join().unwrap()), [expected.clone(), expected]);
        });
    }

    #[test]
    fn senseless_options_are_errors() {
        let model = model();
        for options in [Options::default().context(0), Options::default().ubatch(0)] {
            let error = model.session(options).map(drop).unwrap_err();
            assert!(matches!(error, Error::Option { .. }), "{error}");
        }
        let error = model.session(Options::default().context(usize::MAX / 2)).map(drop).unwrap_err();
        assert!(matches!(error, Error::Option { option: "context", .. }), "{error}");
        let (context, ubatch) = (1 << 31, usize::MAX);
        let error = model.session(Options::default().context(context).ubatch(ubatch)).map(drop).unwrap_err();
        assert!(matches!(error, Error::Option { .. }), "{error}");
    }

    #[test]
    fn stats_count_prompt_and_generation_apart() {
        let model = model();
        let mut session = session(&model, 64);
        session.push(PROMPT).unwrap();
        let prompt = session.tokens().len();
        let mut sampler = Sampler::greedy();
        session.generate(&mut sampler).ignore_eos().take(5).for_each(drop);
        let stats = session.stats();
        assert_eq!((stats.prompt_tokens, stats.generated_tokens, stats.generation_steps), (prompt, 5, 4));
        assert!(stats.to_string().starts_with(&format!("prompt: {prompt} tokens in ")), "{stats}");
        assert_eq!(Stats::default().prompt_speed(), 0.0);
    }
}
