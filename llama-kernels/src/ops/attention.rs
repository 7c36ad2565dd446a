//! Causal attention with an online softmax: `out = softmax(q K^T) V`, never holding a row of scores.
//!
//! Query rows that share a KV head (the heads of its group, for one or several tokens) go through
//! its cache together: each key and value is read and widened once for [`ROWS`] of them. Positions are
//! taken in tiles of [`TILE`]; a row carries its running maximum `m`, the sum of its weights `l` and
//! the weighted sum of values, rescaled when the maximum grows.
//!
//! A call covers one *chunk* of positions and yields an unfinished [record](lines) for each row;
//! records are [merged](Merge) in the order of their chunks. Chunks lie at fixed places whatever the
//! number of tokens or threads, so a row's result does not depend on either.

use crate::format::FloatBlock;
use crate::simd::{Kernel, LANES, Simd, exp::exp};
use std::ops::Range;

/// Positions in a chunk.
pub(crate) const CHUNK: usize = 512;
/// Positions in a tile.
const TILE: usize = 64;
/// Query rows that share the widening of a key.
const ROWS: usize = 4;

/// Lines of a row's record: the weighted sum of values, then `[m, l, ..]`.
pub(crate) fn lines(value_dim: usize) -> usize {
    value_dim.div_ceil(LANES) + 1
}

/// One KV head's cache: `[position][feature]`, rows padded with zeros to whole registers.
pub(crate) struct KvHead<'a, B> {
    /// Keys.
    pub keys: &'a [B],
    /// Values.
    pub values: &'a [B],
    /// Padded features of a key.
    pub key_stride: usize,
    /// Padded features of a value.
    pub value_stride: usize,
}

/// Query rows against one chunk of positions.
pub(crate) struct Attend<'a, B> {
    /// The rows' queries, scaled by `1 / sqrt(d)` and padded: `rows x key_stride / 16`.
    pub queries: &'a [[f32; LANES]],
    /// How many positions from 0 each row sees.
    pub visible: &'a [usize],
    pub cache: KvHead<'a, B>,
    pub positions: Range<usize>,
    /// A record for each row.
    pub out: &'a mut [[f32; LANES]],
}

impl<B: FloatBlock> Kernel for Attend<'_, B> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Attend { queries, visible, cache, positions, out } = self;
        let (q_lines, record) = (cache.key_stride / LANES, lines(cache.value_stride));
        assert!(
            queries.len() == visible.len() * q_lines && out.len() == visible.len() * record,
            "one row a query"
        );
        for line in out.iter_mut() {
            *line = [0.0; LANES];
        }
        out.chunks_exact_mut(record).for_each(|r| r[record - 1][0] = f32::NEG_INFINITY);
        let mut row = 0;
        while row < visible.len() {
            let n = if row + ROWS <= visible.len() { ROWS } else { 1 };
            let queries = &queries[row * q_lines..(row + n) * q_lines];
            let out = &mut out[row * record..(row + n) * record];
            let visible = &visible[row..row + n];
            if n == ROWS {
                rows::<S, B, ROWS>(s, queries, visible, &cache, positions.clone(), out);
            } else {
                rows::<S, B, 1>(s, queries, visible, &cache, positions.clone(), out);
            }
            row += n;
        }
    }
}

