//! Weight formats: how ggml stores a row of weights.
//!
//! A format is one file, a `mod` and one line in the registry below. The file holds the
//! block's byte layout (alignment 1, every bit pattern valid), [`Block::dequantize`]
//! (the definition, written to be read), [`Block::quantize`] (the encoder, if any) and how the
//! drivers take integers and scales out of it ([`IntegerBlock`]), or floats ([`FloatBlock`]).

mod bfloat16;
mod bits;
mod float16;
mod float32;
mod grids;
mod grouping;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod nvfp4;
mod q1_0;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod q8_k;
mod search;
mod tq1_0;
mod tq2_0;

pub use grouping::{Grouping, Of16, Of32};
pub use q4_k::SixBitHead;

use crate::buffer::Aligned;
use crate::ops::pack::Sixteen;
use crate::simd::{LANES, SPAN, STRIPE, Scalar, Simd};
use std::marker::PhantomData;

/// A group of consecutive weights as it lies in a file.
///
/// # Safety
/// An implementor has alignment 1, no padding, and every bit pattern is a valid value,
/// so that any byte range of the right length may be viewed as a slice of it.
pub unsafe trait Block: Copy + Send + Sync + 'static {
    /// Weights in one block.
    const LEN: usize;

    /// The definition of the format: writes the block's [`LEN`](Self::LEN) weights.
    ///
    /// # Panics
    /// If `out.len() != Self::LEN`.
    fn dequantize(&self, out: &mut [f32]);

    /// Encodes [`LEN`](Self::LEN) weights.
    ///
    /// `importance` says how much each weight's squared error matters (from an importance matrix: the
    /// mean square of the activation that it is multiplied with); without it all matter the same.
    ///
    /// # Panics
    /// If `x`, or `importance`, is not [`LEN`](Self::LEN) long, or if the format is only read:
    /// [`RANDOM`](Self::RANDOM) takes the encoder's place then.
    fn quantize(_x: &[f32], _importance: Option<&[f32]>) -> Self {
        panic!("a format that is only read")
    }

    /// How random blocks are made, for a format that is only read; `None` if it has an encoder.
    const RANDOM: Option<Random<Self>> = None;

    /// Views a row's bytes as blocks.
    ///
    /// # Panics
    /// If the length of `bytes` is no multiple of the block's size.
    fn cast(bytes: &[u8]) -> &[Self] {
        let size = size_of::<Self>();
        assert!(bytes.len().is_multiple_of(size), "{} bytes are not whole blocks of {size}", bytes.len());
        // SAFETY: `Self` has alignment 1 and no invalid bit patterns (the contract of `Block`),
        // and the length was checked to be a whole number of blocks.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size) }
    }

    /// A block of zero bytes.
    fn zeroed() -> Self {
        // SAFETY: every bit pattern is a valid value (the contract of `Block`).
        unsafe { std::mem::zeroed() }
    }

    /// Views blocks as the bytes that a file holds.
    fn bytes(blocks: &[Self]) -> &[u8] {
        // SAFETY: `Self` has no padding (the contract of `Block`), so every byte is initialised.
        unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast(), size_of_val(blocks)) }
    }
}

/// What makes random bytes a block whose weights have a given standard deviation: synthetic models
/// are built so in the formats that are only read.
#[derive(Clone, Copy)]
pub struct Random<B> {
    /// The standard deviation of the weights if the bytes are random and the scale is 1.
    pub std: f32,
    /// Replaces the scale.
    pub set_scale: fn(&mut B, f32),
}

impl<B: Block> Random<B> {
    fn block(self, bits: &mut impl FnMut() -> u64, std: f32) -> B {
        let mut bytes = vec![0; size_of::<B>()];
        bytes.chunks_mut(8).for_each(|bytes| bytes.copy_from_slice(&bits().to_le_bytes()[..bytes.len()]));
        let mut block = B::cast(&bytes)[0];
        (self.set_scale)(&mut block, std / self.std);
        block
    }
}

/// The floating-point numbers that files hold, little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FloatKind {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    BF16,
}

