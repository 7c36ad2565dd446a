//! Rows of keys and values into blocks of sixteen cached positions, rounded as their formats round.

use super::cache::{GROUP, Q4_BLOCK, Q8_BLOCK, SCALES};
use crate::format::{BF16, Block, F16, F32, FloatBlock, Q4_0};
use crate::kv::KvType;
use crate::simd::{Kernel, LANES, STRIPE, Simd};

/// Whether a row is a key or a value: where its numbers go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Key,
    Value,
}

/// Writes one position's row into its block, rounded as its format rounds.
pub(crate) struct Push<'a> {
    pub role: Role,
    pub kind: KvType,
    pub x: &'a [f32],
    pub block: &'a mut [u8],
    /// The position within the block.
    pub slot: usize,
}

impl Kernel for Push<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        assert_eq!(self.block.len(), LANES * self.kind.row_bytes(self.x.len()), "a block of such rows");
        match self.kind {
            KvType::F32 => self.floats::<S, F32>(s),
            KvType::F16 => self.floats::<S, F16>(s),
            KvType::BF16 => self.floats::<S, BF16>(s),
            KvType::Q8_0 => {
                for (i, group) in self.block.chunks_exact_mut(Q8_BLOCK).enumerate() {
                    let (d, q) = q8_0(s, padded(s, self.kind, self.x, i * GROUP));
                    place(self.role, group, self.slot, d, &q);
                }
            }
            KvType::Q4_0 => {
                for (i, group) in self.block.chunks_exact_mut(Q4_BLOCK).enumerate() {
                    let [low, high] = padded(s, self.kind, self.x, i * GROUP);
                    let mut x = [[0.0; LANES]; 2];
                    s.store(low, &mut x[0]);
                    s.store(high, &mut x[1]);
                    let block = [Q4_0::quantize(x.as_flattened(), None)];
                    let (d, q) = Q4_0::bytes(&block).split_first_chunk().expect("a block has a scale");
                    place(self.role, group, self.slot, *d, q);
                }
            }
        }
    }
}

impl Push<'_> {
    #[inline(always)]
    fn floats<S: Simd, B: FloatBlock>(self, s: S) {
        let size = size_of::<B>();
        let lines = self.kind.padded(self.x.len()) / LANES;
        for i in 0..lines {
            let [x] = padded(s, self.kind, self.x, i * LANES);
            let narrow = B::narrow(s, x);
            let bytes = B::bytes(&narrow);
            match self.role {
                Role::Key => {
                    let part = &mut self.block[i * LANES * bytes.len()..][..LANES * bytes.len()];
                    for (line, x) in part.chunks_exact_mut(LANES * size).zip(bytes.chunks_exact(size)) {
                        line[self.slot * size..][..size].copy_from_slice(x);
                    }
                }
                Role::Value => {
                    let start = (self.slot * lines + i) * bytes.len();
                    self.block[start..start + bytes.len()].copy_from_slice(bytes);
                }
            }
        }
    }
}

/// `N` registers of a row from feature `start` on, padded with zeros, no value beyond the type's limit.
#[inline(always)]
fn padded<S: Simd, const N: usize>(s: S, kind: KvType, x: &[f32], start: usize) -> [S::F; N] {
    let (low, high) = (s.splat(-kind.limit()), s.splat(kind.limit()));
    let mut out = [low; N];
    for (i, out) in out.iter_mut().enumerate() {
        let x = x.get(start + i * LANES..).unwrap_or(&[]);
        let x = match x.first_chunk() {
            Some(x) => s.load(x),
            None => {
                let mut rest = [0.0; LANES];
                rest[..x.len()].copy_from_slice(x);
                s.load(&rest)
            }
        };
        *out = s.max(low, s.min(high, x)); // what is no number stays none
    }
    out
}

/// The scale and the bytes of 32 numbers, as [`Q8_0`](crate::format::Q8_0) has them: to nearest, halves
/// away from zero.
#[inline(always)]
fn q8_0<S: Simd>(s: S, x: [S::F; 2]) -> ([u8; 2], [u8; GROUP]) {
    let d = s.max_lane(s.max(s.abs(x[0]), s.abs(x[1]))) / 127.0;
    let inverse = s.splat(if d == 0.0 { 0.0 } else { 1.0 / d });
    let mut q = [s.splat(0.0); 4];
    for i in 0..2 {
        let v = s.mul(x[i], inverse);
        let (size, one) = (s.min(s.abs(v), s.splat(127.0)), s.splat(1.0));
        let even = s.to_f32(s.to_i32(size));
        // One half exactly was rounded down to even: just above one half it is rounded up.
        let rest = s.mul(s.max(s.sub(size, even), s.splat(0.0)), s.splat(1.0 + f32::EPSILON));
        let away = s.add(even, s.to_f32(s.to_i32(rest)));
        let sign = s.max(s.min(s.mul(v, s.splat(2f32.powi(30))), one), s.splat(-1.0));
        q[i] = s.mul(away, sign);
    }
    let (mut bytes, mut scale) = ([0; STRIPE], [0; SCALES]);
    s.store_bytes(s.to_i8(q), &mut bytes);
    s.store_f16(s.splat(d), &mut scale);
    (*scale.first_chunk().expect("more than one scale"), *bytes.first_chunk().expect("more than a group"))
}

