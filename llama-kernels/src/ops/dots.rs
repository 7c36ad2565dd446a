//! Products of floats with several tokens: rows of weights times rows of activations, both read where they lie.
//!
//! ```text
//! for each block of columns:                      (4 KiB of each token)
//!   for each tile of at most T tokens:            (in the first-level cache for all the rows)
//!     for each R rows:                            (from memory for the first tile, then from the second-level cache)
//!       for each register of columns:
//!         load R registers of weights, widened; T of activations
//!         R x T multiply-adds                     (R x T sums stay in registers)
//!       sum up each register, add it to C
//! ```
//!
//! Nothing is packed or transposed: a register of weights serves T tokens, one of activations R rows, and what the sums
//! of a tile's registers cost is spread over all the columns of a block.
//!
//! The engine before this one broadcast activations against unpacked panels of sixteen rows. In turns on one Zen 4
//! core, multiplications a nanosecond for 16, 64 and 512 tokens: F16 20, 37, 46 -> 48, 50, 50 (AVX-512) and 17, 34, 45 ->
//! 38, 45, 39 (AVX2); bfloat16 by dot products 34, 70, 103 -> 80, 95, 90; 256 F16 weights times 2, 4 and 8 tokens 25,
//! 50 and 100 ns -> 13, 20 and 39. 512 tokens lost on AVX2, a tenth (F32 a quarter: 44 -> 33):
//! many tokens go through panels there ([`super::floats`]), and its tiles are assembly (`simd/avx2/dots.rs`: 16 tokens of
//! F16 1.15 times as fast on a Zen 3 core as tiles of two rows that the compiler made).
//!
//! Tried, with no gain: asking for the next tile's activations while this one is multiplied; 128 rows for 64; on AVX2
//! tiles of 1 x 6, 2 x 2, 4 x 2, and for 512 tokens weights copied side by side (0.9 of the panels' speed, 0.97 with the
//! next tile's activations asked for). Sums that any loop runs over (a rest of columns handled within a tile) are kept in
//! memory by the compiler at a third of the speed: so a tile has whole registers only.
//!
//! Tokens are dealt out to tiles evenly. The order in which a product is added up depends on
//! neither the tile nor the number of tokens (on AVX2: of those that do not go through panels).

