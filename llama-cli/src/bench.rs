//! `llama bench`: tokens per second of prompts (pp) and of generation (tg).
//!
//! Both tests start from an empty context. A prompt is one call of `forward`, generation is one call
//! a token, without sampling: what is measured is the model.

use crate::args::{Bench, Table};
use crate::failure::Failure;
use crate::output::{note, print, printable};
use crate::{interrupt, load};
use llama_core::synth::{Shape, Spec, Synth};
use llama_core::{Model, Options, Session, Token};
use llama_kernels::Format;
use serde_json::json;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::TempDir;

pub(crate) fn bench(args: &Bench) -> Result<(), Failure> {
    let cancel = interrupt::watch()?;
    // Holds the directory until the end, when it is removed.
    let (path, _directory) = match &args.model {
        Some(path) => (path.clone(), None),
        None => tiny_model().map(|(path, directory)| (path, Some(directory)))?,
    };
    let cpu = args.compute.cpu()?;
    let model = load::model(&path)?;
    let context = args.n_prompt.max(args.n_gen).max(1) as usize;
    let options = Options::default().cpu(cpu.clone()).cancel(cancel).context(context);
    let mut session = model.session(options)?;
    let subject = Subject {
        model: name(&model)?,
        size: model.gguf().tensors().iter().map(|t| t.size() as u64).sum(),
        params: model.weights().parameters(),
        backend: cpu.isa(),
        threads: cpu.threads(),
    };

    let mut rows = Vec::new();
    for test in [Test::Prompt(args.n_prompt), Test::Generation(args.n_gen)] {
        if test.tokens() == 0 {
            continue;
        }
        test.warm_up(&mut session)?;
        let speeds = (0..args.repetitions).map(|_| test.speed(&mut session));
        let speeds = Speeds::new(speeds.collect::<Result<_, _>>()?);
        match args.output {
            Table::Md if rows.is_empty() => print(subject.header() + &subject.row(test, &speeds))?,
            Table::Md => print(subject.row(test, &speeds))?,
            Table::Json => {}
        }
        rows.push(subject.json(test, &speeds));
    }
    match args.output {
        Table::Md => Ok(()),
        Table::Json => print(format_args!("{:#}\n", json!(rows))),
    }
}

/// Writes a model for those who have none.
fn tiny_model() -> Result<(PathBuf, TempDir), Failure> {
    let directory = tempfile::tempdir().map_err(|e| cannot_write(std::env::temp_dir(), e))?;
    let path = directory.path().join("tiny.gguf");
    let shape = Shape::from_name("tiny").expect("a shape of the list");
    note(format_args!("no model given: measuring a tiny synthetic one, {}", path.display()));
    let model = Synth::new(&Spec { shape, format: Format::Q4_0.into(), seed: 1 })?;
    let write = |path: &Path| model.write(File::create(path)?, |_| ());
    match write(&path) {
        Ok(_) => Ok((path, directory)),
        Err(e) => Err(cannot_write(path, e)),
    }
}

/// The model's own name, or its file's, and the format of its matrices.
fn name(model: &Model) -> Result<String, Failure> {
    let gguf = model.gguf();
    let file = || gguf.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = gguf.opt_str("general.name")?.map_or_else(file, str::to_owned);
    let format = model.weights().layers.first().map(|layer| format!(" {}", layer.ffn_up.matrix().format()));
    Ok(printable(&name) + &format.unwrap_or_default())
}

fn cannot_write(path: PathBuf, source: io::Error) -> Failure {
    Failure::File { action: "write", path, source }
}

#[derive(Clone, Copy)]
enum Test {
    Prompt(u32),
    Generation(u32),
}

impl Test {
    fn tokens(self) -> u32 {
        let (Test::Prompt(n) | Test::Generation(n)) = self;
        n
    }

    /// As llama-bench calls it.
    fn label(self) -> String {
        match self {
            Test::Prompt(n) => format!("pp{n}"),
            Test::Generation(n) => format!("tg{n}"),
        }
    }

