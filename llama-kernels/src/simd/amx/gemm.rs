//! Products with many tokens on matrix tiles.
//!
//! Weights are the A operand: a tile row is 32 consecutive weights of one row, so that unpacking needs
//! no transposition. Activations are B, in [`Layout::Pairs`](crate::acts::Layout::Pairs), rounded once per
//! batch. There is no scaling per group: weights are unpacked to bfloat16 with their scale applied, in
//! one rounding of the exact value (where it is a product; a minimum's difference is rounded to `f32` first).
//!
//! ```text
//! for each block of 128 rows:                        (dealt out to workers by `cpu`)
//!   for each block of KC columns:                    (B's part stays in the second-level cache; where all of it does, within rows)
//!     for each panel of 32 rows: unpacked into 32 KiB, while the tiles work on the panel before
//!       for each 32 tokens: 2 x 2 tiles of C += A x B
//! ```
//!
//! Weights that are bfloat16 are tiles as they lie in the file. Those in half precision are multiplied [in fixed
//! point](super::fixed), F32 stays with the float engine.
//!
//! C lives in the output between blocks of columns and is reloaded as the initial accumulator, so that
//! the size of a block does not change a bit of the result. Results stay as the tiles have them, sixteen rows by sixteen
//! tokens, and are transposed on their way to their places.
//!
//! What counts beside the tiles: the panel after the next one is asked for, since hardware finds no pace in rows of which 512
//! columns are read at a time; the first panel of a block of columns is unpacked in the shadow of the last one of the
//! block before; and the tiles of tokens lie such that a block of columns of all of them fits the second-level cache: with
//! 2048 and 4096 columns they had shared a quarter of it. Together with what comes [after each tile instruction](super), one
//! Emerald Rapids core became 1.5 times as fast with Q4_0 times 512 tokens (4096 x 4096), 2.6 and 3.8 times with 64 and 16
//! (2048 x 5632).
//!
//! What unpacks counts permutations, of which a CPU makes one a cycle: scales and offsets are repeated as they are loaded from
//! memory, integers are taken [in the order of the row](IntegerBlock::in_order), or nibbles [in 16-bit
//! lanes](IntegerBlock::in_words), as the table wants them that two groups share. Bytes of the file are widened where they lie.
//!
//! The next panel is unpacked a span at a time, between one pair of tile instructions and another: a quarter of the products of 2
//! x 2 tiles with their loads. (With what is said above, against a row after eight tile instructions and nibbles in bytes; two
//! cores of an Emerald Rapids, 2048 x 2048, out of memory, in turns: 64 tokens Q4_0 1.05 to 1.10 times as fast, Q8_0 1.14 to 1.21,
//! Q4_K 1.02 to 1.08, Q6_K 0.99 to 1.05, F16, then rounded, 1.10 to 1.15, with 16 and 24 1.22 and 1.3 to 1.4, with 512 1.06 to 1.10,
//! integers 0.97 to 1.03.)
//!
//! Blocks of 1024 columns: 0.95 to 1.03.

use super::super::avx512::{AMX, Avx512};
use super::super::{LANES, SPAN, STRIPE, Simd};
use super::unpacking::{Panels, Unpack};
use super::{ROWS, Tiles, turn};
use crate::acts::{GROUP, PAIR_WORDS};
use crate::buffer::Aligned;
use crate::format::{FloatBlock, Grouping, IntegerBlock, Lanes, Less, Of, Subtrahend};
use crate::ops::gemm::Job;
use core::arch::asm;
use core::arch::x86_64::*;
use std::marker::PhantomData;

/// Groups of 32 columns in a block: 512 columns of 512 tokens are 512 KiB of B.
const KC: usize = 16;
/// Lines of a panel: for each 32 columns one of each row.
type Lines = [[u8; STRIPE]];

/// Blocks of an integer format.
struct Integers<B>(PhantomData<B>);

impl<B: IntegerBlock> Unpack for Integers<B> {
    const SPAN_BYTES: usize = SPAN / B::LEN * size_of::<B>();
    type Panel = Lines;

