//! Products with few tokens: each row is read once, where it lies, and multiplied with all of them.
//!
//! A row is a sequence of spans of 256 weights. The scales of a span, sixteen at most, are decoded into one
//! register and multiplied by the activations' there. The integers are unpacked 128 at a time, or all at once; each token's dot
//! products are made in 32-bit integers and added to sixteen float lanes, times their scales, as the format's
//! [`Grouping`] has it. A minimum costs one multiply-add a span, with the activations' totals. So does the zero point's share
//! where halves of a span are multiplied one after the other. (Starting each dot product at `-zero * sum(x)` instead, in
//! integers, cost two instructions more for each 32 weights on AVX2, an eighth of the time.) Where a span is multiplied at once,
//! its sums start there, at numbers that are made once for each token: a load in place of a zero. (With that, and with a scale
//! of activations for each lane, one Emerald Rapids core, in turns, one, two and four tokens: Q4_0 1.02, 1.08 and 1.01 to 1.02
//! times as fast, Q8_0 1.02, 1.06 to 1.08 and 1.07 to 1.12, Q6_K 1.02 to 1.04, 1.14 to 1.16 and 1.08 to 1.12, Q4_K, which has
//! minimums, 0.99 to 1.01, 1.01 to 1.02 and 1.02 to 1.03.)
//!
//! Where a span is multiplied at once, several tokens are bound by what they load, an activation for each weight: so their
//! activations are read a [block](BLOCK) at a time, which stays in the first-level cache while sixteen rows pass. (One Zen 4
//! core, four tokens, rows of 11008: 1.18 to 1.22 times as fast. Two rows at a time in place of that: 1.20 to 1.22 there, but
//! 0.91 to 0.97 with rows of 4096, for want of registers. On AVX2, which is bound by its multiplications, 0.92 to 0.97.)
//!
//! Memory is the limit: the kernel asks for what lies [`AHEAD`] bytes further on with every span.
//! Without it the hardware's prefetchers leave 40 % of the bandwidth unused.
//!
//! One run through memory keeps too few lines on their way: prefetchers work within a page. So a worker's rows are cut into
//! [`RUNS`] runs far apart, and as many rows as registers have room for, one of each, are multiplied span by span side by
//! side. (Two cores of an Emerald Rapids, out of memory, in turns, ratios to one run: just reading 1.1 with two runs, 1.27
//! with four, no more with eight or sixteen; rows of 4096, one token: Q4_0 1.24 to 1.33 times as fast, Q8_0 1.16 to 1.30, Q4_K
//! 1.06 to 1.22, Q6_K 1.24 to 1.38, F16 1.25; two tokens 1.09 to 1.36, four 0.96 to 1.25. AVX2 there: one token 1.14 to 1.25.
//! Rows taken in turn instead of spans: 1.25 with rows of 2048, 0.8 to 1.05 with 11008. Two Zen 4 cores, whose memory gave 27 to
//! 45 GB/s from minute to minute, beside one run: one token Q4_0 0.97 to 1.08, Q8_0 1.03, Q4_K 0.99, Q6_K 1.0, F16 0.92 to 1.04,
//! BF16 0.97; four tokens of Q4_0 0.87 to 0.89, though as fast from the caches. One run or two, one row at a time, half the block
//! of activations, and requests 1.5 and 8 KiB ahead did not bring that back: 0.9 to 1.05 of the speed.)

