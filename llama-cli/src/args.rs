//! The command line: every flag, its default and its range, once.
//!
//! Names and defaults are those that llama.cpp's users know. Ranges are checked here, so that a
//! wrong number is a usage error (exit code 2) and the rest of the program need not look again.

mod chat;
mod downloads;

pub(crate) use crate::compute::{Compute, Placement};
pub(crate) use chat::{Chat, Settings};
pub(crate) use downloads::{Completions, Models, Remove};

use crate::list::{List, list, pair};
use crate::source::{Hub, Source};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use llama_core::synth::{Family, Shape};
use llama_core::{Mix, Scaling};
use llama_kernels::{Cpu, KvType};
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// Llama 2 models in GGUF files, on the CPU.
#[derive(Parser)]
#[command(name = "llama", version = crate::about::version(), after_help = crate::about::AFTER_HELP)]
pub(crate) struct Cli {
    /// Neither bars nor colours, for consoles and programs that understand none
    #[arg(long, global = true, env = "LLAMA_ARG_SIMPLE_IO", hide_env_values = true)]
    pub(crate) simple_io: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Generate text from a prompt; standard output carries the text and nothing else
    ///
    /// Where nothing names a model, the demo inside this program tells a little story.
    ///
    /// The exit code is 0 when generation ends by itself or at its limit, 1 after an error, 2 for
    /// wrong flags and 130 when Ctrl-C ended it (a second Ctrl-C does not wait).
    Run(Run),
    /// Talk with a model, turn by turn
    ///
    /// On a terminal with line editing; \ at the end of a line goes on in the next, and what is pasted is one
    /// text. Otherwise each line of standard input is a question, and standard output carries the answers.
    /// Ctrl-C stops an answer, and what there is of it stays. A line that begins with / is a command; /help
    /// shows them.
    Chat(Chat),
    /// Fill gaps in a text, with a model that was trained for it (Code Llama 7B and 13B)
    ///
    /// With --prefix and --suffix, standard output carries the text between the two and nothing else. With
    /// a file in which <FILL_ME> marks gaps, it carries the whole file: the gaps are filled one after the
    /// other, and for each the model sees what precedes it, filled in, and what follows it, without markers.
    Infill(Infill),
    /// Show a GGUF file's metadata and tensors
    Inspect(Inspect),
    /// Show the tokens of a text; a vocabulary-only file is enough
    Tokenize(Tokenize),
    /// Measure the speed of prompts (pp) and of generation (tg)
    ///
    /// The flags are those of llama-bench. A row gives the mean of the repetitions and their standard
    /// deviation, in tokens per second; neither tokenization nor sampling is part of them.
    ///
    /// Lists are written with commas or repeated flags, and ranges as 1-8, 1-8+2 (steps of 2) or 1-8*2
    /// (doubling).
    Bench(Bench),
    /// Show what this machine has, what is chosen and why, and what to expect of it
    ///
    /// Takes about three seconds, in which the speed of memory and arithmetic is measured.
    Doctor(Doctor),
    /// Write a model of a real shape with random weights
    Synth(Synth),
    /// List the downloaded models
    Models(Models),
    /// Remove a downloaded model
    Rm(Remove),
    /// Print completions for a shell
    Completions(Completions),
    /// Print the manual, as roff: llama man | man -l -
    Man,
}

#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) text: Text,
    #[command(flatten)]
    pub(crate) generation: Generation,
    /// When the context is full, forget half of it and go on; without this flag it ends the text
    #[arg(long)]
    pub(crate) context_shift: bool,
    /// First tokens of the prompt that are never forgotten, and the one that begins the text; -1: all of it
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..=i64::from(u32::MAX)), requires = "context_shift")]
    pub(crate) keep: i64,
    /// Print the prompt before the text [default: only on a terminal]
    #[arg(long, overrides_with = "no_echo")]
    pub(crate) echo: bool,
    /// Do not print the prompt
    #[arg(long, overrides_with = "echo")]
    pub(crate) no_echo: bool,
    /// Never choose a token that ends the text
    #[arg(long)]
    pub(crate) ignore_eos: bool,
}

