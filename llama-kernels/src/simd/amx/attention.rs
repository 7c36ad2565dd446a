//! Attention of many rows on matrix tiles.
//!
//! Each operand is split into two numbers in bfloat16, the rounded one and what it lacks, and three products of these are
//! added up: what is left out, and rounded, is less than 2^-14 of each product. Numbers of a cache in half precision or
//! bfloat16 are split exactly. (One Emerald Rapids core, 512 tokens after 3,584, heads of 64 features: 41 multiplications a
//! nanosecond by multiply-adds, 60 so.)
//!
//! Operands that are just rounded take two thirds of the time, and were given up: a trained model in BF16 diverged by
//! 0.00047 nats a token then, where rounding the activations of its products alone, on AVX512-BF16, costs 0.00004, and one
//! in Q4_0 by 0.00066, where bytes cost 0.00047.
//!
//! ```text
//! split the queries                                          once
//! for each tile of 64 positions:
//!   widen and split its keys and values                      [16 positions][pair of features], [16 features][pair of positions]
//!   for each block of 32 rows:
//!     scores = queries x keys                                2 x 2 tiles, three products each
//!     weights, as everywhere (`ops/attention.rs`); split
//!     sums = sums * factor + weights x values
//! ```

use super::super::avx512::{AMX, Avx512};
use super::super::exp::exp2;
use super::super::{LANES, STRIPE, Simd};
use super::{ROWS, Tiles};
use crate::acts::GROUP;
use crate::buffer::Buffer;
use crate::ops::attention::{Attend, KvHead, SLACK, Scratch, TILE, TILE_LINES, Tile, lines, rescale, seen};
use crate::ops::cache;
use core::arch::asm;
use core::arch::x86_64::*;

/// Lines of bfloat16 in a row of weights: 64 positions.
const WEIGHT_LINES: usize = TILE / GROUP;