    /// Brings the weights into memory, the threads up and the clock to speed.
    fn warm_up(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Test::Prompt(_) => self.speed(session)?,
            Test::Generation(_) => Test::Generation(1).speed(session)?,
        };
        Ok(())
    }

    /// Tokens per second of one run.
    fn speed(self, session: &mut Session) -> Result<f64, Failure> {
        let n = self.tokens();
        let vocab = session.model().config().vocab as u64;
        // Any ids will do, but not always the same row of the embedding.
        let tokens: Vec<Token> = (0..n.into()).map(|i: u64| Token((i * 7919 % vocab) as u32)).collect();
        session.clear();
        let clock = Instant::now();
        match self {
            Test::Prompt(_) => drop(session.forward(&tokens)?),
            Test::Generation(_) => {
                for token in &tokens {
                    session.forward(std::slice::from_ref(token))?;
                }
            }
        }
        Ok(f64::from(n) / clock.elapsed().as_secs_f64().max(1e-9))
    }
}

/// Tokens per second over the repetitions.
struct Speeds {
    samples: Vec<f64>,
    median: f64,
    /// Median distance from the median, which one disturbed repetition does not move.
    spread: f64,
    min: f64,
    max: f64,
}

impl Speeds {
    fn new(samples: Vec<f64>) -> Speeds {
        let middle = median(&samples);
        let distances: Vec<f64> = samples.iter().map(|s| (s - middle).abs()).collect();
        Speeds {
            median: middle,
            spread: median(&distances),
            min: samples.iter().copied().fold(f64::INFINITY, f64::min),
            max: samples.iter().copied().fold(0.0, f64::max),
            samples,
        }
    }
}

/// The middle value, or the mean of the two in the middle; zero of nothing.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// What is measured: the columns that all rows share.
struct Subject {
    model: String,
    size: u64,
    params: u64,
    backend: &'static str,
    threads: usize,
}

impl Subject {
    fn header(&self) -> String {
        let width = self.model.chars().count().max(5);
        let dashes = "-".repeat(width);
        format!(
            "| {:width$} |       size |    params | backend    | threads |    test |                              t/s |\n\
             | {dashes} | ---------: | --------: | ---------- | ------: | ------: | -------------------------------: |\n",
            "model"
        )
    }

    fn row(&self, test: Test, speeds: &Speeds) -> String {
        let Speeds { median, spread, min, max, .. } = speeds;
        let width = self.model.chars().count().max(5);
        let size = scaled(self.size as f64, 1024.0, ["KiB", "MiB", "GiB"]);
        let params = scaled(self.params as f64, 1000.0, ["K", "M", "B"]);
        let speed = format!("{median:.2} ± {spread:.2} ({min:.2}..{max:.2})");
        format!(
            "| {:width$} | {size:>10} | {params:>9} | {:10} | {:7} | {:>7} | {speed:>32} |\n",
            self.model,
            self.backend,
            self.threads,
            test.label(),
        )
    }

    fn json(&self, test: Test, speeds: &Speeds) -> serde_json::Value {
        let (prompt, generation) = match test {
            Test::Prompt(n) => (n, 0),
            Test::Generation(n) => (0, n),
        };
        json!({
            "model": self.model,
            "size": self.size,
            "params": self.params,
            "backend": self.backend,
            "threads": self.threads,
            "test": test.label(),
            "n_prompt": prompt,
            "n_gen": generation,
            "median": speeds.median,
            "spread": speeds.spread,
            "min": speeds.min,
            "max": speeds.max,
            "samples": speeds.samples,
        })
    }
}

/// `x` with two decimals in the largest of three units, `step` apart, that leaves it above 1.
fn scaled(mut x: f64, step: f64, units: [&str; 3]) -> String {
    let mut unit = units[0];
    x /= step;
    for larger in &units[1..] {
        if x >= step {
            (x, unit) = (x / step, larger);
        }
    }
    format!("{x:.2} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_disturbed_repetition_moves_neither_median_nor_spread() {
        let speeds = Speeds::new(vec![10.0, 11.0, 9.0, 10.5, 1.0]);
        assert_eq!((speeds.median, speeds.spread, speeds.min, speeds.max), (10.0, 1.0, 1.0, 11.0));
        assert_eq!(median(&[1.0, 4.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn sizes_are_scaled_as_llama_bench_does() {
        let sizes = [(512.0, "0.50 KiB"), (3.5e6, "3.34 MiB"), (3_825_065_984.0, "3.56 GiB")];
        for (bytes, expected) in sizes {
            assert_eq!(scaled(bytes, 1024.0, ["KiB", "MiB", "GiB"]), expected);
        }
        assert_eq!(scaled(6.74e9, 1000.0, ["K", "M", "B"]), "6.74 B");
    }
}
