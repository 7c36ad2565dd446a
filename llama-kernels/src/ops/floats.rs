//! Products of floats with many tokens: panels of sixteen rows, unpacked to `f32`, times broadcast activations.
//!
//! ```text
//! once a batch: the tokens of each tile are laid side by side, column by column
//! for each block of Kc columns:
//!   unpack up to four panels (16 x Kc each)        (scratch in the second-level cache)
//!   for each tile of five or six tokens:           (in the first-level cache for all the panels)
//!     ask for some weights of the next block, and for the next tile
//!     for each panel:
//!       C[T][16] += panel x tile                   (C stays in registers for all of Kc)
//! ```
//!
//! On AVX-512 two panels are multiplied at once, twelve sums, and these two loops change places: the panels stay in the
//! first-level cache while all tiles pass, and the hardware finds the next tile. (Asking for it there took a seventh of
//! the time; one panel at a time was slower than [`super::dots`] on Zen 4.) That engine reads what a tile of it needs,
//! 64 KiB, from the second level for each four rows; in panels, F16 runs at 114 to 120 of 138 multiplications a nanosecond
//! (one Zen 5 core, 512 tokens; 1.15 times as fast as there), F32 at 112 to 119 (1.47 to 1.49 times).
//!
//! On AVX2 there are few registers, and a tile of the other engine ([`super::dots`]) is so small that its
//! weights, read from the second-level cache for each three tokens, and its activations, from the last level for each 64
//! rows, take a good part of the time. In turns with it on one Zen 3 core (AVX2, 4096 x 4096 in F16), multiplications a
//! nanosecond for 32, 64 and 512 tokens, before tokens lay side by side: 26, 27, 24 -> 22, 27, 28 (F32: 512 tokens
//! 22 -> 29). Panels cost as much to unpack as 18 tokens to multiply.
//!
//! Tokens side by side, and asking for what comes next while a tile is multiplied, made 512 tokens 1.0 to 1.2 times as
//! fast where tokens lie a power of two apart and share their places in the caches (4096 columns), 0.97 to 1.0 elsewhere
//! (5632); 64 tokens 0.94 to 1.05; whole prompts of a 1.1B model 1.02 (512) and 1.1 (64). Asking for weights while the block
//! before is unpacked is 0.92 to 0.95 of that. (Integers lost 5 to 11 % of 16 tokens when a tile's part was asked for at
//! once, as here; they ask for a line a group, [`super::gemm`].)
//!
//! C's lines are loaded by a plain loop: a closure in `array::map` was not inlined, and took 3 to 11 % of 512 tokens; nor
//! are they stored from arrays that an iterator owns, which were copied first, for a tenth (AVX-512).
//!
//! Tried, with no gain (Zen 3): one panel in the first-level cache while sixteen tiles pass, in place of one tile while
//! four panels pass; a copy of a tile's activations side by side for each block of rows (0.75 to 0.8).

use super::gemm::{Job, sixteens};
use super::pack::{self, Coming, FLOAT_COLS, Integers, PANELS};
use crate::acts::{Acts, deal};
use crate::format::FloatBlock;
use crate::matrix::Matrix;
use crate::simd::{Kernel, LANES, STRIPE, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// The tiles of a batch, of at least [`TOKENS_MIN`] tokens.
pub(crate) fn tiles(tokens: usize) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
    assert!(tokens >= TOKENS_MIN, "{tokens} tokens, tiles of five or six take {TOKENS_MIN}");
    deal(tokens, TOKENS_MOST)
}

/// So many tokens and more can be dealt out to tiles of five and six.
const TOKENS_MIN: usize = 20;

/// The most tokens of a tile.
const TOKENS_MOST: usize = 6;

/// A tile's tokens, rows of `cols`, side by side.
pub(crate) fn interleave(x: &[f32], cols: usize, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "as many activations");
    match x.len() / cols {
        6 => interleaved::<6>(x, cols, out),
        _ => interleaved::<5>(x, cols, out),
    }
}

fn interleaved<const T: usize>(x: &[f32], cols: usize, out: &mut [f32]) {
    let out = &mut out.as_chunks_mut::<T>().0[..cols];
    let tokens: [&[f32]; T] = std::array::from_fn(|t| &x[t * cols..][..cols]);
    for (i, column) in out.iter_mut().enumerate() {
        for (out, x) in column.iter_mut().zip(tokens) {
            *out = x[i];
        }
    }
}

