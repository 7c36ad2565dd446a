//! Causal attention with an online softmax: `out = softmax(q K^T) V`, never holding a row of scores.
//!
//! Query rows that share a KV head (the heads of its group, for one or several tokens) go through its
//! cache together, in tiles of [`TILE`] positions:
//!
//! ```text
//! for each tile:
//!   widen its keys to floats: [16 positions][feature]
//!   scores[row][position] = q[row] . keys        for the rows that see any of it
//!   weights = 2^(scores - m)                     m: about the row's running maximum
//!   widen its values: [16 features][position]
//!   sum[row][feature] = sum * 2^(old m - m) + weights[row] . values
//! ```
//!
//! Queries come multiplied by `log2(e)`, and all exponentials are powers of two. The maximum need not be the last one: it
//! is brought up to the scores only when they are [far above](SLACK) it.
//!
//! Both products are the same small matrix product, of rows by registers: a block of accumulators, one
//! operand broadcast, the other read from end to end, no horizontal sums. The cache's type is nobody's
//! business but [`cache`](super::cache)'s, which widens, so no kernel is compiled for a pair of types. A
//! few rows (of a generated token) use each register as it is widened; through the tiles a single one was a
//! fifth slower, because they push each other out of the first-level cache. They wait for memory first and for each
//! other's sums second: so what comes 4 KiB later is asked for, a lone row makes the scores of four blocks side by side
//! (one chain of additions would take four cycles a feature), eight rows those of two (sixteen sums in place of eight: 1.09 to
//! 1.15 times as fast on an Emerald Rapids), and the exponentials of several rows are made in turns. Two
//! threads of Zen 3 took, of the time before, 0.77 (eight rows a KV head, 4,096 positions in half precision), 0.93 (one),
//! and 0.85 with eight rows and a cache in Q8_0 or Q4_0.
//!
//! What is done between the two products of many rows is kept from waiting: the exponentials of four rows are made in
//! turns, no maximum is looked for across a register unless one is above the old one, and the next tile's keys and values
//! are asked for while these are widened. (One Zen 4 core, 4,096 positions in half precision, with powers of two for `exp`:
//! 512 tokens 1.10 to 1.12 times as fast on AVX-512, 1.12 to 1.14 on AVX2; one token with eight rows a KV head, in cache, 1.4
//! to 1.5 and 1.05. The products are at 97 % of the peak and six sevenths of the time then; six rows by four lines for
//! four by four lost 2 to 4 %.)
//!
//! Tiles of `[feature][64 positions]`, read at a stride of 256 bytes, lost to whole panels of sixteen
//! positions for the same reason.
//!
//! A call covers one *chunk* of positions and yields an unfinished [record](lines) for each row;
//! records are [merged](Merge) in the order of their chunks. Chunks and tiles lie at fixed places whatever
//! the number of tokens or threads, and each number of a row is one sum in one order whatever rows it is
//! computed with, so a row's result depends on neither.

use super::cache;
use super::rows::{Multiply, Product};
use crate::buffer::Buffer;
use crate::kv::KvShape;
use crate::simd::{Kernel, LANES, STRIPE, Simd, exp::exp2};
use std::array::from_fn;
use std::ops::Range;

/// Positions in a chunk.
pub(crate) const CHUNK: usize = 512;
/// Up to so many rows use each register of the cache as it is widened, [`few`] at a time; no more were measured.
const FEW: usize = 32;
/// Positions in a tile.
pub(crate) const TILE: usize = 64;
/// How far, in powers of two, scores may be above what weights are relative to before that is brought up to them: weights
/// are up to 256 then, of which sums have room for any number, and there are hardly any older sums to be rescaled.
pub(crate) const SLACK: f32 = 8.0;
/// Registers of a row of scores.
pub(crate) const TILE_LINES: usize = TILE / LANES;

/// Lines of a row's record: the weighted sum of values, the maximum `[m, ..]`, and the sum of weights
/// in sixteen parts.
pub(crate) fn lines(value_dim: usize) -> usize {
    value_dim.div_ceil(LANES) + 2
}

