//! The order in which panels of weights are multiplied, and the unpacking of the next one meanwhile.
//!
//! A row of a panel is unpacked whole, and the same row of the panel after that is asked for; after the last panel comes, most
//! probably, the first one of the rows below. (Two cores of an Emerald Rapids, 2048 x 2048, out of memory, in turns: that, and
//! whole rows in place of spans, made bfloat16 panels times 32 and 64 tokens 1.09 and 1.06 times as fast with Q4_0, 1.11 and 1.06
//! with Q6_K, 1.02 to 1.04 with Q8_0 and Q4_K.)

use super::super::avx512::{AMX, Avx512};
use super::super::{SPAN, STRIPE, Simd};
use crate::acts::GROUP;
use crate::matrix::Matrix;
use std::ops::Range;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Does `$body` for each span of blocks of a row, the last one completed by blocks of zeros.
macro_rules! each_span {
    ($B:ty, $weights:expr, |$i:ident, $blocks:ident| $body:block) => {
        let n = SPAN / <$B>::LEN;
        let all = <$B>::cast($weights);
        let (whole, tail) = all.split_at(all.len() / n * n);
        let mut room = [<$B>::zeroed(); MOST_BLOCKS];
        if !tail.is_empty() {
            room[..tail.len()].copy_from_slice(tail);
        }
        let (mut some, mut at) = (whole.chunks_exact(n), 0);
        // Twice at most: so the work on a span is compiled once.
        loop {
            for $blocks in some {
                let $i = at;
                $body
                at += 1;
            }
            if tail.is_empty() || at > whole.len() / n {
                break;
            }
            some = room[..n].chunks_exact(n);
        }
    };
}
pub(super) use each_span;

/// Weights that become panels.
pub(super) trait Unpack {
    /// Bytes of a span.
    const SPAN_BYTES: usize;

    /// What they are unpacked to.
    type Panel: ?Sized;

    /// Unpacks a row's part of a block of columns, `weights`, to this row of the panel, whole spans: columns beyond the
    /// row's end are zero.
    fn unpack(s: Avx512<AMX>, weights: &[u8], row: usize, panel: &mut Self::Panel);
}

/// Panels in the order in which they are multiplied: those of a block of columns, then those of the next one.
pub(super) struct Panels<'a> {
    pub w: Matrix<'a>,
    pub rows: Range<usize>,
    /// Rows of a panel.
    pub height: usize,
    /// Columns of the matrix.
    pub columns: usize,
    /// Groups of 32 columns of a panel.
    pub kc: usize,
}

impl<'a> Panels<'a> {
    /// Groups of columns, whole stripes of them.
    fn groups(&self) -> usize {
        self.columns.div_ceil(STRIPE) * (STRIPE / GROUP)
    }

    /// Panels of a block of columns.
    fn high(&self) -> usize {
        self.rows.len().div_ceil(self.height)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.high() * self.groups().div_ceil(self.kc)
    }

    /// The first row of the `i`th one, and its first group of columns.
    pub(super) fn place(&self, i: usize) -> (usize, usize) {
        (self.rows.start + i % self.high() * self.height, i / self.high() * self.kc)
    }

    /// The `i`th one's unpacking; there is nothing of it beyond the last one.
    pub(super) fn unpacking<W: Unpack>(&self, i: usize) -> Unpacking<'a> {
        let (first, start) = self.place(i);
        // After the last one, most probably, the first of the rows below.
        let (then, later) = if i + 1 < self.len() { self.place(i + 1) } else { (self.rows.end, 0) };
        let (rows, n) = match i < self.len() {
            true => (self.height.min(self.rows.end - first), self.kc.min(self.groups() - start)),
            false => (0, 0),
        };
        let bytes = |group: usize| group * GROUP / SPAN * W::SPAN_BYTES;
        let end = self.w.row_stride().min(bytes((start + n).next_multiple_of(SPAN / GROUP)));
        let then = then * self.w.row_stride() + bytes(later);
        Unpacking { w: self.w, first, bytes: bytes(start)..end, row: 0, rows, then }
    }
}

/// The rows of a panel that are to be unpacked.
pub(super) struct Unpacking<'a> {
    w: Matrix<'a>,
    first: usize,
    /// Of each row, those of the block of columns.
    bytes: Range<usize>,
    /// The next one, and how many there are.
    row: usize,
    rows: usize,
    /// Where the panel after this one begins.
    then: usize,
}

impl Unpacking<'_> {
    /// How many rows are left.
    pub(super) fn left(&self) -> usize {
        self.rows - self.row
    }

    /// Asks for what comes in the place of a row in the panel after this.
    #[inline(always)]
    pub(super) fn ask(&self, s: Avx512<AMX>, row: usize) {
        let ahead = self.w.bytes().as_ptr().wrapping_add(self.then + row * self.w.row_stride());
        for at in (0..self.bytes.len()).step_by(LINE) {
            s.prefetch(ahead.wrapping_add(at));
        }
    }

    /// Unpacks one more row, and asks for the one in its place in the panel after this.
    #[inline(always)]
    pub(super) fn step<W: Unpack>(&mut self, s: Avx512<AMX>, panel: &mut W::Panel) {
        self.ask(s, self.row);
        self.unpack::<W>(s, panel);
    }

    /// Unpacks one more row.
    #[inline(always)]
    pub(super) fn unpack<W: Unpack>(&mut self, s: Avx512<AMX>, panel: &mut W::Panel) {
        let row = self.first + self.row;
        W::unpack(s, &self.w.rows_bytes(row..row + 1)[self.bytes.clone()], self.row, panel);
        self.row += 1;
    }

    /// Unpacks what is left.
    #[inline(always)]
    pub(super) fn rest<W: Unpack>(mut self, s: Avx512<AMX>, panel: &mut W::Panel) {
        while self.left() > 0 {
            self.step::<W>(s, panel);
        }
    }
}
