//! Prompts of bfloat16 weights by `vdpbf16ps`: the float engine ([`crate::ops::dots`]) with pairs of columns in place of
//! columns.
//!
//! Weights are read as they lie in the file. Activations are rounded once per batch, row by row ([`crate::acts`]). The
//! instruction takes subnormal numbers for zeros and returns none.

use super::{Avx512, BF16, ROWS, TOKENS};
use crate::acts::stripes;
use crate::ops::dots::{self, Operands, Pairs};
use crate::ops::gemm::Job;
use crate::simd::{LANES, STRIPE, Simd};
use core::arch::x86_64::*;
use std::hint::black_box;
use std::mem::transmute;

/// The engine of bfloat16 weights.
#[inline(always)]
pub(super) fn gemm(s: Avx512<BF16>, job: Job<'_>) {
    let Job { w, rows, acts, out, .. } = job;
    assert_eq!(w.cols(), acts.cols, "columns of the matrix, features of the activations");
    out.fill([0.0; LANES]);
    let Some(padded) = out.len().checked_div(rows.len().div_ceil(LANES)) else { return };
    let (rows, _) = w.rows_bytes(rows).as_chunks();
    let (x, stride) = (acts.rounded(), stripes(w.cols()) * STRIPE);
    let operands = Operands { w: rows, cols: w.cols(), x, stride, tokens: acts.tokens };
    dots::product::<_, Pairs, ROWS, TOKENS>(s, &operands, out, padded);
}

/// The products of two pairs in each lane, added to `acc`.
#[inline(always)]
pub(super) fn dot(_proof: Avx512<BF16>, acc: __m512, a: __m512i, b: __m512i) -> __m512 {
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
