//! Products with few tokens: each row is read once, where it lies, and multiplied with all of them.
//!
//! A row is a sequence of spans of 256 weights. The scales of a span, sixteen at most, are decoded into one
//! register and multiplied by the activations' there. The integers are unpacked 128 at a time, or all at once; each token's dot
//! products are made in 32-bit integers and added to sixteen float lanes, times their scales, as the format's
//! [`Grouping`] has it. What is to be subtracted, a minimum or the zero point's share, costs one multiply-add a
//! span, with the activations' totals. (Starting each dot product at `-zero * sum(x)` instead, in integers, cost
//! two instructions more for each 32 weights on AVX2, an eighth of the time.)
//!
//! Where a span is multiplied at once, several tokens are bound by what they load, an activation for each weight: so their
//! activations are read a [block](BLOCK) at a time, which stays in the first-level cache while sixteen rows pass. (One Zen 4
//! core, four tokens, rows of 11008: 1.18 to 1.22 times as fast. Two rows at a time in place of that: 1.20 to 1.22 there, but
//! 0.91 to 0.97 with rows of 4096, for want of registers. On AVX2, which is bound by its multiplications, 0.92 to 0.97.)
//!
//! Memory is the limit: the kernel asks for what lies [`AHEAD`] bytes further on with every span.
//! Without it the hardware's prefetchers leave 40 % of the bandwidth unused.

