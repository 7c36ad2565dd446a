//! Products with few tokens: each row is read once, where it lies, and multiplied with all of them.
//!
//! A row is a sequence of units of whole stripes. For every stripe the integers are unpacked once;
//! each token's dot product is made in 32-bit integers, with the zero point already subtracted
//! (the accumulator starts at `-zero * sum(x)`), and added to sixteen float lanes with the product of
//! both scales: one multiply-add for 64 weights. Minimums cost one multiply-add on four lanes.
//!
//! Memory is the limit: the kernel asks for the line [`AHEAD`] bytes further on with every stripe.
//! Without it the hardware's prefetchers leave 40 % of the bandwidth unused.

use crate::acts::Row;
use crate::format::{FloatBlock, IntegerBlock, Lanes};
use crate::matrix::Matrix;
use crate::simd::{Kernel, LANES, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// How far ahead of its use a line is requested, in bytes. 3 to 8 KiB are equally good.
const AHEAD: usize = 4096;

/// Rows `rows` (at most 16) of `w` times `M` tokens in integers: `out[t][r]`.
pub(crate) struct Integer<'a, B, const M: usize> {
    pub w: Matrix<'a>,
    pub rows: Range<usize>,
    pub x: [Row<'a>; M],
    pub out: &'a mut [[f32; LANES]; M],
    pub block: PhantomData<B>,
}

impl<B: IntegerBlock, const M: usize> Kernel for Integer<'_, B, M> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Integer { w, rows, x, out, .. } = self;
        for (r, row) in rows.enumerate() {
            let row = B::cast(w.rows_bytes(row..row + 1));
            let dots = integer_row::<S, B, M>(s, row, x);
            for t in 0..M {
                out[t][r] = dots[t];
            }
        }
    }
}

/// What a row's products are added up in.
struct Sums<S: Simd, const M: usize> {
    dots: [S::F; M],
    mins: [S::Q; M],
}

#[inline(always)]
fn integer_row<S: Simd, B: IntegerBlock, const M: usize>(s: S, row: &[B], x: [Row<'_>; M]) -> [f32; M] {
    let stripes = B::UNIT * B::LEN / crate::simd::STRIPE;
    let mut sums = Sums::<S, M> { dots: [s.splat(0.0); M], mins: [s.load_quad(&[0.0; 4]); M] };
    let units = row.chunks_exact(B::UNIT);
    let tail = units.remainder();
    let whole = units.len() * stripes;
    let x =
        x.map(|x| Row { bytes: x.bytes, sums: &x.sums[..x.bytes.len()], quads: &x.quads[..x.bytes.len()] });
    for (u, unit) in units.enumerate() {
        for i in 0..stripes {
            let bytes = size_of_val(unit) / stripes;
            for line in (0..bytes).step_by(64) {
                s.prefetch(unit.as_ptr().cast::<u8>().wrapping_add(AHEAD + i * bytes + line));
            }
            integer_stripe::<S, B, M>(s, &mut sums, unit, i, x, u * stripes + i);
        }
    }
    if !tail.is_empty() {
        // Half a stripe: the other half is blocks of zeros, against activations that are zero.
        let mut unit = [B::zeroed(); 2];
        unit[0] = tail[0];
        integer_stripe::<S, B, M>(s, &mut sums, &unit, 0, x, whole);
    }
    let mut out = [0.0; M];
    for ((out, dots), mins) in out.iter_mut().zip(sums.dots).zip(sums.mins) {
        *out = s.sum(dots);
        if <B::Lanes as Lanes>::MINS {
            *out -= s.sum_quad(mins);
        }
    }
    out
}

#[inline(always)]
fn integer_stripe<S: Simd, B: IntegerBlock, const M: usize>(
    s: S,
    sums: &mut Sums<S, M>,
    unit: &[B],
    stripe: usize,
    x: [Row<'_>; M],
    at: usize,
) {
    let w = B::unpack(s, unit, stripe);
    for (t, x) in x.iter().enumerate() {
        let bytes = s.load_bytes(&x.bytes[at]);
        let start = match B::zero::<S>() {
            Some(zero) => s.shl_i32(s.load_i32(&x.sums[at]), zero),
            None => s.splat_i32(0),
        };
        let dot = if <B::Lanes as Lanes>::BITS < 8 {
            s.dot_unsigned(start, w.q, bytes)
        } else {
            s.dot_signed(start, w.q, bytes)
        };
        let [scale, sum] = &x.quads[at];
        let scale = s.spread(s.mul_quad(w.scale, s.load_quad(scale)));
        sums.dots[t] = s.fma(s.to_f32(dot), scale, sums.dots[t]);
        if <B::Lanes as Lanes>::MINS {
            sums.mins[t] = s.fma_quad(w.min, s.load_quad(sum), sums.mins[t]);
        }
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