/// One KV head's cache, in blocks of sixteen positions.
#[derive(Clone, Copy)]
pub(crate) struct KvHead<'a> {
    pub keys: &'a [u8],
    pub values: &'a [u8],
    pub shape: &'a KvShape,
}

/// A worker's tiles of keys, values and scores, and what each row's older sums are worth.
#[derive(Default)]
pub(crate) struct Scratch {
    pub keys: Buffer<[f32; LANES]>,
    pub values: Buffer<[f32; LANES]>,
    pub scores: Buffer<[f32; LANES]>,
    pub factors: Buffer<f32>,
    /// What matrix tiles multiply, each as two sets of lines of bfloat16.
    #[allow(dead_code, reason = "not every architecture has matrix tiles")]
    pub split: [Buffer<[u8; STRIPE]>; 4],
}

impl Scratch {
    /// Bytes for so many rows.
    pub(crate) fn size(rows: usize, shape: &KvShape) -> usize {
        let (key, value) = (shape.key_type.padded(shape.key_dim), shape.value_type.padded(shape.value_dim));
        let split =
            4 * (TILE * (key + value + 4 * LANES) + (rows + 2 * LANES) * (key + LANES) + 2 * LANES * TILE);
        4 * (TILE * (key + value) + rows * (TILE + 1)) + split
    }
}

/// Query rows against one chunk of positions.
pub struct Attend<'a> {
    /// The rows' queries, scaled by `log2(e) / sqrt(d)`, and padded as the keys are: `rows x lines of a key`.
    pub(crate) queries: &'a [[f32; LANES]],
    /// The end of the positions that each row sees, ascending.
    pub(crate) visible: &'a [usize],
    /// The first of them for each row, ascending: 0 without a window.
    pub(crate) hidden: &'a [usize],
    pub(crate) cache: KvHead<'a>,
    pub(crate) positions: Range<usize>,
    /// Whether the sums are to be those of few rows, to the bit.
    pub(crate) exact: bool,
    /// A record for each row.
    pub(crate) out: &'a mut [[f32; LANES]],
    pub(crate) scratch: &'a mut Scratch,
}

impl Kernel for Attend<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let shape = self.cache.shape;
        let (rows, features) = (self.visible.len(), shape.key_type.padded(shape.key_dim));
        let record = lines(shape.value_dim);
        assert!(
            self.queries.len() * LANES == rows * features && self.out.len() == rows * record,
            "one query and one record a row"
        );
        assert!(self.positions.start.is_multiple_of(TILE), "tiles lie at fixed places");
        assert_eq!(self.hidden.len(), rows, "each row sees from a position on");
        self.out.fill([0.0; LANES]);
        self.out.chunks_exact_mut(record).for_each(|r| r[record - 2] = [f32::NEG_INFINITY; LANES]);
        if self.exact { attend(s, self) } else { s.attend(self) }
    }
}

/// The tiles of some positions that any row sees any of: their positions, and which rows.
pub(crate) fn seen<'a>(
    visible: &'a [usize],
    hidden: &'a [usize],
    positions: Range<usize>,
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + 'a {
    let seen = move |start: usize| {
        let first = visible.partition_point(|&n| n <= start);
        let last = visible[first..].last()?;
        let n = (last - start).min(positions.end - start).min(TILE);
        let end = hidden.partition_point(|&from| from < start + n); // later rows see none of it
        Some((start..start + n, first..end))
    };
    let starts = positions.start..positions.end;
    starts.step_by(TILE).map_while(seen).filter(|(_, rows)| !rows.is_empty())
}

