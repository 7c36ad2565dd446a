//! One batch of activations, prepared once for every product that reads them.
//!
//! Float formats read the activations as they are. Integer formats read them quantized to bytes in
//! groups of 32 (`x = scale * q`, q in -127..=127), in one of two layouts:
//!
//! * [`Layout::Rows`], for few tokens (GEMV): token by token, a [`Span`] for each 256 columns.
//! * [`Layout::Tiles`], for many (GEMM): `MT` tokens side by side, per group of 32 columns
//!   `{ 8 x MT dwords of bytes, MT scales, 3 x MT totals, 3 x MT offsets }`, so that one pointer serves and
//!   each dword is broadcast straight from memory. A total is minus the scale times the sum of the bytes, an
//!   offset minus 128 times that sum; of all 32 columns, of the first sixteen, and of the others. Where products are
//!   added up in 16 bits ([`Simd::NARROW_SUMS`](crate::simd::Simd::NARROW_SUMS)), an offset is two numbers: minus the
//!   sum of the first two bytes of each dword, and of the last two.
//!
//! The bfloat16 engines read them rounded to bfloat16, pairs of columns in a word. In [`Layout::Pairs`], 32
//! tokens lie side by side as two matrix tiles per 32 columns, each of sixteen rows of `16 tokens x 2
//! columns`; in [`Layout::Tiles`], they are token by token, padded with zeros to whole stripes.
//!
//! Weights in half precision are multiplied with activations in fixed point ([`Form::Fixed`]): `x = scale * (256 * a + b)`,
//! both bytes signed, with a power of two as scale for each 256 columns of a token, the smallest with which they fit. Per 256
//! columns come two times sixteen tokens, each `{ 4 x { tile of a, tile of b }, 16 scales }`. A tile holds 64 columns of
//! sixteen tokens, four to a word, in the order 0, 32, 1, 33 and so on: that in which 16-bit lanes of two registers become
//! bytes of one.
//!
//! Where floats go through panels ([`crate::ops::floats`]), they are read as they are or rounded, but the tokens of a tile
//! lie side by side, word by word. Others are rounded to fixed point there ([`Form::Shorts`], [`crate::ops::shorts`]).

use crate::buffer::{Buffer, Zero};
use crate::format::Format;
use crate::ops::fixed_point::SHORT_WORDS;
use crate::ops::pack::PANELS;
use crate::simd::{LANES, SPAN, STRIPE};
use std::ops::Range;

/// Columns that share a scale.
pub(crate) const GROUP: usize = 32;

/// 32-bit words per token and group in the tiled layout.
pub(crate) const TILE_WORDS: usize = GROUP / 4 + 1 + 3 + 3;

/// What an engine reads of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// The activations as they are.
    Floats,
    /// The same, column by column of each tile.
    Columns,
    /// Quantized to bytes; for few tokens in the order of formats with a scale for each 16 weights.
    Bytes16,
    /// The same in that of formats with a scale for each 32 weights.
    Bytes32,
    /// Rounded to bfloat16.
    Pairs,
    /// The same, pair by pair of each tile.
    PairColumns,
    /// Rounded to fixed point, in two bytes.
    Fixed,
    /// Rounded to fixed point of 14 bits, word by word of each tile.
    Shorts,
}

/// How prepared activations lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Spans, token by token.
    Rows,
    /// Tiles of this many tokens.
    Tiles(usize),
    /// Tiles of [`PAIR_TOKENS`] tokens, in bfloat16 only.
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
            Layout::Tiles(_) => PANELS * LANES,
            // Gate and up take turns: each is to be read in long runs.
            Layout::Rows | Layout::Pairs => 8 * LANES,
        }
    }

    /// 32-bit words of one quantized tile.
    pub(crate) fn tile_words(self, cols: usize) -> usize {
        match self {
            Layout::Rows | Layout::Pairs => 0,
            Layout::Tiles(mt) => stripes(cols) * (STRIPE / GROUP) * TILE_WORDS * mt,
        }
    }

    /// 32-bit words of one tile in bfloat16.
    pub(crate) fn pair_words(self, cols: usize) -> usize {
        match self {
            Layout::Rows => 0,
            Layout::Tiles(_) => stripes(cols) * STRIPE / 2 * self.tile(),
            Layout::Pairs => apart(stripes(cols)) * STRIPE / 2 * self.tile(),
        }
    }

    /// The same of one tile in fixed point.
    pub(crate) fn fixed_words(self, cols: usize) -> usize {
        fixed_apart(spans(cols)) * FIXED_WORDS
    }
}

