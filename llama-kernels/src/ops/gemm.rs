//! Products with many tokens.
//!
//! ```text
//! for each block of 64 rows:                     (dealt out to workers by `cpu`)
//!   for each block of Kc columns:
//!     unpack four panels (16 x Kc each)            (scratch in the second-level cache)
//!     for each tile of MT tokens:                  (from the last-level cache, once for 64 rows)
//!       for each panel:
//!         C[MT][16] += panel x tile                (C stays in registers for all of Kc)
//! ```
//!
//! With AVX512-VNNI two panels are multiplied at once, so that a token's word serves 32 rows (`simd/avx512/panel.rs`), and
//! the two inner loops change places: both panels stay in the first-level cache while all tiles pass. (One Zen 5 core,
//! 512 tokens, in turns: two panels times four tokens in place of one times twelve 1.10 in Q4_0, 1.04 in Q4_K, 1.12 in
//! Q6_K; the order of the loops 1.0 to 1.12, most for Q6_K. Panels of 512 columns, which would leave room in that cache:
//! 0.92 to 1.02.)
//!
//! On Zen 4, whose registers of 64 bytes take each unit two cycles, products, multiplications and multiply-adds share the
//! place of one a cycle (also `vpmaddubsw`: both kinds of products in turns are no faster), so 64 products of a group with
//! its 16 scalings are 80 % of the peak at most, 73 with minimums. A tile in cache runs at 76 to 78, a prompt's at 68 to
//! 75: its activations, a megabyte for each 32 rows and 1024 columns, come from the last-level cache. (With always the
//! same ones, which is nonsense: 1.0 to 1.04 of 2048 columns, on a busy day 1.1 to 1.2 of 5632. The activations of a block
//! of columns in one piece, in the order in which they are read: 0.98 to 1.02.) Panels of 512 columns, two of which that
//! first-level cache would hold: 0.92 to 1.02.
//!
//! An ISA has up to two widths of tiles: a batch takes the one that leaves less of the last tile unused. (On AVX-512
//! without VNNI, with twelve only, sixteen tokens cost as much as twenty-four.)
//!
//! This is the scheme of the integer engine, which multiplies bytes ([`crate::acts`] describes the activations,
//! [`super::pack`] the panels); per group of 32 (or 16) columns it converts once, and scales by one multiply-add. The
//! zero point costs nothing where dot products take unsigned bytes: all weights are moved up to a zero of 128, and the
//! accumulators start at minus 128 times the sum of the activations. Elsewhere it is one more multiply-add, as a minimum
//! is. Plain AVX2 has tiles of its own (`simd/avx2/panel.rs`): it adds products of small weights up in 16 bits, from minus
//! the zero times the sums of two activations each.
//!
//! Where each 16 columns have a scale and the registers suffice, the sums of both halves of a group are scaled by the
//! weights' scales and added, and then by the activations' scale, which is the same: three multiplications in place of four
//! (AVX512-VNNI, Q6_K: 1.04 to 1.05).
//!
//! While a tile is multiplied with its panels, the activations of the next one are asked for, a line a group (AVX2, one
//! Zen 3 core, 512 tokens, in turns: 1.07 to 1.14 times as fast); with few tokens, whose activations are in the caches,
//! the weights that are unpacked next (two cores, 16 tokens: Q8_0 1.11 to 1.15, Q4_K 1.02 to 1.04, Q4_0 and Q6_K 0.97 to
//! 1.02; 64 tokens 0.98 to 1.04). On AVX512-VNNI (Zen 5) that gained nothing: 0.95 to 1.01 with Q4_0 and Q4_K, Q6_K 0.99
//! to 1.13. Else weights are asked for while others are unpacked, and memory rests while panels are
//! multiplied.
//!
//! AMX replaces the integer engine by two of its own: for 12 to 16 tokens one of bytes (`simd/amx/bytes.rs`),
//! for more one in bfloat16 (`simd/amx/gemm.rs`), which needs no scaling per group: when it was written, a prompt of 512
//! tokens through a 1.1B model in Q4_0 ran at 135 tokens/s on AVX2, 272 on AVX512-VNNI and 520 on AMX (two cores of an
//! Emerald Rapids Xeon).
//!
//! The float engine unpacks nothing and reads both operands where they lie ([`super::dots`]); on AVX2, many tokens go
//! through panels ([`super::floats`]). Weights of two bytes go through AMX's engines of bfloat16, or of halves in fixed point. On
//! AVX2 and AVX512-VNNI, with some thirty tokens or more, they are rounded to [fixed point of 14 bits](super::shorts), but on
//! AVX512-BF16 those that are bfloat16 go through the float engine with a dot product of pairs (`simd/avx512/bf16.rs`); their
//! activations are rounded then.
//!
//! Tried: sums that start at the bits of 1.5 * 2^23, so that they are floats without a conversion, and a multiply-add scales them
//! and takes that away (one instruction less of eleven on the units that multiply, but scales above 2^104 come out as no number):
//! 1.02 to 1.04 on AVX512-VNNI with 128 tokens, 1.01 to 1.02 on AVX-VNNI, with one to eight tokens 0.97 to 1.04.
//!
//! C is reloaded as the initial accumulator of the next block of columns, never added afterwards, so
//! that the size of a block does not change a bit of the result.