    #[inline(always)]
    fn unpack(s: Avx512<AMX>, span: &[u8], row: usize, at: usize, panel: &mut Lines) {
        unpack::<B>(s, B::cast(&span[..Self::SPAN_BYTES]), &mut panel[at * (SPAN / GROUP) * ROWS + row..]);
    }
}

/// Numbers that are bfloat16 already.
struct Floats<B>(PhantomData<B>);

impl<B: FloatBlock> Unpack for Floats<B> {
    const SPAN_BYTES: usize = SPAN * size_of::<B>();
    type Panel = Lines;

    #[inline(always)]
    fn unpack(_: Avx512<AMX>, span: &[u8], row: usize, at: usize, panel: &mut Lines) {
        let lines = panel[at * (SPAN / GROUP) * ROWS + row..].iter_mut().step_by(ROWS);
        for (group, line) in B::cast(span).as_chunks::<GROUP>().0.iter().zip(lines) {
            line.copy_from_slice(B::bytes(group));
        }
    }
}

/// [`Unpack::unpack`] of a span of integers.
#[inline(always)]
fn unpack<B: IntegerBlock>(s: Avx512<AMX>, span: &[B], lines: &mut [[u8; STRIPE]]) {
    let w = B::scales(s, span);
    // value = scale * q + offset, in one multiply-add
    let zero = Less::<B>::ZERO.map_or(0.0, |zero| -((1u32 << zero) as f32));
    let offset = match Less::<B>::MINS {
        true => Of::<B>::mul(s, w.min, Of::<B>::splat(s, -1.0)),
        false => Of::<B>::mul(s, w.scale, Of::<B>::splat(s, zero)),
    };
    let (mut factors, tables) = (Factors::default(), <B::Lanes as Lanes>::BITS <= 4 && Of::<B>::LEN == GROUP);
    if tables {
        Of::<B>::store(s, w.scale, &mut factors.scales);
        Of::<B>::store(s, offset, &mut factors.offsets);
    } else {
        Of::<B>::each16(s, w.scale, &mut factors.scales);
        Of::<B>::each16(s, offset, &mut factors.offsets);
    }
    let lines: &mut [_; (SPAN / GROUP - 1) * ROWS + 1] =
        lines.first_chunk_mut().expect("a line of each group");
    for stripe in 0..SPAN / STRIPE {
        let groups = if tables {
            by_table(s, B::in_words(s, span, stripe), &factors, 2 * stripe)
        } else {
            by_product::<B>(s, span, stripe, &factors)
        };
        for (half, groups) in groups.iter().enumerate() {
            s.store_bytes(*groups, &mut lines[(2 * stripe + half) * ROWS]);
        }
    }
}

/// What integers are multiplied by, and what is added, for each group or for each 16 weights.
#[derive(Default)]
#[repr(C)]
struct Factors {
    scales: [f32; LANES],
    offsets: [f32; LANES],
}

impl Factors {
    /// `q * scale + offset` of the `i`th one and of the next, which are repeated as they are loaded. (Intrinsics leave it to the
    /// compiler, which takes some of them from a register: a permutation each.)
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn apply(&self, i: usize, q: [__m512; 2]) -> [__m512; 2] {
        let at = self.scales[i..i + 2].as_ptr();
        let (a, b): (__m512, __m512);
        // SAFETY: two floats are read, and two that lie 64 bytes further on, as `repr(C)` has it.
        unsafe {
            asm!("vbroadcastss {a}, dword ptr [{at}]", "vfmadd213ps {a}, {p}, dword ptr [{at} + 64]{{1to16}}",
                 "vbroadcastss {b}, dword ptr [{at} + 4]", "vfmadd213ps {b}, {q}, dword ptr [{at} + 68]{{1to16}}",
                 a = out(zmm_reg) a, b = out(zmm_reg) b, p = in(zmm_reg) q[0], q = in(zmm_reg) q[1], at = in(reg) at,
                 options(nostack, readonly, pure, preserves_flags));
        }
        [a, b]
    }