use crate::acts::deal;
use crate::format::FloatBlock;
use crate::simd::{Kernel, LANES, STRIPE, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// Bytes of a token's activations in a block of columns.
const BLOCK: usize = 4096;

/// Columns of a register at most.
const LINE: usize = 32;

/// A pair of element types, and how a tile of them is multiplied.
pub(crate) trait Dots {
    /// A weight as it lies in its row.
    type W: Copy;
    /// An activation.
    type X: Copy;
    /// Columns of a register.
    const WIDTH: usize;
    /// What rests of registers are filled up with.
    fn zero() -> (Self::W, Self::X);

    /// `[token][row]`: each row times each token. All slices are of the same length, whole registers.
    ///
    /// With every line, the one `ahead` bytes further on is asked for.
    fn tile<S: Simd, const R: usize, const T: usize>(
        s: S,
        w: [&[Self::W]; R],
        x: [&[Self::X]; T],
        ahead: usize,
    ) -> [[f32; R]; T];
}

/// Floats of any format times activations as they are.
pub(crate) struct Floats<B>(PhantomData<B>);

impl<B: FloatBlock> Dots for Floats<B> {
    type W = B;
    type X = f32;
    const WIDTH: usize = LANES;

    fn zero() -> (B, f32) {
        (B::zeroed(), 0.0)
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const T: usize>(
        s: S,
        w: [&[B]; R],
        x: [&[f32]; T],
        ahead: usize,
    ) -> [[f32; R]; T] {
        s.dot_floats(w, x, ahead)
    }
}

/// Bfloat16 numbers times bfloat16 numbers, adjacent columns in pairs.
#[allow(dead_code, reason = "not every architecture multiplies them so")]
pub(crate) struct Pairs;

impl Dots for Pairs {
    type W = [u8; 2];
    type X = [u8; 2];
    const WIDTH: usize = STRIPE / 2;

    fn zero() -> ([u8; 2], [u8; 2]) {
        ([0; 2], [0; 2])
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const T: usize>(
        s: S,
        w: [&[[u8; 2]]; R],
        x: [&[[u8; 2]]; T],
        ahead: usize,
    ) -> [[f32; R]; T] {
        let mut acc = [[s.splat(0.0); R]; T];
        for start in (0..x[0].len() / Self::WIDTH * Self::WIDTH).step_by(Self::WIDTH) {
            let mut rows = [s.splat_i32(0); R];
            for (v, w) in rows.iter_mut().zip(&w) {
                let w = w[start..start + Self::WIDTH].as_flattened();
                s.prefetch(w.as_ptr().wrapping_add(ahead));
                *v = s.load_bytes(w.try_into().expect("a register"));
            }
            for (acc, x) in acc.iter_mut().zip(&x) {
                let x = x[start..start + Self::WIDTH].as_flattened();
                let x = s.load_bytes(x.try_into().expect("a register"));
                for (acc, &w) in acc.iter_mut().zip(&rows) {
                    *acc = s.dot_bf16(*acc, w, x);
                }
            }
        }
        let mut out = [[0.0; R]; T];
        for (out, acc) in out.iter_mut().zip(acc) {
            *out = s.sums(acc);
        }
        out
    }
}

/// [`Simd::dot_floats`] in its terms.
#[inline(always)]
pub(crate) fn floats<S: Simd, B: FloatBlock, const R: usize, const T: usize>(
    s: S,
    w: [&[B]; R],
    x: [&[f32]; T],
    ahead: usize,
) -> [[f32; R]; T] {
    let mut acc = [[s.splat(0.0); R]; T];
    for start in (0..x[0].len() / LANES * LANES).step_by(LANES) {
        let mut rows = [s.splat(0.0); R];
        for (v, w) in rows.iter_mut().zip(&w) {
            let w: &[B; LANES] = w[start..start + LANES].try_into().expect("a register");
            s.prefetch(w.as_ptr().cast::<u8>().wrapping_add(ahead));
            *v = B::widen(s, w);
        }
        for (acc, x) in acc.iter_mut().zip(&x) {
            let x = s.load(x[start..start + LANES].try_into().expect("a register"));
            for (acc, &w) in acc.iter_mut().zip(&rows) {
                *acc = s.fma(w, x, *acc);
            }
        }
    }
    let mut out = [[0.0; R]; T];
    for (out, acc) in out.iter_mut().zip(acc) {
        *out = s.sums(acc);
    }
    out
}

/// [`Simd::dot_bf16`] in its terms.
#[inline(always)]
pub(crate) fn pairs_by_floats<S: Simd>(s: S, acc: S::F, a: S::I, b: S::I) -> S::F {
    let high = s.splat_i32(0xffff_0000_u32.cast_signed());
    let acc = s.fma(s.bit_cast(s.shl_i32(a, 16)), s.bit_cast(s.shl_i32(b, 16)), acc);
    s.fma(s.bit_cast(s.and(a, high)), s.bit_cast(s.and(b, high)), acc)
}

/// What is multiplied.
pub(crate) struct Operands<'a, W, X> {
    /// Rows of weights, side by side.
    pub w: &'a [W],
    /// Columns of a row.
    pub cols: usize,
    /// Rows of activations, `stride` from one to the next.
    pub x: &'a [X],
    pub stride: usize,
    /// How many of them.
    pub tokens: usize,
}

/// All rows times all tokens, in tiles of up to `R x T`: `out[16 rows][token][row]`, of which each sixteen rows have
/// `padded` lines, and what lies beyond the tokens stays as it is.
#[inline(always)]
pub(crate) fn product<S: Simd, D: Dots, const R: usize, const T: usize>(
    s: S,
    operands: &Operands<'_, D::W, D::X>,
    out: &mut [[f32; LANES]],
    padded: usize,
) {
    let &Operands { w, cols, tokens, .. } = operands;
    const { assert!(LANES.is_multiple_of(R) && T <= 6, "rows of one line, tiles of at most six tokens") };
    let Some(rows) = w.len().checked_div(cols) else { return };
    assert!(tokens <= padded && rows.div_ceil(LANES) * padded <= out.len(), "room for {rows} x {tokens}");
    let block = BLOCK / size_of::<D::X>();
    for start in (0..cols).step_by(block) {
        let n = block.min(cols - start);
        for Range { start: first, end } in deal(tokens, T) {
            let ahead = if first == 0 { R * cols * size_of::<D::W>() } else { 0 };
            let tile = Tile::<D> { operands, start, n, first, ahead, out, padded };
            match end - first {
                6 => s.run(Rows::<D, R, 6>(tile)),
                5 => s.run(Rows::<D, R, 5>(tile)),
                4 => s.run(Rows::<D, R, 4>(tile)),
                3 => s.run(Rows::<D, R, 3>(tile)),
                2 => s.run(Rows::<D, R, 2>(tile)),
                _ => s.run(Rows::<D, R, 1>(tile)),
            }
        }
    }
}

/// The first `n` elements of `N` lines, `stride` from one to the next.
#[inline(always)]
fn lines<T, const N: usize>(x: &[T], stride: usize, n: usize) -> [&[T]; N] {
    std::array::from_fn(|i| &x[i * stride..][..n])
}

/// Some tokens times a block of columns of all rows.
struct Tile<'a, D: Dots> {
    operands: &'a Operands<'a, D::W, D::X>,
    /// The first column, and how many.
    start: usize,
    n: usize,
    /// The first token.
    first: usize,
    /// How far ahead weights are asked for: as far as the next rows, if they are not in a cache yet.
    ahead: usize,
    out: &'a mut [[f32; LANES]],
    padded: usize,
}

/// The tile if it has `T` tokens: a function of its own for each, for one of them all takes the compiler long.
struct Rows<'a, D: Dots, const R: usize, const T: usize>(Tile<'a, D>);

