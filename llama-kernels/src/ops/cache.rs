//! What attention reads: blocks of sixteen cached positions as floats. [`crate::kv`] describes how numbers
//! lie in a block, [`super::push`] puts them there.
//!
//! Everything that depends on the type of a cache is here, and it knows one type at a time: keys and values
//! of different types meet as floats only. Widening is exact in every type, so a row of attention has one
//! definition whatever its neighbours.

use crate::format::{BF16, F16, F32, FloatBlock};
use crate::kv::KvType;
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// Features that share a scale.
pub(super) const GROUP: usize = 32;
/// Bytes of sixteen half-precision scales.
pub(super) const SCALES: usize = 2 * LANES;
/// Bytes of [`GROUP`] features of sixteen positions.
pub(super) const Q8_BLOCK: usize = SCALES + GROUP * LANES;
pub(super) const Q4_BLOCK: usize = SCALES + GROUP / 2 * LANES;

/// Keys of a block as floats, `[feature][16 positions]`.
#[inline(always)]
pub(crate) fn widen_keys<S: Simd>(s: S, kind: KvType, block: &[u8], out: &mut [[f32; LANES]]) {
    match kind {
        KvType::F32 => floats::<S, F32>(s, block, out),
        KvType::F16 => floats::<S, F16>(s, block, out),
        KvType::BF16 => floats::<S, BF16>(s, block, out),
        KvType::Q8_0 => {
            for (group, out) in block.as_chunks::<Q8_BLOCK>().0.iter().zip(out.chunks_exact_mut(GROUP)) {
                let (scales, q) = split(group);
                let d = s.load_f16(scales);
                for (q, out) in q.iter().zip(out) {
                    s.store(s.mul(s.to_f32(s.widen_i8(q)), d), out);
                }
            }
        }
        KvType::Q4_0 => {
            for (group, out) in block.as_chunks::<Q4_BLOCK>().0.iter().zip(out.chunks_exact_mut(GROUP)) {
                let (scales, q) = split(group);
                let d = s.load_f16(scales);
                let (low, high) = out.split_at_mut(GROUP / 2);
                for (q, (low, high)) in q.iter().zip(low.iter_mut().zip(high)) {
                    let (a, b) = nibbles(s, q, d);
                    s.store(a, low);
                    s.store(b, high);
                }
            }
        }
    }
}

/// Values of a block as floats, `[16 features][position]`: `out` has `stride` registers for each sixteen
/// features, of which these are the `positions`, at most sixteen.
#[inline(always)]
pub(crate) fn widen_values<S: Simd>(
    s: S,
    kind: KvType,
    block: &[u8],
    positions: Range<usize>,
    out: &mut [[f32; LANES]],
    stride: usize,
) {
    match kind {
        KvType::F32 => rows::<S, F32>(s, block, positions, out, stride),
        KvType::F16 => rows::<S, F16>(s, block, positions, out, stride),
        KvType::BF16 => rows::<S, BF16>(s, block, positions, out, stride),
        KvType::Q8_0 => {
            for (group, out) in block.as_chunks::<Q8_BLOCK>().0.iter().zip(out.chunks_exact_mut(2 * stride)) {
                let (scales, q) = split(group);
                let mut d = [0.0; LANES];
                s.store(s.load_f16(scales), &mut d);
                let (low, high) = out.split_at_mut(stride);
                let out = low[positions.clone()].iter_mut().zip(&mut high[positions.clone()]);
                for ((q, d), (low, high)) in q.as_chunks::<2>().0.iter().zip(&d).zip(out) {
                    s.store(s.mul(s.to_f32(s.widen_i8(&q[0])), s.splat(*d)), low);
                    s.store(s.mul(s.to_f32(s.widen_i8(&q[1])), s.splat(*d)), high);
                }
            }
        }
        KvType::Q4_0 => {
            for (group, out) in block.as_chunks::<Q4_BLOCK>().0.iter().zip(out.chunks_exact_mut(2 * stride)) {
                let (scales, q) = split(group);
                let mut d = [0.0; LANES];
                s.store(s.load_f16(scales), &mut d);
                let (low, high) = out.split_at_mut(stride);
                let out = low[positions.clone()].iter_mut().zip(&mut high[positions.clone()]);
                for ((q, d), (low, high)) in q.iter().zip(&d).zip(out) {
                    let (a, b) = nibbles(s, q, s.splat(*d));
                    s.store(a, low);
                    s.store(b, high);
                }
            }
        }
    }
}