use crate::format::{FloatBlock, Grouping, IntegerBlock, Lanes, MOST_BLOCKS, Of, Scale};
use crate::matrix::Matrix;
use crate::simd::{Kernel, LANES, SPAN, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// How far ahead of its use a line is requested, in bytes. Between 1.5 and 5 KiB requests get in the way of those that
/// Zen 4's own prefetchers make: a BF16 model generated 22 tokens/s with none, 17 at 2 KiB, 21 at 4, 24 from 6 to 20.
const AHEAD: usize = 8192;

/// Bytes of activations that are multiplied by all rows before the next ones are: they stay in the first-level cache.
const BLOCK: usize = 28 << 10;

/// Asks for the first lines of a run, which nothing before it has asked for.
pub(crate) fn begin<S: Simd>(s: S, run: &[u8]) {
    for line in run[..run.len().min(AHEAD)].chunks(64) {
        s.prefetch(line.as_ptr());
    }
}

type Spans<B> = <Of<B> as Grouping>::Span;

/// Rows `rows` (at most 16) of `w` times `M` tokens in integers: `out[t][r]`.
pub(crate) struct Integer<'a, B: IntegerBlock, const M: usize> {
    pub w: Matrix<'a>,
    pub rows: Range<usize>,
    pub x: [&'a [Spans<B>]; M],
    pub out: &'a mut [[f32; LANES]; M],
    pub block: PhantomData<B>,
}

impl<B: IntegerBlock, const M: usize> Kernel for Integer<'_, B, M> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Integer { w, rows, x, out, .. } = self;
        let spans = w.cols().div_ceil(SPAN);
        // Where loads are what counts.
        let block = if S::SPANS && M > 1 { (BLOCK / (M * size_of::<Spans<B>>())).max(1) } else { usize::MAX };
        let mut parts = (spans > block).then(|| [Sums::<S, B::Lanes, M>::none(s); LANES]);
        // Of blocks, as much further on as one that many rows further down.
        let ahead = match parts {
            Some(_) => AHEAD.div_ceil(block * SPAN / B::LEN * size_of::<B>()) * w.row_stride(),
            None => AHEAD,
        };
        for start in (0..spans).step_by(block) {
            let end = spans.min(start.saturating_add(block));
            for (r, row) in rows.clone().enumerate() {
                let sums = match &parts {
                    Some(parts) if start > 0 => parts[r],
                    _ => Sums::none(s),
                };
                let row = B::cast(w.rows_bytes(row..row + 1));
                let sums = integer_row::<S, B, M>(s, sums, row, x, start..end, ahead);
                match &mut parts {
                    Some(parts) if end < spans => parts[r] = sums,
                    _ => {
                        let dots = sums.finished(s);
                        for t in 0..M {
                            out[t][r] = dots[t];
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
    fn finished(self, s: S) -> [f32; M] {
        let mut out = [0.0; M];
        for ((out, dots), mins) in out.iter_mut().zip(self.dots).zip(self.mins) {
            *out = if L::subtracts::<S>() {
                // A power of two: whether each scale or their sum is multiplied makes no difference.
                let mins = L::Grouping::widen(s, mins);
                let zero = L::zero::<S>().map_or(1.0, |zero| (1u32 << zero) as f32);
                s.sum(s.sub(dots, s.mul(mins, s.splat(zero))))
            } else {
                s.sum(dots)
            };
        }
        out
    }
}

/// `sums` and those of some spans of a row. What lies `ahead` bytes further on than each is asked for.
#[inline(always)]
fn integer_row<S: Simd, B: IntegerBlock, const M: usize>(
    s: S,
    mut sums: Sums<S, B::Lanes, M>,
    row: &[B],
    x: [&[Spans<B>]; M],
    spans: Range<usize>,
    ahead: usize,
) -> Sums<S, B::Lanes, M> {
    let n = SPAN / B::LEN;
    let row = &row[spans.start * n..row.len().min(spans.end * n)];
    let (whole, tail) = (row.len() / n, row.len() % n);
    // The rest of the last span is blocks of zeros, against activations that are zero.
    let mut padded = [B::zeroed(); MOST_BLOCKS];
    padded[..tail].copy_from_slice(&row[whole * n..]);
    let (mut some, mut at) = (row.chunks_exact(n), spans.start);
    // Twice at most: so the work on a span is compiled once.
    loop {
        for span in some {
            for line in (0..size_of_val(span)).step_by(64) {
                s.prefetch(span.as_ptr().cast::<u8>().wrapping_add(ahead + line));
            }
            integer_span::<S, B, M>(s, &mut sums, span, x, at);
            at += 1;
        }
        if tail == 0 || at > spans.start + whole {
            break;
        }
        some = padded[..n].chunks_exact(n);
    }
    sums
}

#[inline(always)]
fn integer_span<S: Simd, B: IntegerBlock, const M: usize>(
    s: S,
    sums: &mut Sums<S, B::Lanes, M>,
    span: &[B],
    x: [&[Spans<B>]; M],
    at: usize,
) {
    let w = B::scales(s, span);
    let ordered = Of::<B>::order(s, w.scale);
    if B::Lanes::subtracts::<S>() {
        let min = if B::Lanes::zero::<S>().is_some() { w.scale } else { w.min };
        for (x, sum) in x.iter().zip(&mut sums.mins) {
            *sum = Of::<B>::fma(s, min, Of::<B>::totals(s, &x[at]), *sum);
        }
    }
    if S::SPANS {
        let q = B::arranged(s, span);
        for (dots, x) in sums.dots.iter_mut().zip(x) {
            let scale = Of::<B>::mul(s, ordered, Of::<B>::scales(s, &x[at]));
            let [a, b, c, d] = Of::<B>::bytes(&x[at]);
            let x = [s.load_bytes(a), s.load_bytes(b), s.load_bytes(c), s.load_bytes(d)];
            *dots = Of::<B>::accumulate_span::<S, B::Lanes>(s, q, x, scale, *dots);
        }
        return;
    }
    let mut scales = [ordered; M];
    for (scale, x) in scales.iter_mut().zip(&x) {
        *scale = Of::<B>::mul(s, ordered, Of::<B>::scales(s, &x[at]));
    }
    // Not a loop: for some formats and numbers of tokens it would stay one, with its registers in memory.
    half_span::<S, B, M>(s, &mut sums.dots, &scales, span, x, at, 0);
    half_span::<S, B, M>(s, &mut sums.dots, &scales, span, x, at, 1);
}

/// [`Simd::dot_span`] in terms of products of a register.
#[inline(always)]
pub(crate) fn dot_span<S: Simd, L: Lanes>(s: S, w: [S::I; 4], x: [S::I; 4]) -> S::I {
    let dot = if L::BITS < 8 { S::dot_unsigned } else { S::dot_signed };
    let acc = dot(s, dot(s, s.splat_i32(0), w[0], x[0]), w[1], x[1]);
    dot(s, dot(s, acc, w[2], x[2]), w[3], x[3])
}

/// Multiplies 128 weights, the `pair`th of the `at`th span, with all tokens.
#[inline(always)]
fn half_span<S: Simd, B: IntegerBlock, const M: usize>(
    s: S,
    dots: &mut [S::F; M],
    scales: &[Scale<S, B::Lanes>; M],
    span: &[B],
    x: [&[Spans<B>]; M],
    at: usize,
    pair: usize,
) {
    let q = B::unpack(s, span, pair);
    for ((dots, &scale), x) in dots.iter_mut().zip(scales).zip(x) {
        let bytes = Of::<B>::bytes(&x[at]);
        let x = [s.load_bytes(&bytes[2 * pair]), s.load_bytes(&bytes[2 * pair + 1])];
        *dots = Of::<B>::accumulate::<S, B::Lanes>(s, pair, q, x, scale, *dots);
    }
}

/// Rows `rows` (at most 16) of `w` times one token in floats: `out[r]`.
pub(crate) struct Float<'a, B> {
    pub w: Matrix<'a>,
    pub rows: Range<usize>,
    pub x: &'a [f32],
    pub out: &'a mut [f32; LANES],
    pub block: PhantomData<B>,
}

impl<B: FloatBlock> Kernel for Float<'_, B> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Float { w, rows, x, out, .. } = self;
        assert_eq!(w.cols(), x.len(), "columns of the matrix, features of the activations");
        for (r, row) in rows.enumerate() {
            out[r] = float_row::<S, B>(s, B::cast(w.rows_bytes(row..row + 1)), x);
        }
    }
}

/// Four sums side by side hide the latency of the multiply-add.
const CHAINS: usize = 4;

#[inline(always)]
fn float_row<S: Simd, B: FloatBlock>(s: S, row: &[B], x: &[f32]) -> f32 {
    let mut acc = [s.splat(0.0); CHAINS];
    let (w, w_tail) = row.as_chunks::<LANES>();
    let (x, x_tail) = x.as_chunks::<LANES>();
    let (w4, w) = w.as_chunks::<CHAINS>();
    let (x4, x) = x.as_chunks::<CHAINS>();
    for (w, x) in w4.iter().zip(x4) {
        for i in 0..CHAINS {
            // Twice a line where weights have two bytes. Once, where memory was fast, it came to 0.86 of the speed.
            s.prefetch(w[i].as_ptr().cast::<u8>().wrapping_add(AHEAD));
            acc[i] = s.fma(B::widen(s, &w[i]), s.load(&x[i]), acc[i]);
        }
    }
    for (w, x) in w.iter().zip(x) {
        acc[0] = s.fma(B::widen(s, w), s.load(x), acc[0]);
    }
    if !w_tail.is_empty() {
        let (mut w, mut x) = ([B::zeroed(); LANES], [0.0; LANES]);
        w[..w_tail.len()].copy_from_slice(w_tail);
        x[..x_tail.len()].copy_from_slice(x_tail);
        acc[1] = s.fma(B::widen(s, &w), s.load(&x), acc[1]);
    }
    s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}
