//! Products of weights in half precision with many tokens, in fixed point on matrix tiles of bytes.
//!
//! A weight is `2^-k * (256 * a + b)` with two signed bytes, where `2^k` is what the largest of a row's 256 weights allows; so
//! weights down to a sixteenth of the largest are exact, and others to 2^-16 of it. An activation likewise, with a
//! power of two for each 256 of a token. Of the four products of bytes three are made, all but that of both second bytes: each takes
//! one `tdpbssd` for 64 columns, where bfloat16 takes two.
//!
//! ```text
//! for each block of KC columns:
//!   for each panel of 32 rows: unpacked into 32 KiB, while the tiles work on the panel before
//!     for each 32 tokens, each 256 columns, each 16 rows:
//!       2 x 2 tiles of integers: 16 rows by two times 16 tokens, of `a a` and of `a b + b a`
//!       the integers before are scaled and added to C meanwhile
//! ```
//!
//! Where a tile has only sixteen tokens, both halves of the panel are multiplied with it at once. Nothing is left out of the results
//! where numbers are small integers, or any of which the second byte is zero.
//!
//! Twelve tile instructions do what eight do in bfloat16, rounded, and twenty of that did when both operands were split into two such
//! numbers each, which lost more. (In turns with that, two cores of an Emerald Rapids, 2048 x 2048 and 2048 x 5632, out of memory:
//! with 16 tokens 1.42 to 1.53 times as fast, with 24 1.21 to 1.34, with 32 1.3 to 1.6, with 64 1.24 to 1.51, with 512 1.39 to 1.57.)
//! Of sixteen tokens' time the largest of a span takes a tenth, and sums a thirtieth; converting, shifting and storing bytes, half.

use super::super::avx512::{AMX, Avx512};
use super::super::{LANES, SPAN, STRIPE, Simd};
use super::unpacking::{Panels, Unpack};
use super::{ROWS, Tiles, turn};
use crate::acts::{FIXED_WORDS, GROUP, spans};
use crate::buffer::Aligned;
use crate::format::FloatBlock;
use crate::ops::gemm::Job;
use crate::ops::pack::PAIR_LINES;
use core::arch::asm;
use core::arch::x86_64::*;
use std::marker::PhantomData;

/// Groups of 32 columns in a block.
const KC: usize = 16;
/// Steps of 64 columns in a span.
const STEPS: usize = SPAN / STRIPE;
/// Lines of a panel for a span of sixteen rows: for each 64 columns both tiles.
const LINES: usize = STEPS * 2 * LANES;
/// Words of sixteen tokens' activations for a span.
const WORDS: usize = FIXED_WORDS / 2;

/// Weights in half precision.
struct Halves<B>(PhantomData<B>);

impl<B: FloatBlock> Unpack for Halves<B> {
    const SPAN_BYTES: usize = SPAN * size_of::<B>();
    type Panel = [[u8; STRIPE]];

    #[inline(always)]
    fn unpack(s: Avx512<AMX>, span: &[u8], row: usize, at: usize, panel: &mut [[u8; STRIPE]]) {
        let (lines, scales) = panel.split_at_mut(PAIR_LINES);
        let (sixteen, row) = (2 * at + row / LANES, row % LANES);
        let lines: &mut [_; LINES] = lines[sixteen * LINES..].first_chunk_mut().expect("the lines of a span");
        let span = span.as_chunks().0.try_into().expect("a span");
        let scale = amx! { unpack(s, span, row, lines) };
        scales[sixteen].as_chunks_mut().0[row] = scale.to_ne_bytes();
    }
}