/// Attention by multiply-adds.
#[inline(always)]
pub(crate) fn attend<S: Simd>(s: S, job: Attend<'_>) {
    let Attend { queries, visible, hidden, cache, positions, out, scratch, .. } = job;
    let KvHead { keys, values, shape } = cache;
    let features = shape.key_type.padded(shape.key_dim);
    let (stored, record) = (shape.value_type.padded(shape.value_dim) / LANES, lines(shape.value_dim));
    let (rows, sums) = (visible.len(), record - 2);
    let key_tile = scratch.keys.room(features * TILE_LINES);
    let value_tile = scratch.values.room(TILE * stored);
    let (scores, factors) = (scratch.scores.room(rows * TILE_LINES), scratch.factors.room(rows));

    for (positions, Range { start: first, end }) in seen(visible, hidden, positions) {
        let (n, out) = (positions.len(), &mut out[first * record..]);
        let (blocks, first_block) = (n.div_ceil(LANES), positions.start / LANES);
        let tile = Tile { cache, positions };
        if rows <= FEW {
            let mut row = first;
            while row < end {
                let queries = &queries[row * features / LANES..];
                let rows = Rows {
                    visible: &visible[row..],
                    hidden: &hidden[row..],
                    scores: &mut scores[row * TILE_LINES..],
                    records: &mut out[(row - first) * record..],
                };
                row += match end - row {
                    8.. if S::REGISTERS >= 32 => s.run(Few::<8, 2, 2>(&tile, queries, rows)),
                    4.. if S::REGISTERS >= 32 => s.run(Few::<4, 4, 1>(&tile, queries, rows)),
                    4.. if S::REGISTERS >= 8 => s.run(Few::<4, 1, 1>(&tile, queries, rows)),
                    2.. => s.run(Few::<2, 2, 2>(&tile, queries, rows)),
                    _ => s.run(Few::<1, 4, 4>(&tile, queries, rows)),
                };
            }
            continue;
        }

        let tiles = key_tile.chunks_exact_mut(features);
        for (block, tile) in keys.chunks_exact(shape.key_block()).skip(first_block).take(blocks).zip(tiles) {
            cache::ask_ahead(s, block, TILE_LINES * shape.key_block());
            cache::widen_keys(s, shape.key_type, block, tile);
        }
        let product = Product {
            a: queries[first * features / LANES..end * features / LANES].as_flattened(),
            b: key_tile,
            depth: features,
            stride: features,
            a_stride: features,
            // What lies beyond the blocks is masked, and whole tiles are faster where they fit.
            lines: if S::REGISTERS >= 32 { TILE_LINES } else { blocks },
            c_stride: TILE_LINES,
        };
        s.run(Multiply::<false> { product, c: &mut scores[first * TILE_LINES..], factors: &[] });

        let rows = Rows {
            visible: &visible[first..end],
            hidden: &hidden[first..end],
            scores: &mut scores[first * TILE_LINES..],
            records: out,
        };
        weigh_all(s, &tile, rows, &mut factors[first..]);

        for (i, block) in values.chunks_exact(shape.value_block()).skip(first_block).take(blocks).enumerate()
        {
            let own = i * LANES..n.min((i + 1) * LANES);
            cache::ask_ahead(s, block, TILE_LINES * shape.value_block());
            cache::widen_values(s, shape.value_type, block, own, value_tile, TILE);
        }
        let product = Product {
            a: scores[first * TILE_LINES..end * TILE_LINES].as_flattened(),
            b: value_tile,
            depth: n,
            stride: TILE,
            a_stride: TILE,
            lines: sums,
            c_stride: record,
        };
        s.run(Multiply::<true> { product, c: out, factors: &factors[first..] });
    }
}

/// A tile of positions, and the cache that they are of.
pub(crate) struct Tile<'a> {
    pub cache: KvHead<'a>,
    pub positions: Range<usize>,
}

impl Tile<'_> {
    /// Takes the scores of what a row does not see out of its whole registers.
    #[inline(always)]
    pub(crate) fn hide(&self, scores: &mut [[f32; LANES]], visible: usize, hidden: usize) {
        let Range { start, end } = self.positions;
        scores.as_flattened_mut()[visible.min(end) - start..].fill(f32::NEG_INFINITY);
        scores.as_flattened_mut()[..hidden.saturating_sub(start)].fill(f32::NEG_INFINITY);
    }
}

