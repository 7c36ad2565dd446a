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

/// The scores of a block for a few rows: `q . key` for its sixteen positions, without a detour through memory. The
/// same sums in the same order as those over [`widen_keys`].
#[inline(always)]
pub(crate) fn scores<S: Simd, const R: usize>(s: S, kind: KvType, block: &[u8], q: [&[f32]; R]) -> [S::F; R] {
    match kind {
        KvType::F32 => float_scores::<S, F32, R>(s, block, q),
        KvType::F16 => float_scores::<S, F16, R>(s, block, q),
        KvType::BF16 => float_scores::<S, BF16, R>(s, block, q),
        KvType::Q8_0 => {
            let mut acc = [s.splat(0.0); R];
            for (i, group) in block.as_chunks::<Q8_BLOCK>().0.iter().enumerate() {
                let (scales, keys) = split(group);
                let d = s.load_f16(scales);
                for (j, key) in keys.iter().enumerate() {
                    acc = add_key(s, acc, s.mul(s.to_f32(s.widen_i8(key)), d), &q, i * GROUP + j);
                }
            }
            acc
        }
        KvType::Q4_0 => {
            let mut acc = [s.splat(0.0); R];
            for (i, group) in block.as_chunks::<Q4_BLOCK>().0.iter().enumerate() {
                let (scales, keys) = split(group);
                let d = s.load_f16(scales);
                for (j, key) in keys.iter().enumerate() {
                    acc = add_key(s, acc, nibbles(s, key, d).0, &q, i * GROUP + j);
                }
                for (j, key) in keys.iter().enumerate() {
                    acc = add_key(s, acc, nibbles(s, key, d).1, &q, i * GROUP + GROUP / 2 + j);
                }
            }
            acc
        }
    }
}

#[inline(always)]
fn float_scores<S: Simd, B: FloatBlock, const R: usize>(s: S, block: &[u8], q: [&[f32]; R]) -> [S::F; R] {
    let mut acc = [s.splat(0.0); R];
    for (i, key) in B::cast(block).as_chunks::<LANES>().0.iter().enumerate() {
        acc = add_key(s, acc, B::widen(s, key), &q, i);
    }
    acc
}

/// Adds what feature `i` of sixteen keys has to the scores.
#[inline(always)]
fn add_key<S: Simd, const R: usize>(
    s: S,
    mut acc: [S::F; R],
    key: S::F,
    q: &[&[f32]; R],
    i: usize,
) -> [S::F; R] {
    for r in 0..R {
        acc[r] = s.fma(s.splat(q[r][i]), key, acc[r]);
    }
    acc
}

/// The weighted sums of a few rows.
pub(crate) struct Sums<'a, const R: usize> {
    /// For each row `lines` registers, the next row's `stride` further on.
    pub sums: &'a mut [[f32; LANES]],
    pub stride: usize,
    pub lines: usize,
}

impl<const R: usize> Sums<'_, R> {
    /// Neighbouring sums of every row.
    #[inline(always)]
    fn take<S: Simd, const C: usize>(&self, s: S, line: usize) -> [[S::F; C]; R] {
        let mut acc = [[s.splat(0.0); C]; R];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (j, acc) in acc.iter_mut().enumerate() {
                // Of a pair, the second may be padding that nobody wants.
                *acc = s.load(&self.sums[r * self.stride + (line + j).min(self.lines - 1)]);
            }
        }
        acc
    }

    /// The inverse.
    #[inline(always)]
    fn put<S: Simd, const C: usize>(&mut self, s: S, line: usize, acc: [[S::F; C]; R]) {
        for (r, acc) in acc.into_iter().enumerate() {
            for (j, acc) in acc.into_iter().enumerate().take(self.lines - line) {
                s.store(acc, &mut self.sums[r * self.stride + line + j]);
            }
        }
    }

    /// Multiplies each row's sums by its factor.
    #[inline(always)]
    pub(crate) fn scale<S: Simd>(&mut self, s: S, factors: [f32; R]) {
        for (r, factor) in factors.into_iter().enumerate() {
            for sum in &mut self.sums[r * self.stride..][..self.lines] {
                s.store(s.mul(s.load(sum), s.splat(factor)), sum);
            }
        }
    }
}

