//! Products of floats with many tokens: panels of sixteen rows, unpacked to `f32`, times broadcast activations.
//!
//! ```text
//! for each block of Kc columns:
//!   unpack up to four panels (16 x Kc each)        (scratch in the second-level cache)
//!   for each tile of at most T tokens:             (in the first-level cache for all the panels)
//!     for each panel:
//!       C[T][16] += panel x tile                   (C stays in registers for all of Kc)
//! ```
//!
//! For instruction sets with few registers, where a tile of the other engine ([`super::dots`]) is so small that its
//! weights, read from the second-level cache for each three tokens, and its activations, from the last level for each 64
//! rows, take a good part of the time. In turns with it on one Zen 3 core (AVX2, 4096 x 4096 in F16), multiplications a
//! nanosecond for 32, 64 and 512 tokens: 26, 27, 24 -> 22, 27, 28 (F32: 512 tokens 22 -> 29). Panels cost as much to
//! unpack as 18 tokens to multiply.
//!
//! Tried, with no gain (Zen 3): one panel in the first-level cache while sixteen tiles pass, in place of one tile while
//! four panels pass; a copy of a tile's activations side by side (0.75 to 0.8); asking for those of the next tile.

use super::gemm::{Job, sixteens};
use super::pack::{self, FLOAT_COLS};
use crate::format::FloatBlock;
use crate::simd::{LANES, STRIPE, Simd};

/// All rows of a job times all its tokens, in tiles of up to `T`.
#[allow(dead_code, reason = "not every architecture multiplies floats so")]
#[inline(always)]
pub(crate) fn product<S: Simd, B: FloatBlock, const T: usize>(s: S, job: Job<'_>) {
    const { assert!(T <= 6, "tiles of at most six tokens") };
    let Job { w, rows, x, acts, out, panel } = job;
    let (cols, tokens) = (w.cols(), acts.tokens);
    out.fill([0.0; LANES]);
    let Some(padded) = out.len().checked_div(rows.len().div_ceil(LANES)) else { return };
    assert!(tokens <= padded && x.len() == tokens * cols, "room for {tokens} tokens, found {padded}");
    let tiles = tokens.div_ceil(T);
    for start in (0..cols).step_by(FLOAT_COLS) {
        let block = start..cols.min(start + FLOAT_COLS);
        let panels = rows.len().div_ceil(LANES);
        for (at, (rows, panel)) in sixteens(&rows).zip(&mut panel.integers).enumerate() {
            let ahead = pack::next::<B>(w, &block, at, panels);
            pack::float::<S, B>(s, w, rows, block.clone(), ahead, &mut panel.bytes);
        }
        let mut first = 0;
        for tile in 0..tiles {
            let count = tokens / tiles + usize::from(tile < tokens % tiles);
            let x = &x[first * cols..][..count * cols];
            for (panel, out) in panel.integers.iter().zip(out.chunks_exact_mut(padded)) {
                let (panel, out) = (&panel.bytes[..block.len()], &mut out[first..]);
                match count {
                    6 => s.float_panel::<6>(panel, &x[start..], cols, out),
                    5 => s.float_panel::<5>(panel, &x[start..], cols, out),
                    4 => s.float_panel::<4>(panel, &x[start..], cols, out),
                    3 => s.float_panel::<3>(panel, &x[start..], cols, out),
                    2 => s.float_panel::<2>(panel, &x[start..], cols, out),
                    _ => s.float_panel::<1>(panel, &x[start..], cols, out),
                }
            }
            first += count;
        }
    }
}

/// [`Simd::float_panel`] in its terms.
#[inline(always)]
pub(crate) fn panel<S: Simd, const T: usize>(
    s: S,
    panel: &[[u8; STRIPE]],
    x: &[f32],
    stride: usize,
    c: &mut [[f32; LANES]],
) {
    let c: &mut [[f32; LANES]; T] = c.first_chunk_mut().expect("room for a tile");
    let mut acc = c.each_ref().map(|c| s.load(c));
    let x: [&[f32]; T] = std::array::from_fn(|t| &x[t * stride..][..panel.len()]);
    for (k, line) in panel.iter().enumerate() {
        let w = s.bit_cast(s.load_bytes(line));
        for (acc, x) in acc.iter_mut().zip(x) {
            *acc = s.fma(w, s.splat(x[k]), *acc);
        }
    }
    for (acc, c) in acc.into_iter().zip(c) {
        s.store(acc, c);
    }
}