/// A format of plain floating-point numbers: one weight a block.
pub trait FloatBlock: Block {
    /// Which ones.
    const KIND: FloatKind;

    /// Whether it is a bfloat16 number as it lies in the file.
    const BF16: bool = matches!(Self::KIND, FloatKind::BF16);

    /// Sixteen weights as floats.
    fn widen<S: Simd>(s: S, blocks: &[Self; LANES]) -> S::F;

    /// The inverse: sixteen floats rounded to nearest even.
    fn narrow<S: Simd>(s: S, x: S::F) -> [Self; LANES];
}

/// A format of small integers with a scale, and sometimes a minimum, for each 16 or 32 weights.
///
/// A weight is `scale * (q - zero) - min`.
pub trait IntegerBlock: Block {
    /// What its lanes hold.
    type Lanes: Lanes;

    /// The scales of a span: 256 consecutive weights, in [`SPAN`]` / `[`LEN`](Block::LEN) blocks.
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes>;

    /// The whole numbers that the scales of a span are multiples of [its unit](Self::unit) by, if they [are](Lanes::WHOLE).
    #[inline(always)]
    fn whole(_span: &[Self]) -> [u8; LANES] {
        unreachable!("scales of this format are no whole numbers")
    }

    /// What they are multiples of.
    #[inline(always)]
    fn unit(_span: &[Self]) -> f32 {
        unreachable!("scales of this format have no unit")
    }

    /// The integers of 128 consecutive weights, the `pair`th half of a span, in the order that its
    /// [`Grouping`] asks for.
    fn unpack<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2];

    /// The integers of the `pair`th half of a span in the order of the row, as matrix tiles want them: [`unpack`](Self::unpack)ed
    /// and regrouped. Formats whose fields lie side by side take them from where they are.
    #[inline(always)]
    fn in_order<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        let [a, b] = Self::unpack(s, span, pair);
        if Of::<Self>::LEN == 32 { s.ungroup(a, b) } else { [a, b] }
    }

    /// The integers of the `stripe`th 64 weights of a span, which are less than sixteen, in 16-bit lanes in the order of the row:
    /// what looks their values up in tables of bfloat16 numbers takes them so.
    #[inline(always)]
    fn in_words<S: Simd>(s: S, span: &[Self], stripe: usize) -> [S::I; 2] {
        let mut bytes = Aligned([0; STRIPE]);
        s.store_bytes(Self::in_order(s, span, stripe / 2)[stripe % 2], &mut bytes.0);
        let [a, b, c, d] = bytes.0.as_chunks().0 else { unreachable!("four quarters") };
        [s.widen_u8([a, b]), s.widen_u8([c, d])]
    }

    /// Where in a block its integers lie as signed bytes in the order of the row, if they do: matrix tiles take them from there.
    const BYTES_AT: Option<usize> = None;

    /// The integers of a span as few tokens' products want them: [`unpack`](Self::unpack)ed and
    /// [arranged](Grouping::arrange). Formats whose fields lie side by side arrange them as they are packed.
    #[inline(always)]
    fn arranged<S: Simd>(s: S, span: &[Self]) -> [S::I; 4] {
        Of::<Self>::arrange(s, [Self::unpack(s, span, 0), Self::unpack(s, span, 1)])
    }

    /// A span of sixteen rows into a panel, where the ISA is better at doing so [across](Simd::ACROSS) rows: a format
    /// whose fields lie side by side transposes them as they are packed.
    #[inline(always)]
    fn pack<S: Simd>(s: S, rows: &[&[Self]; LANES], to: &mut Sixteen<'_>) {
        to.by_rows::<S, Self>(s, rows);
    }
}

/// Blocks in a span of the format with the smallest ones.
pub(crate) const MOST_BLOCKS: usize = SPAN / 32;

/// What the integers of a span are multiplied by.
#[derive(Clone, Copy)]
pub struct Scales<S: Simd, L: Lanes> {
    /// The scales.
    pub scale: Scale<S, L>,
    /// The minimums; not read unless [`Subtrahend::MINS`].
    pub min: Scale<S, L>,
}

/// What is subtracted from a format's lanes.
pub type Less<B> = <<B as IntegerBlock>::Lanes as Lanes>::Less;

