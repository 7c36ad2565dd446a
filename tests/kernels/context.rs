//! What depends on positions: the rotation in all its variants, and positions that move within a cache.

use crate::operations::{TYPES, cache, rows};
use crate::{CPUS, check, encode};
use llama_kernels::{KvLayer, KvType, Pairs, Rotation};
use llama_tests::close::{self, Answer, U, assert_close, bf16_error, f16_error, gamma, violation};
use llama_tests::oracle::widen;
use llama_tests::rope::{Rope, Yarn};
use llama_tests::shapes::Data;

/// The rotation that an engine is given for it.
fn rotation(rope: &Rope) -> Rotation {
    let frequencies = (0..rope.dims / 2).map(|i| rope.angle(1.0, i)).collect();
    Rotation { frequencies, magnitude: rope.magnitude(), pairs: rope.pairs }
}

fn variants(dims: usize) -> Vec<Rope> {
    let plain = Rope::plain(dims, 1e4);
    let factors = Some((0..dims / 2).map(|i| 1.0 + i as f64).collect());
    let mut variants = vec![
        plain.clone(),
        Rope { scale: 0.25, ..Rope::plain(dims, 1e6) },
        Rope { factors, ..plain.clone() },
        Rope { scale: 0.25, yarn: Some(Yarn::new(4096.0)), ..plain },
    ];
    let halves = variants.iter().map(|rope| Rope { pairs: Pairs::Halves, ..rope.clone() });
    variants.extend(halves.collect::<Vec<_>>());
    variants
}

#[test]
fn rope_agrees() {
    let mut data = Data::new(12);
    for (dim, dims) in [(8, 8), (16, 16), (20, 20), (20, 6), (64, 64), (64, 20), (80, 80), (128, 128)] {
        for rope in variants(dims) {
            // Two heads turn, the values behind them stay; three tokens at places of their own.
            let (heads, features, positions) = (2, 2 * dim + 5, [0, 511, 100_000]);
            let x = data.values(3 * features);
            let token = |(x, pos): (&[f32], usize)| {
                let (turned, rest) = x.split_at(heads * dim);
                rows([close::rope(turned, dim, pos, &rope), Answer::exact(rest)].into_iter())
            };
            let answer = rows(x.chunks(features).zip(positions).map(token));
            let rotation = rotation(&rope);
            let mut tables = vec![0.0; 3 * rotation.table_len()];
            for (table, pos) in tables.chunks_exact_mut(rotation.table_len()).zip(positions) {
                rotation.table(table, pos as f64);
            }
            let what = format!("{rope:?} of {dim}");
            check(&answer, &x, &what, |ops, out| ops.rope(out, 3, heads, dim, &tables, rope.pairs));
        }
    }
}

/// A cache of rows, and what it holds of them.
struct Cached {
    layer: KvLayer,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

const HEADS: usize = 2;

impl Cached {
    fn new(positions: usize, [dim, value_dim]: [usize; 2], types: [KvType; 2]) -> Cached {
        let mut layer = cache(HEADS, positions, [dim, value_dim], types);
        let qkv = Data::new(21).outliers(positions * HEADS * (dim + value_dim));
        CPUS[0][0].region(false, |ops| ops.push_kv(&mut layer, &qkv, positions, 0));
        let mut cached = Cached { layer, keys: Vec::new(), values: Vec::new() };
        (cached.keys, cached.values) = cached.rows(0..positions);
        cached
    }

    /// Keys and values, head by head.
    fn rows(&self, positions: std::ops::Range<usize>) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let shape = self.layer.shape();
        let each = || (0..HEADS).flat_map(|head| positions.clone().map(move |position| (head, position)));
        let key = |(head, position)| {
            let mut out = vec![0.0; shape.key_dim];
            self.layer.key(head, position, &mut out);
            out
        };
        let value = |(head, position)| {
            let mut out = vec![0.0; shape.value_dim];
            self.layer.value(head, position, &mut out);
            out
        };
        (each().map(key).collect(), each().map(value).collect())
    }
}

/// How far a cached feature may be from what was to be cached, of a row that is off by `doubt` at most.
fn rounding(kind: KvType, row: &[f64], doubt: f64) -> Vec<f64> {
    let error = |x: &f64, group: &[f64]| {
        let largest = group.iter().fold(0.0, |m: f64, x| m.max(x.abs())) + doubt;
        match kind {
            KvType::F32 => 0.0,
            KvType::F16 => f16_error(x.abs() + doubt),
            KvType::BF16 => bf16_error(x.abs() + doubt),
            // Half a step, and up to 127 times the scale's own rounding.
            KvType::Q8_0 => largest / 127.0 * 0.5 + 127.0 * f16_error(largest / 127.0) + 4.0 * U * largest,
            // A step of an eighth of the largest; the other end of the scale is a step short.
            KvType::Q4_0 => largest / 8.0 + 8.0 * f16_error(largest / 8.0) + 4.0 * U * largest,
        }
    };
    row.chunks(32).flat_map(|group| group.iter().map(move |x| error(x, group) + doubt)).collect()
}

