//! What a mixture of experts does beside products: rows of tokens to their experts, and back.
//!
//! An expert's matrices are multiplied by the tokens that chose it and by no others. For that, the tokens'
//! rows are copied side by side, expert by expert, and go through the products of a dense network.

use super::profile::Work;
use super::{Ops, Parts};

impl Ops<'_> {
    /// `out[i] = x[rows[i]]`, for rows of `width` features.
    ///
    /// # Panics
    /// If `x` has no such row, or `out` is not `rows.len()` rows.
    pub fn gather(&self, out: &mut [f32], x: &[f32], width: usize, rows: &[u32]) {
        assert_eq!(out.len(), rows.len() * width, "{} rows of {width}", rows.len());
        let _span = self.span(|| Work::experts(2 * out.len()));
        let out = Parts::new(out);
        self.team.split(rows.len(), &|_, i| {
            let row = rows[i] as usize * width;
            // SAFETY: each piece writes its own row.
            unsafe { out.part(i * width..(i + 1) * width) }.copy_from_slice(&x[row..row + width]);
        });
    }

    /// `out[t] += sum over j of weights[t][j] * x[rows[t][j]]`, j ascending, for rows of `width` features
    /// and as many of them for every token.
    ///
    /// # Panics
    /// If `x` has no such row, there is not one weight a row, or the rows are not equally many for all tokens.
    pub fn add_weighted(&self, out: &mut [f32], x: &[f32], width: usize, rows: &[u32], weights: &[f32]) {
        let tokens = out.len().checked_div(width).unwrap_or(0);
        assert!(
            out.len() == tokens * width && rows.len() == weights.len(),
            "{} weights for {} rows",
            weights.len(),
            rows.len()
        );
        let Some(each) = rows.len().checked_div(tokens) else { return };
        assert_eq!(rows.len(), tokens * each, "as many rows for every token");
        let _span = self.span(|| Work::experts(2 * out.len() + rows.len() * width));
        let out = Parts::new(out);
        self.team.split(tokens, &|_, t| {
            // SAFETY: each piece writes the row of its own token.
            let out = unsafe { out.part(t * width..(t + 1) * width) };
            let own = t * each..(t + 1) * each;
            for (row, weight) in rows[own.clone()].iter().zip(&weights[own]) {
                let x = &x[*row as usize * width..][..width];
                out.iter_mut().zip(x).for_each(|(out, x)| *out += weight * x);
            }
        });
    }
}
