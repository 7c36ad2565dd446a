//! Activations to bytes: `scale = absmax / 127` for each 32 columns, `q = round(x / scale)`; and, for
//! the engines that multiply them, to bfloat16.

use crate::acts::{GROUP, Layout, PAIR_TOKENS, PAIR_WORDS, Span, TILE_WORDS, stripes};
use crate::buffer::{Aligned, lines_mut};
use crate::format::{Grouping, Of16, Of32};
use crate::simd::{Kernel, LANES, SPAN, STRIPE, Simd};

/// A stripe of activations as bytes.
struct Quantized<S: Simd> {
    bytes: S::I,
    scale: [f32; STRIPE / GROUP],
}

#[inline(always)]
fn stripe<S: Simd>(s: S, x: &[f32; STRIPE]) -> Quantized<S> {
    let (lanes, _) = x.as_chunks::<LANES>();
    let v: [S::F; 4] = [s.load(&lanes[0]), s.load(&lanes[1]), s.load(&lanes[2]), s.load(&lanes[3])];
    let mut scale = [0.0; 2];
    let mut scaled = v;
    for g in 0..2 {
        let largest = s.max_lane(s.max(s.abs(v[2 * g]), s.abs(v[2 * g + 1])));
        scale[g] = largest / 127.0;
        // A subnormal scale has no finite inverse: such a group is zero next to anything else.
        let inverse = if scale[g] >= f32::MIN_POSITIVE { 1.0 / scale[g] } else { 0.0 };
        scaled[2 * g] = s.mul(v[2 * g], s.splat(inverse));
        scaled[2 * g + 1] = s.mul(v[2 * g + 1], s.splat(inverse));
    }
    // Rounding in `scale` may carry the extreme to 127 + 1 ulp, which still rounds to 127.
    Quantized { bytes: s.to_i8(scaled), scale }
}

/// What is left of `x` after whole stripes, padded with zeros.
#[inline(always)]
pub(super) fn rest(x: &[f32]) -> [f32; STRIPE] {
    let (_, rest) = x.as_chunks::<STRIPE>();
    let mut padded = [0.0; STRIPE];
    padded[..rest.len()].copy_from_slice(rest);
    padded
}

/// The tokens of `x`, rows of `cols`, and their [`rest`]s; those that are missing are empty.
#[inline(always)]
pub(super) fn split<const N: usize>(x: &[f32], cols: usize) -> ([&[f32]; N], Aligned<[[f32; STRIPE]; N]>) {
    let (mut tokens, mut rests) = ([[].as_slice(); N], Aligned([[0.0; STRIPE]; N]));
    for ((token, rest_of), x) in tokens.iter_mut().zip(&mut rests.0).zip(x.chunks_exact(cols.max(1))) {
        (*token, *rest_of) = (x, rest(x));
    }
    (tokens, rests)
}

/// The `i`th stripe of `x`, or its [`rest`]. (A closure called for each stripe would not always be inlined, and then each
/// intrinsic would be a call. Room for a padded copy, zeroed anew for each stripe, took a quarter of the time.)
#[inline(always)]
pub(super) fn stripe_at<'a>(x: &'a [f32], i: usize, rest: &'a [f32; STRIPE]) -> &'a [f32; STRIPE] {
    x.get(i * STRIPE..).and_then(<[f32]>::first_chunk).unwrap_or(rest)
}

/// Quantizes a part of one token into the layouts of rows that are wanted: the others are empty.
pub(crate) struct QuantizeRow<'a> {
    pub x: &'a [f32],
    pub of16: &'a mut [Span],
    pub of32: &'a mut [Span],
}

impl Kernel for QuantizeRow<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        for (at, x) in self.x.chunks(SPAN).enumerate() {
            let (mut bytes, mut scales, mut sums) = ([s.splat_i32(0); 4], [0.0; 8], [0; 16]);
            let rest = rest(x);
            for i in 0..stripes(x.len()) {
                let q = stripe(s, stripe_at(x, i, &rest));
                bytes[i] = q.bytes;
                scales[2 * i..2 * i + 2].copy_from_slice(&q.scale);
                let mut fours = Aligned([0; LANES]);
                s.store_i32(s.dot_unsigned(s.splat_i32(0), s.splat_u8(1), q.bytes), &mut fours.0);
                for (sum, fours) in sums[4 * i..].iter_mut().zip(fours.0.as_chunks::<4>().0) {
                    *sum = fours[0] + fours[1] + fours[2] + fours[3];
                }
            }
            if let Some(span) = self.of16.get_mut(at) {
                for (i, sum) in sums.iter().enumerate() {
                    span.scales[i] = scales[i / 2];
                    span.totals[i] = scales[i / 2] * *sum as f32;
                }
                lay::<S, Of16>(s, bytes, span);
            }
            if let Some(span) = self.of32.get_mut(at) {
                for (i, sums) in sums.as_chunks::<2>().0.iter().enumerate() {
                    span.scales[i] = scales[i];
                    span.totals[i] = scales[i] * (sums[0] + sums[1]) as f32;
                }
                lay::<S, Of32>(s, bytes, span);
            }
        }
    }
}

