//! Floats to fixed point, with a power of two as scale: activations in two bytes, and weights and activations in 14 bits.

use super::quantize::{rest, split, stripe_at};
use crate::acts::{FIXED_WORDS, GROUP, PAIR_TOKENS, spans, stripes};
use crate::buffer::{Aligned, lines_mut};
use crate::format::FloatBlock;
use crate::simd::{Kernel, LANES, SPAN, STRIPE, Simd};

/// The largest number that is made of two bytes, of which the first counts 256: `127 * 256 + 127`.
const LARGEST_FIXED: f32 = 32639.0;

/// Rounds a tile of tokens to [fixed point](crate::acts::Form::Fixed).
pub(crate) struct FixedTile<'a> {
    /// `[token][cols]`, as many as the tile has valid tokens.
    pub x: &'a [f32],
    pub cols: usize,
    pub out: &'a mut [i32],
}

impl Kernel for FixedTile<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let FixedTile { x, cols, out } = self;
        let (out, _) = out.as_chunks_mut::<{ FIXED_WORDS / 2 }>();
        for half in 0..PAIR_TOKENS / LANES {
            let x = x.get(half * LANES * cols..).unwrap_or_default();
            for span in 0..spans(cols) {
                let (words, scales) = out[2 * span + half].split_at_mut(FIXED_WORDS / 2 - LANES);
                let mut lines = Aligned([[[[0; STRIPE]; LANES]; 2]; SPAN / STRIPE]);
                for (t, x) in x.chunks_exact(cols.max(1)).take(LANES).enumerate() {
                    let x = &x[span * SPAN..cols.min((span + 1) * SPAN)];
                    let lines = lines.0.each_mut().map(|parts| parts.each_mut().map(|lines| &mut lines[t]));
                    scales[t] = fixed(s, x, lines).to_bits().cast_signed();
                }
                for (lines, out) in
                    lines.0.as_flattened().iter().zip(lines_mut(words).chunks_exact_mut(LANES))
                {
                    s.transpose(lines, out, 4);
                }
            }
        }
    }
}

/// Rounds a span of one token to fixed point: of each stripe the first bytes and the second ones. Returns the
/// [scale](Extent::scale).
#[inline(always)]
fn fixed<S: Simd>(s: S, x: &[f32], lines: [[&mut [u8; STRIPE]; 2]; SPAN / STRIPE]) -> f32 {
    let (rest, mut extent) = (rest(x), Extent::new(s));
    for i in 0..stripes(x.len()) {
        for x in stripe_at(x, i, &rest).as_chunks().0 {
            extent.add(s, s.load(x));
        }
    }
    let (scale, inverse) = extent.scale(s, LARGEST_FIXED);
    for (i, [first, second]) in lines.into_iter().enumerate().take(stripes(x.len())) {
        let mut q = Aligned([[0; LANES]; STRIPE / LANES]);
        for (q, x) in q.0.iter_mut().zip(stripe_at(x, i, &rest).as_chunks().0) {
            s.store_i32(s.to_i32(s.mul(s.load(x), inverse)), q);
        }
        let (low, high) = q.0.as_flattened().split_at(GROUP);
        let pairs = low.iter().zip(high);
        for ((&a, &b), out) in pairs.clone().zip(first.as_chunks_mut().0) {
            *out = (((a + 128) >> 8 & 0xff | (b + 128) & 0xff00) as u16).to_le_bytes();
        }
        for ((&a, &b), out) in pairs.zip(second.as_chunks_mut().0) {
            *out = ((a & 0xff | b << 8) as u16).to_le_bytes();
        }
    }
    scale
}

/// How far numbers reach that are to share a scale in fixed point.
struct Extent<S: Simd> {
    largest: S::F,
    /// Zeros, but where a number is not finite.
    none: S::F,
}

impl<S: Simd> Extent<S> {
    #[inline(always)]
    fn new(s: S) -> Self {
        Extent { largest: s.splat(0.0), none: s.splat(0.0) }
    }

    #[inline(always)]
    fn add(&mut self, s: S, x: S::F) {
        self.largest = s.max(self.largest, s.abs(x));
        self.none = s.fma(x, s.splat(0.0), self.none);
    }

