//! Panels: sixteen rows of weights, unpacked into cache-sized scratch for one pass over a batch's tokens.
//!
//! An integer panel interleaves the rows by four columns, so that one register holds four columns of
//! all sixteen rows, ready for a dot instruction against a broadcast dword of activations. Scales and
//! minimums lie beside it, one register of sixteen rows per group.
//!
//! Rows are unpacked one by one and then transposed; or, on AVX2 and AVX-512 and for some formats, transposed as they lie
//! in the file and unpacked then, which moves half the bytes and makes the scales of a group of all rows at once. (Two Zen 3 cores, 16
//! tokens, in turns: Q4_K 1.11, Q4_0, Q4_1 and IQ4_NL 1.05 to 1.09, Q8_0 1.01; Q5_K 1.08 with its scales alone, 1.01 with
//! its nibbles too. Tried and lost: Q6_K, 0.98, and with its scales alone 0.98 to 1.02. One Zen 5 core, AVX-512: Q8_0
//! 1.09, Q4_K and Q5_K 1.06, Q4_0 and IQ4_NL 0.99 with 16 tokens; 1.06, 1.02, 1.03 and 1.0 with 64.) All
//! integers row by row, and then all scales, are 1.01 to 1.13 times as fast as both of each row.

use super::floats::Words;
use crate::acts::GROUP;
use crate::buffer::{Aligned, Buffer};
use crate::format::{Block, Grouping, IntegerBlock, Lanes, Less, MOST_BLOCKS, Of, Subtrahend};
use crate::matrix::Matrix;
use crate::simd::{Kernel, LANES, SPAN, STRIPE, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// Panels that a tile of activations is multiplied with while it is in the first-level cache. (With one, the
/// activations of a prompt, megabytes, came from the last-level cache for each sixteen rows.)
pub(crate) const PANELS: usize = 4;
/// Of so many panels that are multiplied at once, how many stay while all tiles pass: one at a time, and a tile stays in the
/// first-level cache for all of them; or two, which stay there themselves.
pub(crate) const fn staying(at_once: usize) -> usize {
    if at_once == 1 { PANELS } else { at_once }
}

/// Columns of a panel: 16 KiB of bytes, which stay in the first-level cache beside the tile's activations.
pub(crate) const INTEGER_COLS: usize = 1024;
/// Words of each row in a panel of [`Words`]: as many bytes.
#[allow(dead_code, reason = "not every architecture multiplies floats so")]
pub(crate) const WORDS: usize = INTEGER_COLS / 4;
/// Lines of a panel for matrix tiles: 512 columns of 32 rows in two bytes each.
pub(crate) const PAIR_LINES: usize = 512;
/// The same with the rows' scales, for each 256 columns.
const LINES_AND_SCALES: usize = PAIR_LINES + 4;

/// A worker's room for [`PANELS`] panels.
pub struct Panel {
    /// In integers.
    pub(crate) integers: [Integers; PANELS],
    /// Two panels in bfloat16, 32 columns of one row a line, or in fixed point: one is multiplied, the next one unpacked.
    #[allow(dead_code, reason = "not every architecture has matrix tiles")]
    pub(crate) pairs: [Buffer<[u8; STRIPE]>; 2],
}

/// One panel in integers.
pub struct Integers {
    /// Four columns of sixteen rows a line. (In [`Words`], one word.)
    pub(crate) bytes: Buffer<[u8; STRIPE]>,
    /// Sixteen rows' scales a line, per group of 16 or 32 columns. Those that are [multiplied in integers](in_integers) are two
    /// equal 16-bit numbers each.
    pub(crate) scales: Buffer<[f32; LANES]>,
    /// The minimums likewise, or in the first line of each span, the units of such scales.
    pub(crate) mins: Buffer<[f32; LANES]>,
}

impl Integers {
    fn new() -> Integers {
        Integers {
            bytes: Buffer::new(INTEGER_COLS / 4),
            scales: Buffer::new(INTEGER_COLS / 16),
            mins: Buffer::new(INTEGER_COLS / 16),
        }
    }
}

impl Panel {
    /// Bytes of a panel's room.
    pub(crate) const SIZE: usize =
        PANELS * (INTEGER_COLS * LANES + 2 * (INTEGER_COLS / 16) * 64) + 2 * LINES_AND_SCALES * 64;

    /// Room for panels of any format.
    pub fn new() -> Panel {
        Panel {
            integers: std::array::from_fn(|_| Integers::new()),
            pairs: [Buffer::new(LINES_AND_SCALES), Buffer::new(LINES_AND_SCALES)],
        }
    }
}

impl Default for Panel {
    fn default() -> Self {
        Panel::new()
    }
}

/// Whether a panel's bytes are moved up to a zero of 128, because the ISA multiplies unsigned bytes and the lanes
/// have a zero point or are signed.
#[inline(always)]
pub(crate) fn biased<S: Simd, L: Lanes>() -> bool {
    S::SIGNED_ZERO.is_some() && !L::Less::MINS
}

/// Whether scales that are whole numbers are multiplied as such.
#[inline(always)]
pub(crate) const fn in_integers<S: Simd, L: Lanes>() -> bool {
    S::NARROW_SUMS && L::WHOLE
}

/// A stripe of a format's integers as a panel has them.
#[inline(always)]
pub(crate) fn lanes<S: Simd, B: IntegerBlock>(s: S, q: S::I) -> S::I {
    if !biased::<S, B::Lanes>() {
        return q;
    }
    s.sub_u8(q, s.splat_u8((Less::<B>::ZERO.map_or(0, |zero| 1 << zero) + 128) as u8))
}

/// How many bytes further on lies what is unpacked after columns `cols` of the `at`th of some panels: the same columns
/// of the next sixteen rows, after the last panel the next columns of the first, and in the end what most probably
/// comes next. It wraps around.
pub(crate) fn next<B: Block>(w: Matrix<'_>, cols: &Range<usize>, at: usize, panels: usize) -> usize {
    let down = w.rows_bytes(0..1).len() * LANES;
    let bytes = |cols: usize| cols / B::LEN * size_of::<B>();
    match (at + 1 < panels, cols.end < w.cols()) {
        (true, _) => down,
        (false, true) => bytes(cols.len()).wrapping_sub(at * down),
        (false, false) => down.wrapping_sub(bytes(cols.start)),
    }
}

/// The weights that are most probably unpacked after a block of some rows and columns: the same rows of the next
/// columns, or as many rows further down. They are asked for bit by bit, while the block is multiplied.
pub struct Coming {
    /// The first line of a row, which need not be mapped; how far it is to the next row's.
    row: *const u8,
    stride: usize,
    /// Bytes of a row, and the next one to be asked for.
    bytes: usize,
    at: usize,
    rows: usize,
    /// Lines that are asked for at once.
    some: usize,
}

impl Coming {
    /// What comes after `cols` of `rows`, in `parts` parts, if blocks have up to `most` columns.
    pub(crate) fn after<B: Block>(
        w: Matrix<'_>,
        rows: &Range<usize>,
        cols: &Range<usize>,
        most: usize,
        parts: usize,
    ) -> Coming {
        let (down, start) = if cols.end < w.cols() { (0, cols.end) } else { (rows.len(), 0) };
        let bytes = |cols: usize| cols / B::LEN * size_of::<B>();
        let (stride, bytes, start) = (w.row_stride(), bytes(most.min(w.cols() - start)), bytes(start));
        let row = w.rows_bytes(rows.clone()).as_ptr().wrapping_add(down * stride + start);
        let some = (bytes.div_ceil(LINE) * rows.len()).div_ceil(parts.max(1));
        Coming { row, stride, bytes, at: 0, rows: rows.len(), some }
    }

    /// Lines of activations, one at a time.
    pub(crate) fn words(x: &[i32]) -> Coming {
        Coming { row: x.as_ptr().cast(), stride: 0, bytes: size_of_val(x), at: 0, rows: 1, some: 1 }
    }

    /// The next line, or any one if none is left.
    #[inline(always)]
    fn line(&mut self) -> *const u8 {
        let line = self.row.wrapping_add(self.at);
        if self.at < self.bytes {
            self.at += LINE;
        }
        if self.at >= self.bytes && self.rows > 1 {
            (self.at, self.row) = (0, self.row.wrapping_add(self.stride));
            self.rows -= 1;
        }
        line
    }

    /// Asks for the next part.
    #[inline(always)]
    pub(crate) fn ask<S: Simd>(&mut self, s: S) {
        for _ in 0..self.some {
            if self.rows <= 1 && self.at >= self.bytes {
                return;
            }
            let line = self.line();
            s.prefetch(line);
        }
    }

    /// Asks for the next part but for one line, which is returned: any one if none is left.
    #[allow(dead_code, reason = "not every architecture asks so")]
    #[inline(always)]
    pub(crate) fn ask_but_one<S: Simd>(&mut self, s: S) -> *const u8 {
        for _ in 1..self.some {
            let line = self.line();
            s.prefetch(line);
        }
        self.line()
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Fills a panel with columns `cols` (from a multiple of [`INTEGER_COLS`]) of at most sixteen rows.
/// Missing rows, and columns up to the next stripe, are blocks of zeros. With each block the one `ahead` bytes further on is asked
/// for, if any, which may be before it (`ahead` wraps around) and anywhere.
#[inline(always)]
pub(crate) fn integer<S: Simd, B: IntegerBlock>(
    s: S,
    w: Matrix<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    ahead: Option<usize>,
    panel: &mut Integers,
) {
    let stripes = cols.len().div_ceil(STRIPE);
    let (first, last) = (cols.start / B::LEN, cols.end / B::LEN);
    let n = SPAN / B::LEN;
    let groups = SPAN / Of::<B>::LEN;
    let none = [B::zeroed(); MOST_BLOCKS];
    let mut padded = if cols.len().is_multiple_of(SPAN) { None } else { Some([none; LANES]) };
    let mut whole: [&[B]; LANES] = [&[]; LANES];
    for (row, whole) in rows.zip(&mut whole) {
        *whole = &B::cast(w.rows_bytes(row..row + 1))[first..last];
    }
    let mut room = Aligned(Room::new());
    for (at, start) in (0..last - first).step_by(n).enumerate() {
        let mut spans = [&none[..n]; LANES];
        for (span, row) in spans.iter_mut().zip(&whole) {
            *span = row.get(start..start + n).unwrap_or(&none[..n]);
        }
        if let (true, Some(padded)) = (start + n > last - first, &mut padded) {
            for ((span, padded), row) in spans.iter_mut().zip(padded).zip(&whole) {
                if let Some(blocks) = row.get(start..) {
                    padded[..blocks.len()].copy_from_slice(blocks);
                    *span = &padded[..n];
                }
            }
        }
        let mut to = Sixteen {
            room: &mut room.0,
            next: Next(ahead.map(|ahead| spans.map(|span| span.as_ptr().cast::<u8>().wrapping_add(ahead)))),
            bytes: panel.bytes[at * LINES..].first_chunk_mut().expect("the lines of a span"),
            scales: &mut panel.scales[at * groups..][..groups],
            mins: &mut panel.mins[at * groups..][..groups],
        };
        if S::ACROSS {
            B::pack(s, &spans, &mut to);
        } else {
            to.by_rows::<S, B>(s, &spans);
        }
    }
    s.arrange_panel(&mut panel.bytes[..stripes * LANES]);
}

/// Lines of a panel that hold a span.
pub(crate) const LINES: usize = SPAN / 4;

/// Where sixteen rows' spans begin, which need not be mapped; if they are asked for here.
pub(crate) struct Next(Option<[*const u8; LANES]>);

impl Next {
    /// Asks for the spans of these rows. (All at once, they would wait for each other.)
    #[inline(always)]
    pub(crate) fn ask<S: Simd, B: Block>(&self, s: S, rows: Range<usize>) {
        let Some(all) = &self.0 else { return };
        for row in &all[rows] {
            for line in (0..SPAN / B::LEN * size_of::<B>()).step_by(LINE) {
                s.prefetch(row.wrapping_add(line));
            }
        }
    }
}

/// Where a span of sixteen rows goes.
pub struct Sixteen<'a> {
    room: &'a mut Room,
    /// What is probably unpacked next.
    pub(crate) next: Next,
    /// Four columns a line, in the order of the row.
    pub(crate) bytes: &'a mut [[u8; STRIPE]; LINES],
    /// A line for each group.
    pub(crate) scales: &'a mut [[f32; LANES]],
    /// The minimums likewise, if there are any.
    pub(crate) mins: &'a mut [[f32; LANES]],
}

impl Sixteen<'_> {
    /// Unpacks row by row, and transposes that.
    #[inline(always)]
    pub(crate) fn by_rows<S: Simd, B: IntegerBlock>(&mut self, s: S, rows: &[&[B]; LANES]) {
        self.bytes_by_rows(s, rows);
        self.numbers_by_rows(s, rows);
    }

    /// The same of the integers alone.
    #[inline(always)]
    pub(crate) fn bytes_by_rows<S: Simd, B: IntegerBlock>(&mut self, s: S, rows: &[&[B]; LANES]) {
        for (r, row) in rows.iter().enumerate() {
            self.next.ask::<S, B>(s, r..r + 1);
            self.room.bytes::<S, B>(s, row, r);
        }
        s.run(PlaceBytes::<B::Lanes>(self, PhantomData));
    }

    /// The same of the scales and minimums alone.
    #[inline(always)]
    pub(crate) fn numbers_by_rows<S: Simd, B: IntegerBlock>(&mut self, s: S, rows: &[&[B]; LANES]) {
        for (r, row) in rows.iter().enumerate() {
            if in_integers::<S, B::Lanes>() {
                let whole = s.widen_i8(&B::whole(row));
                let pairs = s.or(s.shl_i32(whole, 16), s.and(whole, s.splat_i32(0xffff)));
                s.store(s.bit_cast(pairs), &mut self.room.numbers[0][r]);
                self.mins[0][r] = B::unit(row);
                continue;
            }
            self.room.numbers::<S, B>(s, row, r);
        }
        s.run(PlaceNumbers::<B::Lanes>(self, PhantomData));
    }
}

/// A span of sixteen rows, row by row.
struct Room {
    /// The registers that a format unpacks to, of each row.
    bytes: [[[u8; STRIPE]; LANES]; SPAN / STRIPE],
    /// Of each row the scales, then the minimums: those of both fill one register, or one each.
    numbers: [[[f32; LANES]; LANES]; 2],
}

impl Room {
    #[inline(always)]
    fn new() -> Room {
        Room { bytes: [[[0; STRIPE]; LANES]; 4], numbers: [[[0.0; LANES]; LANES]; 2] }
    }

    /// Unpacks one row's integers.
    #[inline(always)]
    fn bytes<S: Simd, B: IntegerBlock>(&mut self, s: S, span: &[B], r: usize) {
        for pair in 0..2 {
            let [first, second] = B::unpack(s, span, pair);
            for (half, q) in [first, second].into_iter().enumerate() {
                s.store_bytes(lanes::<S, B>(s, q), &mut self.bytes[2 * pair + half][r]);
            }
        }
    }

    /// Unpacks one row's scales and minimums.
    #[inline(always)]
    fn numbers<S: Simd, B: IntegerBlock>(&mut self, s: S, span: &[B], r: usize) {
        let w = B::scales(s, span);
        let [first, second] = &mut self.numbers;
        Of::<B>::store(s, w.scale, &mut first[r]);
        if Less::<B>::MINS {
            let mins = if Of::<B>::LEN == 32 { &mut first[r][LANES / 2..] } else { &mut second[r] };
            Of::<B>::store(s, w.min, mins);
        }
    }
}

/// Transposes the integers of a span's rows into their places.
struct PlaceBytes<'a, 'b, L>(&'a mut Sixteen<'b>, PhantomData<L>);

impl<L: Lanes> Kernel for PlaceBytes<'_, '_, L> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let stride = L::Grouping::columns(0, 4);
        for (i, block) in self.0.room.bytes.iter().enumerate() {
            let first = LINES / 2 * (i / 2) + L::Grouping::columns(i % 2, 0);
            s.transpose(block, &mut self.0.bytes[first..][..3 * stride + 4], stride);
        }
    }
}

