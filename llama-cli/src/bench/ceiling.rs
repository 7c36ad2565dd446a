//! What a test has to do at least, and how fast this machine could do that.
//!
//! ```text
//! MBU = bytes / (time * bandwidth)     bytes: all matrices once a pass, and the cached positions it reads
//! MFU = sum over engines of multiplications / (time * peak of the engine)
//! ```
//!
//! A pass is one token of a generation or one micro-batch of a prompt. Where one engine does all the work,
//! MFU is its share of the peak; with several, the share of the time that all would take at their peaks.

use super::figures;
use super::run::Test;
use llama_core::{Model, Tensor};
use llama_kernels::{Cpu, Format, limits};
use std::time::Duration;

/// How long each of a machine's limits is measured before a test.
const PEAK: Duration = Duration::from_millis(50);
/// How long the canary sings between two repetitions: its loop, and its reading of memory.
const LOOP: Duration = Duration::from_millis(5);
const STREAM: Duration = Duration::from_millis(15);

/// What one repetition has to do.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct Work {
    /// Bytes from memory.
    pub(super) bytes: u64,
    /// Multiplications in integers, few tokens at a time and many.
    integers: [u64; 2],
    /// In floats; attention's too.
    floats: u64,
    /// In half precision, many tokens at a time: few are multiplied in floats.
    halves: u64,
    /// In bfloat16, likewise.
    bf16: u64,
}

/// What does not change from pass to pass.
pub(super) struct Cost {
    /// Bytes of all matrices but the embedding.
    weights: u64,
    /// Bytes of a position's keys and values.
    position: u64,
    /// Multiplications of a token in the layers' matrices, by their [`Class`].
    layers: [u64; CLASSES],
    /// The same in the output matrix.
    output: [u64; CLASSES],
    /// Multiplications of a pair of positions in attention.
    pair: u64,
}

impl Cost {
    pub(super) fn new(model: &Model, bytes_per_position: u64) -> Cost {
        let (config, weights) = (model.config(), model.weights());
        let add = |mut sums: [u64; CLASSES], tensor: &Tensor| {
            let matrix = tensor.matrix();
            sums[Class::of(matrix.format()) as usize] += matrix.rows() as u64 * matrix.cols() as u64;
            sums
        };
        let layers =
            weights.layers.iter().flat_map(|layer| layer.matrices_per_token()).fold([0; CLASSES], add);
        Cost {
            weights: weights.bytes_per_token() - weights.token_embd.matrix().row_stride() as u64,
            position: bytes_per_position,
            layers,
            output: add([0; CLASSES], &weights.output),
            pair: (config.n_layers * config.n_heads * (config.head_dim + config.value_dim)) as u64,
        }
    }

    /// Bytes of weights that every pass reads.
    pub(super) fn weights(&self) -> u64 {
        self.weights
    }

    /// What a repetition of a test has to do, its prompt in pieces of at most `batch` tokens, and these in
    /// micro-batches of at most `ubatch`.
    pub(super) fn of(&self, test: Test, batch: usize, ubatch: usize) -> Work {
        let mut work = Work::default();
        let mut start = test.depth as usize;
        let mut left = test.prompt as usize;
        while left > 0 {
            let piece = left.min(batch);
            for done in (0..piece).step_by(ubatch) {
                let tokens = ubatch.min(piece - done);
                self.pass(&mut work, tokens, start);
                start += tokens;
            }
            left -= piece;
        }
        for _ in 0..test.generated {
            self.pass(&mut work, 1, start);
            start += 1;
        }
        work
    }

    fn pass(&self, work: &mut Work, tokens: usize, start: usize) {
        work.bytes += self.weights + self.position * (start + tokens) as u64;
        let many = tokens > Cpu::FEW_TOKENS;
        let [integers, floats, halves, bf16] = self.layers.map(|macs| tokens as u64 * macs);
        work.integers[usize::from(many)] += integers;
        *(if many { &mut work.halves } else { &mut work.floats }) += halves;
        *(if many { &mut work.bf16 } else { &mut work.floats }) += bf16;
        // One token's logits.
        work.integers[0] += self.output[0];
        let pairs = (tokens * start + tokens * (tokens + 1) / 2) as u64;
        work.floats += floats + self.output[1..].iter().sum::<u64>() + pairs * self.pair;
    }
}

