//! How the rows of matrices are cut into pieces.
//!
//! Few tokens stream through the weights, and what counts is that each worker reads long runs of memory: the
//! first lines of a run come without the help of a prefetch, and what was asked for beyond its end may serve
//! nobody. That is the team's part ([`crate::team`]): a worker's pieces lie side by side. They are small, so that the
//! workers finish together, but not so small that to begin one counts. A worker's rows are cut into a few
//! [runs](crate::runs), and a piece is a part of each.

use crate::acts::{Acts, Layout};
use crate::matrix::Matrix;
use crate::runs::{RUNS, Runs};
use crate::simd::LANES;
use std::ops::Range;

/// Bytes of weights in a piece, at the least, when few tokens stream through them.
const CLAIM: usize = 128 << 10;

/// Pieces for each worker, about, at the most.
const PARTS: usize = 64;

/// Pieces of several matrices side by side, each some blocks of rows that a kernel takes at once.
pub(super) struct Cut {
    pieces: Vec<Piece>,
}

/// Some blocks of one matrix, in `runs` runs that are read side by side.
#[derive(Clone)]
struct Piece {
    matrix: usize,
    /// The first run's rows.
    rows: Range<usize>,
    /// From a run's first row to the next one's.
    apart: usize,
    runs: usize,
    /// Where the last run ends at the latest.
    end: usize,
    /// Rows of a block.
    block: usize,
    /// The column of the matrix's first row in the output.
    column: usize,
}

impl Piece {
    /// The block of each run that begins at this row of the first one.
    fn at(&self, row: usize) -> Runs {
        let rows = self.block.min(self.rows.end - row);
        Runs(std::array::from_fn(|run| {
            let start = row + run * self.apart;
            if run < self.runs && start < self.end { start..self.end.min(start + rows) } else { 0..0 }
        }))
    }
}

impl Cut {
    pub(super) fn new(weights: &[Matrix<'_>], acts: &Acts, threads: usize) -> Cut {
        let layout = acts.layout;
        let few = layout == Layout::Rows;
        let block = if few { LANES } else { layout.rows() };
        let bytes: usize = weights.iter().map(|w| w.bytes().len()).sum();
        let claim = (bytes / (PARTS * threads)).max(CLAIM);
        let (mut pieces, mut column) = (Vec::new(), 0);
        for (matrix, w) in weights.iter().enumerate() {
            let blocks = w.rows().div_ceil(block);
            let parts = if few { threads.min(blocks.max(1)) } else { 1 };
            // Floats and a few tokens are multiplied some rows by some tokens, rows side by side: in one run.
            let side_by_side = w.format().is_integer() || acts.alone || acts.tokens == 1;
            let runs = if few && side_by_side { RUNS } else { 1 };
            let step = match few {
                true => (claim / (w.row_stride().max(1) * runs)).max(1).next_multiple_of(LANES),
                false => block,
            };
            for part in 0..parts {
                let (first, last) = (part * blocks / parts, (part + 1) * blocks / parts);
                let (start, end) = (first * block, w.rows().min(last * block));
                let apart = (last - first).div_ceil(runs) * block;
                let mut row = start;
                while row < end.min(start + apart) {
                    let rows = row..end.min(start + apart).min(row + step);
                    row = rows.end;
                    pieces.push(Piece { matrix, rows, apart, runs, end, block, column });
                }
            }
            column += w.rows();
        }
        Cut { pieces }
    }

    /// How many pieces there are.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// The matrix of a piece, and the first rows of its runs.
    pub(super) fn runs<'a>(&self, weights: &[Matrix<'a>], piece: usize) -> (Matrix<'a>, Runs) {
        let piece = &self.pieces[piece];
        (weights[piece.matrix], piece.at(piece.rows.start))
    }

    /// The matrix of a piece, its blocks of rows, and the output column of the matrix's first row.
    pub(super) fn blocks<'a>(
        &self,
        weights: &[Matrix<'a>],
        piece: usize,
    ) -> impl Iterator<Item = (Matrix<'a>, Runs, usize)> {
        let piece = self.pieces[piece].clone();
        let w = weights[piece.matrix];
        piece.rows.clone().step_by(piece.block).map(move |row| (w, piece.at(row), piece.column))
    }
}
