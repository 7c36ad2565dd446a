//! `llama run`: a prompt in, text out.

use crate::args::{Run, Sampling, Seed};
use crate::failure::Failure;
use crate::output::{note, print};
use crate::{interrupt, load};
use llama_core::{Error, Model, Options, Prompt, Sampler, Session, StopReason};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IsTerminal};
use std::time::Instant;

pub(crate) fn run(args: &Run) -> Result<(), Failure> {
    let prompt = args.prompt()?;
    let cancel = interrupt::watch()?;

    let clock = Instant::now();
    let cpu = args.compute.cpu()?;
    let model = load::model(&args.model)?;
    let options = Options::default().cpu(cpu).cancel(cancel).ubatch(args.ubatch()).rope(args.rope.options());
    let mut options = args.cache.apply(options);
    if args.ctx_size > 0 {
        options = options.context(args.ctx_size);
    }
    if args.context_shift {
        options = options.context_shift(args.keep(&prompt, &model));
    }
    let mut session = model.session(options)?;
    let load_time = clock.elapsed();

    let seed = args.sampling.seed();
    let mut sampler = args.sampling.sampler(seed, session.context());
    let terminal = io::stdout().is_terminal();
    if args.echo || (terminal && !args.no_echo) {
        print(&prompt)?;
    }
    let end = generate(args, &prompt, &mut session, &mut sampler);
    if terminal {
        print("\n")?;
    }
    let cancelled = end?;
    if let Some(seed) = seed {
        note(format_args!("seed: {seed}"));
    }
    note(format_args!("load: {:.3} s\n{}", load_time.as_secs_f64(), session.stats()));
    if cancelled { Err(Failure::Interrupted) } else { Ok(()) }
}

/// Streams the text; tells whether Ctrl-C ended it.
fn generate(args: &Run, prompt: &str, session: &mut Session, sampler: &mut Sampler) -> Result<bool, Failure> {
    match session.push(prompt) {
        Err(Error::Cancelled) => return Ok(true),
        result => result?,
    }
    let mut pieces = session.generate(sampler);
    if args.ignore_eos {
        pieces = pieces.ignore_eos();
    }
    for piece in pieces.take(usize::try_from(args.predict).unwrap_or(usize::MAX)) {
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

    fn ubatch(&self) -> usize {
        self.batch_size.min(self.ubatch_size) as usize
    }
}

impl Sampling {
    /// The seed, if there is anything to draw.
    fn seed(&self) -> Option<u64> {
        (self.temp > 0.0).then(|| match self.seed {
            Seed::Fixed(seed) => seed,
            Seed::Random => random_seed(),
        })
    }

    /// The sampler that the flags describe.
    fn sampler(&self, seed: Option<u64>, context: usize) -> Sampler {
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
