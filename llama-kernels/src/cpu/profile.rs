//! What each operation of a [region](Cpu::region) costs, for those who ask: [`Cpu::record`].
//!
//! A recorded operation is two readings of the clock and a line of a short list, once for the whole
//! operation and never for a piece of it; an operation that is not recorded looks at an `Option`. Bytes and
//! multiplications follow from the shapes: every operand counts once, read or written, whatever the caches
//! make of it.

use super::{Cpu, Ops, lock};
use crate::acts::Layout;
use crate::format::Format;
use crate::kv::KvLayer;
use crate::matrix::Matrix;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What was recorded, in the order in which operations first occurred.
#[derive(Clone, Default, Debug)]
pub struct Profile {
    /// Equal operations are one record.
    pub records: Vec<Record>,
}

/// All calls of one operation.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Record {
    /// What it is.
    pub operation: Operation,
    /// How often it was called.
    pub calls: u64,
    /// Time from the beginning to the end, all calls together.
    pub time: Duration,
    /// The part of that time in which a thread had nothing to do, the mean of all threads: what it waits
    /// for the others at the barrier, and for work to be dealt out.
    pub wait: Duration,
    /// Bytes of the operands.
    pub bytes: u64,
    /// Multiplications of the matrix products and of attention; the others are not counted.
    pub macs: u64,
}

/// A kind of operation; of products, the formats and shapes too.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Operation {
    /// Rows of the table of tokens are decoded.
    Embedding,
    /// Root-mean-square norms.
    RmsNorm,
    /// Activations become what a product's kernel reads: bytes with scales, or bfloat16.
    Quantize,
    /// Products with matrices.
    Matmul(Product),
    /// The products with gate and up, with the activation function that joins them.
    SwiGlu(Product),
    /// Rotary position embedding.
    Rope,
    /// A vector is added to every token.
    Bias,
    /// Keys and values are written to the cache.
    PushKv,
    /// Positions move within the cache.
    ShiftKv,
    /// Rows of tokens go to their experts and back.
    Experts,
    /// Queries against the cache.
    Attention,
    /// A softmax on its own.
    Softmax,
}

/// Which matrices a product is of.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Product {
    /// Their formats, each once.
    pub formats: Vec<Format>,
    /// Output features of all of them.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Whether the kernel is the one for few tokens, which reads each row where it lies (GEMV), or one for
    /// many, which unpacks panels of rows (GEMM).
    pub gemv: bool,
}

impl Operation {
    /// `matmul`, `attention`, …
    pub fn name(&self) -> &'static str {
        match self {
            Operation::Embedding => "embedding",
            Operation::RmsNorm => "rmsnorm",
            Operation::Quantize => "quantize",
            Operation::Matmul(_) => "matmul",
            Operation::SwiGlu(_) => "swiglu",
            Operation::Rope => "rope",
            Operation::Bias => "bias",
            Operation::PushKv => "kv write",
            Operation::ShiftKv => "kv shift",
            Operation::Experts => "experts",
            Operation::Attention => "attention",
            Operation::Softmax => "softmax",
        }
    }

    /// The matrices of a product.
    pub fn product(&self) -> Option<&Product> {
        match self {
            Operation::Matmul(product) | Operation::SwiGlu(product) => Some(product),
            _ => None,
        }
    }
}

/// `matmul Q4_0 4096x11008 gemv`: rows first.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let Some(Product { formats, rows, cols, gemv }) = self.product() else { return Ok(()) };
        let formats: Vec<&str> = formats.iter().map(|format| format.name()).collect();
        write!(f, " {} {rows}x{cols} {}", formats.join("+"), if *gemv { "gemv" } else { "gemm" })
    }
}

impl Cpu {
    /// From now on records what operations cost, from nothing.
    pub fn record(&self) {
        *lock(&self.profile) = Some(Profile::default());
    }

    /// Ends the recording; `None` if there was none.
    pub fn recorded(&self) -> Option<Profile> {
        lock(&self.profile).take()
    }
}

impl Ops<'_> {
    /// Records an operation, from now until the result is dropped, if operations are recorded.
    pub(super) fn span(&self, work: impl FnOnce() -> Work) -> Option<Span<'_>> {
        let profile = self.profile?;
        let (work, worked) = (work(), self.team.worked());
        Some(Span { ops: self, profile, work: Some(work), worked, clock: Instant::now() })
    }
}