/// Attention as [`Simd::attend`] describes it.
#[inline(always)]
pub(in super::super) fn attend(s: Avx512<AMX>, job: Attend<'_>) {
    let Attend { queries, visible, hidden, cache, positions, out, scratch, .. } = job;
    let KvHead { keys, values, shape } = cache;
    let features = shape.key_type.padded(shape.key_dim);
    let (stored, record) = (shape.value_type.padded(shape.value_dim) / LANES, lines(shape.value_dim));
    let (rows, depth, sums) = (visible.len(), features.div_ceil(GROUP), record - 2);
    let Scratch { keys: key_tile, values: value_tile, scores, split: [q, k, v, w], .. } = scratch;
    let key_tile = key_tile.room(features * TILE_LINES);
    let value_tile = value_tile.room(TILE * stored);
    let wide = sums.next_multiple_of(2);
    let (scores, part) = scores.room(ROWS * (TILE_LINES + wide)).split_at_mut(ROWS * TILE_LINES);
    // Blocks of rows may reach beyond the last one, into what stays in no sum.
    let mut q = Split::of(q, (rows + ROWS) * depth);
    let mut k = Split::of(k, TILE_LINES * depth * LANES);
    let mut v = Split::of(v, wide * WEIGHT_LINES * LANES);
    let mut w = Split::of(w, ROWS * WEIGHT_LINES);
    for (row, query) in queries.chunks_exact(features / LANES).enumerate() {
        q.rows(s, row * depth, query);
    }

    let tiles = Tiles::configure(s);
    for (positions, seeing) in seen(visible, hidden, positions) {
        let (n, first_block) = (positions.len(), positions.start / LANES);
        let blocks = n.div_ceil(LANES);
        let of_block = key_tile.chunks_exact_mut(features);
        for (i, (block, tile)) in
            keys.chunks_exact(shape.key_block()).skip(first_block).take(blocks).zip(of_block).enumerate()
        {
            cache::ask_ahead(s, block, TILE_LINES * shape.key_block());
            cache::widen_keys(s, shape.key_type, block, tile);
            k.pairs(s, i * depth * LANES, tile, depth * LANES);
        }
        for (i, block) in values.chunks_exact(shape.value_block()).skip(first_block).take(blocks).enumerate()
        {
            let own = i * LANES..n.min((i + 1) * LANES);
            cache::ask_ahead(s, block, TILE_LINES * shape.value_block());
            cache::widen_values(s, shape.value_type, block, own, value_tile, TILE);
        }
        let steps = n.div_ceil(GROUP);
        for (i, tile) in value_tile.chunks_exact(TILE).take(sums).enumerate() {
            v.pairs(s, i * WEIGHT_LINES * LANES, &tile[..n], steps * LANES);
        }
        let tile = Tile { cache, positions };
        for first in seeing.clone().step_by(ROWS) {
            let rows = first..seeing.end.min(first + ROWS);
            for block in (0..blocks).step_by(2) {
                let (a, b) = (q.from(first * depth), k.from(block * depth * LANES));
                multiply::<false>(s, depth, (a, depth), (b, depth * LANES), &mut scores[block..], TILE_LINES);
            }
            let records = &mut out[first * record..rows.end * record];
            let each =
                scores.as_chunks_mut::<TILE_LINES>().0.iter_mut().zip(records.chunks_exact_mut(record));
            for (r, (scores, record)) in each.enumerate() {
                tile.hide(scores, visible[first + r], hidden[first + r]);
                let (values, state) =
                    record.split_last_chunk_mut::<2>().expect("a record has two more lines than sums");
                let (weights, factor) = weigh(s, scores, state);
                for i in 0..WEIGHT_LINES {
                    w.line::<false>(s, r * WEIGHT_LINES + i, weights[2 * i], weights[2 * i + 1]);
                }
                if factor != 1.0 {
                    for sum in values {
                        s.store(s.mul(s.load(sum), s.splat(factor)), sum);
                    }
                }
            }
            // What a tile may not be written to is added to elsewhere: less than 32 rows, or an odd number of registers.
            let whole = rows.len() == ROWS && sums.is_multiple_of(2);
            if !whole {
                for (part, record) in part.chunks_exact_mut(wide).zip(records.chunks_exact(record)) {
                    part[..sums].copy_from_slice(&record[..sums]);
                }
            }
            for line in (0..sums).step_by(2) {
                let (w, v) = (w.from(0), v.from(line * WEIGHT_LINES * LANES));
                let (w, v) = ((w, WEIGHT_LINES), (v, WEIGHT_LINES * LANES));
                let (c, stride) = if whole { (&mut *records, record) } else { (&mut *part, wide) };
                multiply::<true>(s, steps, w, v, &mut c[line..], stride);
            }
            if !whole {
                for (record, part) in records.chunks_exact_mut(record).zip(part.chunks_exact(wide)) {
                    record[..sums].copy_from_slice(&part[..sums]);
                }
            }
        }
    }
    drop(tiles);
}

/// The parts of an operand: the numbers rounded to bfloat16, and what these lack.
const PARTS: usize = 2;

/// Lines of 32 numbers, each part by itself.
struct Split<'a>([&'a mut [[u8; STRIPE]]; PARTS]);

impl<'a> Split<'a> {
    fn of(buffer: &'a mut Buffer<[u8; STRIPE]>, lines: usize) -> Self {
        let (high, low) = buffer.room(PARTS * lines).split_at_mut(lines);
        Split([high, low])
    }

    /// What lies from a line on.
    fn from(&self, line: usize) -> [&[[u8; STRIPE]]; PARTS] {
        self.0.each_ref().map(|part| &part[line..])
    }

    /// A row of numbers, padded with zeros to whole lines, from line `at` on.
    #[inline(always)]
    fn rows(&mut self, s: Avx512<AMX>, at: usize, x: &[[f32; LANES]]) {
        self.lines::<false>(s, at, x, x.len().div_ceil(2));
    }

    /// Pairs of neighbouring registers, padded with zeros to `lines` of them, from line `at` on.
    #[inline(always)]
    fn pairs(&mut self, s: Avx512<AMX>, at: usize, x: &[[f32; LANES]], lines: usize) {
        self.lines::<true>(s, at, x, lines);
    }

