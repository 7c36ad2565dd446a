//! Products of floats with many tokens: panels of sixteen rows, a word each, times broadcast activations.
//!
//! A [word](Words) is a column in `f32`, or two in bfloat16, where the CPU multiplies these; or [two in fixed
//! point](super::shorts).
//!
//! ```text
//! once a batch: the tokens of each tile are laid side by side, word by word
//! for each block of Kc columns:
//!   unpack up to four panels (16 x Kc each)        (scratch in the second-level cache)
//!   for each tile of five or six tokens:           (in the first-level cache for all the panels)
//!     ask for some weights of the next block, and for the next tile
//!     for each panel:
//!       C[T][16] += panel x tile                   (C stays in registers for all of Kc)
//! ```
//!
//! On AVX-512 two panels are multiplied at once, twelve sums, and these two loops change places: the panels stay in the
//! first-level cache while all tiles pass, and the hardware finds the next tile. (Asking for it there took a seventh of
//! the time; one panel at a time was slower than [`super::dots`] on Zen 4.) That engine reads what a tile of it needs,
//! 64 KiB, from the second level for each four rows; in panels, F16 runs at 114 to 120 of 138 multiplications a nanosecond
//! (one Zen 5 core, 512 tokens; 1.15 times as fast as there), F32 at 112 to 119 (1.47 to 1.49 times). On Zen 4, whose
//! multiplications take twice as long, F16 and F32 gain nothing, and pairs of bfloat16 1.01 to 1.09 with 512 tokens (two
//! cores 1.02 to 1.14; 0.91 to 1.04 with 128): 93 to 98 of 118.
//!
//! On AVX2 there are few registers, and a tile of the other engine ([`super::dots`]) is so small that its
//! weights, read from the second-level cache for each three tokens, and its activations, from the last level for each 64
//! rows, take a good part of the time. In turns with it on one Zen 3 core (AVX2, 4096 x 4096 in F16), multiplications a
//! nanosecond for 32, 64 and 512 tokens, before tokens lay side by side: 26, 27, 24 -> 22, 27, 28 (F32: 512 tokens
//! 22 -> 29). Panels cost as much to unpack as 18 tokens to multiply.
//!
//! Tokens side by side, and asking for what comes next while a tile is multiplied, made 512 tokens 1.0 to 1.2 times as
//! fast where tokens lie a power of two apart and share their places in the caches (4096 columns), 0.97 to 1.0 elsewhere
//! (5632); 64 tokens 0.94 to 1.05; whole prompts of a 1.1B model 1.02 (512) and 1.1 (64). Asking for weights while the block
//! before is unpacked is 0.92 to 0.95 of that. (Integers lost 5 to 11 % of 16 tokens when a tile's part was asked for at
//! once, as here; they ask for a line a group, [`super::gemm`].)
//!
//! C's lines are loaded by a plain loop: a closure in `array::map` was not inlined, and took 3 to 11 % of 512 tokens; nor
//! are they stored from arrays that an iterator owns, which were copied first, for a tenth (AVX-512).
//!
//! Tried, with no gain (Zen 3): one panel in the first-level cache while sixteen tiles pass, in place of one tile while
//! four panels pass; a copy of a tile's activations side by side for each block of rows (0.75 to 0.8).

use super::fixed_point::ShortColumns;
use super::gemm::{Job, sixteens};
use super::pack::{self, Coming, Integers, PANELS, WORDS};
use super::quantize::Columns;
use crate::acts::{Acts, Form, deal, stripes};
use crate::format::{BF16, FloatBlock};
use crate::matrix::Matrix;
use crate::simd::{Kernel, LANES, STRIPE, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// The tiles of a batch, of at least [`TOKENS_MIN`] tokens.
pub(crate) fn tiles(tokens: usize) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
    assert!(tokens >= TOKENS_MIN, "{tokens} tokens, tiles of five or six take {TOKENS_MIN}");
    deal(tokens, TOKENS_MOST)
}

/// So many tokens and more can be dealt out to tiles of five and six.
const TOKENS_MIN: usize = 20;

/// The most tokens of a tile.
const TOKENS_MOST: usize = 6;

/// How panels of some weights are filled, and multiplied with activations.
pub(crate) trait Panels: 'static {
    /// The format of the weights.
    type Block: FloatBlock;

    /// Columns of a full panel.
    const COLS: usize;

    /// Fills a panel with columns `cols`, from a multiple of [`COLS`](Self::COLS) on, of at most sixteen rows.
    fn unpack<S: Simd>(s: S, w: Matrix<'_>, rows: Range<usize>, cols: Range<usize>, panel: &mut Integers);

    /// The activations of a batch, and how many words of a token they are.
    fn activations(acts: &Acts) -> (&[i32], usize);

    /// How many words so many columns are.
    fn words(cols: usize) -> usize;

    /// Adds to `c`, `[token][row]` of each, the products of panels with the words of `T` tokens, side by side in `x`.
    fn multiply<S: Simd, const P: usize, const T: usize>(
        s: S,
        panels: [&Integers; P],
        x: &[i32],
        c: [&mut [[f32; LANES]]; P],
    );
}