use super::dots::{self, Floats, Operands};
use super::pack::{self, Coming, Integers, PANELS, Panel};
use crate::acts::{Acts, GROUP, TILE_WORDS};
use crate::format::{FloatBlock, Grouping, IntegerBlock, Lanes, Subtrahend};
use crate::matrix::Matrix;
use crate::simd::{Kernel, LANES, STRIPE, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// The most tokens for which the weights are asked for that come next, and not the activations.
const FEW: usize = 64;

/// A block of rows of a matrix times all tokens of a batch.
pub struct Job<'a> {
    /// The weights.
    pub w: Matrix<'a>,
    /// Which rows.
    pub rows: Range<usize>,
    /// The activations as they are, `tokens` rows of `w.cols()`; for the float engine.
    pub x: &'a [f32],
    /// The prepared activations; for the integer and bfloat16 engines.
    pub acts: &'a Acts,
    /// For each sixteen rows `[token][row]`, with the tokens rounded up to whole tiles; what lies beyond
    /// the rows and tokens is not defined.
    pub out: &'a mut [[f32; LANES]],
    /// The worker's scratch.
    pub panel: &'a mut Panel,
}

/// The integer engine, for `P` panels at once times tiles of `MT` or, if the batch has them, `NARROW` tokens.
#[inline(always)]
pub(crate) fn integer<S, B, const P: usize, const MT: usize, const NARROW: usize>(s: S, job: Job<'_>)
where
    S: Simd,
    B: IntegerBlock,
{
    let Job { w, rows, acts, out, panel, .. } = job;
    assert_eq!(w.cols(), acts.cols, "columns of the matrix, features of the activations");
    out.fill([0.0; LANES]);
    let Some(padded) = out.len().checked_div(rows.len().div_ceil(LANES)) else { return };
    assert!(rows.len() <= PANELS * LANES && padded > 0, "{} rows, {padded} tokens", rows.len());
    let mt = acts.layout.tile();
    assert!(mt == MT || mt == NARROW, "tiles of {MT} or {NARROW} tokens, found {mt}");
    let few = S::ASKS && padded <= FEW;
    for start in (0..w.cols()).step_by(pack::INTEGER_COLS) {
        let cols = start..w.cols().min(start + pack::INTEGER_COLS);
        let panels = rows.len().div_ceil(LANES);
        for (at, (rows, panel)) in sixteens(&rows).zip(&mut panel.integers).enumerate() {
            let ahead = if few { None } else { Some(pack::next::<B>(w, &cols, at, panels)) };
            pack::integer::<S, B>(s, w, rows, cols.clone(), ahead, panel);
        }
        let (panels, groups) = (&panel.integers[..panels], pack::groups(cols.len()));
        let parts = padded / mt * panels.len().div_ceil(P) * groups;
        let coming = few.then(|| Coming::after::<B>(w, &rows, &cols, pack::INTEGER_COLS, parts));
        let first = start / GROUP * TILE_WORDS * mt;
        let block = Block { panels, groups, first, acts, out, padded, coming };
        // Compiled once for all formats with such lanes.
        if MT == NARROW || mt == MT {
            s.run(Tiles::<B::Lanes, P, MT>(block, PhantomData));
        } else {
            s.run(Tiles::<B::Lanes, P, NARROW>(block, PhantomData));
        }
    }
}

/// Panels, and what they are multiplied with.
struct Block<'a> {
    panels: &'a [Integers],
    /// Of columns, and where their words begin in a tile.
    groups: usize,
    first: usize,
    acts: &'a Acts,
    out: &'a mut [[f32; LANES]],
    /// Tokens, up to whole tiles.
    padded: usize,
    /// Weights to be asked for; if there are none, activations are.
    coming: Option<Coming>,
}