/// How text is generated.
#[derive(Args)]
pub(crate) struct Generation {
    /// Tokens to generate; -1: until the end of the text or of the context
    #[arg(env = "LLAMA_ARG_N_PREDICT", hide_env_values = true)]
    #[arg(short = 'n', long, visible_alias = "n-predict", value_name = "N", default_value_t = -1,
          allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub(crate) predict: i64,
    /// Positions of the context; 0: as many as the model was trained for
    #[arg(env = "LLAMA_ARG_CTX_SIZE", hide_env_values = true)]
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub(crate) ctx_size: usize,
    /// Tokens of a prompt that are evaluated at once
    #[arg(env = "LLAMA_ARG_BATCH", hide_env_values = true)]
    #[arg(short, long, value_name = "N", default_value = "2048", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch_size: u32,
    /// The same, also spelled -ub; the smaller of the two sizes holds
    #[arg(env = "LLAMA_ARG_UBATCH", hide_env_values = true)]
    #[arg(long, value_name = "N", default_value = "512", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ubatch_size: u32,
    #[command(flatten)]
    pub(crate) cache: Cache,
    #[command(flatten)]
    pub(crate) rope: Rope,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    #[command(flatten)]
    pub(crate) compute: Compute,
}

#[derive(Args)]
#[command(group = ArgGroup::new("around").args(["prefix", "suffix", "file"]).required(true).multiple(true))]
pub(crate) struct Infill {
    #[command(flatten)]
    pub(crate) source: Source,
    /// A file that holds what stands before the gap [default: nothing]
    #[arg(long, value_name = "FILE")]
    pub(crate) prefix: Option<PathBuf>,
    /// A file that holds what stands after the gap [default: nothing]
    #[arg(long, value_name = "FILE")]
    pub(crate) suffix: Option<PathBuf>,
    /// A file in which <FILL_ME> marks each gap; `-` is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["prefix", "suffix"])]
    pub(crate) file: Option<PathBuf>,
    /// Let the model read what stands after the gap first; better where the gap begins within a word
    #[arg(long)]
    pub(crate) spm: bool,
    #[command(flatten)]
    pub(crate) generation: Generation,
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

/// What a session remembers its tokens as.
#[derive(Args)]
pub(crate) struct Cache {
    /// What keys are cached as, also spelled -ctk
    #[arg(env = "LLAMA_ARG_CACHE_TYPE_K", hide_env_values = true)]
    #[arg(long, value_name = "TYPE", default_value_t = KvType::default(), ignore_case = true, value_parser = cache_type())]
    pub(crate) cache_type_k: KvType,
    /// What values are cached as, also spelled -ctv
    #[arg(env = "LLAMA_ARG_CACHE_TYPE_V", hide_env_values = true)]
    #[arg(long, value_name = "TYPE", default_value_t = KvType::default(), ignore_case = true, value_parser = cache_type())]
    pub(crate) cache_type_v: KvType,
}

/// How positions are turned; what is not given is what the model says.
#[derive(Args)]
#[command(next_help_heading = "Rotary embedding")]
pub(crate) struct Rope {
    /// How it is scaled for longer contexts; ntk changes the base by the factor, dynamic as the text grows
    #[arg(env = "LLAMA_ARG_ROPE_SCALING_TYPE", hide_env_values = true)]
    #[arg(long, value_name = "KIND", value_parser = named(Scaling::ALL.iter().map(|s| s.name()), Scaling::from_name))]
    pub(crate) rope_scaling: Option<Scaling>,
    /// Factor by which the context becomes longer
    #[arg(env = "LLAMA_ARG_ROPE_SCALE", hide_env_values = true)]
    #[arg(long, value_name = "N", value_parser = number(1e-3..=1e6))]
    pub(crate) rope_scale: Option<f32>,
    /// Base of the frequencies
    #[arg(env = "LLAMA_ARG_ROPE_FREQ_BASE", hide_env_values = true)]
    #[arg(long, value_name = "N", value_parser = number(1.0..=1e12))]
    pub(crate) rope_freq_base: Option<f32>,
    /// The inverse of --rope-scale
    #[arg(env = "LLAMA_ARG_ROPE_FREQ_SCALE", hide_env_values = true)]
    #[arg(long, value_name = "N", value_parser = number(1e-6..=1e3), conflicts_with = "rope_scale")]
    pub(crate) rope_freq_scale: Option<f32>,
    /// Positions that the model was trained for, for yarn and dynamic
    #[arg(env = "LLAMA_ARG_YARN_ORIG_CTX", hide_env_values = true)]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) yarn_orig_ctx: Option<u32>,
    /// How much of the unscaled angles yarn keeps where pairs turn often
    #[arg(env = "LLAMA_ARG_YARN_EXT_FACTOR", hide_env_values = true)]
    #[arg(long, value_name = "N", value_parser = number(0.0..=1.0))]
    pub(crate) yarn_ext_factor: Option<f32>,
    /// What yarn's magnitude is multiplied by
    #[arg(env = "LLAMA_ARG_YARN_ATTN_FACTOR", hide_env_values = true)]
    #[arg(long, value_name = "N", value_parser = number(1e-3..=1e3))]
    pub(crate) yarn_attn_factor: Option<f32>,
    /// Turns up to which yarn scales in full
    #[arg(env = "LLAMA_ARG_YARN_BETA_SLOW", hide_env_values = true)]
    #[arg(long, value_name = "N", value_parser = number(1e-3..=1e6))]
    pub(crate) yarn_beta_slow: Option<f32>,
    /// Turns from which on yarn scales nothing
    #[arg(env = "LLAMA_ARG_YARN_BETA_FAST", hide_env_values = true)]
    #[arg(long, value_name = "N", value_parser = number(1e-3..=1e6))]
    pub(crate) yarn_beta_fast: Option<f32>,
}

#[derive(Args)]
pub(crate) struct Inspect {
    /// The GGUF file (of a split model, its first part)
    #[arg(value_name = "FILE", conflicts_with_all = ["model", "hf_repo", "model_url"])]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) source: Source,
    /// Print JSON, arrays in full
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Tokenize {
    #[command(flatten)]
    pub(crate) source: Source,
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

/// Where a value is a list, commas and repeated flags add values, and a range is `1-8`, `1-8+2` or `1-8*2`.
#[derive(Args)]
pub(crate) struct Bench {
    /// A GGUF file (of a split model, its first part); several by repeating the flag [default: the demo
    /// model inside this program]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) model: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) hub: Hub,
    /// Tokens of the prompt tests (pp); 0: none
    #[arg(short = 'p', long, value_name = "LIST", default_value = "512", value_parser = list(0..=MAX_TOKENS))]
    pub(crate) n_prompt: Vec<List>,
    /// Tokens of the generation tests (tg); 0: none
    #[arg(short, long, value_name = "LIST", default_value = "128", value_parser = list(0..=MAX_TOKENS))]
    pub(crate) n_gen: Vec<List>,
    /// A test of a prompt and the generation after it, also spelled -pg; several by repeating the flag
    #[arg(long, value_name = "PP,TG", value_parser = pair)]
    pub(crate) pg: Vec<(u32, u32)>,
    /// Tokens that the context holds before each test
    #[arg(short = 'd', long, value_name = "LIST", default_value = "0", value_parser = list(0..=MAX_TOKENS))]
    pub(crate) n_depth: Vec<List>,
    /// Tokens of a prompt that are handed over at once
    #[arg(short, long, value_name = "LIST", default_value = "2048", value_parser = list(1..=MAX_TOKENS))]
    pub(crate) batch_size: Vec<List>,
    /// Tokens that go through the model at once, also spelled -ub
    #[arg(long, value_name = "LIST", default_value = "512", value_parser = list(1..=MAX_TOKENS))]
    pub(crate) ubatch_size: Vec<List>,
    /// Types of the cached keys, also spelled -ctk
    #[arg(long, value_name = "LIST", default_values_t = [KvType::default()], value_delimiter = ',', ignore_case = true,
          value_parser = cache_type())]
    pub(crate) cache_type_k: Vec<KvType>,
    /// Types of the cached values, also spelled -ctv
    #[arg(long, value_name = "LIST", default_values_t = [KvType::default()], value_delimiter = ',', ignore_case = true,
          value_parser = cache_type())]
    pub(crate) cache_type_v: Vec<KvType>,
    #[command(flatten)]
    pub(crate) rope: Rope,
    /// Threads [default: the physical cores that this process may use, of a hybrid processor the performance cores]
    #[arg(short, long, value_name = "LIST", value_parser = list(1..=Cpu::MAX_THREADS as u32))]
    pub(crate) threads: Vec<List>,
    /// Instruction sets; all: each that this machine has [default: the best of them]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) isa: Vec<String>,
    #[command(flatten)]
    pub(crate) placement: Placement,
    /// Repetitions, after one that does not count
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repetitions: u32,
    /// Seconds to wait before each test
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=86400))]
    pub(crate) delay: u32,
    /// Leave out the repetition that does not count
    #[arg(long)]
    pub(crate) no_warmup: bool,
    /// Say on standard error what is being measured
    #[arg(long)]
    pub(crate) progress: bool,
    /// Add the minimum, median and 95th percentile of the speed, the time to the first token, the 95th
    /// percentile of a token's time, the time to load and the peak of memory to the Markdown table
    #[arg(long)]
    pub(crate) stats: bool,
    /// Add the shares of the memory's bandwidth (MBU) and of the arithmetic's peak (MFU) to the Markdown
    /// table, and show after it what each operation costs, from one more repetition
    #[arg(long)]
    pub(crate) roofline: bool,
    /// Add the ratio to the speeds of an earlier run, a file that `-o json` or `-o jsonl` wrote; equal
    /// model, test, backend, threads, batches and cache types belong together
    #[arg(long, value_name = "FILE")]
    pub(crate) compare: Option<PathBuf>,
    /// Draw the speeds against depth and threads, and the roofline, into a file .svg or .html
    #[arg(long, value_name = "FILE", value_parser = crate::bench::plotted)]
    pub(crate) plot: Option<PathBuf>,
    /// How to print the results
    #[arg(short, long, value_enum, default_value_t = Table::Md)]
    pub(crate) output: Table,
    /// How to print them to standard error as well, also spelled -oe [default: not at all]
    #[arg(long, value_enum)]
    pub(crate) output_err: Option<Table>,
}

