//! What the benchmarks share: a way to measure that puts each figure beside its ceiling, the
//! machine's limits, and weights that lie in no cache.
//!
//! `cargo bench -p llama-benches` runs all of them, `cargo bench -p llama-benches --bench gemv --
//! Q4_0` some. Each checks its answer before it is timed, against the f64 oracle of the test kit.
//! Limits are measured anew right before each benchmark, because a shared machine changes its speed
//! from minute to minute: compare the shares, not the figures.

use criterion::Criterion;
use llama_kernels::limits::stream;
use llama_kernels::{Cpu, CpuOptions, Format, Matrix, Ops, available, default_threads};
use llama_tests::close::{self, Activations, Answer};
use llama_tests::shapes::Data;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Samples of a benchmark: criterion's minimum.
const SAMPLES: usize = 10;

/// How long a limit is measured, right before the benchmark that it is put beside.
pub const PROBE: Duration = Duration::from_millis(100);

/// Bytes that no last-level cache holds.
const COLD: usize = 1 << 30;

/// Criterion with few and short samples, and the command line's options.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200))
        .configure_from_args()
}

/// Every instruction set of this CPU, on one thread and on all cores.
pub fn cpus() -> impl Iterator<Item = Cpu> {
    let mut threads = vec![1, default_threads()];
    threads.dedup();
    available().into_iter().flat_map(move |isa| threads.clone().into_iter().map(move |n| cpu(isa, n)))
}

fn cpu(isa: &str, threads: usize) -> Cpu {
    Cpu::new(&CpuOptions { threads: Some(threads), isa: Some(isa.into()), ..CpuOptions::default() })
        .expect("an available ISA")
}

/// `avx2 x 8`: how benchmarks call a [`Cpu`].
pub fn label(cpu: &Cpu) -> String {
    format!("{} x {}", cpu.isa(), cpu.threads())
}

/// What one repetition of a benchmark comes to.
pub struct Figure {
    /// Units that one repetition moves, computes or makes.
    pub amount: f64,
    /// Units per second.
    pub unit: &'static str,
    /// The most units per second that are possible, if that is known.
    pub ceiling: Option<f64>,
    /// What the ceiling is.
    pub limit: &'static str,
}

impl Figure {
    /// `bytes` read from memory by `threads` threads; `memory` is what the limit is measured on.
    pub fn read(bytes: usize, memory: &[u8], threads: usize) -> Figure {
        let ceiling = Some(stream(memory, threads, PROBE) / 1e9);
        Figure { amount: bytes as f64 / 1e9, unit: "GB/s", ceiling, limit: "reading memory" }
    }

    /// `operations` in the registers, a multiplication and an addition being two.
    pub fn compute(operations: f64, peak: Option<f64>, limit: &'static str) -> Figure {
        Figure { amount: operations / 1e9, unit: "GOP/s", ceiling: peak.map(|peak| peak / 1e9), limit }
    }

    fn print(&self, seconds: f64) {
        let Figure { amount, unit, ceiling, limit } = self;
        let rate = amount / seconds;
        let against = match ceiling {
            Some(ceiling) => format!("{:.1} % of {ceiling:.1} ({limit})", 100.0 * rate / ceiling),
            None => format!("ceiling not known ({limit})"),
        };
        println!("{:24}{rate:.1} {unit}, {against}", "");
    }
}

/// Runs one benchmark and prints the median's figure.
///
/// `setup` is called only if the benchmark is selected. It checks the answer and returns the work,
/// which does as many repetitions as it is told.
pub fn measure<W: FnMut(u64)>(c: &mut Criterion, id: String, setup: impl FnOnce() -> (Figure, W)) {
    let (mut setup, mut ready, mut seconds) = (Some(setup), None, Vec::new());
    c.bench_function(&id, |bencher| {
        let (_, work) = ready.get_or_insert_with(|| setup.take().expect("set up once")());
        bencher.iter_custom(|repetitions| {
            let clock = Instant::now();
            work(repetitions);
            let elapsed = clock.elapsed();
            seconds.push(elapsed.as_secs_f64() / repetitions as f64);
            elapsed
        });
    });
    if let Some((figure, _)) = ready {
        // What comes before the samples is warm-up.
        let samples = seconds.len().saturating_sub(SAMPLES)..;
        seconds[samples.clone()].sort_by(f64::total_cmp);
        let samples = &seconds[samples];
        figure.print(samples[samples.len() / 2]);
    }
}

/// An operation `n` times within one region.
pub fn repeat(cpu: &Cpu, n: u64, mut op: impl FnMut(&Ops<'_>) + Send) {
    cpu.region(false, |ops| (0..n).for_each(|_| op(ops)));
}

/// Gaussian weights, encoded; most rows repeat others, because some encoders search for long.
pub fn weights(format: Format, rows: usize, cols: usize) -> Vec<u8> {
    const DISTINCT: usize = 16;
    assert!(rows.is_multiple_of(DISTINCT), "{rows} rows are no multiple of {DISTINCT}");
    Data::new(1).weights(format, DISTINCT, cols).matrix().bytes().repeat(rows / DISTINCT)
}

/// Copies of one matrix that no cache holds: each comes from memory when its turn comes.
pub struct Cold {
    format: Format,
    rows: usize,
    cols: usize,
    size: usize,
    bytes: Vec<u8>,
}

impl Cold {
    /// At least a gibibyte of [`weights`].
    pub fn new(format: Format, rows: usize, cols: usize) -> Cold {
        let matrix = weights(format, rows, cols);
        let bytes = matrix.repeat(COLD.div_ceil(matrix.len()));
        Cold { format, rows, cols, size: matrix.len(), bytes }
    }

    /// All copies.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The copy whose turn it is.
    pub fn matrix(&self, turn: usize) -> Matrix<'_> {
        let at = turn % (self.bytes.len() / self.size) * self.size;
        Matrix::new(self.format, self.rows, self.cols, &self.bytes[at..at + self.size]).expect("one copy")
    }
}

/// A gibibyte of nothing in particular.
pub fn cold_memory() -> Vec<u8> {
    vec![1; COLD]
}

/// What an instruction set should make of these rows of `w x`, token-major.
pub fn product(isa: &str, w: Matrix<'_>, rows: Range<usize>, x: &[f32]) -> Answer {
    let tokens = x.len() / w.cols();
    let part = Matrix::new(w.format(), rows.len(), w.cols(), w.rows_bytes(rows)).expect("whole rows");
    close::matmul(&part, x, tokens, Activations::on(isa, w.format(), tokens, false))
}

/// Panics unless the first and the last of every token's features are as `answer` has them.
pub fn check(answer: impl Fn(Range<usize>) -> Answer, y: &[f32], features: usize) {
    for range in [0..8, features - 8..features] {
        let found: Vec<f32> = y.chunks_exact(features).flat_map(|y| &y[range.clone()]).copied().collect();
        answer(range).check(&found, "product");
    }
}
