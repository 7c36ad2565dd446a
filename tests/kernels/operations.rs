//! The operations beside matrix products: embedding, norm, softmax, rotation and attention.

use crate::{CPUS, check, each, encode, unwritten};
use llama_kernels::{Format, KvLayer, Ops};
use llama_tests::close::{self, Answer, violation};
use llama_tests::oracle::{self, Heads};
use llama_tests::shapes::{Data, awkward_lengths};

#[test]
fn embedding_decodes_rows() {
    each(Format::ALL, |format| {
        for blocks in [1, 2, 7] {
            let cols = blocks * format.block_len();
            let weights = Data::new(6).weights(format, 9, cols);
            let ids = [8, 0, 3, 3, 5];
            let mut expected = vec![0.0; ids.len() * cols];
            for (&id, row) in ids.iter().zip(expected.chunks_exact_mut(cols)) {
                weights.matrix().dequantize_row(id as usize, row);
            }
            let embed = |ops: &Ops<'_>, out: &mut [f32]| ops.embed(out, weights.matrix(), &ids);
            check(
                &Answer::exact(&expected),
                &unwritten(5 * cols),
                &format!("{format} rows of {cols}"),
                embed,
            );
        }
    });
}

/// The answers of consecutive rows as one.
fn rows(answers: impl Iterator<Item = Answer>) -> Answer {
    let (expected, bound): (Vec<_>, Vec<_>) = answers.map(|a| (a.expected, a.bound)).unzip();
    Answer { expected: expected.concat(), bound: bound.concat() }
}

#[test]
fn rmsnorm_agrees() {
    let mut data = Data::new(10);
    for n in awkward_lengths().into_iter().filter(|&n| n > 0).chain([1023, 4096]) {
        for (size, eps) in [(1.0, 1e-5), (1e15, 1e-6), (1e-3, 1e-5), (1e-39, 1e-5), (0.0, 1e-6)] {
            let x: Vec<f32> = data.outliers(3 * n).iter().map(|x| x * size).collect();
            let weight = data.values(n);
            let answer = rows(x.chunks(n).map(|x| close::rmsnorm(x, &weight, eps)));
            let what = format!("rmsnorm of {n} values of size {size:e}");
            check(&answer, &unwritten(3 * n), &what, |ops, out| ops.rmsnorm(out, &x, &weight, eps));
        }
    }
}

#[test]
fn softmax_agrees() {
    let mut data = Data::new(11);
    for n in awkward_lengths().into_iter().filter(|&n| n > 0).chain([1023]) {
        for size in [1.0, 30.0, 0.0] {
            let mut x: Vec<f32> = data.outliers(3 * n).iter().map(|x| x * size).collect();
            let answer = rows(x.chunks(n).map(close::softmax));
            let what = format!("softmax of {n} values of size {size}");
            check(&answer, &x, &what, |ops, out| ops.softmax(out, n));

            // Masked values get nothing, the others what they would get without them.
            for i in (0..3 * n).filter(|i| i % n > 0 && i % 3 == 0) {
                x[i] = f32::NEG_INFINITY;
            }
            let seen = |row: &[f32]| row.iter().copied().filter(|x| x.is_finite()).collect::<Vec<_>>();
            let answer = rows(x.chunks(n).map(|row| close::softmax(&seen(row))));
            let woven = |values: Vec<f64>| {
                let mut values = values.into_iter();
                x.iter().map(|x| if x.is_finite() { values.next().unwrap() } else { 0.0 }).collect()
            };
            let answer = Answer { expected: woven(answer.expected), bound: woven(answer.bound) };
            check(&answer, &x, &format!("masked {what}"), |ops, out| ops.softmax(out, n));
        }
    }
}

