//! What attention reads: blocks of sixteen cached positions as floats. [`crate::kv`] describes how numbers
//! lie in a block, [`super::push`] puts them there.
//!
//! Everything that depends on the type of a cache is here, and it knows one type at a time: keys and values
//! of different types meet as floats only. Widening is exact in every type, so a row of attention has one
//! definition whatever its neighbours.

use crate::format::{BF16, F16, F32, FloatBlock};
use crate::kv::KvType;
use crate::simd::{LANES, Simd};
use std::array::from_fn;
use std::ops::Range;

/// How far ahead a few rows ask for what they read, in bytes: a head's keys and values are too short for the hardware to
/// find its pace. On Zen 3, 2 to 16 KiB are the same. A lone row asks on AVX2, where it takes 0.9 to 1 of the time so; on
/// AVX-512 (Zen 4) it lost, at 8 KiB: see PERFORMANCE.md.
const AHEAD: usize = 4096;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Features, or positions, of floats in a step of a loop.
const STEP: usize = 4;
/// Features that share a scale.
pub(super) const GROUP: usize = 32;
/// Features of half a group.
const HALF: usize = GROUP / 2;
/// Bytes of sixteen half-precision scales.
pub(super) const SCALES: usize = 2 * LANES;
/// Bytes of [`GROUP`] features of sixteen positions.
pub(super) const Q8_BLOCK: usize = SCALES + GROUP * LANES;
pub(super) const Q4_BLOCK: usize = SCALES + GROUP / 2 * LANES;

/// [`GROUP`] features of sixteen positions, quantized: scales, and sixteens of bytes.
trait Group {
    /// Feature `j` of half `H` of sixteen keys with the scales `d`.
    fn key<S: Simd, const H: usize>(&self, s: S, j: usize, d: S::F) -> S::F;

    /// Half `H` of a position's features, which have the scale `d`.
    fn value<S: Simd, const H: usize>(&self, s: S, position: usize, d: S::F) -> S::F;
}

impl Group for [u8; Q8_BLOCK] {
    #[inline(always)]
    fn key<S: Simd, const H: usize>(&self, s: S, j: usize, d: S::F) -> S::F {
        s.mul(s.to_f32(s.widen_i8(&bytes(self)[H * HALF + j])), d)
    }

    #[inline(always)]
    fn value<S: Simd, const H: usize>(&self, s: S, position: usize, d: S::F) -> S::F {
        s.mul(s.to_f32(s.widen_i8(&bytes(self)[2 * position + H])), d)
    }
}

/// Low nibbles are the first half, high ones the second.
impl Group for [u8; Q4_BLOCK] {
    #[inline(always)]
    fn key<S: Simd, const H: usize>(&self, s: S, j: usize, d: S::F) -> S::F {
        nibbles::<S, H>(s, &bytes(self)[j], d)
    }

    #[inline(always)]
    fn value<S: Simd, const H: usize>(&self, s: S, position: usize, d: S::F) -> S::F {
        nibbles::<S, H>(s, &bytes(self)[position], d)
    }
}

/// A group's scales.
#[inline(always)]
fn scales<const N: usize>(group: &[u8; N]) -> &[u8; SCALES] {
    group.first_chunk().expect("a group has scales")
}

/// A group's sixteens of bytes.
#[inline(always)]
fn bytes<const N: usize>(group: &[u8; N]) -> &[[u8; LANES]] {
    group[SCALES..].as_chunks().0
}

/// Keys of a block as floats, `[feature][16 positions]`.
#[inline(always)]
pub(crate) fn widen_keys<S: Simd>(s: S, kind: KvType, block: &[u8], out: &mut [[f32; LANES]]) {
    match kind {
        KvType::F32 => floats::<S, F32>(s, block, out),
        KvType::F16 => floats::<S, F16>(s, block, out),
        KvType::BF16 => floats::<S, BF16>(s, block, out),
        KvType::Q8_0 => group_keys::<S, Q8_BLOCK>(s, block, out),
        KvType::Q4_0 => group_keys::<S, Q4_BLOCK>(s, block, out),
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
        KvType::Q8_0 => group_rows::<S, Q8_BLOCK>(s, block, positions, out, stride),
        KvType::Q4_0 => group_rows::<S, Q4_BLOCK>(s, block, positions, out, stride),
    }
}