/// The scores of a block for a single row: `q . key` for its sixteen positions, without a detour through
/// memory. The same sums in the same order as those over [`widen_keys`].
#[inline(always)]
pub(crate) fn scores<S: Simd>(s: S, kind: KvType, block: &[u8], q: &[f32]) -> S::F {
    match kind {
        KvType::F32 => float_scores::<S, F32>(s, block, q),
        KvType::F16 => float_scores::<S, F16>(s, block, q),
        KvType::BF16 => float_scores::<S, BF16>(s, block, q),
        KvType::Q8_0 => {
            let mut acc = s.splat(0.0);
            for (group, q) in block.as_chunks::<Q8_BLOCK>().0.iter().zip(q.chunks_exact(GROUP)) {
                let (scales, keys) = split(group);
                let d = s.load_f16(scales);
                for (key, q) in keys.iter().zip(q) {
                    acc = s.fma(s.splat(*q), s.mul(s.to_f32(s.widen_i8(key)), d), acc);
                }
            }
            acc
        }
        KvType::Q4_0 => {
            let mut acc = s.splat(0.0);
            for (group, q) in block.as_chunks::<Q4_BLOCK>().0.iter().zip(q.chunks_exact(GROUP)) {
                let (scales, keys) = split(group);
                let d = s.load_f16(scales);
                let (low, high) = q.split_at(GROUP / 2);
                for (key, q) in keys.iter().zip(low) {
                    acc = s.fma(s.splat(*q), nibbles(s, key, d).0, acc);
                }
                for (key, q) in keys.iter().zip(high) {
                    acc = s.fma(s.splat(*q), nibbles(s, key, d).1, acc);
                }
            }
            acc
        }
    }
}

#[inline(always)]
fn float_scores<S: Simd, B: FloatBlock>(s: S, block: &[u8], q: &[f32]) -> S::F {
    let mut acc = s.splat(0.0);
    for (key, q) in B::cast(block).as_chunks::<LANES>().0.iter().zip(q) {
        acc = s.fma(s.splat(*q), B::widen(s, key), acc);
    }
    acc
}

/// Adds the values of a block's first positions to a single row's `sums`, each times its weight. The same
/// sums in the same order as those over [`widen_values`].
#[inline(always)]
pub(crate) fn add_values<S: Simd>(
    s: S,
    kind: KvType,
    block: &[u8],
    weights: &[f32],
    sums: &mut [[f32; LANES]],
) {
    match kind {
        KvType::F32 => add_floats::<S, F32>(s, block, weights, sums),
        KvType::F16 => add_floats::<S, F16>(s, block, weights, sums),
        KvType::BF16 => add_floats::<S, BF16>(s, block, weights, sums),
        KvType::Q8_0 => {
            for (group, sums) in block.as_chunks::<Q8_BLOCK>().0.iter().zip(sums.chunks_mut(2)) {
                let (scales, values) = split(group);
                let mut d = [0.0; LANES];
                s.store(s.load_f16(scales), &mut d);
                let mut acc = both(s, sums);
                for ((x, d), w) in values.as_chunks::<2>().0.iter().zip(&d).zip(weights) {
                    let (w, d) = (s.splat(*w), s.splat(*d));
                    acc.0 = s.fma(w, s.mul(s.to_f32(s.widen_i8(&x[0])), d), acc.0);
                    acc.1 = s.fma(w, s.mul(s.to_f32(s.widen_i8(&x[1])), d), acc.1);
                }
                put(s, acc, sums);
            }
        }
        KvType::Q4_0 => {
            for (group, sums) in block.as_chunks::<Q4_BLOCK>().0.iter().zip(sums.chunks_mut(2)) {
                let (scales, values) = split(group);
                let mut d = [0.0; LANES];
                s.store(s.load_f16(scales), &mut d);
                let mut acc = both(s, sums);
                for ((x, d), w) in values.iter().zip(&d).zip(weights) {
                    let (low, high) = nibbles(s, x, s.splat(*d));
                    acc.0 = s.fma(s.splat(*w), low, acc.0);
                    acc.1 = s.fma(s.splat(*w), high, acc.1);
                }
                put(s, acc, sums);
            }
        }
    }
}

