//! How the rows of matrices are cut into pieces.

use crate::acts::Layout;
use crate::matrix::Matrix;
use crate::simd::LANES;
use std::ops::Range;

/// Bytes of weights that a worker claims at a time when few tokens stream through them.
const CLAIM: usize = 128 << 10;

/// Pieces of several matrices side by side, each some blocks of rows that a kernel takes at once.
pub(super) struct Cut {
    /// Rows of a piece, and of the blocks that make it up.
    piece: usize,
    block: usize,
    /// For each matrix: its first piece and the column of its first row in the output.
    starts: Vec<(usize, usize)>,
    pub(super) pieces: usize,
}

impl Cut {
    pub(super) fn new(weights: &[Matrix<'_>], layout: Layout) -> Cut {
        let stride = weights.iter().map(Matrix::row_stride).max().unwrap_or(0).max(1);
        let piece = match layout {
            Layout::Rows => (CLAIM / stride).clamp(1, 64 * LANES).next_multiple_of(LANES),
            Layout::Tiles(_) | Layout::Pairs => layout.rows(),
        };
        let (mut pieces, mut column) = (0, 0);
        let mut starts = Vec::with_capacity(weights.len());
        for w in weights {
            starts.push((pieces, column));
            pieces += w.rows().div_ceil(piece);
            column += w.rows();
        }
        Cut { piece, block: layout.rows(), starts, pieces }
    }

    /// The matrix of a piece, its blocks of rows, and the output column of each.
    pub(super) fn blocks<'a>(
        &self,
        weights: &[Matrix<'a>],
        piece: usize,
    ) -> impl Iterator<Item = (Matrix<'a>, Range<usize>, usize)> {
        let i = self.starts.partition_point(|(first, _)| *first <= piece) - 1;
        let (first, column) = self.starts[i];
        let w = weights[i];
        let start = (piece - first) * self.piece;
        let end = w.rows().min(start + self.piece);
        let block = self.block;
        (start..end).step_by(block).map(move |row| (w, row..end.min(row + block), column + row))
    }
}