/// Transposes their scales and minimums.
struct PlaceNumbers<'a, 'b, L>(&'a mut Sixteen<'b>, PhantomData<L>);

impl<L: Lanes> Kernel for PlaceNumbers<'_, '_, L> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Sixteen { room, scales, mins, .. } = self.0;
        let groups = SPAN / L::Grouping::LEN;
        let all = if L::Less::MINS { 2 * groups } else { groups };
        let mut numbers = Aligned([[0; STRIPE]; 2 * LANES]);
        for (block, numbers) in
            room.numbers.iter().zip(numbers.0.chunks_exact_mut(LANES)).take(all.div_ceil(LANES))
        {
            s.transpose(as_bytes(block), numbers, 4);
        }
        for (i, out) in [scales, mins].into_iter().enumerate().take(all / groups) {
            for (out, line) in out.iter_mut().zip(&numbers.0[i * groups..]) {
                s.store(s.bit_cast(s.load_bytes(line)), out);
            }
        }
    }
}

/// Lines of floats as the bytes that they are.
fn as_bytes(lines: &[[f32; LANES]; LANES]) -> &[[u8; STRIPE]; LANES] {
    // SAFETY: of the same size; bytes may be read at any address.
    unsafe { &*std::ptr::from_ref(lines).cast() }
}