    /// `q * scale` likewise. (Q8_0 times 48 to 512 tokens: 1.01 to 1.04.)
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn scale(&self, i: usize, q: [__m512; 2]) -> [__m512; 2] {
        let at = self.scales[i..i + 2].as_ptr();
        let (a, b): (__m512, __m512);
        // SAFETY: two floats are read.
        unsafe {
            asm!("vmulps {a}, {p}, dword ptr [{at}]{{1to16}}", "vmulps {b}, {q}, dword ptr [{at} + 4]{{1to16}}",
                 a = out(zmm_reg) a, b = lateout(zmm_reg) b, p = in(zmm_reg) q[0], q = in(zmm_reg) q[1], at = in(reg) at,
                 options(nostack, readonly, pure, preserves_flags));
        }
        [a, b]
    }
}

/// Two groups of nibbles: a table of the sixteen values of each, rounded once, and a permutation.
#[inline(always)]
fn by_table(s: Avx512<AMX>, q: [__m512i; 2], factors: &Factors, group: usize) -> [__m512i; 2] {
    amx! {
        let index = _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.);
        let [first, second] = factors.apply(group, [index; 2]);
        let table = s.to_bf16(first, second);
        // The second group's nibbles are indices of the table's second half.
        let second = _mm512_or_si512(q[1], _mm512_set1_epi16(16));
        [_mm512_permutexvar_epi16(q[0], table), _mm512_permutexvar_epi16(second, table)]
    }
}

/// A stripe's bytes where quarters of it can be widened as they are loaded: to take them out of a register takes one of the
/// permutations each, which are what counts here. (Q8_0 times 32, 64 and 512 tokens 1.13, 1.12 and 1.05 times as fast, Q6_K
/// 0.96 to 1.04.)
#[inline(always)]
fn in_memory(s: Avx512<AMX>, q: __m512i) -> Aligned<[u8; STRIPE]> {
    let mut bytes = Aligned([0; STRIPE]);
    s.store_bytes(q, &mut bytes.0);
    // SAFETY: nothing is done; but the compiler has to have the bytes in memory, and may not know them.
    unsafe { asm!("/* {} */", in(reg) &raw mut bytes, options(nostack, preserves_flags)) }
    bytes
}

/// Two groups of any integers.
#[inline(always)]
fn by_product<B: IntegerBlock>(s: Avx512<AMX>, span: &[B], stripe: usize, factors: &Factors) -> [__m512i; 2] {
    let room;
    let halves: [&[u8; GROUP]; 2] = match B::BYTES_AT {
        Some(at) if B::LEN == GROUP => {
            let [a, b] = [&span[2 * stripe..][..1], &span[2 * stripe + 1..][..1]];
            let [a, b] = [B::bytes(a)[at..].first_chunk(), B::bytes(b)[at..].first_chunk()];
            [a.expect("32 bytes"), b.expect("32 bytes")]
        }
        _ => {
            room = in_memory(s, B::in_order(s, span, stripe / 2)[stripe % 2]);
            let [a, b] = room.0.as_chunks().0 else { unreachable!("two halves") };
            [a, b]
        }
    };
    let mut groups = [s.splat_i32(0); 2];
    for (half, bytes) in halves.into_iter().enumerate() {
        let [a, b] = bytes.as_chunks().0 else { unreachable!("two quarters") };
        let q = [floats::<B>(s, a), floats::<B>(s, b)];
        let at = 4 * stripe + 2 * half;
        let [a, b] = if Less::<B>::MINS || Less::<B>::ZERO.is_some() {
            amx! { factors.apply(at, q) }
        } else {
            amx! { factors.scale(at, q) }
        };
        groups[half] = s.to_bf16(a, b);
    }
    groups
}

/// Sixteen integers as floats.
#[inline(always)]
fn floats<B: IntegerBlock>(_: Avx512<AMX>, q: &[u8; LANES]) -> __m512 {
    amx! {
        let q = _mm_loadu_si128(q.as_ptr().cast());
        let q = if <B::Lanes as Lanes>::BITS < 8 { _mm512_cvtepu8_epi32(q) } else { _mm512_cvtepi8_epi32(q) };
        _mm512_cvtepi32_ps(q)
    }
}

/// Does each pair of instructions, and something after it.
macro_rules! each_pair {
    ($panel:ident . $pair:ident ($b:expr, $step:expr), $after:expr, [$($i:literal),*]) => {
        $(
            $panel.$pair::<$i>($b, $step);
            $after;
        )*
    };
}

