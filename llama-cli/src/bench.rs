//! `llama bench`: tokens per second of prompts (pp), of generation (tg) and of both, as llama-bench measures
//! them, and what the machine could do.
//!
//! A prompt is handed to the model in pieces, a generation token by token, without sampling: what is
//! measured is the model. A test at a depth starts from a context that is filled once. Between the
//! repetitions a short [canary](ceiling::Canary) tells whether the machine is quiet, and measures the
//! bandwidth that the results are put beside.

mod ceiling;
mod compare;
mod figures;
mod plot;
mod print;
mod roofline;
mod row;
mod run;

pub(crate) use self::plot::file as plotted;
pub(crate) use self::print::scaled;

use self::ceiling::{Canary, Cost};
use self::compare::Earlier;
use self::print::Report;
use self::roofline::Recorded;
use self::row::{Row, Setting, Subject};
use self::run::{Depth, Test};
use crate::args::Bench;
use crate::failure::Failure;
use crate::list::List;
use crate::output::{label, note, printable};
use crate::{demo, interrupt, load, machine};
use llama_core::{Model, Options, Plan};
use llama_kernels::{Cpu, CpuOptions, available};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Changes of the machine's speed beyond this share of it are worth a warning.
const QUIET: f64 = 0.1;

pub(crate) fn bench(args: &Bench) -> Result<(), Failure> {
    let cancel = interrupt::watch()?;
    let earlier = args.compare.as_deref().map(Earlier::read).transpose()?;
    let settings = settings(args)?;
    let named = args.model.iter().cloned().chain(args.hub.locate()?);
    let mut paths: Vec<Option<PathBuf>> = named.map(Some).collect();
    if paths.is_empty() {
        paths.push(None);
    }
    let tests = tests(args);
    let mut report = Report::new(args)?;
    let total = paths.len() * settings.len() * tests.len();
    let mut measurement = Measurement { args, cancel, earlier, buffer: OnceCell::new(), done: 0, total };
    let mut model = |path: &Option<_>| measurement.model(path.as_deref(), &settings, &tests, &mut report);
    let result = paths.iter().try_for_each(&mut model);
    report.end(result.is_err())?;
    result
}

/// Every combination, in llama-bench's order.
fn settings(args: &Bench) -> Result<Vec<Setting>, Failure> {
    let isas = if args.isa.iter().any(|isa| isa.eq_ignore_ascii_case("all")) {
        available().into_iter().map(str::to_owned).map(Some).collect()
    } else if args.isa.is_empty() {
        vec![None]
    } else {
        args.isa.iter().cloned().map(Some).collect::<Vec<_>>()
    };
    // With one thread this starts none: it finds the name, or that there is none.
    let known = |isa| Ok(Cpu::new(&CpuOptions { threads: Some(1), isa, ..CpuOptions::default() })?.isa());
    let isas: Vec<&'static str> = isas.into_iter().map(known).collect::<Result<_, Failure>>()?;
    let threads = match &args.threads[..] {
        [] => vec![args.placement.default_threads()],
        lists => List::flat(lists).into_iter().map(|n| n as usize).collect(),
    };
    let mut settings = Vec::new();
    for batch in List::flat(&args.batch_size) {
        for ubatch in List::flat(&args.ubatch_size) {
            for &type_k in &args.cache_type_k {
                for &type_v in &args.cache_type_v {
                    for &isa in &isas {
                        for &threads in &threads {
                            let placement = args.placement.clone();
                            settings.push(Setting { batch, ubatch, type_k, type_v, isa, threads, placement });
                        }
                    }
                }
            }
        }
    }
    Ok(settings)
}

/// The tests of one setting: at each depth the prompts, the generations, then both.
fn tests(args: &Bench) -> Vec<Test> {
    let mut tests = Vec::new();
    for depth in List::flat(&args.n_depth) {
        let prompts = List::flat(&args.n_prompt).into_iter().map(|prompt| (prompt, 0));
        let generations = List::flat(&args.n_gen).into_iter().map(|generated| (0, generated));
        let both = prompts.chain(generations).chain(args.pg.iter().copied());
        let all = both.map(|(prompt, generated)| Test { prompt, generated, depth });
        tests.extend(all.filter(|test| test.tokens() > 0));
    }
    tests
}

/// What all tests share.
struct Measurement<'a> {
    args: &'a Bench,
    cancel: Arc<AtomicBool>,
    earlier: Option<Earlier>,
    /// Memory that no cache holds, for models that some cache does.
    buffer: OnceCell<Vec<u8>>,
    /// Tests of all.
    done: usize,
    total: usize,
}