/// Fills a panel with columns `cols` of at most sixteen rows, a [word](Words) of each a line; missing rows are zero.
#[allow(dead_code, reason = "not every architecture multiplies floats so")]
#[inline(always)]
pub(crate) fn words<S: Simd, W: Words>(
    s: S,
    w: Matrix<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    panel: &mut [[u8; STRIPE]],
) {
    let bytes = |cols: usize| cols * size_of::<W::Block>();
    let rows: [&[u8]; LANES] = std::array::from_fn(|r| match rows.clone().nth(r) {
        Some(row) => &w.rows_bytes(row..row + 1)[bytes(cols.start)..bytes(cols.end)],
        None => &[],
    });
    let n = bytes(LANES * W::COLS);
    let mut lines = Aligned([[0; STRIPE]; LANES]);
    for (i, block) in panel[..cols.len().div_ceil(W::COLS)].chunks_mut(LANES).enumerate() {
        for (row, line) in rows.iter().zip(&mut lines.0).filter(|(row, _)| !row.is_empty()) {
            let mut padded = [0; STRIPE];
            let weights = row.get(i * n..(i + 1) * n).unwrap_or_else(|| {
                let rest = &row[i * n..];
                padded[..rest.len()].copy_from_slice(rest);
                &padded[..n]
            });
            s.store_bytes(W::load(s, weights), line);
        }
        if block.len() == LANES {
            s.transpose(&lines.0, block, 4);
        } else {
            let mut whole = [[0; STRIPE]; LANES];
            s.transpose(&lines.0, &mut whole, 4);
            block.copy_from_slice(&whole[..block.len()]);
        }
    }
}

/// Groups of 32 columns in a panel of `cols` columns, padded to whole stripes.
pub(crate) fn groups(cols: usize) -> usize {
    cols.div_ceil(STRIPE) * (STRIPE / GROUP)
}
