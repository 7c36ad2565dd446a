//! The flags of `llama chat`, and the settings that it changes while it runs.

use super::{Generation, Sampling};
use crate::source::Source;
use clap::{Args, Parser};
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct Chat {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Instructions that stand before the conversation and are never forgotten
    #[arg(long, value_name = "TEXT", visible_alias = "system-prompt", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,
    /// A file that holds them
    #[arg(long, value_name = "FILE", conflicts_with = "system")]
    pub(crate) system_file: Option<PathBuf>,
    /// Attach the instructions to every question, for models that drift from them
    ///
    /// Llama 2-Chat was trained on such conversations. Each turn costs the tokens of the instructions again, in
    /// time and in context: 100 tokens of them over 20 turns are 1,900 tokens more. With --context-shift only
    /// the first copy is never forgotten.
    #[arg(long)]
    pub(crate) system_every_turn: bool,
    /// How the conversation becomes a prompt: auto, native (Llama 2's format), file (the model's own Jinja
    /// template), or the path of a Jinja template; auto is file if the model has one, else native
    #[arg(long, value_name = "KIND|PATH", default_value = "auto")]
    pub(crate) template: PathBuf,
    /// When the context is full, forget the oldest turns, about half of it, and go on, but never the
    /// instructions; without this flag the conversation ends there
    #[arg(long)]
    pub(crate) context_shift: bool,
    /// First tokens that are never forgotten, if they are more than the instructions
    #[arg(long, value_name = "N", default_value_t = 0, requires = "context_shift")]
    pub(crate) keep: u32,
    #[command(flatten)]
    pub(crate) generation: Generation,
}

/// What `/set` sets, by the names of the flags.
#[derive(Parser)]
#[command(no_binary_name = true, args_override_self = true, disable_help_flag = true)]
pub(crate) struct Settings {
    #[arg(short = 'n', long, alias = "n", allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..))]
    pub(crate) predict: i64,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
}

impl Settings {
    /// Those of the flags.
    pub(crate) fn new(generation: &Generation) -> Result<Settings, clap::Error> {
        let sampling = &generation.sampling;
        let args = Settings::args(generation.predict, sampling);
        let settings = Settings::try_parse_from(args)?;
        Ok(Settings { sampling: Sampling { seed: sampling.seed, ..settings.sampling }, ..settings })
    }

    /// The same with one of them changed.
    pub(crate) fn with(&self, key: &str, value: &str) -> Result<Settings, clap::Error> {
        let key = format!("--{}={value}", key.trim_start_matches('-').replace('_', "-"));
        let args = Settings::args(self.predict, &self.sampling);
        let settings = Settings::try_parse_from(args.into_iter().chain([key.clone()]))?;
        let seed = if key.starts_with("--seed=") { settings.sampling.seed } else { self.sampling.seed };
        Ok(Settings { sampling: Sampling { seed, ..settings.sampling }, ..settings })
    }

    /// Flags that say so, but for the seed.
    fn args(predict: i64, sampling: &Sampling) -> Vec<String> {
        vec![
            format!("--predict={predict}"),
            format!("--temp={}", sampling.temp),
            format!("--top-k={}", sampling.top_k),
            format!("--top-p={}", sampling.top_p),
            format!("--min-p={}", sampling.min_p),
            format!("--repeat-penalty={}", sampling.repeat_penalty),
            format!("--repeat-last-n={}", sampling.repeat_last_n),
        ]
    }

    /// Tokens of an answer at most.
    pub(crate) fn most(&self) -> usize {
        usize::try_from(self.predict).unwrap_or(usize::MAX)
    }
}
