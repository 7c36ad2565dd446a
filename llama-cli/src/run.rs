//! `llama run`: a prompt in, text out.

use crate::args::{Generation, Run, Sampling, Seed};
use crate::failure::Failure;
use crate::output::{note, print};
use crate::{interrupt, load, prompt};
use llama_core::{Error, Model, Options, Prompt, Sampler, Session, StopReason};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

pub(crate) fn run(args: &Run) -> Result<(), Failure> {
    args.source.named()?;
    let prompt = args.prompt()?;
    let cancel = interrupt::watch()?;

    let clock = Instant::now();
    let mut options = args.generation.options(cancel)?;
    let model = load::model(&args.source)?;
    if args.context_shift {
        options = options.context_shift(args.keep(&prompt, &model));
    }
    let mut session = model.session(options)?;
    let load_time = clock.elapsed();

    let sampling = &args.generation.sampling;
    let seed = sampling.seed();
    let mut sampler = sampling.sampler(seed, session.context());
    let terminal = io::stdout().is_terminal();
    if args.echo || (terminal && !args.no_echo) {
        print(&prompt)?;
    }
    let end = generate(args, &prompt, &mut session, &mut sampler);
    if terminal {
        print("\n")?;
    }
    let cancelled = end?;
    timings(seed, load_time, &session);
    if cancelled { Err(Failure::Interrupted) } else { Ok(()) }
}

/// Says on standard error with which seed and how fast it went.
pub(crate) fn timings(seed: Option<u64>, load: Duration, session: &Session) {
    if let Some(seed) = seed {
        note(format_args!("seed: {seed}"));
    }
    note(format_args!("load: {:.3} s\n{}", load.as_secs_f64(), session.stats()));
}

/// Streams the text; tells whether Ctrl-C ended it.
fn generate(args: &Run, prompt: &str, session: &mut Session, sampler: &mut Sampler) -> Result<bool, Failure> {
    match prompt::push(session, prompt, args.generation.ubatch()) {
        Err(Error::Cancelled) => return Ok(true),
        result => result?,
    }
    let mut pieces = session.generate(sampler);
    if args.ignore_eos {
        pieces = pieces.ignore_eos();
    }
    for piece in pieces.take(args.generation.most()) {
        print(piece?)?;
    }
    Ok(session.stopped() == Some(StopReason::Cancelled))
}

impl Run {
    /// The prompt, empty if none was given. As llama.cpp does it, the newline that ends a file is
    /// not part of the prompt.
    fn prompt(&self) -> Result<String, Failure> {
        let mut prompt = self.text.read()?.unwrap_or_default();
        if self.text.file.is_some() && prompt.ends_with('\n') {
            prompt.pop();
        }
        Ok(prompt)
    }

    /// Tokens that are never forgotten, beside the one that begins the text.
    fn keep(&self, prompt: &str, model: &Model) -> usize {
        let prompt = || model.tokenizer().encode(&Prompt::from(prompt)).len();
        usize::try_from(self.keep).unwrap_or_else(|_| prompt())
    }
}

impl Generation {
    /// The session's options.
    pub(crate) fn options(&self, cancel: Arc<AtomicBool>) -> Result<Options, Failure> {
        let options = Options::default().cpu(self.compute.cpu()?).cancel(cancel).ubatch(self.ubatch());
        let options = self.cache.apply(options.rope(self.rope.options()));
        Ok(if self.ctx_size > 0 { options.context(self.ctx_size) } else { options })
    }

    /// Tokens that go through the model at once.
    pub(crate) fn ubatch(&self) -> usize {
        self.batch_size.min(self.ubatch_size) as usize
    }

    /// Tokens to generate at most.
    pub(crate) fn most(&self) -> usize {
        usize::try_from(self.predict).unwrap_or(usize::MAX)
    }
}

impl Sampling {
    /// The seed, if there is anything to draw.
    pub(crate) fn seed(&self) -> Option<u64> {
        (self.temp > 0.0).then(|| match self.seed {
            Seed::Fixed(seed) => seed,
            Seed::Random => random_seed(),
        })
    }

    /// The sampler that the flags describe.
    pub(crate) fn sampler(&self, seed: Option<u64>, context: usize) -> Sampler {
        let sampler = match seed {
            None => Sampler::greedy(),
            Some(seed) => {
                let sampler = Sampler::new(seed).temperature(self.temp);
                sampler.top_k(self.top_k as usize).top_p(self.top_p).min_p(self.min_p)
            }
        };
        sampler.repeat_penalty(self.repeat_penalty, usize::try_from(self.repeat_last_n).unwrap_or(context))
    }
}

/// 32 bits, which are enough to choose from and few enough to type. The standard library keys its
/// hash tables with randomness from the system; there is no other source without a dependency.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}
