//! Products with a dozen tokens on matrix tiles of bytes.
//!
//! Weights are the A operand here too, unpacked to signed bytes in the order of the row; activations are B as the integer
//! engine has them ([`Layout::Tiles`](crate::acts::Layout::Tiles) of sixteen tokens: four columns of each token a word). The
//! products of a group of 32 (or 16) columns come out of the tiles as integers, sixteen rows by sixteen tokens, and are
//! scaled and added up in sixteen registers, a row each.
//!
//! ```text
//! for each block of KC columns:
//!   for each panel of 16 rows: unpacked into 16 KiB, while the panel before is multiplied
//!     for each group: a tile product, while an earlier one is scaled
//! ```
//!
//! Where the file has signed bytes in the order of the row, they are multiplied where they lie, and only scales are unpacked.
//!
//! A group takes four instructions with tiles whose time counts, two loads, a product and a store, for 8192 multiplications: 21
//! ns, or 40 where another guest is on the core. That is little less than AVX512-VNNI's 128 products and what scales them. But
//! unpacking needs no transposition, and runs in the shadow of the tiles; and weights are asked for evenly, which matters as
//! much: all of a panel's at once, each request waits for the one before. (Two cores of an Emerald Rapids, 2048 x 2048, beside
//! AVX512-VNNI, in turns, with 12, 14 and 16 tokens: Q4_0 1.15, 1.25 and 1.31 to 1.35, Q8_0 1.22, 1.23 and 1.26 to 1.30, Q4_K
//! 1.05, 1.24 and 1.20, Q6_K 0.97, 1.13 and 1.10 to 1.16. Before panels were unpacked in the shadow, 18 tokens, in two tiles: 1.04,
//! 1.03, 0.87 and 0.82. One product at a time, scaled right after it: 0.9 of the speed of two after the two before. Blocks of
//! 512 columns: 0.94 to 1.01. With 16 tokens the shadow made 1.04 to 1.10, Q8_0's bytes in place, too, 1.13 to 1.21.)

use super::super::avx512::{AMX, Avx512};
use super::super::{LANES, SPAN, STRIPE, Simd};
use super::unpacking::{Panels, Unpack, Unpacking};
use super::{Tiles, turn};
use crate::acts::{GROUP, TILE_WORDS};
use crate::buffer::Aligned;
use crate::format::{Grouping, IntegerBlock, Lanes, Less, Of, Subtrahend};
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
    fn unpack(s: Avx512<AMX>, span: &[u8], row: usize, at: usize, panel: &mut Integers) {
        let span = B::cast(&span[..Self::SPAN_BYTES]);
        numbers(s, span, at * LANES + row, panel);
        let line = (row * INTEGER_COLS + at * SPAN) / STRIPE;
        let lines = &mut panel.bytes[line..][..SPAN / STRIPE];
        for pair in 0..2 {
            let [a, b] = B::in_order(s, span, pair);
            s.store_bytes(signed::<B>(s, a), &mut lines[2 * pair]);
            s.store_bytes(signed::<B>(s, b), &mut lines[2 * pair + 1]);
        }
    }
}

/// Their scales and minimums alone.
struct Numbers<B>(PhantomData<B>);

impl<B: IntegerBlock> Unpack for Numbers<B> {
    const SPAN_BYTES: usize = Bytes::<B>::SPAN_BYTES;
    type Panel = Integers;

    #[inline(always)]
    fn unpack(s: Avx512<AMX>, span: &[u8], row: usize, at: usize, panel: &mut Integers) {
        numbers(s, B::cast(&span[..Self::SPAN_BYTES]), at * LANES + row, panel);
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
    let [now, next, ..] = &mut panel.integers;
    let (mut now, mut next) = (now, next);
    let panels = Panels::new(w, &rows, [LANES, KC], acts.tokens);
    let tiles = Tiles::of_bytes(s, Of::<B>::LEN);
    let mut coming = Coming::<B>::of(&panels, 0);
    coming.rest(s, now);
    for i in 0..panels.len() {
        let (first, start) = panels.place(i);
        let n = KC.min(groups - start);
        let a = match coming.in_place {
            Some(at) => Sixteen {
                bytes: &w.bytes()[first * w.row_stride() + start * size_of::<B>() + at..],
                stride: w.row_stride(),
                step: size_of::<B>(),
            },
            None => Sixteen { bytes: now.bytes.as_flattened(), stride: INTEGER_COLS, step: Of::<B>::LEN },
        };
        coming = Coming::of(&panels, i + 1);
        let out = &mut out[(first - rows.start) / LANES * padded..][..padded];
        for (tile, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            if start == 0 {
                out.fill([0.0; LANES]);
            }
            let (x, _) = acts.tile(tile)[start * WORDS..][..n * WORDS].as_chunks::<WORDS>();
            let now = Operands { a: &a, scales: &now.scales, mins: &now.mins, x };
            multiply::<B>(s, now, &mut coming, next, out);
        }
        coming.rest(s, next);
        std::mem::swap(&mut now, &mut next);
    }
    drop(tiles);
    if !acts.turned {
        turn(s, &mut out[..rows.len().div_ceil(LANES) * padded]);
    }
}

/// A panel that is to be unpacked.
struct Coming<'a, B> {
    rows: Unpacking<'a>,
    /// Where in a block its bytes are, if they stay there.
    in_place: Option<usize>,
    block: PhantomData<B>,
}

