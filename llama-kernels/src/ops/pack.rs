//! Panels: sixteen rows of weights, unpacked into cache-sized scratch for one pass over a batch's tokens.
//!
//! An integer panel interleaves the rows by four columns, so that one register holds four columns of
//! all sixteen rows, ready for a dot instruction against a broadcast dword of activations. Scales and
//! minimums lie beside it, one register of sixteen rows per group. A float panel is one register of
//! sixteen rows per column.

use crate::acts::GROUP;
use crate::buffer::Buffer;
use crate::format::{FloatBlock, Grouping, IntegerBlock, Lanes, MOST_BLOCKS, Of, Scale};
use crate::matrix::Matrix;
use crate::simd::{LANES, SPAN, STRIPE, Simd};
use std::ops::Range;

/// Columns of a panel: 16 KiB of bytes, which stay in the first-level cache beside the tile's activations.
pub(crate) const INTEGER_COLS: usize = 1024;
/// Columns of a float panel: 32 KiB.
pub(crate) const FLOAT_COLS: usize = 512;

/// Lines of a panel in bfloat16: 32 rows of 512 columns.
const PAIR_LINES: usize = 512;

/// A worker's room for one panel.
pub struct Panel {
    /// Four columns of sixteen rows a line.
    pub(crate) bytes: Buffer<[u8; STRIPE]>,
    /// Sixteen rows' scales a line, per group of 16 or 32 columns.
    pub(crate) scales: Buffer<[f32; LANES]>,
    /// The minimums likewise.
    pub(crate) mins: Buffer<[f32; LANES]>,
    /// One column of sixteen rows a line.
    pub(crate) floats: Buffer<[f32; LANES]>,
    /// Two panels in bfloat16, 32 columns of one row a line: one is multiplied, the next one unpacked. Or one
    /// panel of two columns of sixteen rows a line.
    #[allow(dead_code, reason = "not every architecture has matrix tiles")]
    pub(crate) pairs: [Buffer<[u8; STRIPE]>; 2],
}

impl Panel {
    /// Bytes of a panel's room.
    pub(crate) const SIZE: usize =
        INTEGER_COLS * LANES + 2 * (INTEGER_COLS / 16) * 64 + FLOAT_COLS * 64 + 2 * PAIR_LINES * 64;

    /// Room for a panel of any format.
    pub fn new() -> Panel {
        Panel {
            bytes: Buffer::new(INTEGER_COLS / 4),
            scales: Buffer::new(INTEGER_COLS / 16),
            mins: Buffer::new(INTEGER_COLS / 16),
            floats: Buffer::new(FLOAT_COLS),
            pairs: [Buffer::new(PAIR_LINES), Buffer::new(PAIR_LINES)],
        }
    }
}

impl Default for Panel {
    fn default() -> Self {
        Panel::new()
    }
}

/// Fills a panel with columns `cols` (from a multiple of [`INTEGER_COLS`]) of at most sixteen rows.
/// Missing rows, and columns up to the next stripe, are zero.
#[inline(always)]
pub(crate) fn integer<S: Simd, B: IntegerBlock>(
    s: S,
    w: Matrix<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    panel: &mut Panel,
) {
    let stripes = cols.len().div_ceil(STRIPE);
    if rows.len() < LANES {
        panel.bytes[..stripes * LANES].fill([0; STRIPE]);
        panel.scales[..stripes * 4].fill([0.0; LANES]);
        panel.mins[..stripes * 4].fill([0.0; LANES]);
    }
    for (r, row) in rows.enumerate() {
        let blocks = B::cast(w.rows_bytes(row..row + 1));
        let spans = blocks[cols.start / B::LEN..cols.end / B::LEN].chunks_exact(SPAN / B::LEN);
        let (tail, whole) = (spans.remainder(), spans.len());
        for (i, span) in spans.enumerate() {
            place::<S, B>(s, span, panel, i, r);
        }
        if !tail.is_empty() {
            let mut span = [B::zeroed(); MOST_BLOCKS];
            span[..tail.len()].copy_from_slice(tail);
            place::<S, B>(s, &span[..SPAN / B::LEN], panel, whole, r);
        }
    }
    s.arrange_panel(&mut panel.bytes[..stripes * LANES]);
}

/// Unpacks one span of one row into its places.
#[inline(always)]
fn place<S: Simd, B: IntegerBlock>(s: S, span: &[B], panel: &mut Panel, at: usize, r: usize) {
    const LINES: usize = SPAN / 4;
    let lines: &mut [[u8; STRIPE]; LINES] =
        (&mut panel.bytes[at * LINES..(at + 1) * LINES]).try_into().expect("a line for each four columns");
    for (pair, lines) in lines.as_chunks_mut::<{ LINES / 2 }>().0.iter_mut().enumerate() {
        let q = B::unpack(s, span, pair);
        for half in 0..2 {
            let mut bytes = [0; STRIPE];
            s.store_bytes(q[half], &mut bytes);
            for (dword, bytes) in bytes.as_chunks::<4>().0.iter().enumerate() {
                lines[Of::<B>::columns(half, dword)][4 * r..4 * r + 4].copy_from_slice(bytes);
            }
        }
    }
    let w = B::scales(s, span);
    place_scales::<S, B::Lanes>(s, w.scale, &mut panel.scales, at, r);
    if <B::Lanes as Lanes>::MINS {
        place_scales::<S, B::Lanes>(s, w.min, &mut panel.mins, at, r);
    }
}

/// Stores the scales of a span, one a group.
#[inline(always)]
fn place_scales<S: Simd, L: Lanes>(s: S, v: Scale<S, L>, lines: &mut [[f32; LANES]], at: usize, r: usize) {
    let mut scales = [0.0; LANES];
    L::Grouping::each16(s, v, &mut scales);
    let step = L::Grouping::LEN / 16;
    let lines = &mut lines[at * (LANES / step)..(at + 1) * (LANES / step)];
    for (line, scale) in lines.iter_mut().zip(scales.iter().step_by(step)) {
        line[r] = *scale;
    }
}

/// Groups of 32 columns in a panel of `cols` columns, padded to whole stripes.
pub(crate) fn groups(cols: usize) -> usize {
    cols.div_ceil(STRIPE) * (STRIPE / GROUP)
}

/// Fills a float panel with columns `cols` of at most sixteen rows; missing rows are zero.
#[inline(always)]
pub(crate) fn float<S: Simd, B: FloatBlock>(
    s: S,
    w: Matrix<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    panel: &mut Panel,
) {
    if rows.len() < LANES {
        panel.floats[..cols.len()].fill([0.0; LANES]);
    }
    for (r, row) in rows.enumerate() {
        let row = &B::cast(w.rows_bytes(row..row + 1))[cols.clone()];
        for (lines, blocks) in panel.floats.chunks_mut(LANES).zip(row.chunks(LANES)) {
            let mut padded = [B::zeroed(); LANES];
            padded[..blocks.len()].copy_from_slice(blocks);
            let mut column = [0.0; LANES];
            s.store(B::widen(s, &padded), &mut column);
            for (line, v) in lines.iter_mut().zip(column) {
                line[r] = v;
            }
        }
    }
}
