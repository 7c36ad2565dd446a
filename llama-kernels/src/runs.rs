//! Blocks of rows that a product takes at once, and where their results lie.
//!
//! Few tokens stream through the weights, and one stream through memory keeps too few lines on their way (`ops/gemv.rs`). So
//! a worker's rows are cut into [`RUNS`] runs, and a block is some rows of each. Other products have one run.

use crate::simd::LANES;
use std::ops::Range;

/// Runs that are read side by side.
pub(crate) const RUNS: usize = 4;

/// A block of rows of each run. The first one is the longest; where there are fewer runs, the others are empty.
pub(crate) struct Runs(pub [Range<usize>; RUNS]);

/// Lines of results of some rows of so many tokens.
fn lines(rows: &Range<usize>, tokens: usize) -> usize {
    tokens * rows.len().div_ceil(LANES)
}

impl Runs {
    /// All lines of results of so many tokens: for each run and each sixteen of its rows `[token][row]`.
    pub(crate) fn lines(&self, tokens: usize) -> usize {
        self.0.iter().map(|rows| lines(rows, tokens)).sum()
    }

    /// The rows of each run, and their part of such results.
    pub(crate) fn parts<'a>(
        &self,
        mut results: &'a mut [[f32; LANES]],
        tokens: usize,
    ) -> impl Iterator<Item = (Range<usize>, &'a mut [[f32; LANES]])> {
        self.0.iter().filter(|rows| !rows.is_empty()).map(move |rows| {
            let part;
            (part, results) = std::mem::take(&mut results).split_at_mut(lines(rows, tokens));
            (rows.clone(), part)
        })
    }
}
