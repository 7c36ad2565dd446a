//! Products with a dozen tokens or a few more on matrix tiles of bytes.
//!
//! Weights are the A operand here too, unpacked to signed bytes in the order of the row; activations are B as the integer
//! engine has them ([`Layout::Tiles`](crate::acts::Layout::Tiles) of sixteen tokens: four columns of each token a word). The
//! products of a group of 32 (or 16) columns come out of the tiles as integers, sixteen rows by sixteen tokens, and are
//! scaled and added up in sixteen registers, a row each.
//!
//! ```text
//! for each block of KC columns:
//!   for each panel of 16 rows: unpacked into 16 KiB
//!     for each group: a tile product, while an earlier one is scaled and a part of the next panel is asked for
//! ```
//!
//! Where the file has signed bytes in the order of the row, they are multiplied where they lie, and only scales are unpacked.
//!
//! A group takes four instructions with tiles whose time counts, two loads, a product and a store, for 8192 multiplications: 21
//! ns, or 40 where another guest is on the core. That is little less than AVX512-VNNI's 128 products and what scales them. But
//! unpacking needs no transposition; and weights are asked for evenly, which matters as much: at once, before they are
//! unpacked, each request waits for the one before. (Two cores of an Emerald Rapids, 2048 x 2048, beside AVX512-VNNI,
//! in turns, with 12, 14, 16 and 18 tokens: Q4_0 1.11, 1.24, 1.25 and 1.04, Q8_0 1.09, 1.16, 1.26 and 1.03, Q4_K 0.95, 1.09,
//! 1.15 and 0.87, Q6_K 1.00, 1.16, 1.15 and 0.82. One product at a time, scaled right after it: 0.9 of the speed of two after
//! the two before. Blocks of 512 columns: 0.94 to 1.01.)

use super::super::avx512::{AMX, Avx512};
use super::super::{LANES, SPAN, STRIPE, Simd};
use super::unpacking::{Panels, Unpack, Unpacking, each_span};
use super::{Tiles, turn};
use crate::acts::{GROUP, TILE_WORDS};
use crate::buffer::Aligned;
use crate::format::{Grouping, IntegerBlock, Lanes, Less, MOST_BLOCKS, Of, Subtrahend};
use crate::ops::gemm::Job;
use crate::ops::pack::{INTEGER_COLS, Integers};
use core::arch::asm;
use core::arch::x86_64::__m512;
use std::marker::PhantomData;

/// Tokens of a tile.
pub(in super::super) const TOKENS: usize = LANES;
/// Groups of 32 columns in a block.
const KC: usize = INTEGER_COLS / GROUP;
/// Words of sixteen tokens' activations for 32 columns.
const WORDS: usize = TILE_WORDS * TOKENS;

/// Blocks of an integer format.
struct Bytes<B>(PhantomData<B>);

impl<B: IntegerBlock> Unpack for Bytes<B> {
    const SPAN_BYTES: usize = SPAN / B::LEN * size_of::<B>();
    type Panel = Integers;

    #[inline(always)]
    fn unpack(s: Avx512<AMX>, weights: &[u8], row: usize, panel: &mut Integers) {
        each_span!(B, weights, |i, blocks| {
            numbers(s, blocks, i * LANES + row, panel);
            let line = (row * INTEGER_COLS + i * SPAN) / STRIPE;
            let lines = &mut panel.bytes[line..][..SPAN / STRIPE];
            for pair in 0..2 {
                let [a, b] = B::in_order(s, blocks, pair);
                s.store_bytes(signed::<B>(s, a), &mut lines[2 * pair]);
                s.store_bytes(signed::<B>(s, b), &mut lines[2 * pair + 1]);
            }
        });
    }
}

/// Their scales and minimums alone.
struct Numbers<B>(PhantomData<B>);

impl<B: IntegerBlock> Unpack for Numbers<B> {
    const SPAN_BYTES: usize = Bytes::<B>::SPAN_BYTES;
    type Panel = Integers;

    #[inline(always)]
    fn unpack(s: Avx512<AMX>, weights: &[u8], row: usize, panel: &mut Integers) {
        each_span!(B, weights, |i, blocks| {
            numbers(s, blocks, i * LANES + row, panel);
        });
    }
}

/// A span's scales and minimums, a line each.
#[inline(always)]
fn numbers<B: IntegerBlock>(s: Avx512<AMX>, span: &[B], line: usize, panel: &mut Integers) {
    let w = B::scales(s, span);
    s.store(Of::<B>::widen(s, w.scale), &mut panel.scales[line]);
    if Less::<B>::MINS {
        s.store(Of::<B>::widen(s, w.min), &mut panel.mins[line]);
    }
}

/// A stripe of integers with their zero at zero.
#[inline(always)]
fn signed<B: IntegerBlock>(s: Avx512<AMX>, q: <Avx512<AMX> as Simd>::I) -> <Avx512<AMX> as Simd>::I {
    match Less::<B>::ZERO {
        Some(zero) if <B::Lanes as Lanes>::BITS < 8 => s.sub_u8(q, s.splat_u8(1 << zero)),
        _ => q,
    }
}