/// Unpacks a span of one of sixteen rows, and returns the scale of its products.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn unpack(
    s: Avx512<AMX>,
    span: &[[u8; STRIPE]; 2 * STEPS],
    row: usize,
    lines: &mut [[u8; STRIPE]; LINES],
) -> f32 {
    let splat = |x: i16| _mm512_set1_epi16(x);
    let mut largest = splat(0);
    for x in span {
        largest = _mm512_max_epu16(largest, _mm512_and_si512(s.load_bytes(x), splat(0x7fff)));
    }
    let largest = largest_lane(largest);
    let all = _mm512_broadcastw_epi16(largest);
    // The exponent of the largest one, or of the next power of two if it would be rounded to more than two bytes hold.
    let k = _mm512_sub_epi16(splat(29), _mm512_srli_epi16::<10>(_mm512_add_epi16(all, splat(8))));
    let half = _mm512_srai_epi16::<1>(k);
    let power = |k| _mm512_slli_epi16::<10>(_mm512_add_epi16(k, splat(15)));
    let [a, b] = [power(half), power(_mm512_sub_epi16(k, half))];
    for (step, two) in span.as_chunks::<2>().0.iter().enumerate() {
        let (p, q) = (fixed(s.load_bytes(&two[0]), a, b), fixed(s.load_bytes(&two[1]), a, b));
        let [up, uq] = [_mm512_add_epi16(p, splat(128)), _mm512_add_epi16(q, splat(128))];
        // Bytes of the second register where the mask has ones, of the third elsewhere.
        let first = _mm512_ternarylogic_epi32::<0xca>(splat(0xff), _mm512_srli_epi16::<8>(up), uq);
        let second = _mm512_ternarylogic_epi32::<0xca>(splat(0xff), p, _mm512_slli_epi16::<8>(q));
        s.store_bytes(first, &mut lines[2 * step * LANES + row]);
        s.store_bytes(second, &mut lines[(2 * step + 1) * LANES + row]);
    }
    let largest = _mm_cvtsi128_si32(largest) & 0xffff;
    let k = 29 - ((largest + 8) >> 10);
    // What is no number makes all sums of the row none.
    if largest >= 0x7c00 { f32::NAN } else { f32::from_bits(((127 + 8 - k) as u32) << 23) }
}

/// The largest of 32 lanes, in the first one.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn largest_lane(x: __m512i) -> __m128i {
    let x = _mm256_max_epu16(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x));
    let x = _mm_max_epu16(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let all = _mm_set1_epi16(-1);
    _mm_xor_si128(_mm_minpos_epu16(_mm_xor_si128(x, all)), all)
}

/// Numbers in half precision times two powers of two, rounded to integers of 16 bits.
#[target_feature(enable = "avx512f")]
#[inline]
fn fixed(x: __m512i, a: __m512i, b: __m512i) -> __m512i {
    let q;
    // SAFETY: registers alone are read and written; AMX needs AVX512-FP16 here.
    unsafe {
        asm!("vmulph {q}, {x}, {a}", "vmulph {q}, {q}, {b}", "vcvtph2w {q}, {q}",
             q = out(zmm_reg) q, x = in(zmm_reg) x, a = in(zmm_reg) a, b = in(zmm_reg) b,
             options(nostack, nomem, pure, preserves_flags));
    }
    q
}