/// What a word of a panel and of the activations holds, and how the two are multiplied.
pub trait Words: 'static {
    /// The format of the weights.
    type Block: FloatBlock;

    /// Columns of a word.
    const COLS: usize;

    /// A word of each of sixteen rows, or sixteen words of one, from as many weights.
    fn load<S: Simd>(s: S, weights: &[u8]) -> S::I;

    /// `acc` plus the products of words.
    fn multiply<S: Simd>(s: S, w: S::I, x: S::I, acc: S::F) -> S::F;

    /// The activations of a batch, and how many words of a token they are.
    fn activations(acts: &Acts) -> (&[i32], usize);
}

impl<W: Words> Panels for W {
    type Block = <W as Words>::Block;
    const COLS: usize = WORDS * <W as Words>::COLS;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, w: Matrix<'_>, rows: Range<usize>, cols: Range<usize>, panel: &mut Integers) {
        pack::words::<S, W>(s, w, rows, cols, &mut panel.bytes);
    }

    fn activations(acts: &Acts) -> (&[i32], usize) {
        <W as Words>::activations(acts)
    }

    fn words(cols: usize) -> usize {
        cols.div_ceil(<W as Words>::COLS)
    }

    #[inline(always)]
    fn multiply<S: Simd, const P: usize, const T: usize>(
        s: S,
        panels: [&Integers; P],
        x: &[i32],
        c: [&mut [[f32; LANES]]; P],
    ) {
        let mut lines = [&[][..]; P];
        for (lines, panel) in lines.iter_mut().zip(panels) {
            *lines = &panel.bytes[..x.len() / T];
        }
        s.float_panel::<W, P, T>(lines, x, c);
    }
}

/// Columns of any format in `f32`.
#[allow(dead_code, reason = "not every architecture multiplies floats so")]
pub(crate) struct Floats<B>(PhantomData<B>);

impl<B: FloatBlock> Words for Floats<B> {
    type Block = B;
    const COLS: usize = 1;

    #[inline(always)]
    fn load<S: Simd>(s: S, weights: &[u8]) -> S::I {
        s.to_bits(B::widen(s, B::cast(weights).try_into().expect("sixteen weights")))
    }

    #[inline(always)]
    fn multiply<S: Simd>(s: S, w: S::I, x: S::I, acc: S::F) -> S::F {
        s.fma(s.bit_cast(w), s.bit_cast(x), acc)
    }

    fn activations(acts: &Acts) -> (&[i32], usize) {
        (&acts.columns, acts.cols)
    }
}

/// Pairs of columns in bfloat16, as they lie in the file.
#[allow(dead_code, reason = "not every architecture multiplies them so")]
pub(crate) struct Pairs;

impl Words for Pairs {
    type Block = BF16;
    const COLS: usize = 2;

    #[inline(always)]
    fn load<S: Simd>(s: S, weights: &[u8]) -> S::I {
        s.load_bytes(weights.try_into().expect("32 weights"))
    }

    #[inline(always)]
    fn multiply<S: Simd>(s: S, w: S::I, x: S::I, acc: S::F) -> S::F {
        s.dot_bf16(acc, w, x)
    }

    fn activations(acts: &Acts) -> (&[i32], usize) {
        (&acts.pairs, stripes(acts.cols) * STRIPE / 2)
    }
}

/// A tile's tokens, rows of `cols`, side by side: as they are, rounded to bfloat16, or to 14 bits.
pub(crate) struct Interleave<'a> {
    pub x: &'a [f32],
    pub cols: usize,
    /// One of [`Form::Columns`], [`Form::PairColumns`] and [`Form::Shorts`].
    pub form: Form,
    pub out: &'a mut [i32],
}

impl Kernel for Interleave<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Interleave { x, cols, form, out } = self;
        let rounded = form == Form::PairColumns;
        match x.len() / cols {
            6 if form == Form::Shorts => s.run(ShortColumns::<6> { x, cols, out }),
            5 if form == Form::Shorts => s.run(ShortColumns::<5> { x, cols, out }),
            6 => s.run(Columns::<6> { x, cols, rounded, out }),
            _ => s.run(Columns::<5> { x, cols, rounded, out }),
        }
    }
}