/// The engine for integer formats.
#[inline(always)]
pub(in super::super) fn gemm<B: IntegerBlock>(s: Avx512<AMX>, job: Job<'_>) {
    let Job { w, rows, acts, out, panel, .. } = job;
    let (k, padded) = (acts.cols, acts.tokens.next_multiple_of(TOKENS));
    assert_eq!(w.cols(), k, "columns of the matrix, features of the activations");
    let groups = k.div_ceil(STRIPE) * (STRIPE / GROUP);
    assert!(out.len() >= rows.len().div_ceil(LANES) * padded, "room for every tile of the result");
    let panel = &mut panel.integers[0];
    let panels = Panels { w, rows: rows.clone(), height: LANES, columns: k, kc: KC };
    let tiles = Tiles::of_bytes(s, Of::<B>::LEN);
    for i in 0..panels.len() {
        let (first, start) = panels.place(i);
        let n = KC.min(groups - start);
        let mut this = panels.unpacking::<Bytes<B>>(i);
        let whole = this.left() == LANES && (start + n) * GROUP <= k;
        let in_place = B::BYTES_AT.filter(|_| whole && B::LEN == GROUP);
        while this.left() > 0 {
            match in_place {
                Some(_) => this.unpack::<Numbers<B>>(s, panel),
                None => this.unpack::<Bytes<B>>(s, panel),
            }
        }
        let a = match in_place {
            Some(at) => Sixteen {
                bytes: &w.bytes()[first * w.row_stride() + start * size_of::<B>() + at..],
                stride: w.row_stride(),
                step: size_of::<B>(),
            },
            None => Sixteen { bytes: panel.bytes.as_flattened(), stride: INTEGER_COLS, step: Of::<B>::LEN },
        };
        let out = &mut out[(first - rows.start) / LANES * padded..][..padded];
        for (tile, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            if start == 0 {
                out.fill([0.0; LANES]);
            }
            let (x, _) = acts.tile(tile)[start * WORDS..][..n * WORDS].as_chunks::<WORDS>();
            // SAFETY: the proof says that the CPU has what the function enables.
            unsafe {
                match (Of::<B>::LEN, Less::<B>::MINS) {
                    (GROUP, false) => {
                        multiply::<32, false>(s, &a, panel, x, (tile == 0).then_some(&this), out)
                    }
                    (GROUP, true) => multiply::<32, true>(s, &a, panel, x, (tile == 0).then_some(&this), out),
                    (_, false) => multiply::<16, false>(s, &a, panel, x, (tile == 0).then_some(&this), out),
                    (_, true) => multiply::<16, true>(s, &a, panel, x, (tile == 0).then_some(&this), out),
                }
            }
        }
    }
    drop(tiles);
    if !acts.turned {
        turn(s, &mut out[..rows.len().div_ceil(LANES) * padded]);
    }
}

/// Sixteen rows of signed bytes, unpacked or where the file has them.
struct Sixteen<'a> {
    bytes: &'a [u8],
    /// From a row to the next one.
    stride: usize,
    /// From a group's bytes to the next one's.
    step: usize,
}

/// Scales one row's products and adds them to its sum.
#[rustfmt::skip]
macro_rules! row {
    ($second:literal, $row:literal, $sum:literal) => {
        concat!("vcvtdq2ps {p}, zmmword ptr [{c} + 1024 * ", $second, " + 64 * ", $row, "]\n",
                "vmulps {q}, {x", $second, "}, dword ptr [{w} + 4 * ", $second, " + 64 * ", $row, "]{{1to16}}\n",
                "vfmadd231ps {", $sum, "}, {p}, {q}\n")
    };
}

/// Multiplies one of two groups while one of the two before them is scaled: what tiles have stored is read when it has reached
/// the cache.
#[rustfmt::skip]
macro_rules! product {
    ($second:literal) => {
        concat!("tilezero tmm0\n", "tileloadd tmm2, [{b", $second, "} + {s}]\n",
                row!($second, 0, "s0"), row!($second, 1, "s1"), row!($second, 2, "s2"), row!($second, 3, "s3"),
                "tileloadd tmm1, [{a", $second, "} + {t}]\n",
                row!($second, 4, "s4"), row!($second, 5, "s5"), row!($second, 6, "s6"), row!($second, 7, "s7"),
                "tdpbssd tmm0, tmm1, tmm2\n",
                row!($second, 8, "s8"), row!($second, 9, "s9"), row!($second, 10, "s10"), row!($second, 11, "s11"),
                "tilestored [{d} + {s} + 1024 * ", $second, "], tmm0\n",
                row!($second, 12, "s12"), row!($second, 13, "s13"), row!($second, 14, "s14"), row!($second, 15, "s15"))
    };
}