/// The engine for matrices in half precision.
#[inline(always)]
pub(in super::super) fn gemm<B: FloatBlock>(s: Avx512<AMX>, job: Job<'_>) {
    let Job { w, rows, acts, out, panel, .. } = job;
    let (k, tokens) = (acts.cols, acts.tokens);
    assert_eq!(w.cols(), k, "columns of the matrix, features of the activations");
    let padded = tokens.next_multiple_of(2 * LANES);
    assert!(out.len() >= rows.len().div_ceil(LANES) * padded, "room for every tile of the result");
    let [now, next] = &mut panel.pairs;
    let (mut now, mut next) = (&mut now[..], &mut next[..]);
    let panels = Panels::new(w, &rows, [ROWS, KC], tokens);
    let tiles = Tiles::configure(s);
    let mut sums = Aligned([[[[0; LANES]; LANES]; 2]; 2]);
    panels.unpacking::<Halves<B>>(0).rest::<Halves<B>>(s, now);
    for i in 0..panels.len() {
        let (first, start) = panels.place(i);
        let start = start * GROUP / SPAN;
        let n = (KC * GROUP / SPAN).min(spans(k) - start);
        let high = (rows.end - first).div_ceil(LANES).min(2);
        let c = &mut out[(first - rows.start) / LANES * padded..];
        let (lines, scales) = now.split_at(PAIR_LINES);
        let (lines, scales) = (lines.as_chunks::<LINES>().0, scales.as_chunks::<2>().0);
        let units = (tokens / ROWS) * high + usize::from(tokens % ROWS > 0);
        let mut coming = panels.unpacking::<Halves<B>>(i + 1).among(units * n * STEPS * 6);
        let mut before = None;
        for tile in 0..padded / ROWS {
            let x = acts.fixed(tile)[start * FIXED_WORDS..][..n * FIXED_WORDS].as_chunks::<WORDS>().0;
            let wide = tokens > tile * ROWS + LANES;
            for (span, (x, (a, scales))) in
                x.as_chunks::<2>().0.iter().zip(lines.as_chunks::<2>().0.iter().zip(scales)).enumerate()
            {
                for half in 0..if wide { high } else { 1 } {
                    let work = Work { a: &a[half..], b: x, wide };
                    work.clear();
                    for step in 0..STEPS {
                        macro_rules! pairs {
                            ($($i:literal),*) => {$(
                                work.pair::<$i>(step);
                                coming.after::<Halves<B>>(s, 1, next);
                            )*}
                        }
                        pairs!(0, 1, 2, 3, 4, 5);
                        if let Some(before) = &before {
                            add(s, before, step, &sums.0, c);
                        }
                    }
                    work.store(&mut sums.0);
                    let (second, at) = if wide { (LANES, half * padded) } else { (padded, 0) };
                    let at = at + tile * ROWS;
                    let numbers = |i: usize| match wide {
                        true => (&scales[half], &x[i]),
                        false => (&scales[i], &x[0]),
                    };
                    before = Some(Before {
                        start: start + span == 0,
                        to: [Some(at), (wide || high > 1).then_some(at + second)],
                        scales: [numbers(0), numbers(1)],
                    });
                }
            }
        }
        if let Some(before) = &before {
            for quarter in 0..STEPS {
                add(s, before, quarter, &sums.0, c);
            }
        }
        coming.rest::<Halves<B>>(s, next);
        std::mem::swap(&mut now, &mut next);
    }
    drop(tiles);
    if !acts.turned {
        turn(s, &mut out[..rows.len().div_ceil(LANES) * padded]);
    }
}

/// Products of tiles that stay in the first-level cache, as [`Simd::multiply_fixed`] describes them.
#[inline(always)]
pub(in super::super) fn multiply(s: Avx512<AMX>, rounds: usize) -> usize {
    /// Spans of a round.
    const REPEATS: usize = 8;
    let (a, b) = (vec![[[0; STRIPE]; LINES]], vec![[0; WORDS]; 2]);
    let mut sums = Aligned([[[[0; LANES]; LANES]; 2]; 2]);
    let work = Work { a: &a, b: b.first_chunk().expect("32 tokens"), wide: true };
    let tiles = Tiles::configure(s);
    for _ in 0..REPEATS * rounds {
        work.clear();
        for step in 0..STEPS {
            work.pair::<0>(step);
            work.pair::<1>(step);
            work.pair::<2>(step);
            work.pair::<3>(step);
            work.pair::<4>(step);
            work.pair::<5>(step);
        }
        work.store(&mut sums.0);
    }
    drop(tiles);
    REPEATS * LANES * ROWS * SPAN
}

/// Two tiles of results, whose products are still integers.
struct Before<'a> {
    /// Whether they are the first of their sums.
    start: bool,
    /// Where the tiles lie in C; nowhere if there are no such rows.
    to: [Option<usize>; 2],
    /// The scales of each one's rows, and the words of its tokens.
    scales: [(&'a [u8; STRIPE], &'a [i32; WORDS]); 2],
}

/// Scales a quarter of them, and adds it to C.
#[inline(always)]
fn add(
    s: Avx512<AMX>,
    before: &Before<'_>,
    quarter: usize,
    sums: &[[[[i32; LANES]; LANES]; 2]; 2],
    c: &mut [[f32; LANES]],
) {
    let (tile, row) = (quarter / 2, quarter % 2 * 8);
    let Some(to) = before.to[tile] else { return };
    let c: &mut [[f32; LANES]; 8] = c[to + row..].first_chunk_mut().expect("a tile of C");
    let (w, x) = before.scales[tile];
    let x = s.bit_cast(s.load_i32(x.last_chunk().expect("scales after the bytes")));
    let [first, second] = &sums[tile];
    let w: &[[u8; 4]; 8] = w.as_chunks().0[row..].first_chunk().expect("a scale for each row");
    for r in 0..8 {
        let scale = s.mul(x, s.splat(f32::from_ne_bytes(w[r])));
        let (first, second) = (s.to_f32(s.load_i32(&first[row + r])), s.to_f32(s.load_i32(&second[row + r])));
        let old = if before.start { s.splat(0.0) } else { s.load(&c[r]) };
        s.store(s.fma(s.fma(first, s.splat(256.0), second), scale, old), &mut c[r]);
    }
}