/// What some threads of the machine can do, in operations (a multiplication and an addition being two) and
/// bytes per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ceiling {
    pub(super) bandwidth: f64,
    pub(super) integers: Option<f64>,
    pub(super) tiles: Option<f64>,
    /// Dot products of bfloat16 in vectors.
    pub(super) pairs: Option<f64>,
    /// Weights of two bytes in fixed point.
    pub(super) fixed: Option<f64>,
    pub(super) floats: Option<f64>,
}

/// What a matrix is multiplied in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    Integers,
    Floats,
    /// Many tokens at a time in fixed point, where the instruction set has an engine for that; else, and few, in floats.
    Halves,
    /// Many tokens at a time in bfloat16, where the instruction set has that, or in fixed point; else, and few, in floats.
    Bf16,
}

/// How many there are.
const CLASSES: usize = 4;

impl Class {
    pub(super) fn of(format: Format) -> Class {
        match format {
            format if format.is_integer() => Class::Integers,
            Format::BF16 => Class::Bf16,
            Format::F16 => Class::Halves,
            _ => Class::Floats,
        }
    }
}

impl Ceiling {
    /// The peak of a product's engine.
    pub(super) fn of_product(&self, class: Class, few_tokens: bool) -> Option<f64> {
        match class {
            Class::Integers if few_tokens => self.integers,
            Class::Integers => self.tiles.or(self.integers),
            Class::Bf16 if !few_tokens => self.tiles.or(self.pairs).or(self.fixed).or(self.floats),
            Class::Halves if !few_tokens => self.fixed.or(self.floats),
            Class::Bf16 | Class::Halves | Class::Floats => self.floats,
        }
    }

    /// Share of the bandwidth.
    pub(super) fn mbu(&self, work: &Work, seconds: f64) -> Option<f64> {
        (self.bandwidth > 0.0).then(|| work.bytes as f64 / (seconds * self.bandwidth))
    }

    /// Share of the peaks of arithmetic.
    pub(super) fn mfu(&self, work: &Work, seconds: f64) -> Option<f64> {
        let parts = [
            (work.integers[0], self.of_product(Class::Integers, true)),
            (work.integers[1], self.of_product(Class::Integers, false)),
            (work.halves, self.of_product(Class::Halves, false)),
            (work.bf16, self.of_product(Class::Bf16, false)),
            (work.floats, self.floats),
        ];
        let at_peak = parts.into_iter().filter(|(macs, _)| *macs > 0);
        let at_peak: f64 =
            at_peak.map(|(macs, peak)| Some(2.0 * macs as f64 / peak?)).sum::<Option<f64>>()?;
        Some(at_peak / seconds)
    }
}

/// Watches the machine while something is measured.
pub(super) struct Canary<'a> {
    memory: &'a [u8],
    cpu: &'a Cpu,
    clock: Vec<f64>,
    stream: Vec<f64>,
}