    #[inline(always)]
    fn lines<const PAIRS: bool>(&mut self, s: Avx512<AMX>, at: usize, x: &[[f32; LANES]], lines: usize) {
        let (whole, rest) = x.as_chunks::<2>();
        for (i, x) in whole.iter().enumerate() {
            self.line::<PAIRS>(s, at + i, s.load(&x[0]), s.load(&x[1]));
        }
        for i in whole.len()..lines {
            let x = rest.get(i - whole.len()).map_or(s.splat(0.0), |x| s.load(x));
            self.line::<PAIRS>(s, at + i, x, s.splat(0.0));
        }
    }

    #[inline(always)]
    fn line<const PAIRS: bool>(&mut self, s: Avx512<AMX>, at: usize, a: __m512, b: __m512) {
        let split = split::<PAIRS>(s, a, b);
        for (part, line) in split.iter().zip(&mut self.0) {
            s.store_bytes(*part, &mut line[at]);
        }
    }
}

/// What scores of a row weigh, and what that makes of its maximum and of its sum of weights; and the factor that brings
/// older sums to a new maximum. (As `ops/attention.rs` has it, but that all of a tile's registers are read.)
#[inline(always)]
fn weigh(
    s: Avx512<AMX>,
    scores: &[[f32; LANES]; TILE_LINES],
    state: &mut [[f32; LANES]; 2],
) -> ([__m512; TILE_LINES], f32) {
    let mut x = [s.splat(0.0); TILE_LINES];
    for (x, scores) in x.iter_mut().zip(scores) {
        *x = s.load(scores);
    }
    let mut largest = x[0];
    for x in &x[1..] {
        largest = s.max(*x, largest);
    }
    let [m, total] = state;
    let (mut maximum, mut sum, mut factor) = (s.splat(m[0]), s.load(total), 1.0);
    if s.any_above(largest, s.add(maximum, s.splat(SLACK))) {
        let new = m[0].max(s.max_lane(largest));
        factor = rescale(m[0], new);
        (maximum, sum) = (s.splat(new), s.mul(sum, s.splat(factor)));
        m[0] = new;
    }
    for x in &mut x {
        *x = exp2(s, s.sub(*x, maximum));
        sum = s.add(sum, *x);
    }
    s.store(sum, total);
    (x, factor)
}

/// Numbers rounded to bfloat16, halves away from zero.
#[inline(always)]
fn rounded(_proof: Avx512<AMX>, x: __m512) -> __m512 {
    amx! {
        let sum = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
        _mm512_castsi512_ps(_mm512_and_si512(sum, _mm512_set1_epi32(0xffff_0000_u32.cast_signed())))
    }
}

/// Two registers of numbers rounded to bfloat16, and what that takes from them: one after the other, or the numbers of
/// both in turns.
#[inline(always)]
fn split<const PAIRS: bool>(s: Avx512<AMX>, mut a: __m512, mut b: __m512) -> [__m512i; PARTS] {
    /// The upper halves of the words of two registers, as 16-bit indices.
    const fn upper(pairs: bool) -> [u8; STRIPE] {
        let mut index = [0; STRIPE];
        let mut i = 0;
        while i < LANES {
            let (a, b) = if pairs { (2 * i, 2 * i + 1) } else { (i, LANES + i) };
            index[2 * a] = 2 * i as u8 + 1;
            index[2 * b] = (2 * LANES + 2 * i) as u8 + 1;
            i += 1;
        }
        index
    }
    let index = s.load_bytes(const { &upper(PAIRS) });
    let mut parts = [index; PARTS];
    for part in &mut parts {
        let (x, y) = (rounded(s, a), rounded(s, b));
        *part = amx! { _mm512_permutex2var_epi16(_mm512_castps_si512(x), index, _mm512_castps_si512(y)) };
        (a, b) = (s.sub(a, x), s.sub(b, y));
    }
    parts
}