/// All rows of a job times all its tokens, `P` panels at once.
#[allow(dead_code, reason = "not every architecture multiplies floats so")]
#[inline(always)]
pub(crate) fn product<S: Simd, B: FloatBlock, const P: usize>(s: S, job: Job<'_>) {
    let Job { w, rows, acts, out, panel, .. } = job;
    assert_eq!(w.cols(), acts.cols, "columns of the matrix, features of the activations");
    out.fill([0.0; LANES]);
    let Some(padded) = out.len().checked_div(rows.len().div_ceil(LANES)) else { return };
    assert!(acts.tokens <= padded, "room for {} tokens, found {padded}", acts.tokens);
    // Where other formats have matrix tiles, a job has more rows than there is room for panels.
    let firsts = rows.clone().step_by(PANELS * LANES);
    for (first, out) in firsts.zip(out.chunks_mut(PANELS * padded)) {
        let rows = first..rows.end.min(first + PANELS * LANES);
        for start in (0..w.cols()).step_by(FLOAT_COLS) {
            let cols = start..w.cols().min(start + FLOAT_COLS);
            let room = &mut panel.integers;
            block::<S, B, P>(s, Block { w, rows: rows.clone(), cols, acts, out, room });
        }
    }
}

/// A block of rows and columns, and all tokens.
struct Block<'a> {
    w: Matrix<'a>,
    rows: Range<usize>,
    cols: Range<usize>,
    acts: &'a Acts,
    out: &'a mut [[f32; LANES]],
    room: &'a mut [Integers; PANELS],
}

/// Some rows and columns times all tokens, added to `out`. Unpacking is a function of its own, for the registers' sake.
#[inline(always)]
fn block<S: Simd, B: FloatBlock, const P: usize>(s: S, block: Block<'_>) {
    let Block { w, rows, cols, acts, out, room } = block;
    for (rows, panel) in sixteens(&rows).zip(&mut *room) {
        s.run(Unpack::<B>(w, rows, cols.clone(), &mut panel.bytes, PhantomData));
    }
    let panels = &room[..rows.len().div_ceil(LANES)];
    let parts = tiles(acts.tokens).len() * panels.len().div_ceil(pack::staying(P));
    let coming = Coming::after::<B>(w, &rows, &cols, FLOAT_COLS, parts);
    s.run(Tiles::<P> { panels, cols, acts, out, coming });
}

/// Fills a panel.
struct Unpack<'a, B>(Matrix<'a>, Range<usize>, Range<usize>, &'a mut [[u8; STRIPE]], PhantomData<B>);

impl<B: FloatBlock> Kernel for Unpack<'_, B> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Unpack(w, rows, cols, panel, _) = self;
        pack::float::<S, B>(s, w, rows, cols, panel);
    }
}

/// Panels times all tokens.
struct Tiles<'a, const P: usize> {
    panels: &'a [Integers],
    cols: Range<usize>,
    acts: &'a Acts,
    out: &'a mut [[f32; LANES]],
    coming: Coming,
}

impl<const P: usize> Kernel for Tiles<'_, P> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Tiles { panels, cols, acts, out, mut coming } = self;
        let (padded, tiles) = (out.len() / panels.len(), tiles(acts.tokens));
        let staying = pack::staying(P);
        for (panels, out) in panels.chunks(staying).zip(out.chunks_mut(staying * padded)) {
            for Range { start: first, end } in tiles.clone() {
                coming.ask(s);
                let count = end - first;
                let (at, n) = (first * acts.cols + cols.start * count, cols.len() * count);
                let x = &acts.columns[at..at + n];
                let next =
                    acts.columns.get(at + acts.cols * count..).and_then(|rest| rest.get(..n)).unwrap_or(x);
                let parts = next.chunks(n.div_ceil(staying / P));
                for ((panels, out), next) in panels.chunks(P).zip(out.chunks_mut(P * padded)).zip(parts) {
                    if P == 1 {
                        for line in next.chunks(STRIPE / 4) {
                            s.prefetch(line.as_ptr().cast());
                        }
                    }
                    // Where a panel is missing, the last one is multiplied once more, into nothing.
                    let mut nothing = [[[0.0; LANES]; TOKENS_MOST]; P];
                    let mut c = nothing.each_mut().map(|nothing| nothing.as_mut_slice());
                    for (c, out) in c.iter_mut().zip(out.chunks_exact_mut(padded)) {
                        *c = &mut out[first..end];
                    }
                    let mut these = [&panels[panels.len() - 1].bytes[..cols.len()]; P];
                    these
                        .iter_mut()
                        .zip(panels)
                        .for_each(|(these, panel)| *these = &panel.bytes[..cols.len()]);
                    match count {
                        6 => s.float_panel::<P, 6>(these, x, c),
                        _ => s.float_panel::<P, 5>(these, x, c),
                    }
                }
            }
        }
    }
}