/// How a format groups its weights.
pub type Of<B> = <<B as IntegerBlock>::Lanes as Lanes>::Grouping;

/// One number for each group of a span.
pub type Scale<S, L> = <<L as Lanes>::Grouping as Grouping>::Scale<S>;

impl<S: Simd, L: Lanes> Scales<S, L> {
    /// Scales without minimums.
    #[inline(always)]
    pub fn new(scale: Scale<S, L>) -> Self {
        Scales { scale, min: scale }
    }
}

/// What the drivers need to know of a format's lanes; the formats that agree share their machine code.
pub trait Lanes: 'static {
    /// Below 8: unsigned lanes in `0..1 << BITS`, at most 6. At 8: signed lanes.
    const BITS: u32;
    /// How many weights share a scale.
    type Grouping: Grouping;
    /// What is subtracted.
    type Less: Subtrahend;
    /// There are a zero point and a scale for each 16 weights, and the scales are [whole](IntegerBlock::whole), in -128..=127, times
    /// one number for each 256 weights. Where sums are [narrow](Simd::NARROW_SUMS), they are multiplied in integers.
    const WHOLE: bool;

    /// The power of two that lies at zero for the integers that `S` multiplies: signed lanes may have been made
    /// unsigned.
    fn zero<S: Simd>() -> Option<u32> {
        if Self::BITS < 8 { Self::Less::ZERO } else { S::SIGNED_ZERO }
    }

    /// Whether something is subtracted from scaled products of few tokens: minimums, or the zero point's share where they do not
    /// [start](Self::start) there.
    fn subtracts<S: Simd>() -> bool {
        Self::Less::MINS || !S::SPANS && Self::zero::<S>().is_some()
    }

    /// Which of the numbers of activations the products of a span start at, if it is multiplied at once and not at zero.
    #[inline(always)]
    fn start<S: Simd>() -> Option<usize> {
        let zero = Self::zero::<S>()?;
        Some(Self::Grouping::ZEROS.iter().position(|&one| one == zero).expect("a zero of the grouping"))
    }
}

/// What is subtracted from a weight's lane before it is scaled, or from the scaled lane.
pub trait Subtrahend: 'static {
    /// The power of two that lies at zero: `Some(3)` if 8 is to be subtracted from each lane.
    const ZERO: Option<u32> = None;
    /// There is a minimum for each group.
    const MINS: bool = false;
}

/// Lanes as they are.
pub struct Nothing;
/// Lanes of which two to the power of `POWER` means zero.
pub struct Zero<const POWER: u32>;
/// A minimum for each group, scaled already.
pub struct Minimum;

impl Subtrahend for Nothing {}
impl<const POWER: u32> Subtrahend for Zero<POWER> {
    const ZERO: Option<u32> = Some(POWER);
}
impl Subtrahend for Minimum {
    const MINS: bool = true;
}

/// The [`Lanes`] that are described by its parameters: bits, grouping, what is subtracted, whether scales are whole.
pub struct Lane<const BITS: u32, G, L, const WHOLE: bool = false>(PhantomData<(G, L)>);

impl<const BITS: u32, G: Grouping, L: Subtrahend, const WHOLE: bool> Lanes for Lane<BITS, G, L, WHOLE> {
    const BITS: u32 = BITS;
    const WHOLE: bool = WHOLE;
    type Grouping = G;
    type Less = L;
}