#[test]
fn rope_agrees() {
    let mut data = Data::new(12);
    for (dim, dims) in [(8, 8), (16, 16), (20, 20), (20, 6), (64, 64), (64, 20), (128, 128)] {
        for (base, scale, scaled) in [(1e4, 1.0, false), (1e6, 0.25, false), (1e4, 1.0, true)] {
            // Two heads turn, the values behind them stay; three tokens at places of their own.
            let (heads, features, positions) = (2, 2 * dim + 5, [0, 511, 100_000]);
            let factors = scaled.then(|| (0..dims / 2).map(|i| 1.0 + i as f64).collect::<Vec<_>>());
            let rope = oracle::Rope { dims, base, scale, factors };
            let x = data.values(3 * features);
            let token = |(x, pos): (&[f32], usize)| {
                let (turned, rest) = x.split_at(heads * dim);
                rows([close::rope(turned, dim, pos, &rope), Answer::exact(rest)].into_iter())
            };
            let answer = rows(x.chunks(features).zip(positions).map(token));
            let frequencies: Vec<f64> = (0..dims / 2).map(|i| rope.angle(1, i)).collect();
            let mut tables = vec![0.0; 3 * 2 * dims];
            for (table, pos) in tables.chunks_exact_mut(2 * dims).zip(positions) {
                llama_kernels::rope_table(table, pos, &frequencies);
            }
            let what = format!("rope of {dims} of {dim}, base {base}");
            check(&answer, &x, &what, |ops, out| ops.rope(out, 3, heads, dim, &tables));
        }
    }
}

/// Attention over a cache that is filled in batches, whose room beyond the last token holds junk.
struct Attention {
    heads: Heads,
    /// Positions before the batch.
    start: usize,
    /// Tokens in the batch.
    tokens: usize,
    /// `[position][queries | keys | values]`.
    qkv: Vec<f32>,
}

impl Attention {
    fn new(heads: Heads, start: usize, tokens: usize, size: f32) -> Attention {
        let mut attention = Attention { heads, start, tokens, qkv: Vec::new() };
        attention.qkv = Data::new(13).values((start + tokens) * attention.features());
        let queries = heads.query * heads.dim;
        for row in attention.qkv.chunks_exact_mut(queries + heads.kv * (heads.dim + heads.value_dim)) {
            row[..queries].iter_mut().for_each(|q| *q *= size);
        }
        attention
    }

    fn features(&self) -> usize {
        let Heads { query, kv, dim, value_dim } = self.heads;
        query * dim + kv * (dim + value_dim)
    }

    /// What the oracle says: it sees keys and values as half-precision numbers.
    fn answer(&self) -> Answer {
        let Heads { query, kv, dim, value_dim } = self.heads;
        let part = |from: usize, len: usize, first: usize| -> Vec<f32> {
            let rows = self.qkv.chunks_exact(self.features()).skip(first);
            rows.flat_map(|row| row[from..from + len].iter().copied()).collect()
        };
        let cached = |x: Vec<f32>| {
            let mut rounded = vec![0.0; x.len()];
            Format::F16.dequantize(&encode(Format::F16, &x), &mut rounded);
            rounded
        };
        let k = cached(part(query * dim, kv * dim, 0));
        let v = cached(part((query + kv) * dim, kv * value_dim, 0));
        close::attention(&part(0, query * dim, self.start), &k, &v, self.heads)
    }

    fn run(&self, ops: &Ops<'_>, out: &mut [f32]) {
        let Heads { query, kv, dim, value_dim } = self.heads;
        let (end, features) = (self.start + self.tokens, self.features());
        let mut cache = KvLayer::new(kv, end + 3, dim, value_dim).unwrap();
        ops.push_kv(&mut cache, &vec![1e4; (end + 3) * features], end + 3, 0);
        let (past, batch) = self.qkv.split_at(self.start * features);
        let (early, late) = past.split_at(self.start / 3 * features);
        ops.push_kv(&mut cache, early, self.start / 3, 0);
        ops.push_kv(&mut cache, late, self.start - self.start / 3, self.start / 3);
        ops.push_kv(&mut cache, batch, self.tokens, self.start);
        ops.attention(out, batch, &cache, query, self.tokens, self.start);
    }

