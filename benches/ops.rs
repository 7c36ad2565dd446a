//! What else a layer does, in the sizes of a 7B model with grouped queries.

use criterion::Criterion;
use llama_benches::{
    Cold, Figure, PROBE, check, cold_memory, cpus, criterion, label, measure, product, repeat,
};
use llama_kernels::limits::{copy, float_peak};
use llama_kernels::{Cpu, Format, KvLayer, rope_table};
use llama_tests::close;
use llama_tests::oracle::{Heads, Rope};
use llama_tests::shapes::Data;
use std::cell::LazyCell;
use std::ops::Range;

/// Tokens of a prompt's batch.
const TOKENS: usize = 512;
/// Features of the residual stream.
const FEATURES: usize = 4096;
/// How they divide into heads.
const HEADS: Heads = Heads { query: 32, kv: 8, dim: 128, value_dim: 128 };
/// Positions that a generated token attends to.
const DEPTH: usize = 4096;

fn main() {
    let mut c = criterion();
    let weights: LazyCell<Cold> = LazyCell::new(|| Cold::new(Format::Q4_0, 11008, FEATURES));
    let caches: LazyCell<Caches> = LazyCell::new(Caches::new);
    for cpu in cpus() {
        rmsnorm(&mut c, &cpu);
        rope(&mut c, &cpu);
        softmax(&mut c, &cpu);
        swiglu(&mut c, &cpu, &weights);
        attention_of_one(&mut c, &cpu, &caches);
        attention_of_many(&mut c, &cpu);
    }
    c.final_summary();
}

/// Operations that do little to each of a batch's values; the yardstick is copying as many.
fn light(cpu: &Cpu) -> Figure {
    let bytes = 4 * TOKENS * FEATURES;
    let ceiling = Some(copy(bytes, cpu.threads()) / 1e9);
    Figure { amount: 2.0 * bytes as f64 / 1e9, unit: "GB/s", ceiling, limit: "copying as much" }
}

fn rmsnorm(c: &mut Criterion, cpu: &Cpu) {
    measure(c, format!("rmsnorm/{}", label(cpu)), || {
        let mut data = Data::new(1);
        let (x, weight) = (data.values(TOKENS * FEATURES), data.values(FEATURES));
        let mut y = vec![0.0; x.len()];
        repeat(cpu, 1, |ops| ops.rmsnorm(&mut y, &x, &weight, 1e-5));
        close::rmsnorm(&x[..FEATURES], &weight, 1e-5).check(&y[..FEATURES], "rmsnorm");

        (light(cpu), move |n| repeat(cpu, n, |ops| ops.rmsnorm(&mut y, &x, &weight, 1e-5)))
    });
}

fn rope(c: &mut Criterion, cpu: &Cpu) {
    measure(c, format!("rope/{}", label(cpu)), || {
        let rope = Rope { dims: HEADS.dim, base: 1e4, scale: 1.0, factors: None };
        let frequencies: Vec<f64> = (0..HEADS.dim / 2).map(|i| rope.angle(1, i)).collect();
        let mut tables = vec![0.0; TOKENS * 2 * HEADS.dim];
        for (position, table) in tables.chunks_exact_mut(2 * HEADS.dim).enumerate() {
            rope_table(table, position, &frequencies);
        }
        let x = Data::new(2).values(TOKENS * FEATURES);
        let mut y = x.clone();
        repeat(cpu, 1, |ops| ops.rope(&mut y, TOKENS, HEADS.query, HEADS.dim, &tables));
        let last = (TOKENS - 1) * FEATURES;
        close::rope(&x[last..], HEADS.dim, TOKENS - 1, &rope).check(&y[last..], "rope");

        let work = move |n| repeat(cpu, n, |ops| ops.rope(&mut y, TOKENS, HEADS.query, HEADS.dim, &tables));
        (light(cpu), work)
    });
}

fn softmax(c: &mut Criterion, cpu: &Cpu) {
    measure(c, format!("softmax/{}", label(cpu)), || {
        let x = Data::new(3).outliers(TOKENS * FEATURES);
        let mut y = x.clone();
        repeat(cpu, 1, |ops| ops.softmax(&mut y, FEATURES));
        close::softmax(&x[..FEATURES]).check(&y[..FEATURES], "softmax");

        (light(cpu), move |n| repeat(cpu, n, |ops| ops.softmax(&mut y, FEATURES)))
    });
}

/// One token through the gate and up matrices, which come from memory.
fn swiglu(c: &mut Criterion, cpu: &Cpu, weights: &LazyCell<Cold>) {
    measure(c, format!("swiglu/{}", label(cpu)), || {
        let weights: &Cold = weights;
        let (gate, up) = (weights.matrix(0), weights.matrix(1));
        let x = Data::new(4).values(FEATURES);
        let mut y = vec![0.0; gate.rows()];
        repeat(cpu, 1, |ops| ops.swiglu(&mut y, gate, up, &x));
        let answer = |rows: Range<usize>| {
            close::swiglu(&product(cpu.isa(), gate, rows.clone(), &x), &product(cpu.isa(), up, rows, &x))
        };
        check(answer, &y, gate.rows());

        let figure = Figure::read(2 * gate.bytes().len(), weights.bytes(), cpu.threads());
        let mut turn = 0;
        let work = move |n| {
            repeat(cpu, n, |ops| {
                ops.swiglu(&mut y, weights.matrix(turn), weights.matrix(turn + 1), &x);
                turn += 2;
            });
        };
        (figure, work)
    });
}