/// The registry: one line a format, `file::Type = ggml type id, class`. Everything that
/// depends on the list of formats is generated from here.
macro_rules! registry {
    ($($file:ident::$name:ident = $id:literal $class:ident),* $(,)?) => {
        $(pub use $file::$name;)*

        /// A tensor's storage format, named and numbered as in ggml.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[allow(non_camel_case_types, reason = "ggml's own names")]
        #[repr(u32)]
        pub enum Format {
            $(#[doc = concat!("ggml's `", stringify!($name), "`, type id ", stringify!($id), ".")] $name = $id,)*
        }

        impl Format {
            /// Every format that this crate reads, in the order of their ids.
            pub const ALL: &'static [Format] = &[$(Format::$name),*];

            /// ggml's name of the format.
            pub fn name(self) -> &'static str {
                match self { $(Format::$name => stringify!($name),)* }
            }

            /// Whether a product with this format quantizes the activations to bytes.
            pub fn is_integer(self) -> bool {
                with_block!(self, float _B => false, integer _B => true)
            }
        }

        /// Evaluates an expression with a type alias bound to the block type of a [`Format`],
        /// the same one for all formats or one for each class.
        macro_rules! with_block {
            ($format:expr, $B:ident => $body:expr) => {
                match $format { $($crate::format::Format::$name => { type $B = $crate::format::$name; $body })* }
            };
            ($format:expr, float $F:ident => $float:expr, integer $I:ident => $integer:expr) => {
                match $format {
                    $($crate::format::Format::$name => {
                        $crate::format::by_class!($class $crate::format::$name, $F => $float, $I => $integer)
                    })*
                }
            };
        }
    };
}

/// Chooses the expression for a format's class; part of `with_block`.
macro_rules! by_class {
    (float $block:ty, $F:ident => $float:expr, $I:ident => $integer:expr) => {{
        type $F = $block;
        $float
    }};
    (integer $block:ty, $F:ident => $float:expr, $I:ident => $integer:expr) => {{
        #[allow(dead_code, reason = "for some, the class is all that matters")]
        type $I = $block;
        $integer
    }};
}
pub(crate) use by_class;

registry! {
    float32::F32 = 0 float,
    float16::F16 = 1 float,
    q4_0::Q4_0 = 2 integer,
    q4_1::Q4_1 = 3 integer,
    q5_0::Q5_0 = 6 integer,
    q5_1::Q5_1 = 7 integer,
    q8_0::Q8_0 = 8 integer,
    q2_k::Q2_K = 10 integer,
    q3_k::Q3_K = 11 integer,
    q4_k::Q4_K = 12 integer,
    q5_k::Q5_K = 13 integer,
    q6_k::Q6_K = 14 integer,
    q8_k::Q8_K = 15 integer,
    iq2_xxs::IQ2_XXS = 16 integer,
    iq2_xs::IQ2_XS = 17 integer,
    iq3_xxs::IQ3_XXS = 18 integer,
    iq1_s::IQ1_S = 19 integer,
    iq4_nl::IQ4_NL = 20 integer,
    iq3_s::IQ3_S = 21 integer,
    iq2_s::IQ2_S = 22 integer,
    iq4_xs::IQ4_XS = 23 integer,
    iq1_m::IQ1_M = 29 integer,
    bfloat16::BF16 = 30 float,
    tq1_0::TQ1_0 = 34 integer,
    tq2_0::TQ2_0 = 35 integer,
    mxfp4::MXFP4 = 39 integer,
    nvfp4::NVFP4 = 40 integer,
    q1_0::Q1_0 = 41 integer,
}
pub(crate) use with_block;

impl Format {
    /// The format with this ggml type id, if this crate reads it.
    pub fn from_id(id: u32) -> Option<Format> {
        Format::ALL.iter().copied().find(|f| f.id() == id)
    }

    /// The format with this name, in any case (`q4_0`, `Q4_0`).
    pub fn from_name(name: &str) -> Option<Format> {
        Format::ALL.iter().copied().find(|f| f.name().eq_ignore_ascii_case(name))
    }

    /// ggml's type id.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Weights in one block: a row's length is a multiple of it.
    pub fn block_len(self) -> usize {
        with_block!(self, B => B::LEN)
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        with_block!(self, B => size_of::<B>())
    }