    /// The smallest power of two with which none is above `most`, so that what needs few bits stays exact; and its inverse. It is no
    /// number unless all are finite. A subnormal one has no finite inverse: such numbers are zero next to anything else.
    #[inline(always)]
    fn scale(self, s: S, most: f32) -> (f32, S::F) {
        const EXPONENT: u32 = 0x7f80_0000;
        let exact = s.max_lane(self.largest) / most;
        let scale = f32::from_bits((exact.to_bits() + 0x7f_ffff) & EXPONENT) + s.sum(self.none);
        (scale, s.splat(if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 }))
    }
}

/// The largest number in 14 bits and a sign less one: products of 32 of them fit 32 bits.
const LARGEST_SHORT: f32 = 8191.0;

/// Words of a token for 32 columns in fixed point of 14 bits: two columns each, which ones is the ISA's choice, and a scale.
pub(crate) const SHORT_WORDS: usize = GROUP / 2 + 1;

/// Sixteen words of 32 numbers in fixed point of 14 bits.
#[inline(always)]
fn short_words<S: Simd>(s: S, [a, b]: [S::F; 2], inverse: S::F) -> S::I {
    s.pack_shorts(s.to_i32(s.mul(a, inverse)), s.to_i32(s.mul(b, inverse)))
}

/// Rounds up to 256 weights of two bytes of a row to fixed point of 14 bits: the `r`th line of each 32 of them. Returns the
/// [scale](Extent::scale).
#[inline(always)]
pub(crate) fn short_weights<S: Simd, B: FloatBlock>(
    s: S,
    weights: &[B],
    lines: &mut [[[u8; STRIPE]; LANES]],
    r: usize,
) -> f32 {
    assert!(size_of::<B>() == 2, "weights of two bytes");
    let padded;
    let span = if weights.len() < SPAN {
        let mut room = [B::zeroed(); SPAN];
        room[..weights.len()].copy_from_slice(weights);
        padded = room;
        &padded
    } else {
        weights
    };
    let groups = span.as_chunks::<LANES>().0.as_chunks::<2>().0;
    // The largest ones have the largest bits, but for the sign: those that are not finite, too.
    let (mut largest, magnitude) = (s.splat_i32(0), s.splat_i32(0x7fff_7fff));
    for x in B::bytes(span).as_chunks::<STRIPE>().0 {
        largest = s.max_shorts(largest, s.and(s.load_bytes(x), magnitude));
    }
    let (mut bytes, mut extent) = (Aligned([0; STRIPE]), Extent::new(s));
    s.store_bytes(largest, &mut bytes.0);
    for x in B::cast(&bytes.0).as_chunks().0 {
        extent.add(s, B::widen(s, x));
    }
    let (scale, inverse) = extent.scale(s, LARGEST_SHORT);
    for ([a, b], lines) in groups.iter().zip(lines) {
        s.store_bytes(short_words(s, [B::widen(s, a), B::widen(s, b)], inverse), &mut lines[r]);
    }
    scale
}

/// Lays `T` tokens side by side in fixed point of 14 bits: for each 32 columns sixteen words of all, and their scales.
pub(crate) struct ShortColumns<'a, const T: usize> {
    /// `[token][cols]`
    pub x: &'a [f32],
    pub cols: usize,
    pub out: &'a mut [i32],
}

impl<const T: usize> Kernel for ShortColumns<'_, T> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let ShortColumns { x, cols, out } = self;
        assert_eq!(x.len(), T * cols, "{T} tokens");
        let (tokens, rests) = split::<T>(x, cols);
        for (i, out) in out.as_chunks_mut::<T>().0.chunks_exact_mut(SHORT_WORDS).enumerate() {
            for (t, (token, rest)) in tokens.iter().zip(&rests.0).enumerate() {
                let stripe = stripe_at(token, i / 2, rest).as_chunks::<LANES>().0;
                let x = [s.load(&stripe[i % 2 * 2]), s.load(&stripe[i % 2 * 2 + 1])];
                let mut extent = Extent::new(s);
                extent.add(s, x[0]);
                extent.add(s, x[1]);
                let (scale, inverse) = extent.scale(s, LARGEST_SHORT);
                let mut words = [0; LANES];
                s.store_i32(short_words(s, x, inverse), &mut words);
                for (word, out) in words.iter().zip(&mut *out) {
                    out[t] = *word;
                }
                out[SHORT_WORDS - 1][t] = scale.to_bits().cast_signed();
            }
        }
    }
}
