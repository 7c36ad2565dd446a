//! Products with many tokens on matrix tiles.
//!
//! Weights are the A operand: a tile row is 32 consecutive weights of one row, so that unpacking needs
//! no transposition. Activations are B, in [`Layout::Pairs`](crate::acts::Layout::Pairs), rounded once per
//! batch. There is no scaling per group: weights are unpacked to bfloat16 with their scale applied, in
//! one rounding of the exact value (where it is a product; a minimum's difference is rounded to `f32` first).
//!
//! ```text
//! for each block of 128 rows:                        (dealt out to workers by `cpu`)
//!   for each block of KC columns:                    (B's part stays in the second-level cache)
//!     for each panel of 32 rows: unpacked into 32 KiB, while the tiles work on the panel before
//!       for each 32 tokens: 2 x 2 tiles of C += A x B
//! ```
//!
//! Weights that are floats are tiles as they lie in the file (BF16), or rounded to bfloat16 (F16: what that costs is said
//! in PERFORMANCE.md). F32 stays with the float engine.
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
//! memory, integers are taken [in the order of the row](IntegerBlock::in_order), and two groups share a table: 4-bit weights
//! times 16 tokens 1.13 to 1.17 times as fast.
//!
//! Blocks of 1024 columns: 0.95 to 1.03.

use super::super::avx512::{AMX, Avx512};
use super::super::{LANES, SPAN, STRIPE, Simd};
use super::unpacking::{Panels, Unpack, each_span};
use super::{ROWS, Tiles, turn};
use crate::acts::{GROUP, PAIR_WORDS};
use crate::buffer::Aligned;
use crate::format::{FloatBlock, Grouping, IntegerBlock, Lanes, Less, MOST_BLOCKS, Of, Subtrahend};
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
    fn unpack(s: Avx512<AMX>, weights: &[u8], row: usize, panel: &mut Lines) {
        each_span!(B, weights, |i, blocks| {
            unpack::<B>(s, blocks, &mut panel[i * (SPAN / GROUP) * ROWS + row..]);
        });
    }
}

/// Numbers that are bfloat16 already, or become it.
struct Floats<B>(PhantomData<B>);

impl<B: FloatBlock> Unpack for Floats<B> {
    const SPAN_BYTES: usize = SPAN * size_of::<B>();
    type Panel = Lines;

    #[inline(always)]
    fn unpack(s: Avx512<AMX>, weights: &[u8], row: usize, panel: &mut Lines) {
        let weights = B::cast(weights);
        for i in 0..weights.len().div_ceil(SPAN) * (SPAN / GROUP) {
            let rest = weights.get(i * GROUP..).unwrap_or(&[]);
            let mut padded = [B::zeroed(); GROUP];
            let whole: &[B; GROUP] = match rest.first_chunk() {
                Some(whole) => whole,
                None => {
                    padded[..rest.len()].copy_from_slice(rest);
                    &padded
                }
            };
            let line = &mut panel[i * ROWS + row];
            if B::BF16 {
                line.copy_from_slice(B::bytes(whole));
            } else {
                let (halves, _) = whole.as_chunks::<LANES>();
                s.store_bytes(s.to_bf16(B::widen(s, &halves[0]), B::widen(s, &halves[1])), line);
            }
        }
    }
}

/// [`Unpack::unpack`] of a span of integers.
#[inline(always)]
fn unpack<B: IntegerBlock>(s: Avx512<AMX>, span: &[B], lines: &mut [[u8; STRIPE]]) {
    let w = B::scales(s, span);
    let (mut scale, mut offset, mut min) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    Of::<B>::each16(s, w.scale, &mut scale);
    // value = scale * q + offset, in one multiply-add
    let zero = Less::<B>::ZERO.map_or(0.0, |zero| (1u32 << zero) as f32);
    let mut offsets = s.mul(s.load(&scale), s.splat(-zero));
    if Less::<B>::MINS {
        Of::<B>::each16(s, w.min, &mut min);
        offsets = s.sub(offsets, s.load(&min));
    }
    s.store(offsets, &mut offset);
    // Each is repeated as it is loaded: from a register that takes one of the permutations, which are what counts here.
    // SAFETY: nothing is done; but the compiler has to have these numbers in memory, and may not know them.
    unsafe { asm!("/* {} {} */", in(reg) &scale, in(reg) &offset, options(nostack, preserves_flags)) }
    for pair in 0..SPAN / STRIPE / 2 {
        for (i, stripe) in B::in_order(s, span, pair).iter().enumerate() {
            let at = 8 * pair + 4 * i;
            let (scale, offset) = (&scale[at..][..4], &offset[at..][..4]);
            let groups = if <B::Lanes as Lanes>::BITS <= 4 && Of::<B>::LEN == 32 {
                by_table(s, *stripe, scale, offset)
            } else {
                by_product::<B>(s, *stripe, scale, offset)
            };
            for (half, groups) in groups.iter().enumerate() {
                s.store_bytes(*groups, &mut lines[(at / 2 + half) * ROWS]);
            }
        }
    }
}