/// The bfloat16 engine for integer formats.
#[inline(always)]
pub(in super::super) fn gemm_integer<B: IntegerBlock>(s: Avx512<AMX>, job: Job<'_>) {
    gemm::<Integers<B>>(s, job);
}

/// The bfloat16 engine for matrices that are bfloat16.
#[inline(always)]
pub(in super::super) fn gemm_bf16<B: FloatBlock>(s: Avx512<AMX>, job: Job<'_>) {
    gemm::<Floats<B>>(s, job);
}

#[inline(always)]
fn gemm<W: Unpack<Panel = Lines>>(s: Avx512<AMX>, job: Job<'_>) {
    let Job { w, rows, acts, out, panel, .. } = job;
    let (k, tokens) = (acts.cols, acts.tokens);
    assert_eq!(w.cols(), k, "columns of the matrix, features of the activations");
    let groups = k.div_ceil(STRIPE) * (STRIPE / GROUP);
    let padded = tokens.next_multiple_of(2 * LANES);
    assert!(out.len() >= rows.len().div_ceil(LANES) * padded, "room for every tile of the result");
    let [now, next] = &mut panel.pairs;
    let (mut now, mut next) = (&mut now[..], &mut next[..]);
    let panels = Panels::new(w, &rows, [ROWS, KC], tokens);
    let tiles = Tiles::configure(s);
    panels.unpacking::<W>(0).rest::<W>(s, now);
    for i in 0..panels.len() {
        let (first, start) = panels.place(i);
        let n = KC.min(groups - start);
        let panel = Block { a: now, start, n, upper: first + LANES < rows.end };
        let c = &mut out[(first - rows.start) / LANES * padded..];
        let mut coming = panels.unpacking::<W>(i + 1).among(padded / ROWS * n * 4);
        for tile in 0..padded / ROWS {
            let wide = tokens > tile * ROWS + LANES;
            let b = &acts.pairs(tile)[start * PAIR_WORDS..][..n * PAIR_WORDS];
            panel.load(c, tile, padded, wide);
            for step in 0..n {
                if wide {
                    each_pair!(panel.whole(b, step), coming.after::<W>(s, 1, next), [0, 1, 2, 3]);
                } else {
                    panel.narrow(b, step);
                    coming.after::<W>(s, 4, next);
                }
            }
            panel.store(c, tile, padded, wide);
        }
        coming.rest::<W>(s, next);
        std::mem::swap(&mut now, &mut next);
    }
    drop(tiles);
    if acts.turned {
        return;
    }
    turn(s, &mut out[..rows.len().div_ceil(LANES) * padded]);
}

/// Products of tiles that stay in the first-level cache, as [`Simd::multiply_tiles`] describes them.
#[inline(always)]
pub(in super::super) fn multiply(s: Avx512<AMX>, rounds: usize) -> usize {
    /// Groups of 32 columns: 16 KiB of each operand.
    const GROUPS: usize = 8;
    /// Times that they go through the tiles before C is stored.
    const REPEATS: usize = 16;
    let (a, b) = (vec![[0; STRIPE]; GROUPS * ROWS], vec![0; GROUPS * PAIR_WORDS]);
    let mut c = vec![[0.0; LANES]; 2 * ROWS];
    let panel = Block { a: &a, start: 0, n: GROUPS, upper: true };
    let tiles = Tiles::configure(s);
    for _ in 0..rounds {
        panel.load(&mut c, 0, ROWS, true);
        for step in 0..REPEATS * GROUPS {
            let step = step % GROUPS;
            panel.whole::<0>(&b, step);
            panel.whole::<1>(&b, step);
            panel.whole::<2>(&b, step);
            panel.whole::<3>(&b, step);
        }
        panel.store(&mut c, 0, ROWS, true);
    }
    drop(tiles);
    REPEATS * GROUPS * ROWS * ROWS * GROUP
}

/// A panel of A for one block of columns.
struct Block<'a> {
    a: &'a [[u8; STRIPE]],
    start: usize,
    n: usize,
    /// Whether there are more than sixteen rows.
    upper: bool,
}