/// Adds to `out`, `[row][token]`, the products of a block of columns of a panel with sixteen tokens' words; asks for what comes.
/// Tiles are configured for `LEN` columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline(never)]
fn multiply<const LEN: usize, const MINS: bool>(
    s: Avx512<AMX>,
    rows: &Sixteen<'_>,
    numbers: &Integers,
    words: &[[i32; WORDS]],
    coming: Option<&Unpacking<'_>>,
    out: &mut [[f32; LANES]; LANES],
) {
    /// The scales of the two groups before the first ones.
    static NONE: Aligned<[[f32; LANES]; LANES]> = Aligned([[0.0; LANES]; LANES]);
    let mut sums = [s.splat(0.0); LANES];
    for (sum, out) in sums.iter_mut().zip(out.iter()) {
        *sum = s.load(out);
    }
    // Not an array while they are operands: it would be in memory.
    let [mut s0, mut s1, mut s2, mut s3, mut s4, mut s5, mut s6, mut s7, ..] = sums;
    let [.., mut s8, mut s9, mut s10, mut s11, mut s12, mut s13, mut s14, mut s15] = sums;
    let mut c = Aligned([[[0i32; LANES]; 2 * LANES]; 2]);
    // The words of a group by sixteen: eight lines of its columns, the scales, and totals of all columns and of both halves.
    let group = |column: usize| (words[column / GROUP].as_chunks::<TOKENS>().0, column % GROUP / LEN);
    let scale = |column: usize| s.bit_cast(s.load_i32(&group(column).0[GROUP / 4]));
    let columns = |column: usize| {
        let (lines, half) = group(column);
        lines[half * LEN / 4..][..LEN / 4].as_ptr()
    };
    let (mut w, mut x0, mut x1) = (NONE.0.as_flattened().as_ptr(), s.splat(0.0), s.splat(0.0));
    let pairs = words.len() * (GROUP / LEN) / 2;
    let asked = LANES.div_ceil(pairs);
    let last = (LANES - 1) * rows.stride + (2 * pairs - 1) * rows.step;
    assert!(last + LEN <= rows.bytes.len(), "sixteen rows of {} groups", 2 * pairs);
    // Once more, for the last ones' scaling.
    for pair in 0..=pairs {
        if let Some(coming) = coming {
            (pair * asked..(pair + 1) * asked).for_each(|row| coming.ask(s, row));
        }
        let column = pair.min(pairs - 1) * 2 * LEN;
        let (place, at) = (column / SPAN * LANES, column % SPAN / LEN);
        let a = &rows.bytes[column / LEN * rows.step..];
        let [old, new] = c.0.get_disjoint_mut([1 - pair % 2, pair % 2]).expect("two");
        let (_p, _q): (__m512, __m512);
        // SAFETY: `LEN` bytes of this group and the next one lie within each of the sixteen rows, as was checked; `LEN / 4` lines
        // at `columns` of either, sixteen in each half of `old` and `new`, and two floats at `w` and each of the fifteen lines
        // after it, for both groups are of one span. The features are enabled; tiles are configured so.
        unsafe {
            asm!(product!(0), product!(1), a0 = in(reg) a.as_ptr(), a1 = in(reg) a[rows.step..].as_ptr(), b0 = in(reg) columns(column), b1 = in(reg) columns(column + LEN),
                 c = in(reg) old.as_ptr(), d = in(reg) new.as_mut_ptr(), w = in(reg) w,
                 s = in(reg) 64usize, t = in(reg) rows.stride, x0 = in(zmm_reg) x0, x1 = in(zmm_reg) x1,
                 p = out(zmm_reg) _p, q = out(zmm_reg) _q,
                 s0 = inout(zmm_reg) s0, s1 = inout(zmm_reg) s1, s2 = inout(zmm_reg) s2, s3 = inout(zmm_reg) s3,
                 s4 = inout(zmm_reg) s4, s5 = inout(zmm_reg) s5, s6 = inout(zmm_reg) s6, s7 = inout(zmm_reg) s7,
                 s8 = inout(zmm_reg) s8, s9 = inout(zmm_reg) s9, s10 = inout(zmm_reg) s10, s11 = inout(zmm_reg) s11,
                 s12 = inout(zmm_reg) s12, s13 = inout(zmm_reg) s13, s14 = inout(zmm_reg) s14, s15 = inout(zmm_reg) s15,
                 options(nostack));
        }
        w = numbers.scales[place..][..LANES].as_flattened()[at..].as_ptr();
        (x0, x1) = (scale(column), scale(column + LEN));
        if MINS && pair < pairs {
            let mins: &[[f32; LANES]; LANES] = numbers.mins[place..].first_chunk().expect("sixteen rows");
            for second in 0..2 {
                let (lines, half) = group(column + second * LEN);
                let totals = &lines[GROUP / 4 + 1..];
                let total = s.bit_cast(s.load_i32(&totals[if LEN == GROUP { 0 } else { 1 + half }]));
                let mut sums = [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15];
                for (sum, min) in sums.iter_mut().zip(mins) {
                    *sum = s.fma(total, s.splat(min[at + second]), *sum);
                }
                [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15] = sums;
            }
        }
    }
    let sums = [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15];
    for (sum, out) in sums.into_iter().zip(out) {
        s.store(sum, out);
    }
}