/// An operation under way.
pub(super) struct Span<'a> {
    ops: &'a Ops<'a>,
    profile: &'a Mutex<Option<Profile>>,
    /// Taken when the span ends.
    work: Option<Work>,
    /// The time of the workers when it began.
    worked: Duration,
    clock: Instant,
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        let time = self.clock.elapsed();
        let team = self.ops.team;
        let threads = team.threads() as u32;
        let wait = (time * threads).saturating_sub(team.worked().saturating_sub(self.worked)) / threads;
        if let (Some(work), Some(profile)) = (self.work.take(), lock(self.profile).as_mut()) {
            profile.add(work, time, wait);
        }
    }
}

impl Profile {
    fn add(&mut self, work: Work, time: Duration, wait: Duration) {
        let Work { operation, bytes, macs } = work;
        let known = self.records.iter().position(|record| record.operation == operation);
        let at = known.unwrap_or_else(|| {
            let (time, wait) = (Duration::ZERO, Duration::ZERO);
            self.records.push(Record { operation, calls: 0, time, wait, bytes: 0, macs: 0 });
            self.records.len() - 1
        });
        let record = &mut self.records[at];
        record.calls += 1;
        record.time += time;
        record.wait += wait;
        record.bytes += bytes as u64;
        record.macs += macs as u64;
    }
}

/// What one call is to do.
pub(super) struct Work {
    operation: Operation,
    bytes: usize,
    macs: usize,
}

/// Bytes of an activation.
const FLOAT: usize = size_of::<f32>();

impl Work {
    fn new(operation: Operation, bytes: usize) -> Work {
        Work { operation, bytes, macs: 0 }
    }

    pub(super) fn embedding(table: Matrix<'_>, tokens: usize) -> Work {
        Work::new(Operation::Embedding, tokens * (table.row_stride() + FLOAT * table.cols()))
    }

    pub(super) fn rmsnorm(values: usize) -> Work {
        Work::new(Operation::RmsNorm, 2 * FLOAT * values)
    }

    pub(super) fn quantize(values: usize) -> Work {
        Work::new(Operation::Quantize, FLOAT * values)
    }

    pub(super) fn softmax(values: usize) -> Work {
        Work::new(Operation::Softmax, 2 * FLOAT * values)
    }

    pub(super) fn rope(values: usize, table: usize) -> Work {
        Work::new(Operation::Rope, FLOAT * (2 * values + table))
    }

    pub(super) fn push_kv(values: usize, kv: &KvLayer, tokens: usize) -> Work {
        Work::new(Operation::PushKv, FLOAT * values + cached(kv, tokens))
    }

    pub(super) fn bias(values: usize) -> Work {
        Work::new(Operation::Bias, 2 * FLOAT * values)
    }

    pub(super) fn shift_kv(kv: &KvLayer, positions: usize) -> Work {
        Work::new(Operation::ShiftKv, 2 * cached(kv, positions))
    }

    pub(super) fn experts(values: usize) -> Work {
        Work::new(Operation::Experts, FLOAT * values)
    }

    pub(super) fn attention(kv: &KvLayer, heads: usize, tokens: usize, start: usize) -> Work {
        let dims = kv.shape().key_dim + kv.shape().value_dim;
        // Token t sees start + t + 1 positions, but for those beyond its window.
        let hidden = |t: usize| kv.first_visible(start + t);
        let unseen: usize = (0..tokens).rev().map(hidden).take_while(|&hidden| hidden > 0).sum();
        let pairs = tokens * start + tokens * (tokens + 1) / 2 - unseen;
        let bytes = FLOAT * tokens * heads * dims + cached(kv, start + tokens - hidden(0));
        Work { macs: pairs * heads * dims, ..Work::new(Operation::Attention, bytes) }
    }