// Parts of the kernel are kernels themselves: one function of them all takes the compiler long.

/// A tile for the first `R` rows, all of which see any of it, with `C` registers of each sum of values and the
/// scores of `N` blocks at a time. Yields `R`.
struct Few<'a, const R: usize, const C: usize, const N: usize>(&'a Tile<'a>, &'a [[f32; LANES]], Rows<'a>);

impl<const R: usize, const C: usize, const N: usize> Kernel for Few<'_, R, C, N> {
    type Out = usize;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> usize {
        few::<S, R, C, N>(s, self.0, self.1.as_flattened(), self.2)
    }
}

/// Some rows of a tile, or more.
struct Rows<'a> {
    visible: &'a [usize],
    hidden: &'a [usize],
    /// [`TILE_LINES`] for each.
    scores: &'a mut [[f32; LANES]],
    records: &'a mut [[f32; LANES]],
}

/// [`Few`].
#[inline(always)]
fn few<S: Simd, const R: usize, const C: usize, const N: usize>(
    s: S,
    tile: &Tile<'_>,
    queries: &[f32],
    mut rows: Rows<'_>,
) -> usize {
    let Tile { cache: KvHead { keys, values, shape }, ref positions } = *tile;
    let (features, record) = (shape.key_type.padded(shape.key_dim), lines(shape.value_dim));
    let (first_block, blocks) = (positions.start / LANES, positions.len().div_ceil(LANES));
    let queries: [&[f32]; R] = from_fn(|r| &queries[r * features..][..features]);
    for first in (0..blocks).step_by(N) {
        // The last block in place of those that are not there: its scores come out once more.
        let at: [usize; N] = from_fn(|n| blocks.min(first + n + 1) - 1);
        let lines = at.map(|i| &keys[(first_block + i) * shape.key_block()..][..shape.key_block()]);
        let lines = cache::scores(s, shape.key_type, lines, queries);
        for (scores, lines) in rows.scores.chunks_exact_mut(TILE_LINES).zip(&lines) {
            for (line, at) in lines.iter().zip(at) {
                s.store(*line, &mut scores[at]);
            }
        }
    }
    let factors = weigh::<S, R>(s, tile, &mut rows, record);
    let Rows { scores, records, .. } = rows;
    let mut sums = cache::Sums { sums: records, stride: record, lines: record - 2 };
    if factors != [1.0; R] {
        sums.scale(s, factors);
    }
    // A single row's token takes 9 % longer by the tile than by its blocks, as they lie. Four rows have few registers
    // of sums at a time, and fetch and put back those of a tile once in place of four times.
    let (part, block) = (if R >= 4 { TILE } else { LANES }, shape.value_block());
    let values = values[first_block * block..][..blocks * block].chunks(part / LANES * block);
    for (values, first) in values.zip((0..positions.len()).step_by(part)) {
        let last = positions.len().min(first + part);
        let weights: [&[f32]; R] = from_fn(|r| &scores.as_flattened()[r * TILE..][first..last]);
        cache::add_values::<S, R, C>(s, shape.value_type, values, weights, &mut sums);
    }
    R
}

/// The maximum and the sum of weights of a row, after its weighted sums.
#[inline(always)]
fn state(records: &mut [[f32; LANES]], row: usize, record: usize) -> &mut [[f32; LANES]; 2] {
    records[row * record..][..record].last_chunk_mut().expect("a record has two more lines than sums")
}