    /// Bytes of a row of `cols` weights; `None` if that is no whole number of blocks or overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Decodes a row.
    ///
    /// # Panics
    /// If `bytes` is not `row_bytes(out.len())` long.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(
            Some(bytes.len()),
            self.row_bytes(out.len()),
            "{} row of {} weights",
            self.name(),
            out.len()
        );
        with_block!(self, B => {
            for (block, out) in B::cast(bytes).iter().zip(out.chunks_exact_mut(B::LEN)) {
                block.dequantize(out);
            }
        })
    }

    /// What products subtract for each weight of a row: a minimum, or the scale times the zero point, which is
    /// 128 for signed integers on CPUs that multiply unsigned ones only. It is added up on its own and may
    /// cancel most of the sum of the rest, so rounding errors are relative to it too.
    ///
    /// # Panics
    /// As [`dequantize`](Self::dequantize).
    pub fn subtrahends(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(Some(bytes.len()), self.row_bytes(out.len()), "{self} row of {} weights", out.len());
        with_block!(self, float _B => out.fill(0.0), integer B => subtrahends::<B>(bytes, out))
    }

    /// Whether there is an encoder. A format without one is only read; [`random`](Self::random) makes
    /// rows of it for tests and benchmarks.
    pub fn encodes(self) -> bool {
        with_block!(self, B => B::RANDOM.is_none())
    }

    /// Appends a row of `cols` random weights with mean 0 and standard deviation `std` to `out`, in
    /// a format that is only read. `bits` is a source of uniform bits; equal ones give equal rows.
    ///
    /// # Panics
    /// If the format [`encodes`](Self::encodes): random weights are the caller's to draw then. If `cols` is
    /// no multiple of [`block_len`](Self::block_len).
    pub fn random(self, cols: usize, std: f32, mut bits: impl FnMut() -> u64, out: &mut Vec<u8>) {
        assert!(cols.is_multiple_of(self.block_len()), "{} row of {cols} weights", self.name());
        with_block!(self, B => {
            let random = B::RANDOM.expect("a format without an encoder");
            for _ in 0..cols / B::LEN {
                out.extend_from_slice(B::bytes(&[random.block(&mut bits, std)]));
            }
        })
    }

    /// Encodes a row and appends its bytes to `out`.
    ///
    /// # Panics
    /// If the length of `x` is no multiple of [`block_len`](Self::block_len), or if the format has no
    /// encoder ([`encodes`](Self::encodes)).
    pub fn quantize(self, x: &[f32], out: &mut Vec<u8>) {
        self.quantize_weighted(x, None, out);
    }

    /// Encodes a row such that the errors of important weights are small, if `importance` says how much
    /// each weight's squared error matters; appends the bytes to `out`.
    ///
    /// # Panics
    /// If the length of `x` is no multiple of [`block_len`](Self::block_len), that of `importance` is
    /// another, or the format has no encoder ([`encodes`](Self::encodes)).
    pub fn quantize_weighted(self, x: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
        assert!(x.len().is_multiple_of(self.block_len()), "{} row of {} weights", self.name(), x.len());
        assert!(
            importance.is_none_or(|w| w.len() == x.len()),
            "an importance for each of {} weights",
            x.len()
        );
        with_block!(self, B => {
            for (i, x) in x.chunks_exact(B::LEN).enumerate() {
                let importance = importance.map(|w| &w[i * B::LEN..][..B::LEN]);
                out.extend_from_slice(B::bytes(&[B::quantize(x, importance)]));
            }
        })
    }
}

/// [`Format::subtrahends`] of whole blocks.
fn subtrahends<B: IntegerBlock>(bytes: &[u8], out: &mut [f32]) {
    let zero = if B::Lanes::BITS < 8 { Less::<B>::ZERO } else { Some(7) };
    let zero = zero.map_or(0.0, |zero| (1u32 << zero) as f32);
    for (blocks, out) in B::cast(bytes).chunks(SPAN / B::LEN).zip(out.chunks_mut(SPAN)) {
        let mut span = [B::zeroed(); MOST_BLOCKS];
        span[..blocks.len()].copy_from_slice(blocks);
        let w = B::scales(Scalar, &span[..SPAN / B::LEN]);
        let (mut scale, mut min) = ([0.0; LANES], [0.0; LANES]);
        Of::<B>::each16(Scalar, w.scale, &mut scale);
        if Less::<B>::MINS {
            Of::<B>::each16(Scalar, w.min, &mut min);
        }
        for (i, out) in out.iter_mut().enumerate() {
            *out = min[i / 16] + scale[i / 16] * zero;
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
pub(crate) mod tests;