/// All rows of a job times all its tokens, `P` panels at once.
#[allow(dead_code, reason = "not every architecture multiplies floats so")]
#[inline(always)]
pub(crate) fn product<S: Simd, W: Panels, const P: usize>(s: S, job: Job<'_>) {
    let Job { w, rows, acts, out, panel, .. } = job;
    assert_eq!(w.cols(), acts.cols, "columns of the matrix, features of the activations");
    out.fill([0.0; LANES]);
    let Some(padded) = out.len().checked_div(rows.len().div_ceil(LANES)) else { return };
    assert!(acts.tokens <= padded, "room for {} tokens, found {padded}", acts.tokens);
    // Where other formats have matrix tiles, a job has more rows than there is room for panels.
    let firsts = rows.clone().step_by(PANELS * LANES);
    for (first, out) in firsts.zip(out.chunks_mut(PANELS * padded)) {
        let rows = first..rows.end.min(first + PANELS * LANES);
        for start in (0..w.cols()).step_by(W::COLS) {
            let cols = start..w.cols().min(start + W::COLS);
            let room = &mut panel.integers;
            block::<S, W, P>(s, Block { w, rows: rows.clone(), cols, acts, out, room });
        }
    }
}

/// A block of rows and columns, and all tokens.
struct Block<'a> {
    w: Matrix<'a>,
    rows: Range<usize>,
    cols: Range<usize>,
    acts: &'a Acts,
    out: &'a mut [[f32; LANES]],
    room: &'a mut [Integers; PANELS],
}

/// Some rows and columns times all tokens, added to `out`. Unpacking is a function of its own, for the registers' sake.
#[inline(always)]
fn block<S: Simd, W: Panels, const P: usize>(s: S, block: Block<'_>) {
    let Block { w, rows, cols, acts, out, room } = block;
    for (rows, panel) in sixteens(&rows).zip(&mut *room) {
        s.run(Unpack::<W>(w, rows, cols.clone(), panel, PhantomData));
    }
    let panels = &room[..rows.len().div_ceil(LANES)];
    let parts = tiles(acts.tokens).len() * panels.len().div_ceil(pack::staying(P));
    let coming = Coming::after::<W::Block>(w, &rows, &cols, W::COLS, parts);
    let (x, row) = W::activations(acts);
    let start = W::words(cols.start);
    let words = start..start + W::words(cols.len());
    s.run(Tiles::<W, P> { panels, words, x, row, tokens: acts.tokens, out, coming, kind: PhantomData });
}

/// Fills a panel.
struct Unpack<'a, W>(Matrix<'a>, Range<usize>, Range<usize>, &'a mut Integers, PhantomData<W>);

impl<W: Panels> Kernel for Unpack<'_, W> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Unpack(w, rows, cols, panel, _) = self;
        W::unpack(s, w, rows, cols, panel);
    }
}

/// Panels times all tokens.
struct Tiles<'a, W, const P: usize> {
    panels: &'a [Integers],
    /// Which words of a token the panels are multiplied with.
    words: Range<usize>,
    /// The activations' words, and how many of them a token has.
    x: &'a [i32],
    row: usize,
    tokens: usize,
    out: &'a mut [[f32; LANES]],
    coming: Coming,
    kind: PhantomData<W>,
}

impl<W: Panels, const P: usize> Kernel for Tiles<'_, W, P> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Tiles { panels, words, x: all, row, tokens, out, mut coming, .. } = self;
        let (padded, tiles) = (out.len() / panels.len(), tiles(tokens));
        let staying = pack::staying(P);
        for (panels, out) in panels.chunks(staying).zip(out.chunks_mut(staying * padded)) {
            for Range { start: first, end } in tiles.clone() {
                coming.ask(s);
                let count = end - first;
                let (at, n) = (first * row + words.start * count, words.len() * count);
                let x = &all[at..at + n];
                let next = all.get(at + row * count..).and_then(|rest| rest.get(..n)).unwrap_or(x);
                let parts = next.chunks(n.div_ceil(staying / P));
                for ((panels, out), next) in panels.chunks(P).zip(out.chunks_mut(P * padded)).zip(parts) {
                    if P == 1 {
                        for line in next.chunks(STRIPE / 4) {
                            s.prefetch(line.as_ptr().cast());
                        }
                    }
                    // Where a panel is missing, the last one is multiplied once more, into nothing.
                    let mut nothing = [[[0.0; LANES]; TOKENS_MOST]; P];
                    let mut c = nothing.each_mut().map(|nothing| nothing.as_mut_slice());
                    for (c, out) in c.iter_mut().zip(out.chunks_exact_mut(padded)) {
                        *c = &mut out[first..end];
                    }
                    let mut these = [&panels[panels.len() - 1]; P];
                    these.iter_mut().zip(panels).for_each(|(these, panel)| *these = panel);
                    match count {
                        6 => W::multiply::<S, P, 6>(s, these, x, c),
                        _ => W::multiply::<S, P, 5>(s, these, x, c),
                    }
                }
            }
        }
    }
}