/// Puts one position's scale and bytes into a quantized block.
#[inline(always)]
fn place(role: Role, group: &mut [u8], slot: usize, d: [u8; 2], q: &[u8]) {
    let (scales, quants) = group.split_at_mut(SCALES);
    scales[2 * slot..][..2].copy_from_slice(&d);
    match role {
        Role::Key => quants.chunks_exact_mut(LANES).zip(q).for_each(|(line, q)| line[slot] = *q),
        Role::Value => quants[slot * q.len()..][..q.len()].copy_from_slice(q),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{KvLayer, KvShape};

    /// Rows of every kind of number that a format rounds.
    fn rows(dim: usize) -> Vec<Vec<f32>> {
        let wave = |i: usize, j: usize| ((i * 31 + j * 7) as f32 * 0.71).sin() * 4f32.powi(i as i32 % 9 - 4);
        // Integers and halves beside an extreme that makes the step of Q8_0 one: every half is a tie.
        let ties = |j: usize| if j % GROUP == 5 { -127.0 } else { (j as f32 - 20.0) / 2.0 };
        let mut rows: Vec<Vec<f32>> = (0..17).map(|i| (0..dim).map(|j| wave(i, j)).collect()).collect();
        rows.push((0..dim).map(ties).collect());
        rows.push((0..dim).map(|j| ties(j).next_down()).collect());
        rows.push(vec![0.0; dim]);
        rows
    }

    #[test]
    fn what_is_pushed_is_what_the_format_says() {
        for isa in crate::backend::available() {
            for dim in [8, 16, 20, 32, 64, 80] {
                for kind in KvType::ALL {
                    let rows = rows(dim);
                    let (key_type, value_type) = (kind, kind);
                    let positions = rows.len();
                    let shape =
                        KvShape { heads: 1, positions, key_dim: dim, value_dim: dim, key_type, value_type };
                    let mut layer = KvLayer::new(shape).unwrap();
                    for (position, x) in rows.iter().enumerate() {
                        let (key, value) = (shape.key_block(), shape.value_block());
                        let (key, value) = (layer.block(0, position, key), layer.block(0, position, value));
                        isa.push(Push {
                            role: Role::Key,
                            kind,
                            x,
                            block: &mut layer.keys[key],
                            slot: position % LANES,
                        });
                        isa.push(Push {
                            role: Role::Value,
                            kind,
                            x,
                            block: &mut layer.values[value],
                            slot: position % LANES,
                        });
                    }
                    for (position, x) in rows.iter().enumerate() {
                        let mut padded = x.clone();
                        padded.resize(kind.padded(dim), 0.0);
                        let mut bytes = Vec::new();
                        kind.format().quantize(&padded, &mut bytes);
                        kind.format().dequantize(&bytes, &mut padded);
                        let (mut key, mut value) = (vec![f32::NAN; dim], vec![f32::NAN; dim]);
                        layer.key(0, position, &mut key);
                        layer.value(0, position, &mut value);
                        let what = format!("{kind}, {dim} features, row {position}, {}", isa.name());
                        assert_eq!(key, padded[..dim], "{what}");
                        assert_eq!(value, padded[..dim], "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn too_large_values_are_cut_down_and_no_numbers_stay() {
        for isa in crate::backend::available() {
            for kind in KvType::ALL {
                let shape = KvShape {
                    heads: 1,
                    positions: 1,
                    key_dim: 32,
                    value_dim: 32,
                    key_type: kind,
                    value_type: kind,
                };
                let mut layer = KvLayer::new(shape).unwrap();
                let mut stored = |x: &[f32]| {
                    let block = layer.block(0, 0, shape.value_block());
                    isa.push(Push { role: Role::Value, kind, x, block: &mut layer.values[block], slot: 0 });
                    let mut out = [0.0; 32];
                    layer.value(0, 0, &mut out);
                    out
                };
                let mut x = [0.0; 32];
                (x[3], x[7]) = (f32::MAX, -1e38);
                let out = stored(&x);
                if kind == KvType::F32 {
                    assert_eq!(out, x);
                } else {
                    let lowest = if kind == KvType::BF16 { -1e38 } else { -kind.limit() };
                    assert_eq!(out[3], if kind == KvType::Q4_0 { out[3] } else { kind.limit() }, "{kind}");
                    assert!((out[7] / lowest - 1.0).abs() < 0.2, "{kind}: {}", out[7]);
                    assert!(out.iter().all(|v| v.is_finite()), "{kind}: {out:?}");
                }
                if kind.format().block_len() == 1 {
                    x[5] = f32::NAN;
                    assert!(stored(&x)[5].is_nan(), "{kind}");
                }
            }
        }
    }
}