#[inline(always)]
fn rows<S: Simd, B: FloatBlock, const R: usize>(
    s: S,
    queries: &[[f32; LANES]],
    visible: &[usize],
    cache: &KvHead<'_, B>,
    positions: Range<usize>,
    out: &mut [[f32; LANES]],
) {
    let q_lines = cache.key_stride / LANES;
    let record = lines(cache.value_stride);
    for start in positions.clone().step_by(TILE) {
        let end = positions.end.min(start + TILE);
        let seen: [usize; R] = std::array::from_fn(|r| visible[r].clamp(start, end) - start);
        let n = seen.iter().copied().max().unwrap_or(0);
        if n == 0 {
            continue; // wholly masked
        }
        let mut scores = [[f32::NEG_INFINITY; TILE]; R];
        let keys = &cache.keys[start * cache.key_stride..(start + n) * cache.key_stride];
        for (p, key) in keys.chunks_exact(cache.key_stride).enumerate() {
            let mut acc = [s.splat(0.0); R];
            for (i, key) in key.as_chunks::<LANES>().0.iter().enumerate() {
                let key = B::widen(s, key);
                for r in 0..R {
                    acc[r] = s.fma(s.load(&queries[r * q_lines + i]), key, acc[r]);
                }
            }
            for r in 0..R {
                if p < seen[r] {
                    scores[r][p] = s.sum(acc[r]);
                }
            }
        }
        let mut rescale = [1.0; R];
        for r in 0..R {
            if seen[r] > 0 {
                rescale[r] = weigh(s, &mut scores[r], &mut out[(r + 1) * record - 1]);
            } else {
                scores[r] = [0.0; TILE];
            }
        }
        let values = &cache.values[start * cache.value_stride..(start + n) * cache.value_stride];
        for i in 0..record - 1 {
            let mut acc = [s.splat(0.0); R];
            for r in 0..R {
                acc[r] = s.mul(s.load(&out[r * record + i]), s.splat(rescale[r]));
            }
            for (p, value) in values.chunks_exact(cache.value_stride).enumerate() {
                let value = B::widen(s, &value.as_chunks::<LANES>().0[i]);
                for r in 0..R {
                    acc[r] = s.fma(s.splat(scores[r][p]), value, acc[r]);
                }
            }
            for r in 0..R {
                s.store(acc[r], &mut out[r * record + i]);
            }
        }
    }
}

/// Turns a tile's scores into weights relative to the running maximum, which it updates with the
/// running sum in `[m, l, ..]`. Yields the factor that brings older sums to the new maximum.
#[inline(always)]
fn weigh<S: Simd>(s: S, scores: &mut [f32; TILE], running: &mut [f32; LANES]) -> f32 {
    let (lanes, _) = scores.as_chunks_mut::<LANES>();
    let largest = lanes.iter().fold(s.splat(f32::NEG_INFINITY), |m, x| s.max(m, s.load(x)));
    let [m, l, ..] = running;
    let new = m.max(s.max_lane(largest));
    let rescale = if *m == f32::NEG_INFINITY { 0.0 } else { (*m - new).exp() };
    let mut sum = s.splat(0.0);
    for x in lanes {
        let weights = exp(s, s.sub(s.load(x), s.splat(new)));
        sum = s.add(sum, weights);
        s.store(weights, x);
    }
    (*m, *l) = (new, *l * rescale + s.sum(sum));
    rescale
}

/// Adds a later chunk's record to a row's running one.
pub(crate) struct Merge<'a> {
    pub total: &'a mut [[f32; LANES]],
    pub part: &'a [[f32; LANES]],
}

impl Kernel for Merge<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Merge { total, part } = self;
        let (Some((total_run, total)), Some((part_run, part))) = (total.split_last_mut(), part.split_last())
        else {
            return;
        };
        let ([m, l, ..], &[part_m, part_l, ..]) = (total_run, part_run);
        if part_l == 0.0 {
            return; // the chunk was masked
        }
        let new = m.max(part_m);
        let factor = |m: f32| if m == f32::NEG_INFINITY { 0.0 } else { (m - new).exp() };
        let (a, b) = (factor(*m), factor(part_m));
        (*m, *l) = (new, *l * a + part_l * b);
        for (total, part) in total.iter_mut().zip(part) {
            s.store(s.fma(s.load(part), s.splat(b), s.mul(s.load(total), s.splat(a))), total);
        }
    }
}

/// Writes a finished record's `values / l` to `out`.
pub(crate) fn finish(record: &[[f32; LANES]], out: &mut [f32]) {
    let Some(([_, l, ..], values)) = record.split_last() else { return };
    let inverse = 1.0 / l;
    for (out, v) in out.iter_mut().zip(values.as_flattened()) {
        *out = v * inverse;
    }
}