/// [`Simd::float_panel`] in its terms.
#[inline(always)]
pub(crate) fn panel<S: Simd, W: Words, const P: usize, const T: usize>(
    s: S,
    panels: [&[[u8; STRIPE]]; P],
    x: &[i32],
    c: [&mut [[f32; LANES]]; P],
) {
    let mut acc = [[s.splat(0.0); T]; P];
    for (acc, c) in acc.iter_mut().zip(&c) {
        for (acc, c) in acc.iter_mut().zip(c.iter()) {
            *acc = s.load(c);
        }
    }
    let (x, _) = x.as_chunks::<T>();
    let words = x.len().min(panels[0].len());
    let mut lines = panels;
    for line in &mut lines {
        *line = &line[..words];
    }
    for (i, x) in x[..words].iter().enumerate() {
        let mut w = [s.splat_i32(0); P];
        for (w, lines) in w.iter_mut().zip(&lines) {
            *w = s.load_bytes(&lines[i]);
        }
        for t in 0..T {
            let x = s.splat_i32(x[t]);
            for p in 0..P {
                acc[p][t] = W::multiply(s, w[p], x, acc[p][t]);
            }
        }
    }
    for (acc, c) in acc.iter().zip(c) {
        for (&acc, c) in acc.iter().zip(c) {
            s.store(acc, c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acts::Layout;
    use crate::format::{Block as _, F32, Format};
    use crate::{available, run_on};

    const TOKENS: usize = 33;
    const COLS: usize = 4 * WORDS + 3;
    /// Seven panels, the last one not full: more than there is room for at once.
    const ROWS: usize = 6 * LANES + 5;

    /// Integers, whose sums are exact.
    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i * 37 % 15) as f32 - 7.0).collect()
    }

    /// Rows of sixteen, token by token.
    struct Product<W, const P: usize>(Format, PhantomData<W>);

    impl<W: Words, const P: usize> Kernel for Product<W, P> {
        type Out = Vec<[f32; LANES]>;
        #[inline(always)]
        fn call<S: Simd>(self, s: S) -> Self::Out {
            let weights: Vec<<W as Words>::Block> =
                values(ROWS * COLS).iter().map(|v| <W as Words>::Block::quantize(&[*v], None)).collect();
            let (x, mut acts) = (values(TOKENS * COLS), Acts::new());
            acts.reshape(TOKENS, COLS, Layout::Tiles(4), |form| {
                form == if <W as Words>::COLS == 1 { Form::Columns } else { Form::PairColumns }
            });
            for Range { start, end } in tiles(TOKENS) {
                let (row, pairs) = (<W as Words>::activations(&acts).1, <W as Words>::COLS == 2);
                let (form, words) = match pairs {
                    true => (Form::PairColumns, &mut acts.pairs),
                    false => (Form::Columns, &mut acts.columns),
                };
                let (x, out) = (&x[start * COLS..end * COLS], &mut words[start * row..end * row]);
                s.run(Interleave { x, cols: COLS, form, out });
            }
            let mut out = vec![[f32::NAN; LANES]; ROWS.div_ceil(LANES) * TOKENS.next_multiple_of(4)];
            let w = Matrix::new(self.0, ROWS, COLS, <W as Words>::Block::bytes(&weights)).unwrap();
            let panel = &mut pack::Panel::new();
            product::<S, W, P>(s, Job { w, rows: 0..ROWS, x: &x, acts: &acts, out: &mut out, panel });
            out
        }
    }

    #[test]
    fn a_job_may_have_more_rows_than_there_are_panels() {
        let (w, x) = (values(ROWS * COLS), values(TOKENS * COLS));
        for isa in available() {
            let outs = [
                run_on(isa, Product::<Floats<F32>, 1>(Format::F32, PhantomData)),
                run_on(isa, Product::<Floats<F32>, 2>(Format::F32, PhantomData)),
                run_on(isa, Product::<Pairs, 1>(Format::BF16, PhantomData)),
                run_on(isa, Product::<Pairs, 2>(Format::BF16, PhantomData)),
            ];
            for (which, out) in outs.into_iter().enumerate() {
                let (out, padded) = (out.unwrap(), TOKENS.next_multiple_of(4));
                for (row, w) in w.chunks(COLS).enumerate() {
                    for (t, x) in x.chunks(COLS).enumerate() {
                        let expected: f32 = w.iter().zip(x).map(|(w, x)| w * x).sum();
                        let found = out[row / LANES * padded + t][row % LANES];
                        assert_eq!(found, expected, "{isa}, {which}: {row}, {t}");
                    }
                }
            }
        }
    }
}