use crate::acts::Span;
use crate::format::{
    Block, FloatBlock, Grouping, IntegerBlock, Lanes, Less, MOST_BLOCKS, Of, Scale, Subtrahend,
};
use crate::matrix::Matrix;
use crate::runs::{RUNS, Runs};
use crate::simd::{Kernel, LANES, SPAN, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// How far ahead of its use a line is requested, in bytes, in each of the runs. (With one run 8192 was best. On Zen 4 requests
/// between 1.5 and 5 KiB ahead of one run got in the way of those that its own prefetchers make: a BF16 model generated 22
/// tokens/s with none, 17 at 2 KiB, 21 at 4, 24 from 6 to 20.)
const AHEAD: usize = 4096;

/// Bytes of activations that are multiplied by all rows before the next ones are: they stay in the first-level cache.
const BLOCK: usize = 28 << 10;

/// Bytes that are read of a span of activations: the integers, a number for each lane, and one more.
const READ: usize = SPAN + 2 * size_of::<[f32; LANES]>();

/// Asks for the first lines of a block's runs, which nothing before it has asked for: as many of a lone run as of two.
pub(crate) fn begin<S: Simd>(s: S, w: Matrix<'_>, runs: &Runs) {
    let ahead = if runs.0[1].is_empty() { 2 * AHEAD } else { AHEAD };
    for rows in &runs.0 {
        let run = w.rows_bytes(rows.clone());
        for line in run[..run.len().min(ahead)].chunks(64) {
            s.prefetch(line.as_ptr());
        }
    }
}

/// Blocks of rows of a matrix, at most sixteen each, that some tokens are multiplied with.
pub(crate) struct Job<'a> {
    pub w: Matrix<'a>,
    pub runs: &'a Runs,
    /// The tokens of the batch.
    pub tokens: usize,
    /// The first token that is meant.
    pub token: usize,
    /// `[run][token][row]`
    pub out: &'a mut [[f32; LANES]],
}

impl<'a> Job<'a> {
    /// The `r`th rows of `R` runs from `first` on. Where a run has no such row, the first one's is taken again.
    #[inline(always)]
    fn rows<B: Block, const R: usize>(&self, first: usize, r: usize) -> [&'a [B]; R] {
        let runs = &self.runs.0[first..first + R];
        let mut rows: [&[B]; R] = [&[]; R];
        for (row, run) in rows.iter_mut().zip(runs) {
            let at = if r < run.len() { run.start + r } else { runs[0].start + r };
            *row = B::cast(self.w.rows_bytes(at..at + 1));
        }
        rows
    }

    /// Stores what has come of them.
    #[inline(always)]
    fn put<const R: usize, const M: usize>(&mut self, first: usize, r: usize, dots: &[[f32; M]; R]) {
        for (run, dots) in (first..).zip(dots) {
            if r < self.runs.0[run].len() {
                for (token, dot) in (self.token..).zip(dots) {
                    self.out[run * self.tokens + token][r] = *dot;
                }
            }
        }
    }
}

/// Rows of a matrix times `M` tokens in integers.
pub(crate) struct Integer<'a, B: IntegerBlock, const M: usize> {
    pub job: Job<'a>,
    pub x: [&'a [Span]; M],
    pub block: PhantomData<B>,
}

/// Rows that are multiplied side by side, as their sums have room in registers. (Several tokens' minimums need more of them. For
/// one token's, whose scales come out of one register at once, four are 1.00 to 1.07 times as fast as two, Q4_K.)
const fn side_by_side<S: Simd, L: Lanes>(tokens: usize) -> usize {
    match tokens {
        1 if S::SPANS => 4,
        2 if S::SPANS && !L::Less::MINS => 4,
        _ if S::SPANS || tokens == 1 => 2,
        _ => 1,
    }
}

impl<B: IntegerBlock, const M: usize> Kernel for Integer<'_, B, M> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        match const { side_by_side::<S, B::Lanes>(M) } {
            4 => self.rows::<S, 4>(s),
            2 => self.rows::<S, 2>(s),
            _ => self.rows::<S, 1>(s),
        }
    }
}

impl<B: IntegerBlock, const M: usize> Integer<'_, B, M> {
    /// `R` rows at a time.
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(self, s: S) {
        let Integer { mut job, x, .. } = self;
        let spans = job.w.cols().div_ceil(SPAN);
        // Where loads are what counts.
        let block = if S::SPANS && M > 1 { BLOCK / (M * READ) } else { usize::MAX };
        let mut parts = (spans > block).then(|| [[Sums::<S, B::Lanes, M>::none(s); R]; LANES]);
        // Of blocks, as much further on as one that many rows further down.
        let ahead = match parts {
            Some(_) => AHEAD.div_ceil(block * SPAN / B::LEN * size_of::<B>()) * job.w.row_stride(),
            None => AHEAD,
        };
        for first in (0..RUNS).step_by(R) {
            for start in (0..spans).step_by(block) {
                let end = spans.min(start.saturating_add(block));
                for r in 0..job.runs.0[first].len() {
                    let mut sums = match &parts {
                        Some(parts) if start > 0 => parts[r],
                        _ => [Sums::none(s); R],
                    };
                    integer_rows::<S, B, M, R>(s, &mut sums, job.rows(first, r), x, start..end, ahead);
                    match &mut parts {
                        Some(parts) if end < spans => parts[r] = sums,
                        _ => {
                            let mut dots = [[0.0; M]; R];
                            for (dots, sums) in dots.iter_mut().zip(&sums) {
                                *dots = sums.finished(s);
                            }
                            job.put(first, r, &dots);
                        }
                    }
                }
            }
        }
    }
}

