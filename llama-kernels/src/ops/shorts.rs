//! Weights of two bytes times many tokens, in fixed point of 14 bits: `vpdpwssd`, two columns a lane, or what it is made of.
//!
//! Weights are rounded to `scale * q`, q in -8191..=8191, with a power of two as scale for each 256 columns of a row;
//! activations with one for each 32 columns of a token. So the products of 32 columns fit 32 bits, and are then scaled and added
//! up in `f32`. Rounding to half precision, which llama.cpp does with activations, loses more, unless one number of 256 is a
//! hundred times as large as most (PERFORMANCE.md); and twice as many columns are multiplied at once as in `f32`. On plain AVX2,
//! where an addition follows each product, that still makes half as many again: additions have a third unit.
//!
//! The driver is that of [`super::floats`]. Of nine instructions on the units that multiply, eight do; the ninth makes floats of
//! integers, once in 32 columns. The largest weight of a span is found in its bits, 32 at a time on AVX-512, before any is
//! widened, and of what is rounded nothing is stored but the words (AVX512-VNNI, 48 to 128 tokens, beside doing both in `f32` by way
//! of memory: 1.08 to 1.13 times as fast, 512 1.03; AVX2, 64 tokens 1.1 to 1.2, 512 1.0 to 1.1).

use super::fixed_point::{SHORT_WORDS, short_weights};
use super::floats::Panels;
use super::pack::{Integers, WORDS};
use crate::acts::{Acts, GROUP};
use crate::buffer::Aligned;
use crate::format::FloatBlock;
use crate::matrix::Matrix;
use crate::simd::{LANES, SPAN, STRIPE, Simd};
use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::Range;

/// Columns of any format in fixed point.
#[allow(dead_code, reason = "not every architecture multiplies floats so")]
pub(crate) struct Shorts<B>(PhantomData<B>);

impl<B: FloatBlock> Panels for Shorts<B> {
    type Block = B;
    const COLS: usize = 2 * WORDS;

    /// Two columns of sixteen rows a line, a scale of each row for each span; missing rows are zero.
    #[inline(always)]
    fn unpack<S: Simd>(s: S, w: Matrix<'_>, rows: Range<usize>, cols: Range<usize>, panel: &mut Integers) {
        let bytes = |cols: usize| cols * size_of::<B>();
        for start in cols.clone().step_by(SPAN) {
            let span = bytes(start)..bytes(cols.end.min(start + SPAN));
            let at = (start - cols.start) / SPAN;
            let mut lines = Aligned([[[0; STRIPE]; LANES]; SPAN / GROUP]);
            let scales = &mut panel.scales[at];
            *scales = [0.0; LANES];
            for (r, row) in rows.clone().enumerate() {
                let weights = B::cast(&w.rows_bytes(row..row + 1)[span.clone()]);
                scales[r] = short_weights(s, weights, &mut lines.0, r);
            }
            for (lines, out) in lines.0.iter().zip(panel.bytes[at * SPAN / 2..].chunks_exact_mut(LANES)) {
                s.transpose(lines, out, 4);
            }
        }
    }

    fn activations(acts: &Acts) -> (&[i32], usize) {
        (&acts.shorts, Self::words(acts.cols))
    }

    fn words(cols: usize) -> usize {
        cols.div_ceil(GROUP) * SHORT_WORDS
    }

    #[inline(always)]
    fn multiply<S: Simd, const P: usize, const T: usize>(
        s: S,
        panels: [&Integers; P],
        x: &[i32],
        c: [&mut [[f32; LANES]]; P],
    ) {
        let groups = x.as_chunks::<T>().0.as_chunks::<SHORT_WORDS>().0;
        for (span, groups) in groups.chunks(SPAN / GROUP).enumerate() {
            let mut sums = [[s.splat(0.0); T]; P];
            for (group, x) in groups.iter().enumerate() {
                let at = (span * (SPAN / GROUP) + group) * LANES;
                let mut lines = [panels[0].bytes[at..].first_chunk().expect("the lines of a group"); P];
                for (lines, panel) in lines.iter_mut().zip(panels) {
                    *lines = panel.bytes[at..].first_chunk().expect("the lines of a group");
                }
                s.add_shorts(&mut sums, lines, x);
            }
            for p in 0..P {
                let scale = s.load(&panels[p].scales[span]);
                for t in 0..T {
                    let c = &mut c[p][t];
                    s.store(s.fma(sums[p][t], scale, s.load(c)), c);
                }
            }
        }
    }
}

/// Products of panels that stay in the first-level cache, as [`Simd::multiply_fixed`] describes them.
#[allow(dead_code, reason = "not every architecture multiplies floats so")]
#[inline(always)]
pub(crate) fn multiply<S: Simd>(s: S, rounds: usize) -> usize {
    const PANELS: usize = 2;
    const TOKENS: usize = 6;
    let (lines, mut x) = ([[[1; STRIPE]; LANES]; PANELS], [[1; TOKENS]; SHORT_WORDS]);
    // As words, scales of one would be subnormal numbers, with which some CPUs take a hundred times as long.
    x[SHORT_WORDS - 1] = [1f32.to_bits().cast_signed(); TOKENS];
    let mut sums = [[s.splat(0.0); TOKENS]; PANELS];
    for _ in 0..rounds {
        s.add_shorts(&mut sums, black_box(&lines).each_ref(), black_box(&x));
    }
    let mut out = [0.0; LANES];
    for &sum in sums.as_flattened() {
        s.store(sum, &mut out);
        black_box(&out);
    }
    GROUP * LANES * PANELS * TOKENS
}

/// [`Simd::add_shorts`] in its terms.
#[inline(always)]
pub(crate) fn add<S: Simd, const P: usize, const T: usize>(
    s: S,
    sums: &mut [[S::F; T]; P],
    lines: [&[[u8; STRIPE]; LANES]; P],
    x: &[[i32; T]; SHORT_WORDS],
) {
    let (scales, x) = x.split_last().expect("words and scales");
    let mut acc = [[s.splat_i32(0); T]; P];
    for (i, x) in x.iter().enumerate() {
        let mut w = [s.splat_i32(0); P];
        for (w, lines) in w.iter_mut().zip(lines) {
            *w = s.load_bytes(&lines[i]);
        }
        for t in 0..T {
            let x = s.splat_i32(x[t]);
            for p in 0..P {
                acc[p][t] = s.dot_shorts(acc[p][t], w[p], x);
            }
        }
    }
    for t in 0..T {
        let scale = s.splat(f32::from_bits(scales[t].cast_unsigned()));
        for p in 0..P {
            sums[p][t] = s.fma(s.to_f32(acc[p][t]), scale, sums[p][t]);
        }
    }
}