impl Block<'_> {
    /// The four tiles of C for 32 tokens: rows 0..16 and 16..32, each for tokens 0..16 and 16..32.
    #[inline(always)]
    fn c(&self, c: &mut [[f32; LANES]], tile: usize, padded: usize) -> [*mut f32; 2] {
        let upper = if self.upper { padded } else { 0 };
        assert!(c.len() >= upper + (tile + 1) * ROWS, "room for the tiles of C");
        let base = c.as_mut_ptr().cast::<f32>().wrapping_add(tile * ROWS * LANES);
        let [low, high] = [base, base.wrapping_add(upper * LANES)];
        [low, high]
    }

    #[inline(always)]
    fn load(&self, c: &mut [[f32; LANES]], tile: usize, padded: usize, wide: bool) {
        let [low, high] = self.c(c, tile, padded);
        // SAFETY: `c` checked that 32 lines of 64 bytes lie at both pointers; the tiles are configured.
        unsafe {
            if self.start == 0 {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    options(nostack, nomem)
                );
                return;
            }
            asm!("tileloadd tmm0, [{c} + {s}]", rest!(), "tileloadd tmm2, [{d} + {s}]", rest!(),
                 c = in(reg) low, d = in(reg) high, s = in(reg) 64usize, options(nostack, readonly));
            if wide {
                asm!("tileloadd tmm1, [{c} + {s} + 1024]", rest!(), "tileloadd tmm3, [{d} + {s} + 1024]", rest!(),
                     c = in(reg) low, d = in(reg) high, s = in(reg) 64usize, options(nostack, readonly));
            }
        }
    }

    /// The tiles of A and of B for a step: two of each.
    #[inline(always)]
    fn operands(&self, b: &[i32], step: usize) -> [*const u8; 2] {
        let a = self.a[step * ROWS..][..ROWS].as_ptr();
        let b = b[step * PAIR_WORDS..][..PAIR_WORDS].as_ptr();
        [a.cast(), b.cast()]
    }

    /// The products of two tiles of A and two of B: a pair of instructions.
    #[inline(always)]
    #[rustfmt::skip]
    fn whole<const I: usize>(&self, b: &[i32], step: usize) {
        let [a, b] = self.operands(b, step);
        // SAFETY: both slices were checked to hold two tiles, 2 KiB; the tiles are configured.
        unsafe {
            match I {
                0 => pair!(a, b, "tileloadd tmm6, [{b} + {s}]", "tileloadd tmm4, [{a} + {s}]"),
                1 => pair!(a, b, "tileloadd tmm7, [{b} + {s} + 1024]", "tdpbf16ps tmm0, tmm4, tmm6"),
                2 => pair!(a, b, "tileloadd tmm5, [{a} + {s} + 1024]", "tdpbf16ps tmm1, tmm4, tmm7"),
                _ => pair!(a, b, "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7"),
            }
        }
    }

    /// The products of two tiles of A and one of B.
    #[inline(always)]
    fn narrow(&self, b: &[i32], step: usize) {
        let [a, b] = self.operands(b, step);
        // SAFETY: as in `whole`.
        unsafe {
            pair!(a, b, "tileloadd tmm6, [{b} + {s}]", "tileloadd tmm4, [{a} + {s}]");
            pair!(a, b, "tdpbf16ps tmm0, tmm4, tmm6", "tileloadd tmm5, [{a} + {s} + 1024]");
            pair!(a, b, "tdpbf16ps tmm2, tmm5, tmm6", "");
        }
    }

    #[inline(always)]
    fn store(&self, c: &mut [[f32; LANES]], tile: usize, padded: usize, wide: bool) {
        let [low, high] = self.c(c, tile, padded);
        debug_assert!(self.n > 0);
        // SAFETY: as in `load`. Without upper rows both pointers are equal, and the lower tiles are
        // stored last.
        unsafe {
            asm!("tilestored [{d} + {s}], tmm2", rest!(), "tilestored [{c} + {s}], tmm0", rest!(),
                 c = in(reg) low, d = in(reg) high, s = in(reg) 64usize, options(nostack));
            if wide {
                asm!("tilestored [{d} + {s} + 1024], tmm3", rest!(), "tilestored [{c} + {s} + 1024], tmm1", rest!(),
                     c = in(reg) low, d = in(reg) high, s = in(reg) 64usize, options(nostack));
            }
        }
    }
}