    pub(super) fn matmul(weights: &[Matrix<'_>], tokens: usize, layout: Layout) -> Work {
        let product = Product::of(weights, layout);
        let activations = FLOAT * tokens * (product.rows + product.cols);
        Work {
            macs: tokens * product.rows * product.cols,
            ..Work::new(Operation::Matmul(product), activations + bytes(weights))
        }
    }

    pub(super) fn swiglu(gate: Matrix<'_>, up: Matrix<'_>, tokens: usize, layout: Layout) -> Work {
        let product = Product::of(&[gate, up], layout);
        let activations = FLOAT * tokens * (gate.rows() + gate.cols());
        Work {
            macs: tokens * product.rows * product.cols,
            ..Work::new(Operation::SwiGlu(product), activations + bytes(&[gate, up]))
        }
    }
}

impl Product {
    fn of(weights: &[Matrix<'_>], layout: Layout) -> Product {
        let mut formats = Vec::with_capacity(1);
        for w in weights {
            if !formats.contains(&w.format()) {
                formats.push(w.format());
            }
        }
        Product {
            formats,
            rows: weights.iter().map(Matrix::rows).sum(),
            cols: weights.first().map_or(0, Matrix::cols),
            gemv: layout == Layout::Rows,
        }
    }
}

fn bytes(weights: &[Matrix<'_>]) -> usize {
    weights.iter().map(|w| w.bytes().len()).sum()
}

/// Bytes of so many positions in the cache.
fn cached(kv: &KvLayer, positions: usize) -> usize {
    let shape = kv.shape();
    shape.bytes().checked_div(shape.positions).unwrap_or(0) * positions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CpuOptions, Pairs, Rotation};
    use crate::{KvShape, KvType};

    fn cpu(threads: usize) -> Cpu {
        Cpu::new(&CpuOptions { threads: Some(threads), isa: Some("scalar".into()), ..CpuOptions::default() })
            .unwrap()
    }

    #[test]
    fn nothing_is_recorded_unless_that_is_wanted() {
        let cpu = cpu(1);
        let norm = || cpu.region(false, |ops| ops.rmsnorm(&mut [0.0; 8], &[1.0; 8], &[1.0; 4], 1e-5));
        norm();
        assert!(cpu.recorded().is_none());
        cpu.record();
        norm();
        norm();
        let records = cpu.recorded().unwrap().records;
        assert_eq!(records.len(), 1);
        assert_eq!((&records[0].operation, records[0].calls), (&Operation::RmsNorm, 2));
        assert_eq!((records[0].bytes, records[0].macs), (2 * 2 * 4 * 8, 0));
        norm();
        assert!(cpu.recorded().is_none());
    }

    #[test]
    fn bytes_and_multiplications_follow_from_the_shapes() {
        let (rows, cols, tokens) = (32, 64, 10);
        let bytes = vec![0; Format::Q4_0.row_bytes(cols).unwrap() * rows];
        let w = Matrix::new(Format::Q4_0, rows, cols, &bytes).unwrap();
        for threads in [1, 2] {
            let cpu = cpu(threads);
            cpu.record();
            for n in [1, tokens] {
                let x = vec![1.0; n * cols];
                cpu.region(false, |ops| ops.matmul(&mut vec![0.0; n * 2 * rows], &[w, w], &x));
            }
            let records = cpu.recorded().unwrap().records;
            let names: Vec<String> = records.iter().map(|r| r.operation.to_string()).collect();
            assert_eq!(names, ["quantize", "matmul Q4_0 64x64 gemv", "matmul Q4_0 64x64 gemm"]);
            let gemm = &records[2];
            assert_eq!(gemm.macs as usize, tokens * 2 * rows * cols);
            assert_eq!(gemm.bytes as usize, 2 * bytes.len() + 4 * tokens * (2 * rows + cols));
            assert!(records.iter().all(|r| r.time >= r.wait && r.time > Duration::ZERO), "{records:?}");
        }
    }

    #[test]
    fn attention_counts_what_its_tokens_see() {
        let (heads, dim, tokens, start) = (4, 16, 3, 5);
        let cpu = cpu(1);
        let mut kv = KvLayer::new(KvShape {
            heads: 2,
            positions: 16,
            key_dim: dim,
            value_dim: dim,
            key_type: KvType::F16,
            value_type: KvType::F16,
        })
        .unwrap();
        let qkv = vec![0.5; tokens * (heads + 4) * dim];
        let mut tables = vec![0.0; tokens * 2 * dim];
        tables.chunks_exact_mut(2 * dim).enumerate().for_each(|(i, table)| {
            let (frequencies, pairs) = (vec![1.0; dim / 2], Pairs::Adjacent);
            Rotation { frequencies, magnitude: 1.0, pairs }.table(table, i as f64);
        });
        cpu.record();
        cpu.region(false, |ops| {
            ops.rope(&mut qkv.clone(), tokens, heads + 2, dim, &tables, Pairs::Adjacent);
            ops.push_kv(&mut kv, &qkv, tokens, start);
            ops.attention(&mut vec![0.0; tokens * heads * dim], &qkv, &kv, heads, tokens, start);
        });
        let records = cpu.recorded().unwrap().records;
        let names: Vec<&str> = records.iter().map(|r| r.operation.name()).collect();
        assert_eq!(names, ["rope", "kv write", "attention"]);
        assert_eq!(records[2].macs as usize, (6 + 7 + 8) * heads * 2 * dim);
        // Keys and values of two heads in half precision.
        assert_eq!(records[2].bytes as usize, 4 * tokens * heads * 2 * dim + 8 * 2 * 2 * dim * 2);
    }
}