/// The last positions move back and their keys turn by as much, whatever lies before and behind.
#[test]
fn shifted_positions_agree() {
    for (dim, value_dim, dims) in [(8, 8, 8), (20, 24, 12), (64, 64, 64), (80, 80, 80)] {
        for rope in [variants(dims)[0].clone(), variants(dims)[7].clone()] {
            let rotation = rotation(&rope);
            for types in TYPES {
                for (positions, from, to) in
                    [(40, 20..40, 3), (70, 33..70, 32), (50, 16..49, 0), (9, 5..9, 5)]
                {
                    let mut cached = Cached::new(positions, [dim, value_dim], types);
                    let back = (from.start - to) as f64;
                    let mut table = vec![0.0; rotation.table_len()];
                    rotation.change(&mut table, 0.0, &rotation, back);
                    let what =
                        format!("{from:?} of {positions} to {to}, {dim} wide, {types:?}, {:?}", rope.pairs);
                    let angles: Vec<f64> = (0..dims / 2).map(|i| rope.angle(-back, i)).collect();
                    for [cpu, other] in &*CPUS {
                        let mut moved = Cached::new(positions, [dim, value_dim], types);
                        let shift = |cpu: &llama_kernels::Cpu, layer: &mut KvLayer| {
                            cpu.region(false, |ops| {
                                ops.shift_kv(layer, from.clone(), to, &table, rope.pairs)
                            });
                        };
                        shift(cpu, &mut moved.layer);
                        let (keys, values) = moved.rows(to..to + from.len());
                        let before = |all: &[Vec<f32>]| -> Vec<Vec<f32>> {
                            all.chunks(positions).flat_map(|head| head[from.clone()].to_vec()).collect()
                        };
                        assert_eq!(values, before(&cached.values), "{what} on {}", cpu.isa());
                        for (found, old) in keys.iter().zip(before(&cached.keys)) {
                            let expected = rope.turn(&widen(&old), &angles, 1.0);
                            let size = old.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
                            let bound = rounding(types[0], &expected, 2.0 * f64::from(size) * gamma(6));
                            assert_close(found, &expected, &bound, &what);
                        }
                        // What does not move stays, and two threads do what one does.
                        assert_eq!(moved.rows(0..to), {
                            let first = |all: &[Vec<f32>]| -> Vec<Vec<f32>> {
                                all.chunks(positions).flat_map(|head| head[..to].to_vec()).collect()
                            };
                            (first(&cached.keys), first(&cached.values))
                        });
                        let mut again = Cached::new(positions, [dim, value_dim], types);
                        shift(other, &mut again.layer);
                        assert_eq!(again.rows(0..positions), moved.rows(0..positions), "{what}");
                    }
                    cached.keys.clear();
                }
            }
        }
    }
}

/// A cache that was turned by one base turns to another.
#[test]
fn changed_frequencies_agree() {
    let (dim, positions) = (64, 37);
    let (old, new) = (Rope::plain(dim, 1e4), Rope { scale: 0.5, ..Rope::plain(dim, 3e4) });
    let (from, target) = (rotation(&old), rotation(&new));
    let mut tables = vec![0.0; positions * from.table_len()];
    for (position, table) in tables.chunks_exact_mut(from.table_len()).enumerate() {
        from.change(table, position as f64, &target, 0.0);
    }
    for kind in KvType::ALL {
        let cached = Cached::new(positions, [dim, dim], [kind; 2]);
        for [cpu, _] in &*CPUS {
            let mut turned = Cached::new(positions, [dim, dim], [kind; 2]);
            cpu.region(false, |ops| ops.shift_kv(&mut turned.layer, 0..positions, 0, &tables, old.pairs));
            let (keys, values) = turned.rows(0..positions);
            assert_eq!(values, cached.values);
            for (i, (found, was)) in keys.iter().zip(&cached.keys).enumerate() {
                let position = (i % positions) as f64;
                let angle = |i| new.angle(position, i) - old.angle(position, i);
                let angles: Vec<f64> = (0..dim / 2).map(angle).collect();
                let expected = old.turn(&widen(was), &angles, 1.0);
                let size = was.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
                let bound = rounding(kind, &expected, 2.0 * f64::from(size) * gamma(6));
                assert_close(found, &expected, &bound, &format!("{kind}, position {position}"));
                if position > 5.0 {
                    let wrong =
                        old.turn(&widen(was), &angles.iter().map(|a| 1.5 * a).collect::<Vec<_>>(), 1.0);
                    assert!(violation(found, &wrong, &bound).is_some(), "{kind}: another angle passes");
                }
            }
        }
    }
}

/// Rounding a row that came from the cache gives the same row, so what does not turn does not wear off.
#[test]
fn a_turn_by_nothing_changes_no_key() {
    let rotation = Rotation { frequencies: vec![1.0; 32], magnitude: 1.0, pairs: Pairs::Adjacent };
    let mut table = vec![0.0; rotation.table_len()];
    rotation.table(&mut table, 0.0);
    for kind in KvType::ALL {
        let mut cached = Cached::new(50, [64, 64], [kind; 2]);
        for [cpu, _] in &*CPUS {
            cpu.region(false, |ops| ops.shift_kv(&mut cached.layer, 0..50, 0, &table, Pairs::Adjacent));
            assert_eq!(cached.rows(0..50), (cached.keys.clone(), cached.values.clone()), "{kind}");
        }
    }
    assert_eq!(encode(KvType::Q8_0.format(), &[0.0; 32]).len(), 34);
}