/// [`weigh`] for all rows of which it is said what they see; their factors.
#[inline(always)]
fn weigh_all<S: Simd>(s: S, tile: &Tile<'_>, all: Rows<'_>, factors: &mut [f32]) {
    let record = lines(tile.cache.shape.value_dim);
    let (mut row, end) = (0, all.visible.len());
    while row < end {
        let rows = &mut Rows {
            visible: &all.visible[row..],
            hidden: &all.hidden[row..],
            scores: &mut all.scores[row * TILE_LINES..],
            records: &mut all.records[row * record..],
        };
        row += match (end - row, &mut factors[row..]) {
            (4.., [a, b, c, d, ..]) if S::REGISTERS >= 32 => {
                [*a, *b, *c, *d] = weigh::<S, 4>(s, tile, rows, record);
                4
            }
            (2.., [a, b, ..]) => {
                [*a, *b] = weigh::<S, 2>(s, tile, rows, record);
                2
            }
            (_, factors) => {
                [factors[0]] = weigh::<S, 1>(s, tile, rows, record);
                1
            }
        };
    }
}

/// Turns a tile's scores of the first `R` rows into weights relative to their maxima, and brings those and the sums of
/// weights up to date. Yields the factors that bring older sums to new maxima.
#[inline(always)]
fn weigh<S: Simd, const R: usize>(s: S, tile: &Tile<'_>, rows: &mut Rows<'_>, record: usize) -> [f32; R] {
    let blocks = tile.positions.len().div_ceil(LANES);
    let (mut maxima, mut sums, mut factors) = ([s.splat(0.0); R], [s.splat(0.0); R], [1.0; R]);
    for r in 0..R {
        let scores = &mut rows.scores[r * TILE_LINES..][..blocks];
        tile.hide(scores, rows.visible[r], rows.hidden[r]);
        let mut largest = s.splat(f32::NEG_INFINITY);
        for x in scores {
            largest = s.max(s.load(x), largest);
        }
        let [m, sum] = state(rows.records, r, record);
        (maxima[r], sums[r]) = (s.splat(m[0]), s.load(sum));
        if s.any_above(largest, s.add(maxima[r], s.splat(SLACK))) {
            let new = m[0].max(s.max_lane(largest));
            factors[r] = rescale(m[0], new);
            (maxima[r], sums[r]) = (s.splat(new), s.mul(sums[r], s.splat(factors[r])));
            m[0] = new;
        }
    }
    // Register by register, all rows for each: exponentials of different rows do not wait for each other.
    for i in 0..blocks {
        for r in 0..R {
            let x = &mut rows.scores[r * TILE_LINES + i];
            let weights = exp2(s, s.sub(s.load(x), maxima[r]));
            s.store(weights, x);
            sums[r] = s.add(sums[r], weights);
        }
    }
    for (r, sum) in sums.iter().enumerate() {
        s.store(*sum, &mut state(rows.records, r, record)[1]);
    }
    factors
}

/// What sums relative to the maximum `m` are worth relative to a new one.
#[inline(always)]
pub(crate) fn rescale(m: f32, new: f32) -> f32 {
    if m == new {
        1.0
    } else if m == f32::NEG_INFINITY {
        0.0
    } else {
        (m - new).exp2()
    }
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
        assert!(total.len() == part.len() && total.len() >= 2, "records of the same row");
        let (sums, maximum) = (total.len() - 1, total.len() - 2);
        let (m, part_m) = (total[maximum][0], part[maximum][0]);
        if part_m == f32::NEG_INFINITY {
            return; // the chunk was masked
        }
        let new = m.max(part_m);
        let (a, b) = (rescale(m, new), rescale(part_m, new));
        for i in (0..=sums).filter(|i| *i != maximum) {
            let sum = s.fma(s.load(&part[i]), s.splat(b), s.mul(s.load(&total[i]), s.splat(a)));
            s.store(sum, &mut total[i]);
        }
        total[maximum][0] = new;
    }
}

/// Writes a finished record's `values / sum of weights` to `out`.
pub(crate) fn finish(record: &[[f32; LANES]], out: &mut [f32]) {
    let Some((sums, values)) = record.split_last() else { return };
    let inverse = 1.0 / sums.iter().sum::<f32>();
    for (out, v) in out.iter_mut().zip(values.as_flattened()) {
        *out = v * inverse;
    }
}