/// The scores of `N` blocks for `R` rows: `q . key` for their sixteen positions each, without a detour through
/// memory. The same sums in the same order as those over [`widen_keys`].
#[inline(always)]
pub(crate) fn scores<S: Simd, const R: usize, const N: usize>(
    s: S,
    kind: KvType,
    blocks: [&[u8]; N],
    q: [&[f32]; R],
) -> [[S::F; N]; R] {
    match kind {
        KvType::F32 => float_scores::<S, F32, R, N>(s, blocks, q),
        KvType::F16 => float_scores::<S, F16, R, N>(s, blocks, q),
        KvType::BF16 => float_scores::<S, BF16, R, N>(s, blocks, q),
        KvType::Q8_0 => group_scores::<S, Q8_BLOCK, R, N>(s, blocks, q),
        KvType::Q4_0 => group_scores::<S, Q4_BLOCK, R, N>(s, blocks, q),
    }
}

#[inline(always)]
fn float_scores<S: Simd, B: FloatBlock, const R: usize, const N: usize>(
    s: S,
    blocks: [&[u8]; N],
    q: [&[f32]; R],
) -> [[S::F; N]; R] {
    let mut acc = [[s.splat(0.0); N]; R];
    let blocks = blocks.map(|block| B::cast(block).as_chunks::<LANES>().0.as_chunks::<STEP>().0);
    for (keys, q) in together::<_, N, R, STEP>(blocks, q) {
        for keys in keys {
            ask::<S, _, R>(s, keys);
        }
        for j in 0..STEP {
            let mut key = [s.splat(0.0); N];
            for (key, keys) in key.iter_mut().zip(keys) {
                *key = B::widen(s, &keys[j]);
            }
            acc = add_key(s, acc, key, &q, j);
        }
    }
    acc
}

#[inline(always)]
fn group_scores<S: Simd, const B: usize, const R: usize, const N: usize>(
    s: S,
    blocks: [&[u8]; N],
    q: [&[f32]; R],
) -> [[S::F; N]; R]
where
    [u8; B]: Group,
{
    let mut acc = [[s.splat(0.0); N]; R];
    for (groups, q) in together::<[u8; B], N, R, GROUP>(blocks.map(|block| block.as_chunks().0), q) {
        let mut d = [s.splat(0.0); N];
        for n in 0..N {
            ask::<S, _, R>(s, groups[n]);
            d[n] = s.load_f16(scales(groups[n]));
        }
        for j in 0..HALF {
            let mut key = d;
            for n in 0..N {
                key[n] = groups[n].key::<S, 0>(s, j, d[n]);
            }
            acc = add_key(s, acc, key, &q, j);
        }
        for j in 0..HALF {
            let mut key = d;
            for n in 0..N {
                key[n] = groups[n].key::<S, 1>(s, j, d[n]);
            }
            acc = add_key(s, acc, key, &q, HALF + j);
        }
    }
    acc
}