impl<D: Dots, const R: usize, const T: usize> Kernel for Rows<'_, D, R, T> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Rows(mut tile) = self;
        let rows = tile.operands.w.len() / tile.operands.cols;
        let mut row = 0;
        while row + R <= rows {
            tile.multiply::<S, R, T>(s, row);
            row += R;
        }
        while row < rows {
            tile.multiply::<S, 1, T>(s, row);
            row += 1;
        }
    }
}

impl<D: Dots> Tile<'_, D> {
    /// `R` rows times `T` tokens.
    #[inline(always)]
    fn multiply<S: Simd, const R: usize, const T: usize>(&mut self, s: S, row: usize) {
        let &Operands { w, cols, x, stride, .. } = self.operands;
        let &mut Tile { start, n, first, ahead, padded, .. } = self;
        let out = &mut self.out[row / LANES * padded + first..][..T];
        let mut add = |sums: [[f32; R]; T]| {
            for (line, sums) in out.iter_mut().zip(sums) {
                let line: &mut [f32; R] = line[row % LANES..].first_chunk_mut().expect("rows of one line");
                for (out, sum) in line.iter_mut().zip(sums) {
                    *out += sum;
                }
            }
        };
        let (whole, rest) = (n / D::WIDTH * D::WIDTH, n % D::WIDTH);
        let (w, x) = (&w[row * cols + start..], &x[first * stride + start..]);
        add(D::tile(s, lines(w, cols, whole), lines(x, stride, whole), ahead));
        if rest > 0 {
            let (mut rows, mut tokens) = ([[D::zero().0; LINE]; R], [[D::zero().1; LINE]; T]);
            for (r, row) in rows.iter_mut().enumerate() {
                row[..rest].copy_from_slice(&w[r * cols + whole..][..rest]);
            }
            for (t, token) in tokens.iter_mut().enumerate() {
                token[..rest].copy_from_slice(&x[t * stride + whole..][..rest]);
            }
            let (w, x) = (rows.as_flattened(), tokens.as_flattened());
            add(D::tile(s, lines(w, LINE, D::WIDTH), lines(x, LINE, D::WIDTH), 0));
        }
    }
}