/// A block times all tokens of a batch, `P` panels at once, in tiles of `MT`.
struct Tiles<'a, L, const P: usize, const MT: usize>(Block<'a>, PhantomData<L>);

impl<L: Lanes, const P: usize, const MT: usize> Kernel for Tiles<'_, L, P, MT> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Block { panels, groups, first, acts, out, padded, mut coming } = self.0;
        let staying = pack::staying(P);
        for (panels, out) in panels.chunks(staying).zip(out.chunks_mut(staying * padded)) {
            for tile in 0..padded / MT {
                let words = |tile: usize| &acts.tile(tile)[first..][..groups * TILE_WORDS * MT];
                let (x, next) = (words(tile), words((tile + 1).min(padded / MT - 1)));
                let parts = next.chunks(next.len().div_ceil(panels.len().div_ceil(P)));
                for ((panels, out), next) in panels.chunks(P).zip(out.chunks_mut(P * padded)).zip(parts) {
                    // Where a panel is missing, the last one is multiplied once more, into nothing.
                    let mut nothing = [[[0.0; LANES]; MT]; P];
                    let mut c = nothing.each_mut();
                    for (c, out) in c.iter_mut().zip(out.chunks_exact_mut(padded)) {
                        *c = out[tile * MT..].first_chunk_mut().expect("whole tiles");
                    }
                    let mut these = [&panels[panels.len() - 1]; P];
                    these.iter_mut().zip(panels).for_each(|(these, panel)| *these = panel);
                    let mut activations = Coming::words(next);
                    s.integer_tile::<L, P, MT>(these, x, coming.as_mut().unwrap_or(&mut activations), c);
                }
            }
        }
    }
}

/// Rows by sixteen.
pub(crate) fn sixteens(rows: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.clone().step_by(LANES).map(move |row| row..end.min(row + LANES))
}

/// [`Simd::dot_panel`] in its terms.
#[inline(always)]
pub(crate) fn dot_panel<S: Simd, L: Lanes, const QUADS: usize, const MT: usize>(
    s: S,
    start: [S::I; MT],
    w: &[[u8; STRIPE]; QUADS],
    x: &[[i32; MT]; QUADS],
) -> [S::I; MT] {
    let mut acc = start;
    for (w, x) in w.iter().zip(x) {
        let w = s.load_bytes(w);
        for (acc, &x) in acc.iter_mut().zip(x) {
            let x = s.splat_i32(x);
            *acc = if L::BITS < 8 { s.dot_unsigned(*acc, w, x) } else { s.dot_signed(*acc, w, x) };
        }
    }
    acc
}

/// [`Simd::dot_panels`] in terms of [`Simd::dot_panel`].
#[inline(always)]
pub(crate) fn dot_panels<S: Simd, L: Lanes, const P: usize, const QUADS: usize, const MT: usize>(
    s: S,
    start: [[S::I; MT]; P],
    w: [&[[u8; STRIPE]; QUADS]; P],
    x: &[[i32; MT]; QUADS],
) -> [[S::I; MT]; P] {
    let mut acc = start;
    for (acc, w) in acc.iter_mut().zip(w) {
        *acc = s.dot_panel::<L, QUADS, MT>(*acc, w, x);
    }
    acc
}

