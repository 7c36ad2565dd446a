//! The command line: every flag, its default and its range, once.
//!
//! Names and defaults are those that llama.cpp's users know. Ranges are checked here, so that a
//! wrong number is a usage error (exit code 2) and the rest of the program need not look again.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use llama_core::Mix;
use llama_core::synth::Shape;
use llama_kernels::{Cpu, KvType};
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// Llama 2 models in GGUF files, on the CPU.
#[derive(Parser)]
#[command(name = "llama", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Generate text from a prompt; standard output carries the text and nothing else
    ///
    /// The exit code is 0 when generation ends by itself or at its limit, 1 after an error, 2 for
    /// wrong flags and 130 when Ctrl-C ended it (a second Ctrl-C does not wait).
    Run(Run),
    /// Show a GGUF file's metadata and tensors
    Inspect(Inspect),
    /// Show the tokens of a text; a vocabulary-only file is enough
    Tokenize(Tokenize),
    /// Measure the speed of prompts (pp) and of generation (tg)
    ///
    /// A row gives the median of the repetitions, their median distance from it, and the slowest and
    /// fastest of them, in tokens per second.
    Bench(Bench),
    /// Write a model of a real shape with random weights
    Synth(Synth),
}

#[derive(Args)]
pub(crate) struct Run {
    /// The GGUF file (of a split model, its first part)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) text: Text,
    /// Tokens to generate; -1: until the end of the text or of the context
    #[arg(short = 'n', long, visible_alias = "n-predict", value_name = "N", default_value_t = -1,
          allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub(crate) predict: i64,
    /// Positions of the context; 0: as many as the model was trained for
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub(crate) ctx_size: usize,
    /// Tokens of a prompt that are evaluated at once
    #[arg(short, long, value_name = "N", default_value = "2048", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch_size: u32,
    /// The same, also spelled -ub; the smaller of the two sizes holds
    #[arg(long, value_name = "N", default_value = "512", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ubatch_size: u32,
    #[command(flatten)]
    pub(crate) cache: Cache,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    #[command(flatten)]
    pub(crate) compute: Compute,
    /// Print the prompt before the text [default: only on a terminal]
    #[arg(long, overrides_with = "no_echo")]
    pub(crate) echo: bool,
    /// Do not print the prompt
    #[arg(long, overrides_with = "echo")]
    pub(crate) no_echo: bool,
    /// Never choose the end-of-text token
    #[arg(long)]
    pub(crate) ignore_eos: bool,
}

/// Where a text comes from.
#[derive(Args)]
pub(crate) struct Text {
    /// The text, or prompt, itself
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    pub(crate) prompt: Option<String>,
    /// A file that holds the text; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Sampling {
    /// Temperature; 0: always the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = number(0.0..=1e3))]
    pub(crate) temp: f32,
    /// Choose among the K likeliest tokens; 0: among all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub(crate) top_k: u32,
    /// Choose among the likeliest tokens that share probability P; 1: among all
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = number(0.0..=1.0))]
    pub(crate) top_p: f32,
    /// Choose among tokens at least P times as likely as the likeliest; 0: among all
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = number(0.0..=1.0))]
    pub(crate) min_p: f32,
    /// Penalty on tokens that occurred lately; 1: none
    #[arg(long, value_name = "R", default_value_t = 1.0, value_parser = number(1e-3..=1e3))]
    pub(crate) repeat_penalty: f32,
    /// How many tokens are lately; 0: none, -1: the whole context
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..=i64::from(u32::MAX)))]
    pub(crate) repeat_last_n: i64,
    /// Seed of the random choice; -1: a new one. Standard error tells which it was
    #[arg(short, long, value_name = "SEED", default_value = "-1", allow_negative_numbers = true)]
    pub(crate) seed: Seed,
}

/// What computes.
#[derive(Args)]
pub(crate) struct Compute {
    /// Threads [default: the physical cores that this process may use]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=Cpu::MAX_THREADS as i64))]
    pub(crate) threads: Option<u16>,
    /// Instruction set [default: the best that this machine has]
    #[arg(long, value_name = "NAME")]
    pub(crate) isa: Option<String>,
}

