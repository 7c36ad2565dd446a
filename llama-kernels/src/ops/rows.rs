//! The small matrix product of attention, of rows by registers: a block of accumulators, one operand broadcast, the other read
//! from end to end, no horizontal sums.

use crate::simd::{Kernel, LANES, Simd};
use std::array::from_fn;
use std::ops::Range;

/// Rows times a tile: `c[row][line] = factor[row] * c[row][line] + sum over k of a[row][k] * b[line][k]`,
/// or without the old `c`, `k` ascending.
pub(crate) struct Product<'a> {
    /// As many rows as fit it.
    pub a: &'a [f32],
    pub a_stride: usize,
    /// For each line `stride` registers, of which `depth` are read.
    pub b: &'a [[f32; LANES]],
    pub stride: usize,
    pub depth: usize,
    /// Lines of `c` that are wanted.
    pub lines: usize,
    pub c_stride: usize,
}

/// Makes a [`Product`], and adds it or not.
pub(crate) struct Multiply<'a, const ADD: bool> {
    pub product: Product<'a>,
    pub c: &'a mut [[f32; LANES]],
    pub factors: &'a [f32],
}

impl<const ADD: bool> Kernel for Multiply<'_, ADD> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Multiply { product, c, factors } = self;
        // The accumulators, and beside them the operands.
        if S::REGISTERS >= 32 {
            product.blocks::<S, 4, 4, ADD>(s, c, factors);
        } else if S::REGISTERS >= 8 {
            product.blocks::<S, 6, 1, ADD>(s, c, factors);
        } else {
            product.blocks::<S, 2, 1, ADD>(s, c, factors);
        }
    }
}

impl Product<'_> {
    /// In blocks of `R` rows by `C` lines, and what that leaves over in smaller ones.
    #[inline(always)]
    fn blocks<S: Simd, const R: usize, const C: usize, const ADD: bool>(
        &self,
        s: S,
        c: &mut [[f32; LANES]],
        factors: &[f32],
    ) {
        let rows = self.a.len() / self.a_stride;
        let whole = rows - rows % R;
        self.part::<S, R, C, ADD>(s, 0..whole, c, factors);
        self.part::<S, 1, 4, ADD>(s, whole..rows, c, factors);
    }

    #[inline(always)]
    fn part<S: Simd, const R: usize, const C: usize, const ADD: bool>(
        &self,
        s: S,
        rows: Range<usize>,
        c: &mut [[f32; LANES]],
        factors: &[f32],
    ) {
        let mut line = 0;
        while line < self.lines {
            let wide = line + C <= self.lines;
            for row in rows.clone().step_by(R) {
                if wide {
                    self.block::<S, R, C, ADD>(s, row, line, c, factors);
                } else {
                    self.block::<S, R, 1, ADD>(s, row, line, c, factors);
                }
            }
            line += if wide { C } else { 1 };
        }
    }

    #[inline(always)]
    fn block<S: Simd, const R: usize, const C: usize, const ADD: bool>(
        &self,
        s: S,
        row: usize,
        line: usize,
        c: &mut [[f32; LANES]],
        factors: &[f32],
    ) {
        let mut acc = [[s.splat(0.0); C]; R];
        if ADD {
            for r in 0..R {
                let c = &c[(row + r) * self.c_stride + line..][..C];
                for j in 0..C {
                    acc[r][j] = s.load(&c[j]);
                }
                if factors[row + r] != 1.0 {
                    for acc in &mut acc[r] {
                        *acc = s.mul(*acc, s.splat(factors[row + r]));
                    }
                }
            }
        }
        let a: [&[f32]; R] = from_fn(|r| &self.a[(row + r) * self.a_stride..][..self.depth]);
        let b: [&[[f32; LANES]]; C] = from_fn(|j| &self.b[(line + j) * self.stride..][..self.depth]);
        for k in 0..self.depth {
            let mut v = [s.splat(0.0); C];
            for j in 0..C {
                v[j] = s.load(&b[j][k]);
            }
            for r in 0..R {
                let x = s.splat(a[r][k]);
                for j in 0..C {
                    acc[r][j] = s.fma(x, v[j], acc[r][j]);
                }
            }
        }
        for r in 0..R {
            let c = &mut c[(row + r) * self.c_stride + line..][..C];
            for j in 0..C {
                s.store(acc[r][j], &mut c[j]);
            }
        }
    }
}