/// What a row's products are added up in.
struct Sums<S: Simd, L: Lanes, const M: usize> {
    dots: [S::F; M],
    mins: [Scale<S, L>; M],
}

impl<S: Simd, L: Lanes, const M: usize> Clone for Sums<S, L, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Simd, L: Lanes, const M: usize> Copy for Sums<S, L, M> {}

impl<S: Simd, L: Lanes, const M: usize> Sums<S, L, M> {
    /// Of nothing yet.
    #[inline(always)]
    fn none(s: S) -> Self {
        Sums { dots: [s.splat(0.0); M], mins: [L::Grouping::splat(s, 0.0); M] }
    }

    /// What they come to, for each token.
    #[inline(always)]
    fn finished(&self, s: S) -> [f32; M] {
        let mut out = [0.0; M];
        for ((out, &dots), &mins) in out.iter_mut().zip(&self.dots).zip(&self.mins) {
            *out = if L::subtracts::<S>() {
                // A power of two: whether each scale or their sum is multiplied makes no difference.
                let mins = L::Grouping::widen(s, mins);
                let zero = if L::Less::MINS { None } else { L::zero::<S>() }
                    .map_or(1.0, |zero| (1u32 << zero) as f32);
                s.sum(s.sub(dots, s.mul(mins, s.splat(zero))))
            } else {
                s.sum(dots)
            };
        }
        out
    }
}

/// Adds some spans of rows to `sums`. What lies `ahead` bytes further on than each is asked for.
#[inline(always)]
fn integer_rows<S: Simd, B: IntegerBlock, const M: usize, const R: usize>(
    s: S,
    sums: &mut [Sums<S, B::Lanes, M>; R],
    rows: [&[B]; R],
    x: [&[Span]; M],
    spans: Range<usize>,
    ahead: usize,
) {
    // Where registers are few, and products the limit, a loop of its own is 1.01 to 1.14 times as fast.
    if R == 1 {
        sums[0] = integer_row::<S, B, M>(s, sums[0], rows[0], x, spans, ahead);
        return;
    }
    let n = SPAN / B::LEN;
    let (whole, tail) = ((rows[0].len() / n).min(spans.end), rows[0].len() % n);
    for at in spans.start..whole {
        if let (true, [first, second]) = (S::SPANS, &mut sums[..]) {
            let spans = [&rows[0][at * n..(at + 1) * n], &rows[1][at * n..(at + 1) * n]];
            ask(s, spans[0], ahead);
            ask(s, spans[1], ahead);
            two_spans::<S, B, M>(s, [first, second], spans, x, at);
            continue;
        }
        for (row, sums) in rows.iter().zip(&mut *sums) {
            let span = &row[at * n..(at + 1) * n];
            ask(s, span, ahead);
            integer_span::<S, B, M>(s, sums, span, x, at);
        }
    }
    if tail > 0 && whole < spans.end {
        // The rest of the last span is blocks of zeros, against activations that are zero.
        for (row, sums) in rows.iter().zip(sums) {
            let mut padded = [B::zeroed(); MOST_BLOCKS];
            padded[..tail].copy_from_slice(&row[whole * n..]);
            integer_span::<S, B, M>(s, sums, &padded[..n], x, whole);
        }
    }
}

