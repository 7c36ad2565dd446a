//! The operations beside matrix products: embedding, norm, softmax, rotation and attention.

use crate::{CPUS, check, check_each, each, encode, unwritten};
use llama_kernels::{Format, KvLayer, KvShape, KvType, Ops, Pairs};
use llama_tests::close::{self, Answer, violation};
use llama_tests::oracle::Heads;
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
pub(crate) fn rows(answers: impl Iterator<Item = Answer>) -> Answer {
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

/// Attention over a cache that is filled in batches, whose room beyond the last token holds junk.
struct Attention {
    heads: Heads,
    /// How far back a token sees.
    window: usize,
    /// What keys and values are cached as.
    types: [KvType; 2],
    /// Positions before the batch.
    start: usize,
    /// Tokens in the batch.
    tokens: usize,
    /// `[position][queries | keys | values]`.
    qkv: Vec<f32>,
}

impl Attention {
    fn new(heads: Heads, types: [KvType; 2], start: usize, tokens: usize, size: f32) -> Attention {
        let mut attention = Attention { heads, window: usize::MAX, types, start, tokens, qkv: Vec::new() };
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

    /// What the oracle says: it sees keys and values as their formats round them, row by row.
    fn answer(&self) -> Answer {
        self.answer_of(0.0)
    }

    /// The same where products are off by some part of them.
    fn answer_of(&self, product: f64) -> Answer {
        let Heads { query, kv, dim, value_dim } = self.heads;
        let part = |from: usize, len: usize, first: usize| -> Vec<f32> {
            let rows = self.qkv.chunks_exact(self.features()).skip(first);
            rows.flat_map(|row| row[from..from + len].iter().copied()).collect()
        };
        let cached = |x: Vec<f32>, dim: usize, kind: KvType| -> Vec<f32> {
            let round = |row: &[f32]| {
                let mut rounded = row.to_vec();
                rounded.resize(dim.next_multiple_of(kind.format().block_len()), 0.0);
                let bytes = encode(kind.format(), &rounded);
                kind.format().dequantize(&bytes, &mut rounded);
                rounded.truncate(dim);
                rounded
            };
            x.chunks_exact(dim).flat_map(round).collect()
        };
        let k = cached(part(query * dim, kv * dim, 0), dim, self.types[0]);
        let v = cached(part((query + kv) * dim, kv * value_dim, 0), value_dim, self.types[1]);
        close::attention_within(&part(0, query * dim, self.start), &k, &v, self.heads, self.window, product)
    }

    fn run(&self, ops: &Ops<'_>, out: &mut [f32]) {
        let Heads { query, kv, dim, value_dim } = self.heads;
        let (end, features) = (self.start + self.tokens, self.features());
        let mut cache = cache(kv, end + 3, [dim, value_dim], self.types).with_window(self.window);
        ops.push_kv(&mut cache, &vec![1e4; (end + 3) * features], end + 3, 0);
        let (past, batch) = self.qkv.split_at(self.start * features);
        let (early, late) = past.split_at(self.start / 3 * features);
        ops.push_kv(&mut cache, early, self.start / 3, 0);
        ops.push_kv(&mut cache, late, self.start - self.start / 3, self.start / 3);
        ops.push_kv(&mut cache, batch, self.tokens, self.start);
        ops.attention(out, batch, &cache, query, self.tokens, self.start);
    }

    fn check(&self) {
        let Attention { heads, window, types: [k, v], start, tokens, .. } = self;
        let what = format!("{tokens} tokens after {start}, {heads:?}, window {window}, {k} and {v}");
        let empty = unwritten(tokens * heads.query * heads.value_dim);
        let (floats, tiles) = (self.answer(), self.answer_of(close::TILED_PRODUCT));
        let answer = |isa: &str, deterministic: bool| {
            let tiled = isa == "amx" && !deterministic && *tokens > 4;
            if tiled { tiles.clone() } else { floats.clone() }
        };
        check_each(answer, &empty, &what, |ops, out| self.run(ops, out));
    }
}

/// An empty cache.
pub(crate) fn cache(
    heads: usize,
    positions: usize,
    [key_dim, value_dim]: [usize; 2],
    types: [KvType; 2],
) -> KvLayer {
    let [key_type, value_type] = types;
    KvLayer::new(KvShape { heads, positions, key_dim, value_dim, key_type, value_type }).unwrap()
}

/// The default, and each type once for keys and once for values.
pub(crate) const TYPES: [[KvType; 2]; 5] = [
    [KvType::F16, KvType::F16],
    [KvType::F32, KvType::BF16],
    [KvType::BF16, KvType::Q8_0],
    [KvType::Q8_0, KvType::Q4_0],
    [KvType::Q4_0, KvType::F32],
];

#[test]
fn attention_agrees() {
    attention(&[(20, 24)], &[(3, 3)]);
    attention(&[(64, 64)], &[(8, 2)]);
}

/// Takes an emulator many minutes.
#[test]
fn attention_agrees_in_every_shape() {
    let dims = [(8, 8), (16, 16), (20, 24), (64, 64), (80, 80), (128, 128)];
    attention(&dims, &[(3, 3), (8, 2), (8, 1), (20, 1)]);
}

fn attention(dims: &[(usize, usize)], heads: &[(usize, usize)]) {
    // Positions on both sides of a tile's end (64) and a chunk's (512, 1024).
    let batches = [(0, 1), (0, 5), (0, 70), (62, 1), (63, 1), (64, 2), (61, 4), (60, 9), (510, 1)];
    let long = [(511, 1), (512, 1), (511, 2), (509, 8), (1023, 2), (1020, 10)];
    let mut others = TYPES[1..].iter().cycle();
    for &(dim, value_dim) in dims {
        for &(query, kv) in heads {
            let heads = Heads { query, kv, dim, value_dim };
            let long = long.into_iter().filter(|_| kv < 3);
            for (start, tokens) in batches.into_iter().chain(long) {
                // Half precision always, the others in turns: what a type adds is how it widens.
                for types in [TYPES[0], *others.next().unwrap()] {
                    Attention::new(heads, types, start, tokens, 1.0).check();
                }
            }
        }
    }
}

/// Windows that end within a tile, at its ends and beyond a chunk, for tokens alone and together.
#[test]
fn attention_within_a_window_agrees() {
    let batches = [(0, 1), (0, 70), (64, 1), (100, 3), (60, 9), (511, 2), (575, 1), (1100, 1), (1090, 20)];
    for (query, kv, dim) in [(3, 3, 20), (8, 2, 64)] {
        let heads = Heads { query, kv, dim, value_dim: dim };
        for (start, tokens) in batches {
            for window in [1, 2, 15, 63, 64, 65, 512, 700, 5000] {
                let types = TYPES[window % TYPES.len()];
                Attention { window, ..Attention::new(heads, types, start, tokens, 1.0) }.check();
            }
        }
    }
}

#[test]
fn a_window_that_is_off_by_one_is_noticed() {
    let heads = Heads { query: 4, kv: 2, dim: 16, value_dim: 16 };
    for (start, tokens) in [(40, 1), (40, 6), (513, 1), (513, 6)] {
        let with = |window| Attention { window, ..Attention::new(heads, TYPES[0], start, tokens, 1.0) };
        let answer = with(20).answer();
        for (cpu, window) in CPUS.iter().flat_map(|[cpu, _]| [(cpu, 19), (cpu, 21)]) {
            let mut found = unwritten(tokens * 64);
            cpu.region(false, |ops| with(window).run(ops, &mut found));
            assert!(violation(&found, &answer.expected, &answer.bound).is_some(), "{start}, {tokens}");
        }
    }
}

#[test]
fn attention_with_extreme_scores_agrees() {
    let heads = Heads { query: 4, kv: 2, dim: 16, value_dim: 16 };
    for (start, tokens) in [(0, 6), (70, 1), (513, 7)] {
        for size in [0.0, 1e-39, 20.0, 1e3] {
            for types in TYPES {
                Attention::new(heads, types, start, tokens, size).check();
            }
        }
        // Scores of 1e30 leave one position, in f32 as in f64: no NaN, and no value but a cached one.
        let attention = Attention::new(heads, TYPES[0], start, tokens, 1e30);
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
    let batches = [(40, 1), (40, 6), (513, 1), (513, 6)];
    for (types, (start, tokens)) in TYPES.into_iter().flat_map(|types| batches.map(|batch| (types, batch))) {
        let right = Attention::new(heads, types, start, tokens, 1.0);
        // One value of one position, and the key of the last one.
        for (position, feature) in [(0, 64 + 32), (start, 64 + 32), (start + tokens - 1, 64)] {
            let mut wrong = Attention::new(heads, types, start, tokens, 1.0);
            wrong.qkv[position * right.features() + feature] += 2.0;
            let answer = wrong.answer();
            for [cpu, _] in &*CPUS {
                let mut found = unwritten(tokens * 64);
                cpu.region(false, |ops| right.run(ops, &mut found));
                let noticed = violation(&found, &answer.expected, &answer.bound).is_some();
                assert!(noticed, "{types:?}, {start}, {tokens}: position {position} on {}", cpu.isa());
            }
        }
    }
}

/// A token's result has the same bits alone, with others, and on whatever side of a tile or a piece.
#[test]
fn attention_of_a_token_does_not_depend_on_its_neighbours() {
    for (query, kv, dim) in [(4, 4, 20), (6, 2, 64), (8, 1, 96)] {
        let heads = Heads { query, kv, dim, value_dim: dim };
        let tokens = 530;
        for types in TYPES {
            let whole = Attention::new(heads, types, 0, tokens, 1.0);
            let Attention { qkv, .. } = &whole;
            let (features, width) = (whole.features(), query * dim);
            for [cpu, _] in &*CPUS {
                let mut cache = cache(kv, tokens, [dim, dim], types);
                let mut expected = unwritten(tokens * width);
                // Matrix tiles have sums of their own, but if the bits are to be the same.
                cpu.region(cpu.isa() == "amx", |ops| {
                    ops.push_kv(&mut cache, qkv, tokens, 0);
                    ops.attention(&mut expected, qkv, &cache, query, tokens, 0);
                });
                for (start, n) in [(0, 1), (63, 1), (60, 7), (511, 2), (512, 4), (500, 30), (529, 1)] {
                    let mut found = unwritten(n * width);
                    let batch = &qkv[start * features..][..n * features];
                    cpu.region(true, |ops| ops.attention(&mut found, batch, &cache, query, n, start));
                    let expected = &expected[start * width..][..n * width];
                    let same = found.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{n} tokens from {start}, {heads:?}, {types:?} on {}", cpu.isa());
                }
            }
        }
    }
}

/// Values that half precision does not have are cut down to the largest that it has.
#[test]
fn a_cache_makes_no_infinities() {
    let heads = Heads { query: 1, kv: 1, dim: 16, value_dim: 16 };
    for kind in KvType::ALL {
        let mut huge = Attention::new(heads, [kind; 2], 4, 1, 0.0);
        huge.qkv.iter_mut().for_each(|x| *x *= 1e10);
        for [cpu, _] in &*CPUS {
            let mut found = unwritten(16);
            cpu.region(false, |ops| huge.run(ops, &mut found));
            let largest = found.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            let limit = if kind == KvType::F16 { 65504.0 } else { 1e11 };
            assert!(largest.is_finite() && 1e4 < largest && largest <= limit, "{kind}: {found:?}");
        }
    }
}

#[test]
fn no_tokens_are_no_work() {
    let mut cache = cache(2, 8, [16, 16], TYPES[0]);
    let weights = Data::new(14).weights(Format::Q8_0, 5, 64);
    for cpu in CPUS.iter().flatten() {
        cpu.region(false, |ops| {
            ops.embed(&mut [], weights.matrix(), &[]);
            ops.rmsnorm(&mut [], &[], &[1.0; 64], 1e-5);
            ops.matmul(&mut [], &[weights.matrix()], &[]);
            ops.swiglu(&mut [], weights.matrix(), weights.matrix(), &[]);
            ops.rope(&mut [], 0, 4, 16, &[], Pairs::Adjacent);
            ops.push_kv(&mut cache, &[], 0, 3);
            ops.attention(&mut [], &[], &cache, 4, 0, 3);
        });
    }
}
