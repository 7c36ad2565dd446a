//! How the rows of matrices are cut into pieces.
//!
//! Few tokens stream through the weights, and what counts is that each worker reads long runs of memory: the
//! first lines of a run come without the help of a prefetch, and what was asked for beyond its end may serve
//! nobody. That is the team's part ([`crate::team`]): a worker's pieces lie side by side. They are small, so that the
//! workers finish together, but not so small that to begin one counts.

use crate::acts::Layout;
use crate::matrix::Matrix;
use crate::simd::LANES;
use std::ops::Range;

/// Bytes of weights in a piece, at the least, when few tokens stream through them.
const CLAIM: usize = 128 << 10;

/// Pieces for each worker, about, at the most.
const PARTS: usize = 64;

/// Pieces of several matrices side by side, each some blocks of rows that a kernel takes at once.
pub(super) struct Cut {
    /// Rows of a block.
    block: usize,
    /// Whether few tokens stream through the weights.
    few: bool,
    /// For each piece: its matrix, its rows, and the column of the matrix's first row in the output.
    pieces: Vec<(usize, Range<usize>, usize)>,
}

impl Cut {
    pub(super) fn new(weights: &[Matrix<'_>], layout: Layout, threads: usize) -> Cut {
        let block = layout.rows();
        let bytes: usize = weights.iter().map(|w| w.bytes().len()).sum();
        let claim = (bytes / (PARTS * threads)).max(CLAIM);
        let (mut pieces, mut column) = (Vec::new(), 0);
        for (i, w) in weights.iter().enumerate() {
            let mut start = 0;
            while start < w.rows() {
                let rows = match layout {
                    Layout::Rows => (claim / w.row_stride().max(1)).max(1).next_multiple_of(LANES),
                    Layout::Tiles(_) | Layout::Pairs => block,
                };
                let end = w.rows().min(start + rows);
                pieces.push((i, start..end, column));
                start = end;
            }
            column += w.rows();
        }
        Cut { block, few: layout == Layout::Rows, pieces }
    }

    /// How many pieces there are.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// The matrix of a piece and its rows, if few tokens stream through them.
    pub(super) fn stream<'a>(
        &self,
        weights: &[Matrix<'a>],
        piece: usize,
    ) -> Option<(Matrix<'a>, Range<usize>)> {
        let (i, rows, _) = self.pieces[piece].clone();
        self.few.then(|| (weights[i], rows))
    }

    /// The matrix of a piece, its blocks of rows, and the output column of each.
    pub(super) fn blocks<'a>(
        &self,
        weights: &[Matrix<'a>],
        piece: usize,
    ) -> impl Iterator<Item = (Matrix<'a>, Range<usize>, usize)> {
        let (i, rows, column) = self.pieces[piece].clone();
        let (w, block) = (weights[i], self.block);
        rows.clone().step_by(block).map(move |row| (w, row..rows.end.min(row + block), column + row))
    }
}