/// Completes a span that has a scale and a total for each group: its bytes, and where it is multiplied at once, what lanes start
/// at and their scales.
#[inline(always)]
fn lay<S: Simd, G: Grouping>(s: S, bytes: [S::I; 4], span: &mut Span) {
    let bytes = G::arrange_row(s, bytes);
    let minus_one = s.splat_i32(-1);
    let mut sum = minus_one;
    for (bytes, out) in bytes.into_iter().zip(&mut span.bytes) {
        s.store_bytes(bytes, out);
        if S::SPANS {
            sum = s.dot_unsigned(sum, s.splat_u8(1), bytes);
        }
    }
    if S::SPANS {
        // -1 - (sum - 1)
        let negated = s.xor(sum, minus_one);
        for (zero, starts) in G::ZEROS.into_iter().zip(&mut span.starts) {
            s.store_i32(s.shl_i32(negated, zero), starts);
        }
        s.store(G::lanes(s, G::load(s, &span.scales)), &mut span.scales);
    }
}

/// Quantizes up to `mt` tokens into one tile.
pub(crate) struct QuantizeTile<'a> {
    /// `[token][cols]`, as many as the tile has valid tokens.
    pub x: &'a [f32],
    pub cols: usize,
    pub mt: usize,
    pub out: &'a mut [i32],
}

impl Kernel for QuantizeTile<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        match self.mt {
            4 => s.run(Whole::<4>(self)),
            8 => s.run(Whole::<8>(self)),
            12 => s.run(Whole::<12>(self)),
            16 => s.run(Whole::<16>(self)),
            mt => unreachable!("tiles of {mt} tokens"),
        }
    }
}

/// A tile of so many tokens, missing ones among them. A stripe of all tokens at a time: what is done for each token is
/// done for neighbours in memory.
struct Whole<'a, const MT: usize>(QuantizeTile<'a>);

impl<const MT: usize> Kernel for Whole<'_, MT> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let QuantizeTile { x, cols, out, .. } = self.0;
        let (tokens, rests) = split::<MT>(x, cols);
        let mut room = Aligned([[[0; LANES]; MT]; 3]);
        let [words, fours, twos] = &mut room.0;
        let (out, _) = out.as_chunks_mut::<MT>();
        for (i, out) in out.chunks_exact_mut(STRIPE / GROUP * TILE_WORDS).enumerate() {
            let mut scales = [[0.0; MT]; STRIPE / GROUP];
            for t in 0..MT {
                let q = stripe(s, stripe_at(tokens[t], i, &rests.0[t]));
                s.store_i32(q.bytes, &mut words[t]);
                s.store_i32(s.dot_unsigned(s.splat_i32(0), s.splat_u8(1), q.bytes), &mut fours[t]);
                if S::NARROW_SUMS {
                    let first = s.and(q.bytes, s.splat_i32(0xffff));
                    s.store_i32(s.dot_unsigned(s.splat_i32(0), s.splat_u8(1), first), &mut twos[t]);
                }
                for (scales, scale) in scales.iter_mut().zip(q.scale) {
                    scales[t] = scale;
                }
            }
            for (g, out) in out.chunks_exact_mut(TILE_WORDS).enumerate() {
                let (quads, rest) = out.split_at_mut(GROUP / 4);
                for (w, out) in quads.iter_mut().enumerate() {
                    for (out, words) in out.iter_mut().zip(words.iter()) {
                        *out = words[8 * g + w];
                    }
                }
                let [first, second] = [sixteen(fours, 2 * g), sixteen(fours, 2 * g + 1)];
                let [a, b] = [sixteen(twos, 2 * g), sixteen(twos, 2 * g + 1)];
                for t in 0..MT {
                    rest[0][t] = scales[g][t].to_bits().cast_signed();
                    let sums = [(first[t] + second[t], a[t] + b[t]), (first[t], a[t]), (second[t], b[t])];
                    for (i, (sum, two)) in sums.into_iter().enumerate() {
                        rest[1 + i][t] = (-scales[g][t] * sum as f32).to_bits().cast_signed();
                        rest[4 + i][t] = match S::NARROW_SUMS {
                            true => (two - sum) << 16 | -two & 0xffff,
                            false => -128 * sum,
                        };
                    }
                }
            }
        }
    }
}

/// Of each token the sum of the `i`th four.
#[inline(always)]
fn sixteen<const MT: usize>(fours: &[[i32; LANES]; MT], i: usize) -> [i32; MT] {
    let mut sums = [0; MT];
    for (sum, fours) in sums.iter_mut().zip(fours) {
        *sum = fours[4 * i] + fours[4 * i + 1] + fours[4 * i + 2] + fours[4 * i + 3];
    }
    sums
}