impl<'a, B: IntegerBlock> Coming<'a, B> {
    /// The `i`th one, if there is one.
    fn of(panels: &Panels<'a>, i: usize) -> Self {
        let rows = panels.unpacking::<Bytes<B>>(i);
        let columns = (panels.place(i).1 + KC) * GROUP;
        let whole =
            rows.left() == LANES && (columns <= panels.columns() || panels.columns().is_multiple_of(STRIPE));
        let in_place = B::BYTES_AT.filter(|_| whole && B::LEN == GROUP);
        Coming { rows, in_place, block: PhantomData }
    }

    /// Unpacks one more row, if there is one, and asks for what comes after it.
    #[inline(always)]
    fn step(&mut self, s: Avx512<AMX>, panel: &mut Integers) {
        match self.in_place {
            _ if self.rows.left() == 0 => {}
            Some(_) => self.rows.row::<Numbers<B>>(s, panel),
            None => self.rows.row::<Bytes<B>>(s, panel),
        }
    }

    /// Unpacks what is left.
    #[inline(always)]
    fn rest(&mut self, s: Avx512<AMX>, panel: &mut Integers) {
        while self.rows.left() > 0 {
            self.step(s, panel);
        }
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

/// A block of columns of a panel, and sixteen tokens' words.
struct Operands<'a> {
    a: &'a Sixteen<'a>,
    scales: &'a [[f32; LANES]],
    mins: &'a [[f32; LANES]],
    x: &'a [[i32; WORDS]],
}

impl Operands<'_> {
    /// The words of a group of `len` columns by sixteen tokens, and which half of 32 columns it is: eight lines of columns, the
    /// scales, and totals of all columns and of both halves.
    #[inline(always)]
    fn group(&self, column: usize, len: usize) -> (&[[i32; TOKENS]], usize) {
        (self.x[column / GROUP].as_chunks::<TOKENS>().0, column % GROUP / len)
    }

    /// A group's columns.
    #[inline(always)]
    fn columns(&self, column: usize, len: usize) -> *const [i32; TOKENS] {
        let (lines, half) = self.group(column, len);
        lines[half * len / 4..][..len / 4].as_ptr()
    }

    /// The tokens' scales of a group.
    #[inline(always)]
    fn x_scale(&self, s: Avx512<AMX>, column: usize, len: usize) -> __m512 {
        s.bit_cast(s.load_i32(&self.group(column, len).0[GROUP / 4]))
    }

    /// The tokens' totals of a group.
    #[inline(always)]
    fn total(&self, s: Avx512<AMX>, column: usize, len: usize) -> __m512 {
        let (lines, half) = self.group(column, len);
        s.bit_cast(s.load_i32(&lines[GROUP / 4 + 1..][if len == GROUP { 0 } else { 1 + half }]))
    }
}

/// Where two groups' columns of sixteen rows (and from a row to the next one) and of sixteen tokens are, where the products of
/// the two groups before them are and theirs go, and the scales of sixteen rows, a line each, for those before.
struct Two {
    a: [*const u8; 2],
    stride: usize,
    b: [*const [i32; TOKENS]; 2],
    old: *const [i32; LANES],
    new: *mut [i32; LANES],
    scales: *const f32,
}

