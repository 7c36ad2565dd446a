//! The order in which panels of weights are multiplied, and the unpacking of the next one meanwhile.
//!
//! Whatever is unpacked, what lies in its place in the panel after that is asked for; after the last panel comes, most probably,
//! the first one of the rows below. (Two cores of an Emerald Rapids, 2048 x 2048, out of memory, in turns: that, and rows unpacked
//! whole in the shadow of four steps, made bfloat16 panels times 32 and 64 tokens 1.09 and 1.06 times as fast with Q4_0, 1.11 and
//! 1.06 with Q6_K, 1.02 to 1.04 with Q8_0 and Q4_K.)
//!
//! The engine of bfloat16 unpacks [span by span](Unpacking::step), a few of its tile instructions apart; that of bytes [row by
//! row](Unpacking::row): by spans it was 0.76 to 0.97 times as fast.

use super::super::avx512::{AMX, Avx512};
use super::super::{SPAN, STRIPE, Simd};
use crate::acts::GROUP;
use crate::matrix::Matrix;
use std::ops::Range;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Bytes of a span of floats of two bytes: of what becomes panels here, the largest.
const MOST_BYTES: usize = 2 * SPAN;

/// Weights that become panels.
pub(super) trait Unpack {
    /// Bytes of a span.
    const SPAN_BYTES: usize;

    /// What they are unpacked to.
    type Panel: ?Sized;

    /// Unpacks the bytes of a span to the `at`th span of this row of the panel.
    fn unpack(s: Avx512<AMX>, span: &[u8], row: usize, at: usize, panel: &mut Self::Panel);
}

/// Bytes of activations, two each, that stay in the second-level cache beside panels: half of the smallest one.
const STAYING: usize = 1 << 20;

/// Panels in the order in which they are multiplied. Where all activations stay in the second-level cache, those of some rows, so
/// that these are read on and on, as the hardware's own prefetcher likes it; else those of a block of columns, then those of
/// the next one. (Rows first beside columns first, two cores of an Emerald Rapids, in turns: with 16 tokens bfloat16 1.03 to 1.09,
/// Q4_0 in bytes 0.99 to 1.12, with 32 and 64 bfloat16 1.03 to 1.16 and 1.0 to 1.05; with 192 and 256 times 5632 columns 0.80 to
/// 0.99, with 512 0.84 to 0.92.)
pub(super) struct Panels<'a> {
    w: Matrix<'a>,
    rows: Range<usize>,
    /// Rows of a panel.
    height: usize,
    /// Groups of 32 columns of a panel.
    kc: usize,
    /// Whether all columns of some rows come before the next rows.
    by_rows: bool,
}

impl<'a> Panels<'a> {
    /// Panels of so many rows and groups of columns, for a product with so many tokens.
    pub(super) fn new(w: Matrix<'a>, rows: &Range<usize>, [height, kc]: [usize; 2], tokens: usize) -> Self {
        let by_rows = tokens * w.cols() * 2 <= STAYING;
        Panels { w, rows: rows.clone(), height, kc, by_rows }
    }

    /// Columns of the matrix.
    pub(super) fn columns(&self) -> usize {
        self.w.cols()
    }

    /// Groups of columns, whole stripes of them.
    fn groups(&self) -> usize {
        self.columns().div_ceil(STRIPE) * (STRIPE / GROUP)
    }

    /// Panels of some rows.
    fn across(&self) -> usize {
        self.groups().div_ceil(self.kc)
    }

    /// Panels of a block of columns.
    fn high(&self) -> usize {
        self.rows.len().div_ceil(self.height)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.high() * self.across()
    }

    /// The first row of the `i`th one, and its first group of columns.
    pub(super) fn place(&self, i: usize) -> (usize, usize) {
        let (down, across) = match self.by_rows {
            true => (i / self.across(), i % self.across()),
            false => (i % self.high(), i / self.high()),
        };
        (self.rows.start + down * self.height, across * self.kc)
    }

    /// The `i`th one's unpacking; there is nothing of it beyond the last one.
    pub(super) fn unpacking<W: Unpack>(&self, i: usize) -> Unpacking<'a> {
        let (first, start) = if i < self.len() { self.place(i) } else { (self.rows.start, 0) };
        // After the last one, most probably, the first of the rows below.
        let (then, later) = if i + 1 < self.len() { self.place(i + 1) } else { (self.rows.end, 0) };
        let (rows, n) = match i < self.len() {
            true => (self.height.min(self.rows.end - first), self.kc.min(self.groups() - start)),
            false => (0, 0),
        };
        let (stride, bytes) = (self.w.row_stride(), self.w.rows_bytes(first..first + rows));
        let offset = |group: usize| group * GROUP / SPAN * W::SPAN_BYTES;
        let (from, to) = (offset(start), stride.min(offset((start + n).next_multiple_of(SPAN / GROUP))));
        let then = self.w.bytes().as_ptr().wrapping_add(then * stride + offset(later)).wrapping_sub(from);
        Unpacking {
            bytes,
            len: to.saturating_sub(from),
            stride,
            next: from,
            end: to,
            row: 0,
            rows,
            at: 0,
            then,
            debt: 0,
            all: 1,
        }
    }
}