/// Tokens of a test.
const MAX_TOKENS: u32 = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Table {
    /// Comma-separated values, with a line of names
    Csv,
    /// A JSON array of objects
    Json,
    /// A JSON object a line
    Jsonl,
    /// A Markdown table
    Md,
    /// SQL that creates a table and fills it
    Sql,
}

#[derive(Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) compute: Compute,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Synth {
    /// Whose shape
    #[arg(long, value_name = "SHAPE", ignore_case = true,
          value_parser = named(Shape::ALL.iter().map(|s| s.name), Shape::from_name))]
    pub(crate) shape: Shape,
    /// Whose architecture: mistral is llama with a window, mixtral llama with experts
    #[arg(long, value_name = "ARCH", default_value = "llama", ignore_case = true,
          value_parser = named(Family::ALL.iter().map(|f| f.name()), Family::from_name))]
    pub(crate) arch: Family,
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

/// Flags of llama.cpp that clap would read as several of one letter each, and their long names; the last
/// of them only in `bench`.
const TWO_LETTERS: [(&str, &str); 8] = [
    ("-ub", "--ubatch-size"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-hf", "--hf-repo"),
    ("-hfr", "--hf-repo"),
    ("-hff", "--hf-file"),
    ("-mu", "--model-url"),
    ("-Cr", "--cpu-range"),
];
const TWO_LETTERS_OF_BENCH: [(&str, &str); 2] = [("-pg", "--pg"), ("-oe", "--output-err")];

/// Replaces these flags by their long names; a prompt and what follows `--` are left alone.
fn spelled_out(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::new();
    for arg in args {
        let is_value = out.last().is_some_and(|last| last == "-p" || last == "--prompt")
            || out.iter().any(|earlier| earlier == "--");
        let of_bench = match out.get(1) {
            Some(command) if command == "bench" => &TWO_LETTERS_OF_BENCH[..],
            _ => &[],
        };
        let long = arg.to_str().filter(|_| !is_value).and_then(|text| {
            let (flag, value) = text.split_at(text.find('=').unwrap_or(text.len()));
            let (_, long) = TWO_LETTERS.iter().chain(of_bench).find(|(short, _)| *short == flag)?;
            Some(OsString::from(format!("{long}{value}")))
        });
        out.push(long.unwrap_or(arg));
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
mod tests;