/// What a session remembers its tokens as.
#[derive(Args)]
pub(crate) struct Cache {
    /// What keys are cached as, also spelled -ctk
    #[arg(long, value_name = "TYPE", default_value_t = KvType::default(), ignore_case = true, value_parser = cache_type())]
    pub(crate) cache_type_k: KvType,
    /// What values are cached as, also spelled -ctv
    #[arg(long, value_name = "TYPE", default_value_t = KvType::default(), ignore_case = true, value_parser = cache_type())]
    pub(crate) cache_type_v: KvType,
}

#[derive(Args)]
pub(crate) struct Inspect {
    /// The GGUF file (of a split model, its first part)
    #[arg(value_name = "FILE", required_unless_present = "model", conflicts_with = "model")]
    pub(crate) file: Option<PathBuf>,
    /// The same, as a flag
    #[arg(short, long, value_name = "FILE")]
    pub(crate) model: Option<PathBuf>,
    /// Print JSON, arrays in full
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Tokenize {
    /// The GGUF file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) model: PathBuf,
    /// The text [default: standard input]
    #[command(flatten)]
    pub(crate) text: Text,
    /// Do not start with the beginning-of-text token
    #[arg(long)]
    pub(crate) no_bos: bool,
    /// Print `{"ids": [..], "pieces": [..]}`
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Bench {
    /// The GGUF file [default: a tiny synthetic model, written to a temporary directory]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) model: Option<PathBuf>,
    /// Tokens of the prompt test; 0: skip it
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    pub(crate) n_prompt: u32,
    /// Tokens of the generation test; 0: skip it
    #[arg(short, long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    pub(crate) n_gen: u32,
    /// Repetitions, after one that does not count
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repetitions: u32,
    #[command(flatten)]
    pub(crate) compute: Compute,
    /// How to print the rows
    #[arg(short, long, value_enum, default_value_t = Table::Md)]
    pub(crate) output: Table,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Table {
    /// A Markdown table
    Md,
    /// A JSON array
    Json,
}

#[derive(Args)]
pub(crate) struct Synth {
    /// Whose shape
    #[arg(long, value_name = "SHAPE", ignore_case = true,
          value_parser = named(Shape::ALL.iter().map(|s| s.name), Shape::from_name))]
    pub(crate) shape: Shape,
    /// Layers [default: the shape's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) layers: Option<u32>,
    /// Format of the weights, or a mix of formats
    #[arg(long = "type", value_name = "FORMAT", default_value = "Q4_0", ignore_case = true,
          value_parser = named(Mix::names(), Mix::from_name))]
    pub(crate) format: Mix,
    /// Seed of the weights
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    pub(crate) force: bool,
}

/// `--seed`: -1 stands for a random one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Seed {
    Random,
    Fixed(u64),
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(s: &str) -> Result<Seed, String> {
        match s {
            "-1" => Ok(Seed::Random),
            _ => s.parse().map(Seed::Fixed).map_err(|_| "expected -1 or a number from 0 to 2^64-1".into()),
        }
    }
}

/// Parses the process's arguments; prints help or a usage error and ends the process if that is
/// what they come to.
pub(crate) fn parse() -> Cli {
    Cli::parse_from(spelled_out(std::env::args_os()))
}

/// Short names of several letters, which clap would read as several names, and their long ones.
const SPELLED_OUT: [(&str, &str); 3] =
    [("-ub", "--ubatch-size"), ("-ctk", "--cache-type-k"), ("-ctv", "--cache-type-v")];

/// Replaces the names of [`SPELLED_OUT`] by the long ones; a prompt and what follows `--` are left alone.
fn spelled_out(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::new();
    for arg in args {
        let is_value = out.last().is_some_and(|last| last == "-p" || last == "--prompt")
            || out.iter().any(|earlier| earlier == "--");
        let long = arg.to_str().filter(|_| !is_value).and_then(|text| {
            let (name, value) =
                text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
            let (_, long) = SPELLED_OUT.iter().find(|(short, _)| *short == name)?;
            Some(value.map_or((*long).to_owned(), |value| format!("{long}={value}")))
        });
        out.push(long.map_or(arg, OsString::from));
    }
    out
}