impl Measurement<'_> {
    /// All settings and tests of one model; without a path of the demo.
    fn model(
        &mut self,
        path: Option<&Path>,
        settings: &[Setting],
        tests: &[Test],
        report: &mut Report,
    ) -> Result<(), Failure> {
        machine::forget_peak();
        let clock = Instant::now();
        let model = Model::from_gguf(path.map_or_else(demo::gguf, load::map)?)?;
        let load = clock.elapsed().as_secs_f64();
        let subject = Rc::new(Subject {
            name: name(&model)?,
            file: model.gguf().path().display().to_string(),
            size: model.gguf().tensors().iter().map(|t| t.size() as u64).sum(),
            params: model.weights().parameters(),
            load,
        });
        for setting in settings {
            self.setting(&model, &subject, setting, tests, report)?;
        }
        Ok(())
    }

    /// All tests of one setting, on one session.
    fn setting(
        &mut self,
        model: &Model,
        subject: &Rc<Subject>,
        setting: &Setting,
        tests: &[Test],
        report: &mut Report,
    ) -> Result<(), Failure> {
        let Some(context) = tests.iter().map(|test| test.context()).max() else { return Ok(()) };
        let cpu = setting.placement.cpu(setting.threads, Some(setting.isa))?;
        let options = options(setting)
            .rope(self.args.rope.options())
            .context(context)
            .cpu(cpu.clone())
            .cancel(self.cancel.clone());
        let plan = Plan::new(model.gguf(), &options)?;
        let cost = Cost::new(model, plan.kv / plan.context as u64);
        let mut session = model.session(options)?;
        let mut depth = Depth::default();
        let batch = setting.batch as usize;
        for &test in tests {
            self.done += 1;
            self.progress(test, "starting");
            self.rest()?;
            let began = row::now();
            if !self.args.no_warmup {
                depth.go_to(&mut session, test.depth)?;
                test.warm_up().sample(&mut session, batch)?;
            }
            let (cache, memory) = (machine::last_level_cache(), self.memory(model));
            let mut canary = Canary::new(memory, &cpu);
            let mut samples = Vec::new();
            for repetition in 0..self.args.repetitions {
                self.progress(test, format_args!("repetition {}/{}", repetition + 1, self.args.repetitions));
                depth.go_to(&mut session, test.depth)?;
                // Before all else it would read from disk what is to be measured without warm-up.
                if repetition > 0 || !self.args.no_warmup {
                    canary.sing();
                }
                samples.push(test.sample(&mut session, batch)?);
            }
            canary.sing();
            let ceiling = canary.ceiling();
            let recorded = if self.args.roofline || self.args.plot.is_some() {
                depth.go_to(&mut session, test.depth)?;
                cpu.record();
                let seconds = test.sample(&mut session, batch)?.total;
                cpu.recorded().map(|profile| Recorded { seconds, profile })
            } else {
                None
            };
            let probe = self.buffer.get().map_or(0, |buffer| buffer.len() as u64);
            let mut row = Row {
                subject: subject.clone(),
                setting: setting.clone(),
                test,
                samples,
                work: cost.of(test, batch, setting.ubatch as usize),
                ceiling,
                resident: cache.is_some_and(|cache| cost.weights() < cache),
                spreads: canary.spreads(),
                peak_memory: machine::peak_memory().map(|peak| peak.saturating_sub(probe)),
                began,
                ratio: None,
                recorded,
            };
            row.ratio = self.earlier.as_ref().and_then(|earlier| earlier.ratio(&row));
            let [clock, stream] = row.spreads;
            report.add(row)?;
            if clock.max(stream) > QUIET {
                note(format_args!(
                    "{} this machine is not quiet: during {test} its clock changed by {:.0} % and its \
                     memory's speed by {:.0} %",
                    label("warning"),
                    100.0 * clock,
                    100.0 * stream
                ));
            }
        }
        Ok(())
    }

    /// Bytes that no cache holds: the model's own where they are many enough.
    fn memory<'m>(&'m self, model: &'m Model) -> &'m [u8] {
        let cache = machine::last_level_cache().unwrap_or(32 << 20);
        let file = model.gguf().contents().max_by_key(|file| file.len()).unwrap_or_default();
        if file.len() as u64 > 2 * cache { file } else { self.buffer.get_or_init(|| memory_beyond(cache)) }
    }

    fn progress(&self, test: Test, what: impl std::fmt::Display) {
        if self.args.progress {
            note(format_args!("llama bench: {}/{} {test}: {what}", self.done, self.total));
        }
    }

    /// Waits as long as `--delay` says, or until Ctrl-C.
    fn rest(&self) -> Result<(), Failure> {
        let (clock, delay) = (Instant::now(), Duration::from_secs(self.args.delay.into()));
        while let Some(left) = delay.checked_sub(clock.elapsed()).filter(|left| !left.is_zero()) {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Failure::Interrupted);
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
        Ok(())
    }
}

/// The session's options that a setting names, but for what computes.
fn options(setting: &Setting) -> Options {
    let ubatch = setting.batch.min(setting.ubatch) as usize;
    Options::default().ubatch(ubatch).cache_type_k(setting.type_k).cache_type_v(setting.type_v)
}

/// Memory to read that a cache of so many bytes does not hold, with every page in place.
pub(crate) fn memory_beyond(cache: u64) -> Vec<u8> {
    const SMALLEST: u64 = 256 << 20;
    const LARGEST: u64 = 1 << 30;
    let short = machine::memory().is_some_and(|memory| memory.available < 4 * LARGEST);
    let bytes = if short { SMALLEST } else { (4 * cache).clamp(SMALLEST, LARGEST) };
    vec![1; bytes as usize]
}

/// The model's own name, or its file's, and the format of its matrices.
fn name(model: &Model) -> Result<String, Failure> {
    let gguf = model.gguf();
    let file = || gguf.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = gguf.opt_str("general.name")?.map_or_else(file, str::to_owned);
    let network = model.weights().layers.first().and_then(|layer| layer.ffn.networks().first());
    let format = network.map(|network| format!(" {}", network.up.matrix().format()));
    Ok(printable(&name) + &format.unwrap_or_default())
}
