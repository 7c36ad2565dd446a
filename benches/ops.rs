//! What else a layer does, in the sizes of a 7B model with grouped queries.

use criterion::Criterion;
use llama_benches::{
    Cold, Figure, PROBE, check, cold_memory, cpus, criterion, label, measure, product, repeat,
};
use llama_kernels::limits::{copy, float_peak};
use llama_kernels::{Cpu, Format, KvLayer, KvShape, KvType, Pairs, Rotation};
use llama_tests::close;
use llama_tests::oracle::Heads;
use llama_tests::rope::Rope;
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
    let memory: LazyCell<Vec<u8>> = LazyCell::new(cold_memory);
    for cpu in cpus() {
        rmsnorm(&mut c, &cpu);
        rope(&mut c, &cpu);
        softmax(&mut c, &cpu);
        swiglu(&mut c, &cpu, &weights);
        attention_of_many(&mut c, &cpu, KvType::F16, 0);
        for kind in KvType::ALL {
            attention_of_many(&mut c, &cpu, kind, DEPTH - TOKENS);
        }
    }
    for kind in KvType::ALL {
        // One type's at a time: they take a gigabyte.
        let caches: LazyCell<Caches, _> = LazyCell::new(|| Caches::new(kind, memory.len()));
        for cpu in cpus() {
            attention_of_one(&mut c, &cpu, kind, &caches, &memory);
            push(&mut c, &cpu, kind);
        }
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
        let rope = Rope::plain(HEADS.dim, 1e4);
        let frequencies: Vec<f64> = (0..HEADS.dim / 2).map(|i| rope.angle(1.0, i)).collect();
        let rotation = Rotation { frequencies, magnitude: 1.0, pairs: rope.pairs };
        let mut tables = vec![0.0; TOKENS * 2 * HEADS.dim];
        for (position, table) in tables.chunks_exact_mut(2 * HEADS.dim).enumerate() {
            rotation.table(table, position as f64);
        }
        let x = Data::new(2).values(TOKENS * FEATURES);
        let mut y = x.clone();
        repeat(cpu, 1, |ops| ops.rope(&mut y, TOKENS, HEADS.query, HEADS.dim, &tables, Pairs::Adjacent));
        let last = (TOKENS - 1) * FEATURES;
        close::rope(&x[last..], HEADS.dim, TOKENS - 1, &rope).check(&y[last..], "rope");

        let work = move |n| {
            repeat(cpu, n, |ops| ops.rope(&mut y, TOKENS, HEADS.query, HEADS.dim, &tables, Pairs::Adjacent))
        };
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
fn attention_of_one<F: FnOnce() -> Caches>(
    c: &mut Criterion,
    cpu: &Cpu,
    kind: KvType,
    caches: &LazyCell<Caches, F>,
    memory: &LazyCell<Vec<u8>>,
) {
    measure(c, format!("attention, {kind}, 1 token after {}/{}", DEPTH - 1, label(cpu)), || {
        let Caches { layers, qkv } = &**caches;
        let last = &qkv[qkv.len() - qkv.len() / DEPTH..];
        let mut y = vec![0.0; HEADS.query * HEADS.dim];
        repeat(cpu, 1, |ops| ops.attention(&mut y, last, &layers[0], HEADS.query, 1, DEPTH - 1));
        check_last(&layers[0], qkv, &y);

        let bytes = layers[0].shape().bytes();
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

/// A prompt's batch, at this place in a context.
fn attention_of_many(c: &mut Criterion, cpu: &Cpu, kind: KvType, start: usize) {
    let place = if start > 0 { format!(" after {start}") } else { String::new() };
    measure(c, format!("attention, {kind}, {TOKENS} tokens{place}/{}", label(cpu)), || {
        let (all, qkv) = (start + TOKENS, random_qkv(start + TOKENS));
        let batch = qkv[qkv.len() / all * start..].to_vec();
        let mut y = vec![0.0; TOKENS * HEADS.query * HEADS.dim];
        let layer = layer(cpu, kind, &qkv, all);
        repeat(cpu, 1, |ops| ops.attention(&mut y, &batch, &layer, HEADS.query, TOKENS, start));
        check_last(&layer, &qkv, &y);

        // Two products, each a multiplication and an addition, for every pair of positions.
        let pairs = TOKENS * start + TOKENS * (TOKENS + 1) / 2;
        let operations = (4 * pairs * HEADS.query * HEADS.dim) as f64;
        let peak = float_peak(cpu.isa(), cpu.threads(), PROBE);
        let work = move |n| {
            repeat(cpu, n, |ops| ops.attention(&mut y, &batch, &layer, HEADS.query, TOKENS, start));
        };
        (Figure::compute(operations, peak, "the ISA's multiply-adds"), work)
    });
}

/// A prompt's keys and values into the cache.
fn push(c: &mut Criterion, cpu: &Cpu, kind: KvType) {
    measure(c, format!("push_kv, {kind}, {TOKENS} tokens/{}", label(cpu)), || {
        let qkv = random_qkv(TOKENS);
        let mut layer = layer(cpu, kind, &qkv, TOKENS);
        let bytes = TOKENS * 4 * 2 * HEADS.kv * HEADS.dim;
        let ceiling = Some(copy(bytes, cpu.threads()) / 1e9);
        let figure =
            Figure { amount: 2.0 * bytes as f64 / 1e9, unit: "GB/s", ceiling, limit: "copying as much" };
        (figure, move |n| repeat(cpu, n, |ops| ops.push_kv(&mut layer, &qkv, TOKENS, 0)))
    });
}

/// As many layers' caches as no cache of the machine holds, all of the same content.
struct Caches {
    layers: Vec<KvLayer>,
    /// What was pushed into each.
    qkv: Vec<f32>,
}

impl Caches {
    fn new(kind: KvType, bytes: usize) -> Caches {
        let (cpu, qkv) = (cpus().last().expect("one ISA at least"), random_qkv(DEPTH));
        let layers = bytes / shape(kind, DEPTH).bytes();
        Caches { layers: (0..layers).map(|_| layer(&cpu, kind, &qkv, DEPTH)).collect(), qkv }
    }
}

fn shape(kind: KvType, positions: usize) -> KvShape {
    KvShape {
        heads: HEADS.kv,
        positions,
        key_dim: HEADS.dim,
        value_dim: HEADS.value_dim,
        key_type: kind,
        value_type: kind,
    }
}

/// A full cache.
fn layer(cpu: &Cpu, kind: KvType, qkv: &[f32], tokens: usize) -> KvLayer {
    let mut layer = KvLayer::new(shape(kind, tokens)).expect("room for some MiB");
    repeat(cpu, 1, |ops| ops.push_kv(&mut layer, qkv, tokens, 0));
    layer
}

fn random_qkv(tokens: usize) -> Vec<f32> {
    Data::new(5).values(tokens * (HEADS.query + 2 * HEADS.kv) * HEADS.dim)
}

/// Panics unless the last token of `y` is what it should be after all of `qkv`, which the cache holds.
fn check_last(layer: &KvLayer, qkv: &[f32], y: &[f32]) {
    let shape = layer.shape();
    let (mut k, mut v) = (Vec::new(), Vec::new());
    for (position, head) in (0..shape.positions).flat_map(|p| (0..shape.heads).map(move |h| (p, h))) {
        let (mut key, mut value) = (vec![0.0; shape.key_dim], vec![0.0; shape.value_dim]);
        layer.key(head, position, &mut key);
        layer.value(head, position, &mut value);
        k.extend(key);
        v.extend(value);
    }
    let queries = HEADS.query * HEADS.dim;
    let last = &qkv[qkv.len() - qkv.len() / shape.positions..];
    close::attention(&last[..queries], &k, &v, HEADS).check(&y[y.len() - queries..], "attention");
}