/// Multiplies two groups, scales the two before and adds them to the sums.
///
/// # Safety
/// All of that is there, of as many columns as tiles are configured for.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn products(two: &Two, x: [__m512; 2], sums: &mut [__m512; LANES]) {
    let Two { a: [a0, a1], stride, b: [b0, b1], old, new, scales } = *two;
    let [mut s0, mut s1, mut s2, mut s3, mut s4, mut s5, mut s6, mut s7, ..] = *sums;
    let [.., mut s8, mut s9, mut s10, mut s11, mut s12, mut s13, mut s14, mut s15] = *sums;
    let (_p, _q): (__m512, __m512);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(product!(0), product!(1), a0 = in(reg) a0, a1 = in(reg) a1, b0 = in(reg) b0, b1 = in(reg) b1,
             c = in(reg) old, d = in(reg) new, w = in(reg) scales, s = in(reg) 64usize, t = in(reg) stride,
             x0 = in(zmm_reg) x[0], x1 = in(zmm_reg) x[1], p = out(zmm_reg) _p, q = out(zmm_reg) _q,
             s0 = inout(zmm_reg) s0, s1 = inout(zmm_reg) s1, s2 = inout(zmm_reg) s2, s3 = inout(zmm_reg) s3,
             s4 = inout(zmm_reg) s4, s5 = inout(zmm_reg) s5, s6 = inout(zmm_reg) s6, s7 = inout(zmm_reg) s7,
             s8 = inout(zmm_reg) s8, s9 = inout(zmm_reg) s9, s10 = inout(zmm_reg) s10, s11 = inout(zmm_reg) s11,
             s12 = inout(zmm_reg) s12, s13 = inout(zmm_reg) s13, s14 = inout(zmm_reg) s14, s15 = inout(zmm_reg) s15,
             options(nostack));
    }
    *sums = [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15];
}

/// Adds to `out`, `[row][token]`, the products of a panel's block of columns, while the next one is unpacked. Tiles are configured
/// for the format.
#[inline(always)]
fn multiply<B: IntegerBlock>(
    s: Avx512<AMX>,
    now: Operands<'_>,
    coming: &mut Coming<'_, B>,
    next: &mut Integers,
    out: &mut [[f32; LANES]; LANES],
) {
    /// The scales of the two groups before the first ones.
    static NONE: Aligned<[[f32; LANES]; LANES]> = Aligned([[0.0; LANES]; LANES]);
    let (len, rows) = (Of::<B>::LEN, now.a);
    let mut sums = [s.splat(0.0); LANES];
    for (sum, out) in sums.iter_mut().zip(out.iter()) {
        *sum = s.load(out);
    }
    let mut c = Aligned([[[0i32; LANES]; 2 * LANES]; 2]);
    let (mut scales, mut x) = (NONE.0.as_flattened().as_ptr(), [s.splat(0.0); 2]);
    let pairs = now.x.len() * (GROUP / len) / 2;
    let at_once = coming.rows.left().div_ceil(pairs);
    let last = (LANES - 1) * rows.stride + (2 * pairs - 1) * rows.step;
    assert!(last + len <= rows.bytes.len(), "sixteen rows of {} groups", 2 * pairs);
    // Once more, for the last ones' scaling.
    for pair in 0..=pairs {
        let column = pair.min(pairs - 1) * 2 * len;
        let (place, at) = (column / SPAN * LANES, column % SPAN / len);
        let a = &rows.bytes[column / len * rows.step..];
        let [old, new] = c.0.get_disjoint_mut([1 - pair % 2, pair % 2]).expect("two");
        let two = Two {
            a: [a.as_ptr(), a[rows.step..].as_ptr()],
            stride: rows.stride,
            b: [now.columns(column, len), now.columns(column + len, len)],
            old: old.as_ptr(),
            new: new.as_mut_ptr(),
            scales,
        };
        // SAFETY: `len` bytes of both groups lie within each of the sixteen rows, as was checked; `len / 4` lines at `columns` of
        // either, sixteen in each half of `old` and `new`, and two floats at `scales` and each of the fifteen lines after it,
        // for both groups are of one span. Tiles are configured so; the proof says that the CPU has AVX-512.
        unsafe { products(&two, x, &mut sums) }
        scales = now.scales[place..][..LANES].as_flattened()[at..].as_ptr();
        x = [now.x_scale(s, column, len), now.x_scale(s, column + len, len)];
        if Less::<B>::MINS && pair < pairs {
            let mins: &[[f32; LANES]; LANES] = now.mins[place..].first_chunk().expect("sixteen rows");
            for second in 0..2 {
                let total = now.total(s, column + second * len, len);
                for r in 0..LANES {
                    sums[r] = s.fma(total, s.splat(mins[r][at + second]), sums[r]);
                }
            }
        }
        for _ in 0..at_once {
            coming.step(s, next);
        }
    }
    for (sum, out) in sums.into_iter().zip(out) {
        s.store(sum, out);
    }
}