#[inline(always)]
fn add_floats<S: Simd, B: FloatBlock>(s: S, block: &[u8], weights: &[f32], sums: &mut [[f32; LANES]]) {
    let (values, _) = B::cast(block).as_chunks::<LANES>();
    let lines = values.len() / LANES;
    let mut line = 0;
    for sums in sums.chunks_mut(4) {
        if let Ok(sums) = <&mut [_; 4]>::try_from(&mut *sums) {
            add_lines::<S, B, 4>(s, &values[line..], lines, weights, sums);
        } else {
            for (i, sum) in sums.iter_mut().enumerate() {
                add_lines::<S, B, 1>(s, &values[line + i..], lines, weights, std::array::from_mut(sum));
            }
        }
        line += 4;
    }
}

/// `C` neighbouring registers of each row, which has `lines` of them.
#[inline(always)]
fn add_lines<S: Simd, B: FloatBlock, const C: usize>(
    s: S,
    values: &[[B; LANES]],
    lines: usize,
    weights: &[f32],
    sums: &mut [[f32; LANES]; C],
) {
    let mut acc = [s.splat(0.0); C];
    for j in 0..C {
        acc[j] = s.load(&sums[j]);
    }
    for (x, w) in values.chunks(lines).zip(weights) {
        let x: &[[B; LANES]; C] = x.first_chunk().expect("a row has more registers");
        for j in 0..C {
            acc[j] = s.fma(s.splat(*w), B::widen(s, &x[j]), acc[j]);
        }
    }
    for j in 0..C {
        s.store(acc[j], &mut sums[j]);
    }
}

/// Two registers of sums, of which the second may be padding that nobody wants.
#[inline(always)]
fn both<S: Simd>(s: S, sums: &[[f32; LANES]]) -> (S::F, S::F) {
    (s.load(&sums[0]), s.load(sums.last().expect("one register at least")))
}

/// The inverse of [`both`].
#[inline(always)]
fn put<S: Simd>(s: S, (low, high): (S::F, S::F), sums: &mut [[f32; LANES]]) {
    s.store(low, &mut sums[0]);
    if let Some(sum) = sums.get_mut(1) {
        s.store(high, sum);
    }
}

/// A quantized block's scales, and its sixteens of bytes.
#[inline(always)]
fn split<const N: usize>(group: &[u8; N]) -> (&[u8; SCALES], &[[u8; LANES]]) {
    let (scales, q) = group.split_first_chunk().expect("a block has scales");
    (scales, q.as_chunks().0)
}

/// Registers of floats.
#[inline(always)]
fn floats<S: Simd, B: FloatBlock>(s: S, block: &[u8], out: &mut [[f32; LANES]]) {
    for (x, out) in B::cast(block).as_chunks::<LANES>().0.iter().zip(out) {
        s.store(B::widen(s, x), out);
    }
}

/// Rows of registers of floats, transposed.
#[inline(always)]
fn rows<S: Simd, B: FloatBlock>(
    s: S,
    block: &[u8],
    positions: Range<usize>,
    out: &mut [[f32; LANES]],
    stride: usize,
) {
    let (x, _) = B::cast(block).as_chunks::<LANES>();
    let lines = x.len() / LANES;
    for (line, out) in out.chunks_exact_mut(stride).take(lines).enumerate() {
        for (x, out) in x[line..].iter().step_by(lines).zip(&mut out[positions.clone()]) {
            s.store(B::widen(s, x), out);
        }
    }
}

/// `d * (q - 8)` for the low nibbles of sixteen bytes and for the high ones, which are taken where
/// they are, sixteen times as large. Every step is exact.
#[inline(always)]
fn nibbles<S: Simd>(s: S, q: &[u8; LANES], d: S::F) -> (S::F, S::F) {
    let q = s.widen_i8(q);
    let (low, high) = (s.to_f32(s.and(q, s.splat_i32(0x0f))), s.to_f32(s.and(q, s.splat_i32(0xf0))));
    let low = s.mul(s.sub(low, s.splat(8.0)), d);
    (low, s.mul(s.sub(high, s.splat(128.0)), s.mul(d, s.splat(1.0 / 16.0))))
}
