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
//! For instruction sets with few registers, where a tile of the other engine ([`super::dots`]) is so small that its
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
//! C's lines are loaded by a plain loop: a closure in `array::map` was not inlined, and took 3 to 11 % of 512 tokens.
//!
//! Tried, with no gain (Zen 3): one panel in the first-level cache while sixteen tiles pass, in place of one tile while
//! four panels pass; a copy of a tile's activations side by side for each block of rows (0.75 to 0.8).

use super::gemm::{Job, sixteens};
use super::pack::{self, Coming, FLOAT_COLS, PANELS};
use crate::acts::deal;
use crate::format::FloatBlock;
use crate::simd::{LANES, STRIPE, Simd};
use std::ops::Range;

/// The tiles of a batch, of at least [`TOKENS_MIN`] tokens.
pub(crate) fn tiles(tokens: usize) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
    assert!(tokens >= TOKENS_MIN, "{tokens} tokens, tiles of five or six take {TOKENS_MIN}");
    deal(tokens, 6)
}

/// So many tokens and more can be dealt out to tiles of five and six.
const TOKENS_MIN: usize = 20;

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

/// All rows of a job times all its tokens.
#[allow(dead_code, reason = "not every architecture multiplies floats so")]
#[inline(always)]
pub(crate) fn product<S: Simd, B: FloatBlock>(s: S, job: Job<'_>) {
    let Job { w, rows, acts, out, panel, .. } = job;
    let (cols, tokens) = (w.cols(), acts.tokens);
    assert_eq!(cols, acts.cols, "columns of the matrix, features of the activations");
    out.fill([0.0; LANES]);
    let Some(padded) = out.len().checked_div(rows.len().div_ceil(LANES)) else { return };
    assert!(tokens <= padded, "room for {tokens} tokens, found {padded}");
    let tiles = tiles(tokens);
    for start in (0..cols).step_by(FLOAT_COLS) {
        let block = start..cols.min(start + FLOAT_COLS);
        for (rows, panel) in sixteens(&rows).zip(&mut panel.integers) {
            pack::float::<S, B>(s, w, rows, block.clone(), &mut panel.bytes);
        }
        let mut coming = Coming::after::<B>(w, &rows, &block, FLOAT_COLS, tiles.len());
        for Range { start: first, end } in tiles.clone() {
            coming.ask(s);
            let count = end - first;
            let (at, n) = (first * cols + start * count, block.len() * count);
            let x = &acts.columns[at..at + n];
            let next = acts.columns.get(at + cols * count..).and_then(|rest| rest.get(..n)).unwrap_or(x);
            let parts = next.chunks(n.div_ceil(PANELS));
            for ((panel, out), next) in panel.integers.iter().zip(out.chunks_exact_mut(padded)).zip(parts) {
                for line in next.chunks(STRIPE / 4) {
                    s.prefetch(line.as_ptr().cast());
                }
                let (panel, out) = (&panel.bytes[..block.len()], &mut out[first..]);
                match count {
                    6 => s.float_panel::<6>(panel, x, out),
                    _ => s.float_panel::<5>(panel, x, out),
                }
            }
        }
    }
}

/// [`Simd::float_panel`] in its terms.
#[inline(always)]
pub(crate) fn panel<S: Simd, const T: usize>(
    s: S,
    panel: &[[u8; STRIPE]],
    x: &[f32],
    c: &mut [[f32; LANES]],
) {
    let c: &mut [[f32; LANES]; T] = c.first_chunk_mut().expect("room for a tile");
    let mut acc = [s.splat(0.0); T];
    for (acc, c) in acc.iter_mut().zip(&*c) {
        *acc = s.load(c);
    }
    for (line, x) in panel.iter().zip(x.as_chunks::<T>().0) {
        let w = s.bit_cast(s.load_bytes(line));
        for (acc, x) in acc.iter_mut().zip(x) {
            *acc = s.fma(w, s.splat(*x), *acc);
        }
    }
    for (acc, c) in acc.into_iter().zip(c) {
        s.store(acc, c);
    }
}