/// Two groups of nibbles: a table of the sixteen values of each, rounded once, and a permutation.
#[inline(always)]
fn by_table(s: Avx512<AMX>, q: __m512i, scale: &[f32], offset: &[f32]) -> [__m512i; 2] {
    amx! {
        let index = _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.);
        let first = _mm512_fmadd_ps(index, s.splat(scale[0]), s.splat(offset[0]));
        let second = _mm512_fmadd_ps(index, s.splat(scale[2]), s.splat(offset[2]));
        let table = s.to_bf16(first, second);
        // The second group's nibbles are indices of the table's second half.
        let q = _mm512_or_si512(q, _mm512_setr_epi64(0, 0, 0, 0, SIXTEENS, SIXTEENS, SIXTEENS, SIXTEENS));
        let [a, b] = [_mm512_castsi512_si256(q), _mm512_extracti64x4_epi64::<1>(q)];
        [
            _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(a), table),
            _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(b), table),
        ]
    }
}

/// Eight bytes of sixteen.
const SIXTEENS: i64 = 0x1010_1010_1010_1010;

/// A register's bytes where quarters of it can be widened as they are loaded: to take them out of the register takes one of the
/// permutations each, which are what counts here. (Q8_0 times 32, 64 and 512 tokens 1.13, 1.12 and 1.05 times as fast, Q6_K
/// 0.96 to 1.04; halves of nibbles 0.97 to 1.02, which are taken out.)
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
fn by_product<B: IntegerBlock>(s: Avx512<AMX>, q: __m512i, scale: &[f32], offset: &[f32]) -> [__m512i; 2] {
    amx! {
        let bytes = in_memory(s, q);
        let mut x = [_mm512_setzero_ps(); 4];
        for i in 0..4 {
            // SAFETY: four quarters of sixteen bytes, aligned.
            let q = _mm_load_si128(bytes.0.as_ptr().add(16 * i).cast());
            let q = if <B::Lanes as Lanes>::BITS < 8 { _mm512_cvtepu8_epi32(q) } else { _mm512_cvtepi8_epi32(q) };
            x[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), s.splat(scale[i]), s.splat(offset[i]));
        }
        [s.to_bf16(x[0], x[1]), s.to_bf16(x[2], x[3])]
    }
}

/// The bfloat16 engine for integer formats.
#[inline(always)]
pub(in super::super) fn gemm_integer<B: IntegerBlock>(s: Avx512<AMX>, job: Job<'_>) {
    gemm::<Integers<B>>(s, job);
}

/// The bfloat16 engine for matrices of floats.
#[inline(always)]
pub(in super::super) fn gemm_float<B: FloatBlock>(s: Avx512<AMX>, job: Job<'_>) {
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
    let panels = Panels { w, rows: rows.clone(), height: ROWS, columns: k, kc: KC };
    let tiles = Tiles::configure(s);
    panels.unpacking::<W>(0).rest::<W>(s, now);
    for i in 0..panels.len() {
        let (first, start) = panels.place(i);
        let (n, mut coming) = (KC.min(groups - start), panels.unpacking::<W>(i + 1));
        let panel = Block { a: now, start, n, upper: first + LANES < rows.end };
        let c = &mut out[(first - rows.start) / LANES * padded..];
        let (mut debt, work, steps) = (0, coming.left(), padded / ROWS * n);
        for tile in 0..padded / ROWS {
            let wide = tokens > tile * ROWS + LANES;
            let b = &acts.pairs(tile)[start * PAIR_WORDS..][..n * PAIR_WORDS];
            panel.load(c, tile, padded, wide);
            for step in 0..n {
                panel.multiply(b, step, wide);
                debt += work; // the next panel is unpacked evenly in the shadow of the products
                while debt >= steps && coming.left() > 0 {
                    debt -= steps;
                    coming.step::<W>(s, next);
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
            panel.multiply(&b, step % GROUPS, true);
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

    #[inline(always)]
    fn multiply(&self, b: &[i32], step: usize, wide: bool) {
        let a = self.a[step * ROWS..][..ROWS].as_ptr();
        let b = b[step * PAIR_WORDS..][..PAIR_WORDS].as_ptr();
        // SAFETY: both slices were checked to hold two tiles, 2 KiB; the tiles are configured.
        unsafe {
            if wide {
                asm!("tileloadd tmm6, [{b} + {s}]", rest!(), "tileloadd tmm4, [{a} + {s}]", rest!(),
                     "tileloadd tmm7, [{b} + {s} + 1024]", rest!(), "tdpbf16ps tmm0, tmm4, tmm6", rest!(),
                     "tileloadd tmm5, [{a} + {s} + 1024]", rest!(), "tdpbf16ps tmm1, tmm4, tmm7", rest!(),
                     "tdpbf16ps tmm2, tmm5, tmm6", rest!(), "tdpbf16ps tmm3, tmm5, tmm7", rest!(),
                     a = in(reg) a, b = in(reg) b, s = in(reg) 64usize, options(nostack, readonly));
            } else {
                asm!("tileloadd tmm6, [{b} + {s}]", rest!(), "tileloadd tmm4, [{a} + {s}]", rest!(), "tdpbf16ps tmm0, tmm4, tmm6", rest!(),
                     "tileloadd tmm5, [{a} + {s} + 1024]", rest!(), "tdpbf16ps tmm2, tmm5, tmm6", rest!(),
                     a = in(reg) a, b = in(reg) b, s = in(reg) 64usize, options(nostack, readonly));
            }
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
