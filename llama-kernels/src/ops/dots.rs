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
//! 50 and 100 ns -> 13, 20 and 39. 512 tokens lost on AVX2, a tenth (F32 a quarter: 44 -> 33), as 2 x 3 sums leave no
//! register for operands: many tokens go through panels there ([`super::floats`]).
//!
//! Tried, with no gain: asking for the next tile's activations while this one is multiplied; 128 rows for 64; on AVX2
//! tiles of 1 x 6, 2 x 2, 4 x 2. Sums that any loop runs over (a rest of columns handled within a tile) are kept in
//! memory by the compiler at a third of the speed: so a tile has whole registers only.
//!
//! Tokens are dealt out to tiles evenly, sixteen as 6, 5 and 5. The order in which a product is added up depends on
//! neither the tile nor the number of tokens.

use crate::format::FloatBlock;
use crate::simd::{LANES, Simd};
use std::marker::PhantomData;

/// Bytes of a token's activations in a block of columns.
const BLOCK: usize = 4096;

/// Columns of a register at most.
const LINE: usize = 32;

/// A pair of element types, and how a tile of them is multiplied.
pub(crate) trait Dots<S: Simd> {
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
    fn tile<const R: usize, const T: usize>(
        s: S,
        w: [&[Self::W]; R],
        x: [&[Self::X]; T],
        ahead: usize,
    ) -> [[f32; R]; T];
}

/// Floats of any format times activations as they are.
pub(crate) struct Floats<B>(PhantomData<B>);

impl<S: Simd, B: FloatBlock> Dots<S> for Floats<B> {
    type W = B;
    type X = f32;
    const WIDTH: usize = LANES;

    fn zero() -> (B, f32) {
        (B::zeroed(), 0.0)
    }

    #[inline(always)]
    fn tile<const R: usize, const T: usize>(
        s: S,
        w: [&[B]; R],
        x: [&[f32]; T],
        ahead: usize,
    ) -> [[f32; R]; T] {
        let sums = s.dot_floats(w, x, ahead);
        let mut out = [[0.0; R]; T];
        for (out, sums) in out.iter_mut().zip(sums) {
            *out = s.sums(sums);
        }
        out
    }
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
pub(crate) fn product<S: Simd, D: Dots<S>, const R: usize, const T: usize>(
    s: S,
    operands: &Operands<'_, D::W, D::X>,
    out: &mut [[f32; LANES]],
    padded: usize,
) {
    let &Operands { w, cols, tokens, .. } = operands;
    const { assert!(LANES.is_multiple_of(R) && T <= 6, "rows of one line, tiles of at most six tokens") };
    let Some(rows) = w.len().checked_div(cols) else { return };
    assert!(tokens <= padded && rows.div_ceil(LANES) * padded <= out.len(), "room for {rows} x {tokens}");
    let (block, tiles) = (BLOCK / size_of::<D::X>(), tokens.div_ceil(T));
    for start in (0..cols).step_by(block) {
        let n = block.min(cols - start);
        let mut first = 0;
        for tile in 0..tiles {
            let count = tokens / tiles + usize::from(tile < tokens % tiles);
            let ahead = if tile == 0 { R * cols * size_of::<D::W>() } else { 0 };
            let tile = Tile { start, n, first, ahead };
            match count {
                6 => tile.rows::<S, D, R, 6>(s, operands, out, padded),
                5 => tile.rows::<S, D, R, 5>(s, operands, out, padded),
                4 => tile.rows::<S, D, R, 4>(s, operands, out, padded),
                3 => tile.rows::<S, D, R, 3>(s, operands, out, padded),
                2 => tile.rows::<S, D, R, 2>(s, operands, out, padded),
                _ => tile.rows::<S, D, R, 1>(s, operands, out, padded),
            }
            first += count;
        }
    }
}

/// Some tokens, a block of columns.
struct Tile {
    start: usize,
    n: usize,
    first: usize,
    /// How far ahead weights are asked for: as far as the next rows, if they are not in a cache yet.
    ahead: usize,
}

impl Tile {
    /// All rows times `T` tokens.
    #[inline(always)]
    fn rows<S: Simd, D: Dots<S>, const R: usize, const T: usize>(
        &self,
        s: S,
        operands: &Operands<'_, D::W, D::X>,
        out: &mut [[f32; LANES]],
        padded: usize,
    ) {
        let rows = operands.w.len() / operands.cols;
        let mut row = 0;
        while row + R <= rows {
            self.multiply::<S, D, R, T>(s, operands, row, out, padded);
            row += R;
        }
        while row < rows {
            self.multiply::<S, D, 1, T>(s, operands, row, out, padded);
            row += 1;
        }
    }

    #[inline(always)]
    fn multiply<S: Simd, D: Dots<S>, const R: usize, const T: usize>(
        &self,
        s: S,
        operands: &Operands<'_, D::W, D::X>,
        row: usize,
        out: &mut [[f32; LANES]],
        padded: usize,
    ) {
        let &Operands { w, cols, x, stride, .. } = operands;
        let &Tile { start, n, first, ahead } = self;
        let out = &mut out[row / LANES * padded + first..][..T];
        let mut add = |sums: [[f32; R]; T]| {
            for (line, sums) in out.iter_mut().zip(sums) {
                let line: &mut [f32; R] = line[row % LANES..].first_chunk_mut().expect("rows of one line");
                for (out, sum) in line.iter_mut().zip(sums) {
                    *out += sum;
                }
            }
        };
        let (whole, rest) = (n / D::WIDTH * D::WIDTH, n % D::WIDTH);
        let w = std::array::from_fn::<_, R, _>(|r| &w[(row + r) * cols + start..][..n]);
        let x = std::array::from_fn::<_, T, _>(|t| &x[(first + t) * stride + start..][..n]);
        add(D::tile(s, w.map(|w| &w[..whole]), x.map(|x| &x[..whole]), ahead));
        if rest > 0 {
            let (mut rows, mut tokens) = ([[D::zero().0; LINE]; R], [[D::zero().1; LINE]; T]);
            for (row, w) in rows.iter_mut().zip(w) {
                row[..rest].copy_from_slice(&w[whole..]);
            }
            for (token, x) in tokens.iter_mut().zip(x) {
                token[..rest].copy_from_slice(&x[whole..]);
            }
            let (w, x) = (rows.each_ref().map(|w| &w[..D::WIDTH]), tokens.each_ref().map(|x| &x[..D::WIDTH]));
            add(D::tile(s, w, x, 0));
        }
    }
}