/// A generated token, whose keys and values come from memory.
fn attention_of_one(c: &mut Criterion, cpu: &Cpu, caches: &LazyCell<Caches>) {
    measure(c, format!("attention, 1 token after {}/{}", DEPTH - 1, label(cpu)), || {
        let Caches { layers, qkv, memory } = &**caches;
        let last = &qkv[qkv.len() - qkv.len() / DEPTH..];
        let mut y = vec![0.0; HEADS.query * HEADS.dim];
        repeat(cpu, 1, |ops| ops.attention(&mut y, last, &layers[0], HEADS.query, 1, DEPTH - 1));
        check_last(qkv, &y);

        let bytes = 2 * 2 * DEPTH * HEADS.kv * HEADS.dim;
        let mut layer = layers.iter().cycle();
        let work = move |n| {
            repeat(cpu, n, |ops| {
                let layer = layer.next().expect("an endless iterator");
                ops.attention(&mut y, last, layer, HEADS.query, 1, DEPTH - 1);
            });
        };
        (Figure::read(bytes, memory, cpu.threads()), work)
    });
}

/// A prompt's batch at the start of a context.
fn attention_of_many(c: &mut Criterion, cpu: &Cpu) {
    measure(c, format!("attention, {TOKENS} tokens/{}", label(cpu)), || {
        let qkv = random_qkv(TOKENS);
        let mut y = vec![0.0; TOKENS * HEADS.query * HEADS.dim];
        let layer = layer(cpu, &qkv, TOKENS);
        repeat(cpu, 1, |ops| ops.attention(&mut y, &qkv, &layer, HEADS.query, TOKENS, 0));
        check_last(&qkv, &y);

        // Two products, each a multiplication and an addition, for every pair of positions.
        let pairs = TOKENS * (TOKENS + 1) / 2;
        let operations = (4 * pairs * HEADS.query * HEADS.dim) as f64;
        let peak = float_peak(cpu.isa(), cpu.threads(), PROBE);
        let work = move |n| repeat(cpu, n, |ops| ops.attention(&mut y, &qkv, &layer, HEADS.query, TOKENS, 0));
        (Figure::compute(operations, peak, "the ISA's multiply-adds"), work)
    });
}

/// As many layers' caches as no cache of the machine holds, all of the same content.
struct Caches {
    layers: Vec<KvLayer>,
    /// What was pushed into each.
    qkv: Vec<f32>,
    /// To measure the limit on.
    memory: Vec<u8>,
}

impl Caches {
    fn new() -> Caches {
        let (cpu, qkv, memory) = (cpus().last().expect("one ISA at least"), random_qkv(DEPTH), cold_memory());
        let layers = memory.len() / KvLayer::size(HEADS.kv, DEPTH, HEADS.dim, HEADS.dim);
        Caches { layers: (0..layers).map(|_| layer(&cpu, &qkv, DEPTH)).collect(), qkv, memory }
    }
}

/// A full cache.
fn layer(cpu: &Cpu, qkv: &[f32], tokens: usize) -> KvLayer {
    let mut layer = KvLayer::new(HEADS.kv, tokens, HEADS.dim, HEADS.dim).expect("room for some MiB");
    repeat(cpu, 1, |ops| ops.push_kv(&mut layer, qkv, tokens, 0));
    layer
}

fn random_qkv(tokens: usize) -> Vec<f32> {
    Data::new(5).values(tokens * (HEADS.query + 2 * HEADS.kv) * HEADS.dim)
}

/// Panics unless the last token of `y` is what it should be after all of `qkv`.
fn check_last(qkv: &[f32], y: &[f32]) {
    let (queries, keys) = (HEADS.query * HEADS.dim, HEADS.kv * HEADS.dim);
    let rows = qkv.chunks_exact(queries + 2 * keys);
    let (mut k, mut v) = (Vec::new(), Vec::new());
    for row in rows.clone() {
        // A cache holds half precision.
        let mut narrow = Vec::new();
        Format::F16.quantize(&row[queries..], &mut narrow);
        let mut kv = vec![0.0; 2 * keys];
        Format::F16.dequantize(&narrow, &mut kv);
        k.extend_from_slice(&kv[..keys]);
        v.extend_from_slice(&kv[keys..]);
    }
    let last = rows.last().expect("one token at least");
    close::attention(&last[..queries], &k, &v, HEADS).check(&y[y.len() - queries..], "attention");
}