/// Rounds a tile of tokens to bfloat16, in pairs of columns: token by token, or, in [`Layout::Pairs`], for each 32
/// columns `[2][16 pairs][16 tokens]`.
pub(crate) struct PairTile<'a> {
    /// `[token][cols]`, as many as the tile has valid tokens.
    pub x: &'a [f32],
    pub cols: usize,
    pub layout: Layout,
    pub out: &'a mut [i32],
}

impl Kernel for PairTile<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let PairTile { x, cols, layout, out } = self;
        if layout == Layout::Pairs {
            return tiles(s, x, cols, out);
        }
        for (t, out) in out.chunks_exact_mut((stripes(cols) * STRIPE / 2).max(1)).enumerate() {
            let x = x.get(t * cols..(t + 1) * cols).unwrap_or_default();
            let rest = rest(x);
            for (i, out) in out.chunks_exact_mut(STRIPE / 2).enumerate() {
                out.copy_from_slice(pairs(s, stripe_at(x, i, &rest)).0.as_flattened());
            }
        }
    }
}

/// Matrix tiles of pairs of columns: sixteen tokens' words, transposed.
#[inline(always)]
fn tiles<S: Simd>(s: S, x: &[f32], cols: usize, out: &mut [i32]) {
    let out = lines_mut(out);
    for half in 0..PAIR_TOKENS / LANES {
        let x = x.get(half * LANES * cols..).unwrap_or_default();
        let (tokens, rests) = split::<LANES>(x, cols);
        for i in 0..stripes(cols) {
            let mut lines = Aligned([[[0; STRIPE]; LANES]; STRIPE / GROUP]);
            for (t, (x, rest)) in tokens.iter().zip(&rests.0).enumerate() {
                let (lanes, _) = stripe_at(x, i, rest).as_chunks::<LANES>();
                for (g, lines) in lines.0.iter_mut().enumerate() {
                    s.store_bytes(s.to_bf16(s.load(&lanes[2 * g]), s.load(&lanes[2 * g + 1])), &mut lines[t]);
                }
            }
            for (g, lines) in lines.0.iter().enumerate() {
                let at = (i * (STRIPE / GROUP) + g) * (PAIR_WORDS / LANES) + half * LANES;
                s.transpose(lines, &mut out[at..at + LANES], 4);
            }
        }
    }
}

/// A stripe rounded to bfloat16, pairs of columns.
#[inline(always)]
fn pairs<S: Simd>(s: S, stripe: &[f32; STRIPE]) -> Aligned<[[i32; LANES]; STRIPE / GROUP]> {
    let (lanes, _) = stripe.as_chunks::<LANES>();
    let mut words = Aligned([[0; LANES]; STRIPE / GROUP]);
    for (g, words) in words.0.iter_mut().enumerate() {
        s.store_i32(s.to_bf16(s.load(&lanes[2 * g]), s.load(&lanes[2 * g + 1])), words);
    }
    words
}

/// Lays `T` tokens side by side, word by word: as they are, or rounded to bfloat16.
pub(crate) struct Columns<'a, const T: usize> {
    /// `[token][cols]`
    pub x: &'a [f32],
    pub cols: usize,
    pub rounded: bool,
    pub out: &'a mut [i32],
}

impl<const T: usize> Kernel for Columns<'_, T> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Columns { x, cols, rounded, out } = self;
        assert_eq!(x.len(), T * cols, "{T} tokens");
        let (tokens, rests) = split::<T>(x, cols);
        let (out, _) = out.as_chunks_mut::<T>();
        if rounded {
            for (i, out) in out.chunks_exact_mut(STRIPE / 2).enumerate() {
                let mut words = Aligned([[[0; LANES]; STRIPE / GROUP]; T]);
                for ((words, token), rest) in words.0.iter_mut().zip(tokens).zip(&rests.0) {
                    *words = pairs(s, stripe_at(token, i, rest)).0;
                }
                for (w, out) in out.iter_mut().enumerate() {
                    for (out, words) in out.iter_mut().zip(&words.0) {
                        *out = words[w / LANES][w % LANES];
                    }
                }
            }
        } else {
            for (i, out) in out.chunks_mut(STRIPE).enumerate() {
                let mut stripes = [&[0.0; STRIPE]; T];
                for ((stripe, token), rest) in stripes.iter_mut().zip(tokens).zip(&rests.0) {
                    *stripe = stripe_at(token, i, rest);
                }
                for (i, out) in out.iter_mut().enumerate() {
                    for (out, stripe) in out.iter_mut().zip(&stripes) {
                        *out = stripe[i].to_bits().cast_signed();
                    }
                }
            }
        }
    }
}
