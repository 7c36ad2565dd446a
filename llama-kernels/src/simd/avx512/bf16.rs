//! Prompts of bfloat16 weights by `vdpbf16ps`: the float engine's scheme ([`crate::ops::gemm`]) with pairs of columns
//! in place of columns.
//!
//! A panel's line is two columns of sixteen rows, the bits as they lie in the file. Activations are rounded once
//! per batch, in pairs of columns of [`TILE`] or [`NARROW`] tokens ([`crate::acts`]), of which the instruction
//! broadcasts one from memory. It takes subnormal numbers for zeros and returns none.

use super::{Avx512, BF16, NARROW, TILE};
use crate::acts::GROUP;
use crate::matrix::Matrix;
use crate::ops::gemm::Job;
use crate::ops::pack::PANELS;
use crate::simd::{LANES, STRIPE, Simd};
use core::arch::x86_64::*;
use std::hint::black_box;
use std::mem::transmute;
use std::ops::Range;

/// Columns of a panel: 8 KiB, which stay in the first-level cache beside a tile's 6 KiB.
const COLS: usize = 256;

/// The engine of bfloat16 weights.
#[inline(always)]
pub(super) fn gemm(s: Avx512<BF16>, job: Job<'_>) {
    let Job { w, rows, acts, out, panel, .. } = job;
    assert_eq!(w.cols(), acts.cols, "columns of the matrix, features of the activations");
    out.fill([0.0; LANES]);
    let Some(padded) = out.len().checked_div(rows.len().div_ceil(LANES)) else { return };
    assert!(rows.len() <= PANELS * LANES && padded > 0, "{} rows, {padded} tokens", rows.len());
    let mt = acts.layout.tile();
    assert!(mt == TILE || mt == NARROW, "tiles of {TILE} or {NARROW} tokens, found {mt}");
    for start in (0..w.cols()).step_by(COLS) {
        let cols = start..w.cols().min(start + COLS);
        let pairs = cols.len().next_multiple_of(STRIPE) / 2;
        let panels = &mut panel.pairs[0];
        for (i, lines) in panels.chunks_exact_mut(COLS / 2).take(rows.len().div_ceil(LANES)).enumerate() {
            let first = rows.start + i * LANES;
            let sixteen = first..rows.end.min(first + LANES);
            pack(s, &w, sixteen, start..cols.end, &mut lines[..pairs]);
        }
        for tile in 0..padded / mt {
            let x = &acts.pairs(tile)[start / 2 * mt..][..pairs * mt];
            for (panel, out) in panels.chunks_exact(COLS / 2).zip(out.chunks_exact_mut(padded)) {
                let (panel, out) = (&panel[..pairs], &mut out[tile * mt..]);
                if mt == TILE {
                    multiply::<TILE>(s, panel, x, out.first_chunk_mut().expect("whole tiles"));
                } else {
                    multiply::<NARROW>(s, panel, x, out.first_chunk_mut().expect("whole tiles"));
                }
            }
        }
    }
}

/// Fills a panel with the pairs of `cols` of at most sixteen rows; what is missing is zero.
#[inline(always)]
fn pack(s: Avx512<BF16>, w: &Matrix<'_>, rows: Range<usize>, cols: Range<usize>, panel: &mut [[u8; STRIPE]]) {
    for (group, lines) in panel.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let bytes = 2 * (cols.start + group * GROUP)..2 * cols.end;
        *lines = [[0; STRIPE]; LANES];
        for (row, line) in rows.clone().zip(lines.iter_mut()) {
            let row = w.rows_bytes(row..row + 1).get(bytes.clone()).unwrap_or(&[]);
            match row.first_chunk() {
                Some(whole) => *line = *whole,
                None => line[..row.len()].copy_from_slice(row),
            }
        }
        s.transpose(lines);
    }
}

/// `c[t][r] += panel[r] * x[t]`, two columns at a time.
#[inline(always)]
fn multiply<const MT: usize>(s: Avx512<BF16>, panel: &[[u8; STRIPE]], x: &[i32], c: &mut [[f32; LANES]; MT]) {
    let mut acc = [s.splat(0.0); MT];
    for (acc, c) in acc.iter_mut().zip(c.iter()) {
        *acc = s.load(c);
    }
    for (w, x) in panel.iter().zip(x.as_chunks::<MT>().0) {
        let w = s.load_bytes(w);
        for t in 0..MT {
            acc[t] = dot(s, acc[t], w, s.splat_i32(x[t]));
        }
    }
    for t in 0..MT {
        s.store(acc[t], &mut c[t]);
    }
}

/// The products of two pairs in each lane, added to `acc`.
#[inline(always)]
fn dot(_proof: Avx512<BF16>, acc: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: the first argument proves AVX512-BF16; the types are of the same bits.
    unsafe { _mm512_dpbf16_ps(acc, transmute::<__m512i, __m512bh>(a), transmute::<__m512i, __m512bh>(b)) }
}

/// Products in registers, as [`Simd::multiply_pairs`] describes them.
#[inline(always)]
pub(super) fn peak(s: Avx512<BF16>, rounds: usize) -> usize {
    /// More chains than two units with a latency of six cycles can have under way.
    const CHAINS: usize = 12;
    const REPEATS: usize = 8;
    let (a, b) = (s.splat_i32(black_box(0x3F80_3F80)), s.splat_i32(black_box(0x3F00_3F00)));
    let mut acc = [s.splat(0.0); CHAINS];
    for _ in 0..REPEATS * rounds {
        for acc in &mut acc {
            *acc = dot(s, *acc, a, b);
        }
    }
    let mut out = [0.0; LANES];
    for acc in acc {
        s.store(acc, &mut out);
        black_box(&out);
    }
    REPEATS * CHAINS * 2 * LANES
}