/// `c = a x b`, or that added to `c`, for 32 rows and 32 columns, over `steps` groups of 32: the operands' parts, and the
/// lines from a row of `a` to the next, and from sixteen columns of `b` to the next.
#[inline(always)]
fn multiply<const ADD: bool>(
    _proof: Avx512<AMX>,
    steps: usize,
    (a, a_stride): ([&[[u8; STRIPE]]; PARTS], usize),
    (b, b_stride): ([&[[u8; STRIPE]]; PARTS], usize),
    c: &mut [[f32; LANES]],
    c_stride: usize,
) {
    assert!(steps > 0 && steps <= a_stride && steps * LANES <= b_stride, "{steps} steps");
    for i in 0..PARTS {
        assert!(a[i].len() >= ROWS * a_stride && b[i].len() >= 2 * b_stride, "room for the operands");
    }
    assert!(c.len() + c_stride >= ROWS * c_stride + 2, "room for the tiles of C");
    let c = c.as_mut_ptr();
    // SAFETY: the tiles that are read and written lie within the slices, as was checked; the caller configured them.
    unsafe {
        if ADD {
            asm!(
                "tileloadd tmm0, [{c} + {s}]", rest!(), "tileloadd tmm1, [{c} + {s} + 64]", rest!(),
                "tileloadd tmm2, [{d} + {s}]", rest!(), "tileloadd tmm3, [{d} + {s} + 64]", rest!(),
                c = in(reg) c, d = in(reg) c.wrapping_add(LANES * c_stride), s = in(reg) c_stride * STRIPE,
                options(nostack, readonly)
            );
        } else {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        }
        for step in 0..steps {
            let [high_a, low_a] = [a[0].as_ptr().add(step), a[1].as_ptr().add(step)];
            let [high_b, low_b] = [b[0].as_ptr().add(step * LANES), b[1].as_ptr().add(step * LANES)];
            asm!(
                "tileloadd tmm6, [{high_b} + {b}]", rest!(), "tileloadd tmm4, [{low_a} + {a}]", rest!(),
                "tileloadd tmm7, [{other_high_b} + {b}]", rest!(), "tdpbf16ps tmm0, tmm4, tmm6", rest!(),
                "tileloadd tmm5, [{other_low_a} + {a}]", rest!(), "tdpbf16ps tmm1, tmm4, tmm7", rest!(),
                "tdpbf16ps tmm2, tmm5, tmm6", rest!(), "tdpbf16ps tmm3, tmm5, tmm7", rest!(),
                "tileloadd tmm4, [{high_a} + {a}]", rest!(), "tileloadd tmm5, [{other_high_a} + {a}]", rest!(),
                "tdpbf16ps tmm0, tmm4, tmm6", rest!(), "tdpbf16ps tmm1, tmm4, tmm7", rest!(),
                "tdpbf16ps tmm2, tmm5, tmm6", rest!(), "tdpbf16ps tmm3, tmm5, tmm7", rest!(),
                "tileloadd tmm6, [{low_b} + {b}]", rest!(), "tileloadd tmm7, [{other_low_b} + {b}]", rest!(),
                "tdpbf16ps tmm0, tmm4, tmm6", rest!(), "tdpbf16ps tmm1, tmm4, tmm7", rest!(),
                "tdpbf16ps tmm2, tmm5, tmm6", rest!(), "tdpbf16ps tmm3, tmm5, tmm7", rest!(),
                high_a = in(reg) high_a, other_high_a = in(reg) high_a.add(LANES * a_stride),
                low_a = in(reg) low_a, other_low_a = in(reg) low_a.add(LANES * a_stride),
                high_b = in(reg) high_b, other_high_b = in(reg) high_b.add(b_stride),
                low_b = in(reg) low_b, other_low_b = in(reg) low_b.add(b_stride),
                a = in(reg) a_stride * STRIPE, b = in(reg) STRIPE, options(nostack, readonly)
            );
        }
        asm!(
            "tilestored [{c} + {s}], tmm0", rest!(), "tilestored [{c} + {s} + 64], tmm1", rest!(),
            "tilestored [{d} + {s}], tmm2", rest!(), "tilestored [{d} + {s} + 64], tmm3", rest!(),
            c = in(reg) c, d = in(reg) c.wrapping_add(LANES * c_stride), s = in(reg) c_stride * STRIPE, options(nostack)
        );
    }
}
