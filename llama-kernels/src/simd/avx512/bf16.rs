//! Prompts of bfloat16 weights by `vdpbf16ps`: the float engine's scheme ([`crate::ops::gemm`]) with pairs of columns
//! in place of columns.
//!
//! A panel's line is two columns of sixteen rows, the bits as they lie in the file. Activations are rounded once
//! per batch, in pairs of columns of [`TILE`] tokens ([`crate::acts`]), of which the instruction broadcasts one
//! from memory. It takes subnormal numbers for zeros and returns none.

use super::super::amx::transposed;
use super::{Avx512, BF16, TILE};
use crate::acts::GROUP;
use crate::ops::gemm::Job;
use crate::simd::{LANES, STRIPE, Simd};
use core::arch::x86_64::*;
use std::mem::transmute;

/// Columns of a panel: 16 KiB, which stay in the first-level cache beside a tile's 12 KiB.
const COLS: usize = 512;

/// The engine of bfloat16 weights, for at most sixteen rows.
#[inline(always)]
pub(super) fn gemm(s: Avx512<BF16>, job: Job<'_>) {
    let Job { w, rows, acts, out, panel, .. } = job;
    assert_eq!(w.cols(), acts.cols, "columns of the matrix, features of the activations");
    assert!(rows.len() <= LANES, "{} rows of a panel of sixteen", rows.len());
    out.fill([0.0; LANES]);
    for start in (0..w.cols()).step_by(COLS) {
        let cols = start..w.cols().min(start + COLS);
        let pairs = cols.len().next_multiple_of(STRIPE) / 2;
        let panel = &mut panel.pairs[0][..pairs];
        for (group, lines) in panel.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let bytes = 2 * (start + group * GROUP)..2 * cols.end;
            let mut words = [s.splat(0.0); LANES];
            for (row, words) in rows.clone().zip(&mut words) {
                let row = w.rows_bytes(row..row + 1).get(bytes.clone()).unwrap_or(&[]);
                let mut padded = [0; STRIPE];
                let line = match row.first_chunk() {
                    Some(whole) => whole,
                    None => {
                        padded[..row.len()].copy_from_slice(row);
                        &padded
                    }
                };
                *words = s.bit_cast(s.load_bytes(line));
            }
            for (line, words) in lines.iter_mut().zip(transposed(s, words)) {
                // SAFETY: the value of `s` proves AVX-512; the types are of the same bits.
                s.store_bytes(unsafe { _mm512_castps_si512(words) }, line);
            }
        }
        for (i, c) in out.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            let x = &acts.pairs(i)[start / 2 * TILE..][..pairs * TILE];
            tile(s, panel, x, c);
        }
    }
}

/// `c[t][r] += panel[r] * x[t]`, two columns at a time.
#[inline(always)]
fn tile(s: Avx512<BF16>, panel: &[[u8; STRIPE]], x: &[i32], c: &mut [[f32; LANES]; TILE]) {
    let mut acc = [s.splat(0.0); TILE];
    for (acc, c) in acc.iter_mut().zip(c.iter()) {
        *acc = s.load(c);
    }
    for (w, x) in panel.iter().zip(x.as_chunks::<TILE>().0) {
        let w = s.load_bytes(w);
        for t in 0..TILE {
            // SAFETY: the value of `s` proves AVX512-BF16; the types are of the same bits.
            acc[t] = unsafe {
                let w = transmute::<__m512i, __m512bh>(w);
                _mm512_dpbf16_ps(acc[t], w, transmute::<__m512i, __m512bh>(s.splat_i32(x[t])))
            };
        }
    }
    for t in 0..TILE {
        s.store(acc[t], &mut c[t]);
    }
}