/// [`Simd::integer_tile`] in terms of [`Simd::dot_panels`].
#[inline(always)]
pub(crate) fn integer_tile<S: Simd, L: Lanes, const P: usize, const MT: usize>(
    s: S,
    panels: [&Integers; P],
    x: &[i32],
    coming: &mut Coming,
    c: [&mut [[f32; LANES]; MT]; P],
) {
    const QUADS: usize = GROUP / 4;
    let mut acc = [[s.splat(0.0); MT]; P];
    for p in 0..P {
        for t in 0..MT {
            acc[p][t] = s.load(&c[p][t]);
        }
    }
    let (x, _) = x.as_chunks::<MT>();
    let (x, _) = x.as_chunks::<TILE_WORDS>();
    let per_group = GROUP / L::Grouping::LEN;
    // Whether two halves' scaled sums fit the registers beside what they are added to.
    let both = 3 * P * MT + 4 <= S::REGISTERS;
    let mut lines = [[].as_slice(); P];
    for p in 0..P {
        lines[p] = &panels[p].bytes.as_chunks::<QUADS>().0[..x.len()];
    }
    for (g, x) in x.iter().enumerate() {
        if S::ASKS {
            coming.ask(s);
        }
        let (quads, rest) = x.split_first_chunk::<QUADS>().expect("eight quads a group");
        let [scale, totals @ .., _, _, _] = rest else { unreachable!("seven words follow") };
        let [_, _, _, _, offsets @ ..] = rest else { unreachable!("seven words follow") };
        let mut first = [[s.splat(0.0); MT]; P];
        for half in 0..per_group {
            let at = if per_group == 1 { 0 } else { 1 + half };
            let mut dots = [[s.splat_i32(0); MT]; P];
            if pack::biased::<S, L>() {
                for t in 0..MT {
                    let offset = s.splat_i32(offsets[at][t]);
                    for dots in &mut dots {
                        dots[t] = offset;
                    }
                }
            }
            dots = if per_group == 1 {
                let mut w = [&[[0; STRIPE]; QUADS]; P];
                for p in 0..P {
                    w[p] = &lines[p][g];
                }
                s.dot_panels::<L, P, QUADS, MT>(dots, w, quads)
            } else {
                let mut w = [&[[0; STRIPE]; QUADS / 2]; P];
                for p in 0..P {
                    w[p] = &lines[p][g].as_chunks().0[half];
                }
                s.dot_panels::<L, P, { QUADS / 2 }, MT>(dots, w, &quads.as_chunks().0[half])
            };
            for p in 0..P {
                let w_scale = s.load(&panels[p].scales[g * per_group + half]);
                for t in 0..MT {
                    let (dot, x_scale) =
                        (s.to_f32(dots[p][t]), s.splat(f32::from_bits(scale[t].cast_unsigned())));
                    if per_group == 1 || !both {
                        acc[p][t] = s.fma(dot, s.mul(w_scale, x_scale), acc[p][t]);
                    } else if half == 0 {
                        first[p][t] = s.mul(dot, w_scale);
                    } else {
                        acc[p][t] = s.fma(s.fma(dot, w_scale, first[p][t]), x_scale, acc[p][t]);
                    }
                }
                let min = match L::Less::ZERO {
                    Some(zero) if !pack::biased::<S, L>() => s.mul(w_scale, s.splat((1u32 << zero) as f32)),
                    _ if L::Less::MINS => s.load(&panels[p].mins[g * per_group + half]),
                    _ => continue,
                };
                for t in 0..MT {
                    let total = s.splat(f32::from_bits(totals[at][t].cast_unsigned()));
                    acc[p][t] = s.fma(min, total, acc[p][t]);
                }
            }
        }
    }
    for p in 0..P {
        for t in 0..MT {
            s.store(acc[p][t], &mut c[p][t]);
        }
    }
}

/// The float engine, for tiles of up to `R` rows and `T` tokens.
#[inline(always)]
pub(crate) fn float<S: Simd, B: FloatBlock, const R: usize, const T: usize>(s: S, job: Job<'_>) {
    let Job { w, rows, x, acts, out, .. } = job;
    out.fill([0.0; LANES]);
    let Some(padded) = out.len().checked_div(rows.len().div_ceil(LANES)) else { return };
    let (cols, tokens, rows) = (w.cols(), acts.tokens, B::cast(w.rows_bytes(rows)));
    dots::product::<S, Floats<B>, R, T>(s, &Operands { w: rows, cols, x, stride: cols, tokens }, out, padded);
}