/// Registers of a position's value, each times the row's weight, added to the rows' sums.
#[inline(always)]
fn add_value<S: Simd, const R: usize, const C: usize>(
    s: S,
    mut acc: [[S::F; C]; R],
    v: [S::F; C],
    weights: &[&[f32]; R],
    at: usize,
) -> [[S::F; C]; R] {
    for r in 0..R {
        let w = s.splat(weights[r][at]);
        for j in 0..C {
            acc[r][j] = s.fma(w, v[j], acc[r][j]);
        }
    }
    acc
}

/// Adds the values of a block's first positions, for which there are weights, to a few rows' sums; floats `C`
/// registers at a time. The same sums in the same order as those over [`widen_values`].
#[inline(always)]
pub(crate) fn add_values<S: Simd, const R: usize, const C: usize>(
    s: S,
    kind: KvType,
    block: &[u8],
    weights: [&[f32]; R],
    sums: &mut Sums<'_, R>,
) {
    match kind {
        KvType::F32 => add_floats::<S, F32, R, C>(s, block, weights, sums),
        KvType::F16 => add_floats::<S, F16, R, C>(s, block, weights, sums),
        KvType::BF16 => add_floats::<S, BF16, R, C>(s, block, weights, sums),
        KvType::Q8_0 => {
            for (group, line) in block.as_chunks::<Q8_BLOCK>().0.iter().zip((0..).step_by(2)) {
                let (scales, values) = split(group);
                let mut d = [0.0; LANES];
                s.store(s.load_f16(scales), &mut d);
                let mut acc = sums.take::<S, 2>(s, line);
                let rows = values.as_chunks::<2>().0.iter().zip(&d).take(weights[0].len());
                for (at, (x, d)) in rows.enumerate() {
                    let d = s.splat(*d);
                    let v = [s.mul(s.to_f32(s.widen_i8(&x[0])), d), s.mul(s.to_f32(s.widen_i8(&x[1])), d)];
                    acc = add_value(s, acc, v, &weights, at);
                }
                sums.put(s, line, acc);
            }
        }
        KvType::Q4_0 => {
            for (group, line) in block.as_chunks::<Q4_BLOCK>().0.iter().zip((0..).step_by(2)) {
                let (scales, values) = split(group);
                let mut d = [0.0; LANES];
                s.store(s.load_f16(scales), &mut d);
                let mut acc = sums.take::<S, 2>(s, line);
                for (at, (x, d)) in values.iter().zip(&d).take(weights[0].len()).enumerate() {
                    let (low, high) = nibbles(s, x, s.splat(*d));
                    acc = add_value(s, acc, [low, high], &weights, at);
                }
                sums.put(s, line, acc);
            }
        }
    }
}

#[inline(always)]
fn add_floats<S: Simd, B: FloatBlock, const R: usize, const C: usize>(
    s: S,
    block: &[u8],
    weights: [&[f32]; R],
    sums: &mut Sums<'_, R>,
) {
    let (values, _) = B::cast(block).as_chunks::<LANES>();
    let mut line = 0;
    while line < sums.lines {
        if line + C <= sums.lines {
            add_lines::<S, B, R, C>(s, &values[line..], weights, sums, line);
            line += C;
        } else {
            add_lines::<S, B, R, 1>(s, &values[line..], weights, sums, line);
            line += 1;
        }
    }
}

/// `C` neighbouring registers of each value.
#[inline(always)]
fn add_lines<S: Simd, B: FloatBlock, const R: usize, const C: usize>(
    s: S,
    values: &[[B; LANES]],
    weights: [&[f32]; R],
    sums: &mut Sums<'_, R>,
    line: usize,
) {
    let mut acc = sums.take::<S, C>(s, line);
    for (at, row) in values.chunks(sums.lines).take(weights[0].len()).enumerate() {
        let row: &[[B; LANES]; C] = row.first_chunk().expect("a row has more registers");
        let mut v = [s.splat(0.0); C];
        for j in 0..C {
            v[j] = B::widen(s, &row[j]);
        }
        acc = add_value(s, acc, v, &weights, at);
    }
    sums.put(s, line, acc);
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