/// A parser of the types of a cache.
fn cache_type() -> impl TypedValueParser<Value = KvType> {
    named(KvType::ALL.iter().map(|kind| kind.name()), KvType::from_name)
}

/// A parser of one of these names, which an error and the help list.
fn named<T: Clone + Send + Sync + 'static>(
    names: impl Iterator<Item = &'static str>,
    value: fn(&str) -> Option<T>,
) -> impl TypedValueParser<Value = T> {
    let unnamed = "a name of the list has a value";
    PossibleValuesParser::new(names.collect::<Vec<_>>()).map(move |name| value(&name).expect(unnamed))
}

/// A parser of finite numbers within a range.
fn number(range: RangeInclusive<f32>) -> impl Fn(&str) -> Result<f32, String> + Clone + Send + Sync {
    move |s| {
        let expected = || format!("expected a number from {} to {}", range.start(), range.end());
        s.parse().ok().filter(|x| range.contains(x)).ok_or_else(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(args: &[&str]) -> Result<Run, clap::Error> {
        let args = ["llama", "run", "-m", "x"].iter().chain(args).map(OsString::from);
        match Cli::try_parse_from(spelled_out(args))?.command {
            Command::Run(run) => Ok(run),
            _ => unreachable!("the arguments start with `run`"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_llama_cpp() {
        let run = run(&[]).unwrap();
        assert_eq!((run.predict, run.ctx_size, run.batch_size, run.ubatch_size), (-1, 0, 2048, 512));
        assert_eq!((run.cache.cache_type_k, run.cache.cache_type_v), (KvType::F16, KvType::F16));
        let s = run.sampling;
        assert_eq!((s.temp, s.top_k, s.top_p, s.min_p), (0.8, 40, 0.95, 0.05));
        assert_eq!((s.repeat_penalty, s.repeat_last_n, s.seed), (1.0, 64, Seed::Random));
    }

    #[test]
    fn negative_numbers_and_short_names_are_read() {
        let run =
            run(&["-n", "-1", "-s", "-1", "-ub", "8", "--repeat-last-n", "-1", "-p", "- item"]).unwrap();
        assert_eq!((run.predict, run.ubatch_size, run.sampling.repeat_last_n), (-1, 8, -1));
        assert_eq!(run.text.prompt.as_deref(), Some("- item"));
    }

    #[test]
    fn long_short_names_are_rewritten_only_where_they_are_flags() {
        assert_eq!(run(&["-ub=8"]).unwrap().ubatch_size, 8);
        assert_eq!(run(&["-p", "-ub"]).unwrap().text.prompt.as_deref(), Some("-ub"));
        let cache = run(&["-ctk", "q8_0", "-ctv=Q4_0"]).unwrap().cache;
        assert_eq!((cache.cache_type_k, cache.cache_type_v), (KvType::Q8_0, KvType::Q4_0));
        assert_eq!(run(&["-p", "-ctk"]).unwrap().text.prompt.as_deref(), Some("-ctk"));
    }

    #[test]
    fn numbers_out_of_range_are_usage_errors() {
        for bad in [
            ["-t", "0"],
            ["-t", "1000000"],
            ["-n", "-2"],
            ["-b", "0"],
            ["-ub", "0"],
            ["--temp", "-1"],
            ["--temp", "nan"],
            ["--top-p", "1.5"],
            ["--min-p", "-0.1"],
            ["--top-k", "-1"],
            ["--repeat-penalty", "0"],
            ["--seed", "-2"],
            ["-c", "-1"],
            ["-ctk", "q5_0"],
            ["-ctv", ""],
        ] {
            assert!(run(&bad).is_err(), "{bad:?}");
        }
        assert!(run(&["-p", "a", "-f", "b"]).is_err());
    }
}