/// The spans of a panel that are to be unpacked, row by row.
pub(super) struct Unpacking<'a> {
    /// The rows of the panel.
    bytes: &'a [u8],
    /// Bytes of a row's part of the block of columns, and from one row to the next.
    len: usize,
    stride: usize,
    /// Where the next span begins, and where the row's part ends.
    next: usize,
    end: usize,
    /// The next span's row, how many there are, and which span of the row it is.
    row: usize,
    rows: usize,
    at: usize,
    /// What lies as far from here as a span of this panel from its first row lies in its place in the panel after this one.
    then: *const u8,
    /// Of so many instructions [among](Self::among) which it is unpacked, times spans: how many are not yet made up for.
    debt: usize,
    all: usize,
}

/// A part of a span, if there is one, completed by blocks of zeros.
#[inline(always)]
fn padded(part: &[u8]) -> Option<[u8; MOST_BYTES]> {
    if part.is_empty() {
        return None;
    }
    let mut room = [0; MOST_BYTES];
    room[..part.len()].copy_from_slice(part);
    Some(room)
}

impl Unpacking<'_> {
    /// How many rows are left.
    #[inline(always)]
    pub(super) fn left(&self) -> usize {
        self.rows - self.row
    }

    /// How many spans there are.
    pub(super) fn spans<W: Unpack>(&self) -> usize {
        self.rows * self.len.div_ceil(W::SPAN_BYTES)
    }

    /// To be unpacked evenly among so many of something else.
    pub(super) fn among(self, all: usize) -> Self {
        Unpacking { all: all.max(1), ..self }
    }

    /// Unpacks what is due after `n` more of these.
    #[inline(always)]
    pub(super) fn after<W: Unpack>(&mut self, s: Avx512<AMX>, n: usize, panel: &mut W::Panel) {
        self.debt += n * self.spans::<W>();
        while self.debt >= self.all && self.left() > 0 {
            self.debt -= self.all;
            self.step::<W>(s, panel);
        }
    }

    /// Unpacks one more span, and asks for the one in its place in the panel after this.
    #[inline(always)]
    pub(super) fn step<W: Unpack>(&mut self, s: Avx512<AMX>, panel: &mut W::Panel) {
        let end = self.end.min(self.next + W::SPAN_BYTES);
        self.ask(s, end);
        let mut span = &self.bytes[self.next..end];
        let room = padded(if span.len() < W::SPAN_BYTES { span } else { &[] });
        if let Some(room) = &room {
            span = &room[..W::SPAN_BYTES];
        }
        W::unpack(s, span, self.row, self.at, panel);
        (self.next, self.at) = (end, self.at + 1);
        if end == self.end {
            self.next_row();
        }
    }

    /// Unpacks a row, and asks for the one in its place in the panel after this.
    #[inline(always)]
    pub(super) fn row<W: Unpack>(&mut self, s: Avx512<AMX>, panel: &mut W::Panel) {
        self.ask(s, self.end);
        let row = &self.bytes[self.next..self.end];
        let (whole, tail) = row.split_at(row.len() / W::SPAN_BYTES * W::SPAN_BYTES);
        let (room, mut some, mut at) = (padded(tail), whole.chunks_exact(W::SPAN_BYTES), 0);
        // Twice at most: so the work on a span is compiled once.
        loop {
            for span in some {
                W::unpack(s, span, self.row, at, panel);
                at += 1;
            }
            match &room {
                Some(room) if at * W::SPAN_BYTES < row.len() => {
                    some = room[..W::SPAN_BYTES].chunks_exact(W::SPAN_BYTES);
                }
                _ => break,
            }
        }
        self.next_row();
    }

    /// Asks for what lies from the next span up to here, in its place in the panel after this.
    #[inline(always)]
    fn ask(&self, s: Avx512<AMX>, end: usize) {
        for at in (self.next..end).step_by(LINE) {
            s.prefetch(self.then.wrapping_add(at));
        }
    }

    fn next_row(&mut self) {
        self.end += self.stride;
        (self.next, self.row, self.at) = (self.end - self.len, self.row + 1, 0);
    }

    /// Unpacks what is left.
    #[inline(always)]
    pub(super) fn rest<W: Unpack>(mut self, s: Avx512<AMX>, panel: &mut W::Panel) {
        while self.left() > 0 {
            self.row::<W>(s, panel);
        }
    }
}