/// Tokens in a tile of pairs.
pub(crate) const PAIR_TOKENS: usize = 32;

/// 32-bit words of such a tile per group of 32 columns: two matrix tiles.
#[allow(dead_code, reason = "not every architecture has matrix tiles")]
pub(crate) const PAIR_WORDS: usize = PAIR_TOKENS * GROUP / 2;

/// 32-bit words of such a tile in fixed point per 256 columns: two bytes each, and a scale for each token.
pub(crate) const FIXED_WORDS: usize = PAIR_TOKENS * (SPAN / 2 + 1);

/// Room for a batch of activations in the forms that engines read.
pub struct Acts {
    pub(crate) layout: Layout,
    pub(crate) tokens: usize,
    pub(crate) cols: usize,
    /// Whether each token is to be multiplied as if it were the only one.
    pub(crate) alone: bool,
    /// Whether products are left as matrix tiles have them: of each sixteen rows and tokens `[row][token]`.
    pub(crate) turned: bool,
    pub(crate) spans16: Buffer<Span>,
    pub(crate) spans32: Buffer<Span>,
    pub(crate) tiles: Buffer<i32>,
    pub(crate) pairs: Buffer<i32>,
    pub(crate) fixed: Buffer<i32>,
    pub(crate) shorts: Buffer<i32>,
    pub(crate) columns: Buffer<i32>,
}

/// 256 columns of one token's quantized activations, for formats of one [`Grouping`](crate::format::Grouping). What lies
/// beyond the last column is zero.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Span {
    /// The bytes in the order in which they are multiplied.
    pub bytes: [[u8; STRIPE]; SPAN / STRIPE],
    /// The scale of each lane where a span is [multiplied at once](crate::simd::Simd::SPANS), else of each group.
    pub scales: [f32; LANES],
    /// The sum of each group: its scale times the sum of its bytes.
    pub totals: [f32; LANES],
    /// Where a span is multiplied at once, what each lane's products start at: minus the sum of its bytes times the zero of the
    /// weights, for each of the [zeros](crate::format::Grouping::ZEROS) that there are.
    pub starts: [[i32; LANES]; 4],
}

// SAFETY: arrays of numbers: all zeros are valid.
unsafe impl Zero for Span {}

/// Tokens dealt out evenly to as few tiles as hold up to `most` each, sixteen as 6, 5 and 5.
pub(crate) fn deal(tokens: usize, most: usize) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
    let tiles = tokens.div_ceil(most);
    (0..tiles).map(move |tile| tile * tokens / tiles..(tile + 1) * tokens / tiles)
}

/// Stripes that hold `cols` columns.
pub(crate) fn stripes(cols: usize) -> usize {
    cols.div_ceil(STRIPE)
}

/// Stripes from a tile of pairs to the next: an odd multiple of eight, 32 KiB. A block of columns of all tiles has to stay in
/// the second-level cache, where tiles that lie 128 KiB apart would share their places.
fn apart(stripes: usize) -> usize {
    (stripes + 8).next_multiple_of(16) - 8
}