/// A span of a panel, and of 32 tokens: sixteen rows times all tokens; or, if there are no more than sixteen of these, all rows.
struct Work<'a> {
    a: &'a [[[u8; STRIPE]; LINES]],
    b: &'a [[i32; WORDS]; 2],
    wide: bool,
}

impl Work<'_> {
    #[inline(always)]
    fn clear(&self) {
        // SAFETY: the tiles are configured.
        unsafe {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem))
        }
    }

    /// A pair of instructions of a step's: the products of both bytes of one operand with those of two others.
    #[inline(always)]
    #[rustfmt::skip]
    fn pair<const I: usize>(&self, step: usize) {
        assert!(step < STEPS && self.a.len() >= if self.wide { 1 } else { 2 }, "a step of the panel");
        let a = self.a.as_ptr().cast::<u8>().wrapping_add(step * 2048);
        let b = self.b.as_ptr().cast::<u8>().wrapping_add(step * 2048);
        // SAFETY: `a` has two tiles, 2 KiB, of each step of each sixteen rows, 8 KiB, and `b` of each sixteen tokens, 8 KiB and 64
        // bytes of scales; the tiles are configured.
        unsafe {
            if self.wide {
                match I {
                    0 => pair!(a, b, "tileloadd tmm6, [{b} + {s}]", "tileloadd tmm5, [{a} + {s} + 1024]"),
                    1 => pair!(a, b, "tileloadd tmm4, [{a} + {s}]", "tdpbssd tmm1, tmm5, tmm6"),
                    2 => pair!(a, b, "tileloadd tmm7, [{b} + {s} + 8256]", "tdpbssd tmm0, tmm4, tmm6"),
                    3 => pair!(a, b, "tileloadd tmm6, [{b} + {s} + 1024]", "tdpbssd tmm3, tmm5, tmm7"),
                    4 => pair!(a, b, "tdpbssd tmm1, tmm4, tmm6", "tdpbssd tmm2, tmm4, tmm7"),
                    _ => pair!(a, b, "tileloadd tmm7, [{b} + {s} + 9280]", "tdpbssd tmm3, tmm4, tmm7"),
                }
            } else {
                match I {
                    0 => pair!(a, b, "tileloadd tmm6, [{a} + {s}]", "tileloadd tmm5, [{b} + {s} + 1024]"),
                    1 => pair!(a, b, "tileloadd tmm4, [{b} + {s}]", "tdpbssd tmm1, tmm6, tmm5"),
                    2 => pair!(a, b, "tileloadd tmm7, [{a} + {s} + 8192]", "tdpbssd tmm0, tmm6, tmm4"),
                    3 => pair!(a, b, "tileloadd tmm6, [{a} + {s} + 1024]", "tdpbssd tmm3, tmm7, tmm5"),
                    4 => pair!(a, b, "tdpbssd tmm1, tmm6, tmm4", "tdpbssd tmm2, tmm7, tmm4"),
                    _ => pair!(a, b, "tileloadd tmm7, [{a} + {s} + 9216]", "tdpbssd tmm3, tmm7, tmm4"),
                }
            }
        }
    }

    /// Stores the integers: of either result those of the first bytes, then those of first and second ones.
    #[inline(always)]
    fn store(&self, sums: &mut [[[[i32; LANES]; LANES]; 2]; 2]) {
        let c = sums.as_mut_ptr();
        // SAFETY: four tiles of 1 KiB; the tiles are configured.
        unsafe {
            asm!("tilestored [{c} + {s}], tmm0", rest!(), "tilestored [{c} + {s} + 1024], tmm1", rest!(),
                 "tilestored [{c} + {s} + 2048], tmm2", rest!(), "tilestored [{c} + {s} + 3072], tmm3", rest!(),
                 c = in(reg) c, s = in(reg) 64usize, options(nostack));
        }
    }
}
