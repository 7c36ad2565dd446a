//! One batch of activations, prepared once for every product that reads them.
//!
//! Float formats read the activations as they are. Integer formats read them quantized to bytes in
//! groups of 32 (`x = scale * q`, q in -127..=127), in one of two layouts:
//!
//! * [`Layout::Rows`], for few tokens (GEMV): token by token, a [`Span`] for each 256 columns.
//! * [`Layout::Tiles`], for many (GEMM): `MT` tokens side by side, per group of 32 columns
//!   `{ 8 x MT dwords, 2 x MT negated sums of 16, MT scales }`, so that one pointer serves and
//!   each dword is broadcast straight from memory.
//!
//! The bfloat16 engine reads them rounded to bfloat16, in the layout of [`Layout::Pairs`]: 32 tokens side
//! by side as two matrix tiles per 32 columns, each of sixteen rows of `16 tokens x 2 columns`.

use crate::buffer::{Buffer, Zero};
use crate::simd::{LANES, SPAN, STRIPE};

/// Columns that share a scale.
pub(crate) const GROUP: usize = 32;

/// 32-bit words per token and group in the tiled layout.
pub(crate) const TILE_WORDS: usize = GROUP / 4 + 2 + 1;

/// How quantized activations lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Spans, token by token.
    Rows,
    /// Tiles of this many tokens, quantized.
    Tiles(usize),
    /// Tiles of [`PAIR_TOKENS`] tokens in bfloat16.
    Pairs,
}

impl Layout {
    /// Tokens in a tile; a row is a tile of its own.
    pub(crate) fn tile(self) -> usize {
        match self {
            Layout::Rows => 1,
            Layout::Tiles(mt) => mt,
            Layout::Pairs => PAIR_TOKENS,
        }
    }

    /// Rows of weights that an engine takes at once: what it unpacks stays in the caches with what it reads.
    pub(crate) fn rows(self) -> usize {
        match self {
            Layout::Rows | Layout::Tiles(_) => LANES,
            Layout::Pairs => 8 * LANES,
        }
    }

    /// 32-bit words of one tile.
    pub(crate) fn tile_words(self, cols: usize) -> usize {
        let groups = stripes(cols) * (STRIPE / GROUP);
        match self {
            Layout::Rows => 0,
            Layout::Tiles(mt) => groups * TILE_WORDS * mt,
            Layout::Pairs => groups * PAIR_WORDS,
        }
    }
}

/// Tokens in a tile of pairs.
pub(crate) const PAIR_TOKENS: usize = 32;

/// 32-bit words of a tile of pairs per group of 32 columns: two matrix tiles.
pub(crate) const PAIR_WORDS: usize = PAIR_TOKENS * GROUP / 2;

/// Room for a batch of activations and its quantized form.
pub struct Acts {
    pub(crate) layout: Layout,
    pub(crate) tokens: usize,
    pub(crate) cols: usize,
    pub(crate) spans: Buffer<Span>,
    pub(crate) tiles: Buffer<i32>,
}

/// 256 columns of one token's quantized activations. What lies beyond the last column is zero.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Span {
    /// The bytes, a stripe at a time.
    pub bytes: [[u8; STRIPE]; SPAN / STRIPE],
    /// The scale of each 16 columns.
    pub scales: [f32; LANES],
    /// The sum of each 16 columns: the scale times the sum of the bytes.
    pub totals: [f32; LANES],
}

// SAFETY: arrays of numbers: all zeros are valid.
unsafe impl Zero for Span {}

/// Stripes that hold `cols` columns.
pub(crate) fn stripes(cols: usize) -> usize {
    cols.div_ceil(STRIPE)
}

/// Spans that hold `cols` columns.
pub(crate) fn spans(cols: usize) -> usize {
    cols.div_ceil(SPAN)
}

impl Acts {
    /// Up to this many tokens are products of rows, above of tiles.
    pub(crate) const ROWS_MAX: usize = 8;

    /// No room yet.
    pub(crate) fn new() -> Acts {
        Acts { layout: Layout::Rows, tokens: 0, cols: 0, spans: Buffer::new(0), tiles: Buffer::new(0) }
    }

    /// Prepares for a batch of `tokens` x `cols`; makes room for its quantized form if that is wanted.
    pub(crate) fn reshape(&mut self, tokens: usize, cols: usize, layout: Layout, quantized: bool) {
        (self.tokens, self.cols, self.layout) = (tokens, cols, layout);
        if !quantized {
            return;
        }
        match layout {
            Layout::Rows => {
                let n = tokens * spans(cols);
                if self.spans.len() < n {
                    self.spans = Buffer::new(n);
                }
            }
            Layout::Tiles(_) | Layout::Pairs => {
                let n = tokens.div_ceil(layout.tile()) * layout.tile_words(cols);
                if self.tiles.len() < n {
                    self.tiles = Buffer::new(n);
                }
            }
        }
    }

    /// Bytes that a batch of `tokens` x `cols` takes at most, in any layout.
    pub(crate) fn size(tokens: usize, cols: usize) -> usize {
        let rows = tokens * spans(cols) * size_of::<Span>();
        let pairs = tokens.div_ceil(PAIR_TOKENS) * 4 * Layout::Pairs.tile_words(cols);
        rows.max(pairs)
    }

    /// One token's quantized activations.
    pub(crate) fn row(&self, token: usize) -> &[Span] {
        assert!(self.layout == Layout::Rows && token < self.tokens, "token {token} of {}", self.tokens);
        let n = spans(self.cols);
        &self.spans[token * n..(token + 1) * n]
    }

    /// One tile's words.
    pub(crate) fn tile(&self, tile: usize) -> &[i32] {
        let words = self.layout.tile_words(self.cols);
        &self.tiles[tile * words..(tile + 1) * words]
    }
}