/// [`Simd::float_panel`] in its terms.
#[inline(always)]
pub(crate) fn panel<S: Simd, const P: usize, const T: usize>(
    s: S,
    panels: [&[[u8; STRIPE]]; P],
    x: &[f32],
    c: [&mut [[f32; LANES]]; P],
) {
    let mut acc = [[s.splat(0.0); T]; P];
    for (acc, c) in acc.iter_mut().zip(&c) {
        for (acc, c) in acc.iter_mut().zip(c.iter()) {
            *acc = s.load(c);
        }
    }
    let (x, _) = x.as_chunks::<T>();
    let columns = x.len().min(panels[0].len());
    let mut lines = panels;
    for line in &mut lines {
        *line = &line[..columns];
    }
    for (i, x) in x[..columns].iter().enumerate() {
        let mut w = [s.splat(0.0); P];
        for (w, lines) in w.iter_mut().zip(&lines) {
            *w = s.bit_cast(s.load_bytes(&lines[i]));
        }
        for t in 0..T {
            let x = s.splat(x[t]);
            for p in 0..P {
                acc[p][t] = s.fma(w[p], x, acc[p][t]);
            }
        }
    }
    for (acc, c) in acc.iter().zip(c) {
        for (&acc, c) in acc.iter().zip(c) {
            s.store(acc, c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acts::{Form, Layout};
    use crate::format::{F32, Format};
    use crate::{available, run_on};

    const TOKENS: usize = 33;
    const COLS: usize = 2 * FLOAT_COLS + 3;
    /// Seven panels, the last one not full: more than there is room for at once.
    const ROWS: usize = 6 * LANES + 5;

    /// Integers, whose sums are exact.
    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i * 37 % 15) as f32 - 7.0).collect()
    }

    /// Rows of sixteen, token by token.
    struct Product<const P: usize>;

    impl<const P: usize> Kernel for Product<P> {
        type Out = Vec<[f32; LANES]>;
        #[inline(always)]
        fn call<S: Simd>(self, s: S) -> Self::Out {
            let bytes: Vec<u8> = values(ROWS * COLS).iter().flat_map(|v| v.to_le_bytes()).collect();
            let (x, mut acts) = (values(TOKENS * COLS), Acts::new());
            acts.reshape(TOKENS, COLS, Layout::Tiles(4), |form| form == Form::Columns);
            for Range { start, end } in tiles(TOKENS) {
                let tile = start * COLS..end * COLS;
                interleave(&x[tile.clone()], COLS, &mut acts.columns[tile]);
            }
            let mut out = vec![[f32::NAN; LANES]; ROWS.div_ceil(LANES) * TOKENS.next_multiple_of(4)];
            let w = Matrix::new(Format::F32, ROWS, COLS, &bytes).unwrap();
            let panel = &mut pack::Panel::new();
            product::<S, F32, P>(s, Job { w, rows: 0..ROWS, x: &x, acts: &acts, out: &mut out, panel });
            out
        }
    }

    #[test]
    fn a_job_may_have_more_rows_than_there_are_panels() {
        let (w, x) = (values(ROWS * COLS), values(TOKENS * COLS));
        for isa in available() {
            for out in [run_on(isa, Product::<1>).unwrap(), run_on(isa, Product::<2>).unwrap()] {
                let padded = TOKENS.next_multiple_of(4);
                for (row, w) in w.chunks(COLS).enumerate() {
                    for (t, x) in x.chunks(COLS).enumerate() {
                        let expected: f32 = w.iter().zip(x).map(|(w, x)| w * x).sum();
                        assert_eq!(out[row / LANES * padded + t][row % LANES], expected, "{isa}: {row}, {t}");
                    }
                }
            }
        }
    }
}