/// Adds a span of two rows to their sums, where it is multiplied at once: each token's is loaded once for both. (Four tokens,
/// beside one row after the other, an Emerald Rapids, in turns: Q4_0 1.06 to 1.09, Q8_0 1.03 to 1.05, Q4_K 1.12 to 1.16, Q6_K
/// 1.07 to 1.17. Two tokens, four rows as two pairs: Q8_0 1.03 to 1.10, Q4_0 and Q4_K 1.0, Q6_K 0.9; one token 0.96 to 1.01.
/// Products of both rows by turns: no difference.)
#[inline(always)]
fn two_spans<S: Simd, B: IntegerBlock, const M: usize>(
    s: S,
    sums: [&mut Sums<S, B::Lanes, M>; 2],
    spans: [&[B]; 2],
    x: [&[Span]; M],
    at: usize,
) {
    let [first, second] = sums;
    let w = [B::scales(s, spans[0]), B::scales(s, spans[1])];
    if Less::<B>::MINS {
        for ((x, first), second) in x.iter().zip(&mut first.mins).zip(&mut second.mins) {
            let totals = Of::<B>::load(s, &x[at].totals);
            *first = Of::<B>::fma(s, w[0].min, totals, *first);
            *second = Of::<B>::fma(s, w[1].min, totals, *second);
        }
    }
    let q = [B::arranged(s, spans[0]), B::arranged(s, spans[1])];
    let scales = [Of::<B>::lanes(s, w[0].scale), Of::<B>::lanes(s, w[1].scale)];
    for ((x, first), second) in x.iter().zip(&mut first.dots).zip(&mut second.dots) {
        *first = whole_span::<S, B>(s, q[0], scales[0], &x[at], *first);
        *second = whole_span::<S, B>(s, q[1], scales[1], &x[at], *second);
    }
}

/// `acc` plus the scaled products of a span.
#[inline(always)]
fn whole_span<S: Simd, B: IntegerBlock>(s: S, q: [S::I; 4], scale: S::F, x: &Span, acc: S::F) -> S::F {
    let start = match B::Lanes::start::<S>() {
        Some(i) => s.load_i32(&x.starts[i]),
        None => s.splat_i32(0),
    };
    let [a, b, c, d] = &x.bytes;
    let x_bytes = [s.load_bytes(a), s.load_bytes(b), s.load_bytes(c), s.load_bytes(d)];
    let products = s.to_f32(s.dot_span::<B::Lanes>(start, q, x_bytes));
    s.fma(products, s.mul(scale, s.load(&x.scales)), acc)
}

/// The same for one row.
#[inline(always)]
fn integer_row<S: Simd, B: IntegerBlock, const M: usize>(
    s: S,
    mut sums: Sums<S, B::Lanes, M>,
    row: &[B],
    x: [&[Span]; M],
    spans: Range<usize>,
    ahead: usize,
) -> Sums<S, B::Lanes, M> {
    let n = SPAN / B::LEN;
    let row = &row[spans.start * n..row.len().min(spans.end * n)];
    let (whole, tail) = (row.len() / n, row.len() % n);
    let mut padded = [B::zeroed(); MOST_BLOCKS];
    padded[..tail].copy_from_slice(&row[whole * n..]);
    let (mut some, mut at) = (row.chunks_exact(n), spans.start);
    // Twice at most: so the work on a span is compiled once.
    loop {
        for span in some {
            ask(s, span, ahead);
            integer_span::<S, B, M>(s, &mut sums, span, x, at);
            at += 1;
        }
        if tail == 0 || at > spans.start + whole {
            return sums;
        }
        some = padded[..n].chunks_exact(n);
    }
}

/// Asks for what lies `ahead` bytes further on than a span.
#[inline(always)]
fn ask<S: Simd, B>(s: S, span: &[B], ahead: usize) {
    for line in (0..size_of_val(span)).step_by(64) {
        s.prefetch(span.as_ptr().cast::<u8>().wrapping_add(ahead + line));
    }
}

#[inline(always)]
fn integer_span<S: Simd, B: IntegerBlock, const M: usize>(
    s: S,
    sums: &mut Sums<S, B::Lanes, M>,
    span: &[B],
    x: [&[Span]; M],
    at: usize,
) {
    let w = B::scales(s, span);
    if B::Lanes::subtracts::<S>() {
        let min = if Less::<B>::MINS { w.min } else { w.scale };
        for (x, sum) in x.iter().zip(&mut sums.mins) {
            *sum = Of::<B>::fma(s, min, Of::<B>::load(s, &x[at].totals), *sum);
        }
    }
    if S::SPANS {
        let (q, scale) = (B::arranged(s, span), Of::<B>::lanes(s, w.scale));
        for (dots, x) in sums.dots.iter_mut().zip(x) {
            *dots = whole_span::<S, B>(s, q, scale, &x[at], *dots);
        }
        return;
    }
    let mut scales = [w.scale; M];
    for (scale, x) in scales.iter_mut().zip(&x) {
        *scale = Of::<B>::mul(s, w.scale, Of::<B>::load(s, &x[at].scales));
    }
    // Not a loop: for some formats and numbers of tokens it would stay one, with its registers in memory.
    half_span::<S, B, M>(s, &mut sums.dots, &scales, span, x, at, 0);
    half_span::<S, B, M>(s, &mut sums.dots, &scales, span, x, at, 1);
}