/// The groups of `G` features of several blocks, and of several queries.
#[inline(always)]
fn together<'a, T, const N: usize, const R: usize, const G: usize>(
    blocks: [&'a [T]; N],
    q: [&'a [f32]; R],
) -> impl Iterator<Item = ([&'a T; N], [&'a [f32; G]; R])> {
    let len = blocks[0].len();
    let (blocks, q) = (blocks.map(|block| &block[..len]), q.map(|q| &q.as_chunks().0[..len]));
    (0..len).map(move |i| (blocks.map(|block| &block[i]), q.map(|q| &q[i])))
}

/// Adds what feature `j` of a group has to the scores of each sixteen keys.
#[inline(always)]
fn add_key<S: Simd, const R: usize, const N: usize, const G: usize>(
    s: S,
    mut acc: [[S::F; N]; R],
    key: [S::F; N],
    q: &[&[f32; G]; R],
    j: usize,
) -> [[S::F; N]; R] {
    for r in 0..R {
        let x = s.splat(q[r][j]);
        for n in 0..N {
            acc[r][n] = s.fma(x, key[n], acc[r][n]);
        }
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
    weights: [f32; R],
) -> [[S::F; C]; R] {
    for r in 0..R {
        let w = s.splat(weights[r]);
        for j in 0..C {
            acc[r][j] = s.fma(w, v[j], acc[r][j]);
        }
    }
    acc
}

/// Adds the values of the first positions of some blocks, for which there are weights, to a few rows' sums, `C`
/// registers at a time. The same sums in the same order as those over [`widen_values`].
#[inline(always)]
pub(crate) fn add_values<S: Simd, const R: usize, const C: usize>(
    s: S,
    kind: KvType,
    blocks: &[u8],
    weights: [&[f32]; R],
    sums: &mut Sums<'_, R>,
) {
    match kind {
        KvType::F32 => add_floats::<S, F32, R, C>(s, blocks, weights, sums),
        KvType::F16 => add_floats::<S, F16, R, C>(s, blocks, weights, sums),
        KvType::BF16 => add_floats::<S, BF16, R, C>(s, blocks, weights, sums),
        KvType::Q8_0 => add_groups::<S, Q8_BLOCK, R, C>(s, blocks, weights, sums),
        KvType::Q4_0 => add_groups::<S, Q4_BLOCK, R, C>(s, blocks, weights, sums),
    }
}

/// Positions of floats lie one after the other, whatever block they are of.
#[inline(always)]
fn add_floats<S: Simd, B: FloatBlock, const R: usize, const C: usize>(
    s: S,
    values: &[u8],
    weights: [&[f32]; R],
    sums: &mut Sums<'_, R>,
) {
    let (values, _) = B::cast(values).as_chunks::<LANES>();
    let mut line = 0;
    while line < sums.lines {
        if line + C <= sums.lines {
            add_lines::<S, B, R, C>(s, values, weights, sums, line);
            line += C;
        } else {
            add_lines::<S, B, R, 1>(s, values, weights, sums, line);
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
    let (mut acc, stride, n) = (sums.take::<S, C>(s, line), sums.lines, weights[0].len());
    assert!(n == 0 || (n - 1) * stride + line + C <= values.len(), "{n} rows of {stride} registers");
    assert!(weights.iter().all(|w| w.len() == n), "a weight for each");
    // Not checked between positions, for rows and for each row's weights: 1.05 to 1.1 times as fast with eight rows (Emerald
    // Rapids, f16).
    // SAFETY: `C` registers from `line` on lie in each of the `n` rows, as was checked.
    let row = |at: usize| unsafe { &*values.as_ptr().add(at * stride + line).cast::<[[B; LANES]; C]>() };
    // SAFETY: each row has `n` weights, as was checked.
    let weight = |r: usize, at: usize| unsafe { *weights[r].as_ptr().add(at) };
    let whole = n / STEP * STEP;
    for at in (0..whole).step_by(STEP) {
        for j in 0..STEP {
            let weights = from_fn(|r| weight(r, at + j));
            acc = add_value(s, acc, neighbours::<S, B, R, C>(s, row(at + j)), weights);
        }
    }
    for at in whole..n {
        acc = add_value(s, acc, neighbours::<S, B, R, C>(s, row(at)), from_fn(|r| weight(r, at)));
    }
    sums.put(s, line, acc);
}

/// Neighbouring registers of floats for `R` rows, and asks for those [`AHEAD`] of them.
#[inline(always)]
fn neighbours<S: Simd, B: FloatBlock, const R: usize, const C: usize>(
    s: S,
    row: &[[B; LANES]; C],
) -> [S::F; C] {
    ask::<S, _, R>(s, row);
    let mut v = [s.splat(0.0); C];
    for j in 0..C {
        v[j] = B::widen(s, &row[j]);
    }
    v
}

#[inline(always)]
fn add_groups<S: Simd, const B: usize, const R: usize, const C: usize>(
    s: S,
    blocks: &[u8],
    weights: [&[f32]; R],
    sums: &mut Sums<'_, R>,
) where
    [u8; B]: Group,
{
    let blocks = blocks.as_chunks::<B>().0.chunks_exact(sums.lines.div_ceil(GROUP / HALF));
    for (block, first) in blocks.zip((0..weights[0].len()).step_by(LANES)) {
        let last = weights[0].len().min(first + LANES);
        let weights = weights.map(|w| &w[first..last]);
        for (group, line) in block.iter().zip((0..).step_by(2)) {
            ask::<S, _, R>(s, group);
            let mut d = [0.0; LANES];
            s.store(s.load_f16(scales(group)), &mut d);
            if C > 1 {
                let mut acc = sums.take::<S, 2>(s, line);
                for at in 0..weights[0].len() {
                    let d = s.splat(d[at]);
                    let v = [group.value::<S, 0>(s, at, d), group.value::<S, 1>(s, at, d)];
                    acc = add_value(s, acc, v, weights.map(|w| w[at]));
                }
                sums.put(s, line, acc);
            } else {
                add_half::<S, B, R, 0>(s, group, &d, weights, sums, line);
                add_half::<S, B, R, 1>(s, group, &d, weights, sums, line + 1);
            }
        }
    }
}

/// Half `H` of a group of values.
#[inline(always)]
fn add_half<S: Simd, const B: usize, const R: usize, const H: usize>(
    s: S,
    group: &[u8; B],
    d: &[f32; LANES],
    weights: [&[f32]; R],
    sums: &mut Sums<'_, R>,
    line: usize,
) where
    [u8; B]: Group,
{
    let mut acc = sums.take::<S, 1>(s, line);
    for at in 0..weights[0].len().min(LANES) {
        let v = group.value::<S, H>(s, at, s.splat(d[at]));
        acc = add_value(s, acc, [v], weights.map(|w| w[at]));
    }
    sums.put(s, line, acc);
}

/// Asks for what lies [`AHEAD`] of something that `R` rows read now. (Which CPUs ask for a lone row was measured for two of
/// them; the number of registers tells those apart.)
#[inline(always)]
fn ask<S: Simd, T, const R: usize>(s: S, now: &T) {
    let start = std::ptr::from_ref(now).cast::<u8>();
    if R > 1 || S::REGISTERS < 32 {
        for line in (0..size_of::<T>()).step_by(LINE) {
            s.prefetch(start.wrapping_add(AHEAD + line));
        }
    }
}

/// Asks for what lies `ahead` bytes further on than a block.
#[inline(always)]
pub(crate) fn ask_ahead<S: Simd>(s: S, block: &[u8], ahead: usize) {
    for line in (0..block.len()).step_by(LINE) {
        s.prefetch(block.as_ptr().wrapping_add(ahead + line));
    }
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

/// Groups of registers of quantized keys.
#[inline(always)]
fn group_keys<S: Simd, const B: usize>(s: S, block: &[u8], out: &mut [[f32; LANES]])
where
    [u8; B]: Group,
{
    for (group, out) in block.as_chunks::<B>().0.iter().zip(out.as_chunks_mut::<GROUP>().0) {
        let d = s.load_f16(scales(group));
        let (low, high) = out.split_at_mut(HALF);
        for (j, (low, high)) in low.iter_mut().zip(high).enumerate() {
            s.store(group.key::<S, 0>(s, j, d), low);
            s.store(group.key::<S, 1>(s, j, d), high);
        }
    }
}

/// Groups of rows of quantized values, transposed.
#[inline(always)]
fn group_rows<S: Simd, const B: usize>(
    s: S,
    block: &[u8],
    positions: Range<usize>,
    out: &mut [[f32; LANES]],
    stride: usize,
) where
    [u8; B]: Group,
{
    for (group, out) in block.as_chunks::<B>().0.iter().zip(out.chunks_exact_mut(2 * stride)) {
        let mut d = [0.0; LANES];
        s.store(s.load_f16(scales(group)), &mut d);
        let (low, high) = out.split_at_mut(stride);
        let out = low[positions.clone()].iter_mut().zip(&mut high[positions.clone()]);
        for (at, (d, (low, high))) in d.iter().zip(out).enumerate() {
            s.store(group.value::<S, 0>(s, at, s.splat(*d)), low);
            s.store(group.value::<S, 1>(s, at, s.splat(*d)), high);
        }
    }
}

/// `d * (q - 8)` for the low (`H` = 0) or the high nibbles of sixteen bytes; these are taken where they are,
/// sixteen times as large. Every step is exact.
#[inline(always)]
fn nibbles<S: Simd, const H: usize>(s: S, q: &[u8; LANES], d: S::F) -> S::F {
    let q = s.widen_i8(q);
    if H == 0 {
        s.mul(s.sub(s.to_f32(s.and(q, s.splat_i32(0x0f))), s.splat(8.0)), d)
    } else {
        let high = s.sub(s.to_f32(s.and(q, s.splat_i32(0xf0))), s.splat(128.0));
        s.mul(high, s.mul(d, s.splat(1.0 / 16.0)))
    }
}