impl<'a> Canary<'a> {
    /// `memory` is what no cache holds.
    pub(super) fn new(memory: &'a [u8], cpu: &'a Cpu) -> Canary<'a> {
        Canary { memory, cpu, clock: Vec::new(), stream: Vec::new() }
    }

    /// Takes 20 milliseconds.
    pub(super) fn sing(&mut self) {
        let (memory, threads) = (self.memory, self.cpu.threads());
        let (clock, stream) =
            self.cpu.beside(|| (limits::clock(threads, LOOP), limits::stream(memory, threads, STREAM)));
        self.clock.push(clock);
        self.stream.push(stream);
    }

    /// How much the machine's clock and the speed of its memory changed, as shares of their medians.
    pub(super) fn spreads(&self) -> [f64; 2] {
        [figures::spread(&self.clock), figures::spread(&self.stream)]
    }

    /// The machine's limits, with the best bandwidth that was seen.
    pub(super) fn ceiling(&self) -> Ceiling {
        let (isa, threads) = (self.cpu.isa(), self.cpu.threads());
        let bandwidth = figures::max(&self.stream);
        self.cpu.beside(|| Ceiling {
            bandwidth,
            integers: limits::integer_peak(isa, threads, PEAK),
            tiles: limits::tile_peak(isa, threads, PEAK),
            pairs: limits::pair_peak(isa, threads, PEAK),
            fixed: limits::fixed_peak(isa, threads, PEAK),
            floats: limits::float_peak(isa, threads, PEAK),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost =
        Cost { weights: 1000, position: 10, layers: [50, 5, 3, 4], output: [7, 0, 0, 1], pair: 2 };

    #[test]
    fn a_prompt_reads_the_weights_once_a_micro_batch() {
        let test = Test { prompt: 20, generated: 0, depth: 4 };
        let work = COST.of(test, 100, 16);
        assert_eq!(work.bytes, 2 * 1000 + 10 * (20 + 24));
        // The rest of four tokens goes through other kernels.
        assert_eq!(work.integers, [4 * 50 + 2 * 7, 16 * 50]);
        let pairs = (5..=24).sum::<u64>();
        assert_eq!(work.floats, 20 * 5 + 4 * (3 + 4) + 2 + pairs * 2);
        assert_eq!((work.halves, work.bf16), (16 * 3, 16 * 4));
        // Pieces are cut before micro-batches are.
        assert_eq!(COST.of(test, 10, 16), COST.of(test, 10, 10));
        assert_eq!(COST.of(test, 10, 16).bytes, 2 * 1000 + 10 * (14 + 24));
    }

    #[test]
    fn a_generation_reads_them_once_a_token() {
        let test = Test { prompt: 0, generated: 3, depth: 0 };
        let work = COST.of(test, 1, 1);
        assert_eq!(work.bytes, 3 * 1000 + 10 * (1 + 2 + 3));
        assert_eq!((work.integers, work.floats), ([3 * 57, 0], 3 * (5 + 3 + 4 + 1) + (1 + 2 + 3) * 2));
        assert_eq!((work.halves, work.bf16), (0, 0));
    }

    #[test]
    fn shares_are_of_bandwidth_and_peaks() {
        let work = Work { bytes: 500, integers: [50, 100], floats: 25, ..Work::default() };
        let (integers, floats) = (Some(200.0), Some(100.0));
        let ceiling = Ceiling { bandwidth: 1000.0, integers, tiles: None, pairs: None, fixed: None, floats };
        assert_eq!(ceiling.mbu(&work, 2.0), Some(0.25));
        assert_eq!(ceiling.mfu(&work, 4.0), Some((100.0 / 200.0 + 200.0 / 200.0 + 50.0 / 100.0) / 4.0));
        let tiles = Ceiling { tiles: Some(400.0), ..ceiling };
        assert_eq!(tiles.mfu(&work, 4.0), Some((100.0 / 200.0 + 200.0 / 400.0 + 50.0 / 100.0) / 4.0));
        assert_eq!(Ceiling { floats: None, ..ceiling }.mfu(&work, 4.0), None);
        assert_eq!(Ceiling { bandwidth: 0.0, ..ceiling }.mbu(&work, 4.0), None);
    }

    #[test]
    fn numbers_of_two_bytes_have_peaks_of_their_own_where_many_tokens_are_multiplied() {
        let (integers, floats) = (None, Some(100.0));
        let floats = Ceiling { bandwidth: 1.0, integers, tiles: None, pairs: None, fixed: None, floats };
        let fixed = Ceiling { fixed: Some(150.0), ..floats };
        let pairs = Ceiling { pairs: Some(200.0), ..fixed };
        let tiles = Ceiling { tiles: Some(400.0), ..pairs };
        let all = [floats, fixed, pairs, tiles];
        let peaks = |class| all.map(|ceiling| ceiling.of_product(class, false).unwrap());
        assert_eq!(peaks(Class::Bf16), [100.0, 150.0, 200.0, 400.0]);
        assert_eq!(peaks(Class::Halves), [100.0, 150.0, 150.0, 150.0]);
        assert_eq!(peaks(Class::Floats), [100.0; 4]);
        for class in [Class::Bf16, Class::Halves, Class::Floats] {
            assert_eq!(tiles.of_product(class, true), Some(100.0));
        }
        let work = Work { bf16: 100, ..Work::default() };
        assert_eq!((floats.mfu(&work, 2.0), pairs.mfu(&work, 2.0)), (Some(1.0), Some(0.5)));
        let work = Work { halves: 75, ..Work::default() };
        assert_eq!((floats.mfu(&work, 1.5), tiles.mfu(&work, 2.0)), (Some(1.0), Some(0.5)));
        assert_eq!(
            [Format::BF16, Format::F16, Format::F32, Format::Q4_0].map(Class::of),
            [Class::Bf16, Class::Halves, Class::Floats, Class::Integers]
        );
    }
}