/// Spans from a tile in fixed point to the next: twice an odd number of them, 33 KiB, for the same reason.
fn fixed_apart(spans: usize) -> usize {
    (spans + 2).next_multiple_of(4) - 2
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
        Acts {
            layout: Layout::Rows,
            tokens: 0,
            cols: 0,
            alone: false,
            turned: false,
            spans16: Buffer::new(0),
            spans32: Buffer::new(0),
            tiles: Buffer::new(0),
            pairs: Buffer::new(0),
            fixed: Buffer::new(0),
            shorts: Buffer::new(0),
            columns: Buffer::new(0),
        }
    }

    /// Whether weights of this format stream through the batch, a row at a time; else some rows are multiplied with some
    /// tokens.
    pub(crate) fn streams(&self, format: Format) -> bool {
        self.layout == Layout::Rows && (format.is_integer() || self.alone || self.tokens == 1)
    }

    /// Prepares for a batch of `tokens` x `cols`; makes room for the forms that are wanted.
    pub(crate) fn reshape(
        &mut self,
        tokens: usize,
        cols: usize,
        layout: Layout,
        wanted: impl Fn(Form) -> bool,
    ) {
        (self.tokens, self.cols, self.layout) = (tokens, cols, layout);
        let tiles = tokens.div_ceil(layout.tile());
        let (few, n) = (layout == Layout::Rows, tokens * spans(cols));
        if few && wanted(Form::Bytes16) && self.spans16.len() < n {
            self.spans16 = Buffer::new(n);
        }
        if few && wanted(Form::Bytes32) && self.spans32.len() < n {
            self.spans32 = Buffer::new(n);
        }
        if wanted(Form::Bytes16) || wanted(Form::Bytes32) {
            let n = tiles * layout.tile_words(cols);
            if self.tiles.len() < n {
                self.tiles = Buffer::new(n);
            }
        }
        if wanted(Form::Pairs) || wanted(Form::PairColumns) {
            let n = tiles * layout.pair_words(cols);
            if self.pairs.len() < n {
                self.pairs = Buffer::new(n);
            }
        }
        if wanted(Form::Fixed) {
            let n = tiles * layout.fixed_words(cols);
            if self.fixed.len() < n {
                self.fixed = Buffer::new(n);
            }
        }
        if wanted(Form::Shorts) {
            let n = tokens * cols.div_ceil(GROUP) * SHORT_WORDS;
            if self.shorts.len() < n {
                self.shorts = Buffer::new(n);
            }
        }
        if wanted(Form::Columns) && self.columns.len() < tokens * cols {
            self.columns = Buffer::new(tokens * cols);
        }
    }

    /// Bytes that a batch of `tokens` x `cols` takes at most, in any layout.
    pub(crate) fn size(tokens: usize, cols: usize) -> usize {
        let rows = tokens * spans(cols) * 2 * size_of::<Span>();
        let group = 4 * (TILE_WORDS + GROUP / 2 + GROUP + SHORT_WORDS);
        let fixed = 4 * FIXED_WORDS / PAIR_TOKENS * fixed_apart(spans(cols));
        rows.max((tokens + PAIR_TOKENS) * (apart(stripes(cols)) * (STRIPE / GROUP) * group + fixed))
    }

    /// One token's quantized activations, for scales for each 16 weights.
    pub(crate) fn row16(&self, token: usize) -> &[Span] {
        &self.spans16[self.row(token)]
    }

    /// The same for each 32.
    pub(crate) fn row32(&self, token: usize) -> &[Span] {
        &self.spans32[self.row(token)]
    }

    /// Where a token's spans lie.
    fn row(&self, token: usize) -> Range<usize> {
        assert!(self.layout == Layout::Rows && token < self.tokens, "token {token} of {}", self.tokens);
        let n = spans(self.cols);
        token * n..(token + 1) * n
    }

    /// One quantized tile's words.
    pub(crate) fn tile(&self, tile: usize) -> &[i32] {
        let words = self.layout.tile_words(self.cols);
        &self.tiles[tile * words..(tile + 1) * words]
    }

    /// All tokens in bfloat16, row by row of whole stripes; in [`Layout::Tiles`].
    #[allow(dead_code, reason = "not every architecture multiplies bfloat16")]
    pub(crate) fn rounded(&self) -> &[[u8; 2]] {
        assert!(matches!(self.layout, Layout::Tiles(_)), "rows of bfloat16, found {:?}", self.layout);
        let words = &self.pairs[..self.tokens * stripes(self.cols) * STRIPE / 2];
        // SAFETY: every byte of a word is initialised, and bytes need no alignment.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 2 * words.len()) }
    }

    /// The words of one tile in bfloat16.
    #[allow(dead_code, reason = "not every architecture multiplies bfloat16")]
    pub(crate) fn pairs(&self, tile: usize) -> &[i32] {
        let words = self.layout.pair_words(self.cols);
        &self.pairs[tile * words..(tile + 1) * words]
    }

    /// The words of one tile in fixed point.
    #[allow(dead_code, reason = "not every architecture has matrix tiles")]
    pub(crate) fn fixed(&self, tile: usize) -> &[i32] {
        let words = self.layout.fixed_words(self.cols);
        &self.fixed[tile * words..(tile + 1) * words]
    }
}
