//! How the rows of matrices are cut into pieces.
//!
//! Few tokens stream through the weights, and what counts is that each worker reads long runs of memory: the
//! first lines of a run come without the help of a prefetch, and what was asked for beyond its end may serve
//! nobody. That is the team's part ([`crate::team`]): a worker's pieces lie side by side. They are small, so that the
//! workers finish together, but not so small that to begin one counts. Where weights [stream](Acts::streams), a worker's
//! rows are cut into a few [runs](crate::runs), and a piece is a part of each.

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

/// Some blocks of one matrix, in runs that are read side by side.
#[derive(Clone)]
struct Piece {
    matrix: usize,
    /// The first run's rows.
    rows: Range<usize>,
    /// From a run's first row to the next one's.
    apart: usize,
    /// Where the last run ends.
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
            if start < self.end { start..self.end.min(start + rows) } else { 0..0 }
        }))
    }
}

impl Cut {
    pub(super) fn new(weights: &[Matrix<'_>], acts: &Acts, threads: usize) -> Cut {
        let bytes: usize = weights.iter().map(|w| w.bytes().len()).sum();
        let claim = (bytes / (PARTS * threads)).max(CLAIM);
        let (mut pieces, mut column) = (Vec::new(), 0);
        for (matrix, w) in weights.iter().enumerate() {
            let (block, parts, runs) = match acts.streams(w.format()) {
                true => (LANES, threads, RUNS),
                false => (acts.layout.rows(), 1, 1),
            };
            let step = match acts.layout {
                Layout::Rows => (claim / (w.row_stride().max(1) * runs)).max(1).next_multiple_of(LANES),
                Layout::Tiles(_) | Layout::Pairs => block,
            };
            let blocks = w.rows().div_ceil(block);
            for part in 0..parts {
                let (first, last) = (part * blocks / parts, (part + 1) * blocks / parts);
                let (start, end) = (first * block, w.rows().min(last * block));
                let apart = (last - first).div_ceil(runs) * block;
                let first_run = start..end.min(start + apart);
                for row in first_run.clone().step_by(step) {
                    let rows = row..first_run.end.min(row + step);
                    pieces.push(Piece { matrix, rows, apart, end, block, column });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;

    /// With short matrices and more threads than rows, too.
    #[test]
    fn every_row_is_in_one_block() {
        let mut acts = Acts::new();
        for (tokens, layout) in
            [(1, Layout::Rows), (4, Layout::Rows), (33, Layout::Tiles(4)), (33, Layout::Pairs)]
        {
            acts.reshape(tokens, 32, layout, |_| false);
            for rows in [0, 1, 15, 16, 17, 63, 64, 65, 129, 300] {
                let bytes = [vec![0; rows * 18], vec![0; rows * 64]];
                let formats = [Format::Q4_0, Format::F16].into_iter().zip(&bytes);
                let weights: Vec<_> = formats
                    .map(|(format, bytes)| Matrix::new(format, rows, 32, bytes).expect("whole rows"))
                    .collect();
                for threads in [1, 2, 3, 7] {
                    let cut = Cut::new(&weights, &acts, threads);
                    let mut seen = vec![0; 2 * rows];
                    for (w, runs, column) in (0..cut.pieces()).flat_map(|piece| cut.blocks(&weights, piece)) {
                        assert!(
                            runs.0.iter().all(|rows| rows.len() <= runs.0[0].len() && rows.end <= w.rows())
                        );
                        runs.0.into_iter().flatten().for_each(|row| seen[column + row] += 1);
                    }
                    assert_eq!(seen, vec![1; 2 * rows], "{rows} rows, {tokens} tokens, {threads} threads");
                }
            }
        }
    }
}