    fn check(&self) {
        let Attention { heads, start, tokens, .. } = self;
        let what = format!("{tokens} tokens after {start}, {heads:?}");
        let empty = unwritten(tokens * heads.query * heads.value_dim);
        check(&self.answer(), &empty, &what, |ops, out| self.run(ops, out));
    }
}

#[test]
fn attention_agrees() {
    // Positions on both sides of a tile's end (64) and a chunk's (512, 1024).
    let batches = [(0, 1), (0, 5), (0, 70), (62, 1), (63, 1), (64, 2), (61, 4), (60, 9), (510, 1)];
    let long = [(511, 1), (512, 1), (511, 2), (509, 8), (1023, 2), (1020, 10)];
    for (dim, value_dim) in [(8, 8), (16, 16), (20, 24), (64, 64), (128, 128)] {
        for (query, kv) in [(3, 3), (8, 2), (8, 1), (20, 1)] {
            let heads = Heads { query, kv, dim, value_dim };
            let long = long.into_iter().filter(|_| kv < 3);
            for (start, tokens) in batches.into_iter().chain(long) {
                Attention::new(heads, start, tokens, 1.0).check();
            }
        }
    }
}

#[test]
fn attention_with_extreme_scores_agrees() {
    let heads = Heads { query: 4, kv: 2, dim: 16, value_dim: 16 };
    for (start, tokens) in [(0, 6), (70, 1), (513, 7)] {
        for size in [0.0, 1e-39, 20.0, 1e3] {
            Attention::new(heads, start, tokens, size).check();
        }
        // Scores of 1e30 leave one position, in f32 as in f64: no NaN, and no value but a cached one.
        let attention = Attention::new(heads, start, tokens, 1e30);
        for [cpu, _] in &*CPUS {
            let mut found = unwritten(tokens * 64);
            cpu.region(false, |ops| attention.run(ops, &mut found));
            assert!(found.iter().all(|v| v.abs() < 4.0), "{start}, {tokens} on {}: {found:?}", cpu.isa());
        }
    }
}

#[test]
fn attention_to_a_wrong_position_is_noticed() {
    let heads = Heads { query: 4, kv: 2, dim: 16, value_dim: 16 };
    for (start, tokens) in [(40, 1), (40, 6), (513, 1), (513, 6)] {
        let right = Attention::new(heads, start, tokens, 1.0);
        // One value of one position, and the key of the last one.
        for (position, feature) in [(0, 64 + 32), (start, 64 + 32), (start + tokens - 1, 64)] {
            let mut wrong = Attention::new(heads, start, tokens, 1.0);
            wrong.qkv[position * right.features() + feature] += 2.0;
            let answer = wrong.answer();
            for [cpu, _] in &*CPUS {
                let mut found = unwritten(tokens * 64);
                cpu.region(false, |ops| right.run(ops, &mut found));
                let noticed = violation(&found, &answer.expected, &answer.bound).is_some();
                assert!(noticed, "{start}, {tokens}: position {position} on {}", cpu.isa());
            }
        }
    }
}

#[test]
fn no_tokens_are_no_work() {
    let mut cache = KvLayer::new(2, 8, 16, 16).unwrap();
    let weights = Data::new(14).weights(Format::Q8_0, 5, 64);
    for cpu in CPUS.iter().flatten() {
        cpu.region(false, |ops| {
            ops.embed(&mut [], weights.matrix(), &[]);
            ops.rmsnorm(&mut [], &[], &[1.0; 64], 1e-5);
            ops.matmul(&mut [], &[weights.matrix()], &[]);
            ops.swiglu(&mut [], weights.matrix(), weights.matrix(), &[]);
            ops.rope(&mut [], 0, 4, 16, &[]);
            ops.push_kv(&mut cache, &[], 0, 3);
            ops.attention(&mut [], &[], &cache, 4, 0, 3);
        });
    }
}