/// [`Simd::dot_span`] in terms of products of a register.
#[inline(always)]
pub(crate) fn dot_span<S: Simd, L: Lanes>(s: S, acc: S::I, w: [S::I; 4], x: [S::I; 4]) -> S::I {
    let dot = if L::BITS < 8 { S::dot_unsigned } else { S::dot_signed };
    let acc = dot(s, dot(s, acc, w[0], x[0]), w[1], x[1]);
    dot(s, dot(s, acc, w[2], x[2]), w[3], x[3])
}

/// Multiplies 128 weights, the `pair`th of the `at`th span, with all tokens.
#[inline(always)]
fn half_span<S: Simd, B: IntegerBlock, const M: usize>(
    s: S,
    dots: &mut [S::F; M],
    scales: &[Scale<S, B::Lanes>; M],
    span: &[B],
    x: [&[Span]; M],
    at: usize,
    pair: usize,
) {
    let q = B::unpack(s, span, pair);
    for ((dots, &scale), x) in dots.iter_mut().zip(scales).zip(x) {
        let bytes = &x[at].bytes;
        let x = [s.load_bytes(&bytes[2 * pair]), s.load_bytes(&bytes[2 * pair + 1])];
        *dots = Of::<B>::accumulate::<S, B::Lanes>(s, pair, q, x, scale, *dots);
    }
}

/// Rows of a matrix times one token in floats.
pub(crate) struct Float<'a, B> {
    pub job: Job<'a>,
    pub x: &'a [f32],
    pub block: PhantomData<B>,
}

impl<B: FloatBlock> Kernel for Float<'_, B> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Float { mut job, x, .. } = self;
        assert_eq!(job.w.cols(), x.len(), "columns of the matrix, features of the activations");
        for r in 0..job.runs.0[0].len() {
            let dots = float_rows::<S, B>(s, job.rows(0, r), x);
            job.put(0, r, &dots);
        }
    }
}

/// Registers of weights of one row that are multiplied before the next row's are.
const STEP: usize = 4;

/// One sum a row: those of all rows hide the latency of the multiply-add. (Two each: 0.97.)
#[inline(always)]
fn float_rows<S: Simd, B: FloatBlock>(s: S, rows: [&[B]; RUNS], x: &[f32]) -> [[f32; 1]; RUNS] {
    let mut sums = [s.splat(0.0); RUNS];
    let (lines, x_tail) = x.as_chunks::<LANES>();
    let (steps, x_rest) = lines.as_chunks::<STEP>();
    for (at, x) in steps.iter().enumerate() {
        for (row, sum) in rows.iter().zip(&mut sums) {
            let (w, _) = row[at * STEP * LANES..(at + 1) * STEP * LANES].as_chunks::<LANES>();
            for (w, x) in w.iter().zip(x) {
                // Twice a line where weights have two bytes. Once, where memory was fast, it came to 0.86 of the speed.
                s.prefetch(w.as_ptr().cast::<u8>().wrapping_add(AHEAD));
                *sum = s.fma(B::widen(s, w), s.load(x), *sum);
            }
        }
    }
    let mut dots = [[0.0]; RUNS];
    for ((row, sum), dot) in rows.iter().zip(&mut sums).zip(&mut dots) {
        let (w, w_tail) = row[steps.len() * STEP * LANES..].as_chunks::<LANES>();
        for (w, x) in w.iter().zip(x_rest) {
            *sum = s.fma(B::widen(s, w), s.load(x), *sum);
        }
        if !w_tail.is_empty() {
            let (mut w, mut x) = ([B::zeroed(); LANES], [0.0; LANES]);
            w[..w_tail.len()].copy_from_slice(w_tail);
            x[..x_tail.len()].copy_from_slice(x_tail);
            *sum = s.fma(B::widen(s, &w), s.load(&x), *sum);
        }
        dot[0] = s.sum(*sum);
    }
    dots
}
