//! Activations to bytes: `scale = absmax / 127` for each 32 columns, `q = round(x / scale)`; and, for
//! the engines that multiply it, to bfloat16.

use crate::acts::{GROUP, Layout, Span16, Span32, TILE_WORDS, stripes};
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

/// The `i`th stripe of `x`, the last one padded with zeros. (A closure called for each stripe would not
/// always be inlined, and then each intrinsic would be a call.)
#[inline(always)]
fn stripe_at<'a>(x: &'a [f32], i: usize, padded: &'a mut [f32; STRIPE]) -> &'a [f32; STRIPE] {
    let x = &x[i * STRIPE..];
    if let Some(whole) = x.first_chunk() {
        return whole;
    }
    padded[..x.len()].copy_from_slice(x);
    padded
}

/// Quantizes a part of one token into the layouts of rows that are wanted: the others are empty.
pub(crate) struct QuantizeRow<'a> {
    pub x: &'a [f32],
    pub of16: &'a mut [Span16],
    pub of32: &'a mut [Span32],
}

impl Kernel for QuantizeRow<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        for (at, x) in self.x.chunks(SPAN).enumerate() {
            let (mut bytes, mut scales, mut sums) = ([s.splat_i32(0); 4], [0.0; 8], [0; 16]);
            for i in 0..stripes(x.len()) {
                let q = stripe(s, stripe_at(x, i, &mut [0.0; STRIPE]));
                bytes[i] = q.bytes;
                scales[2 * i..2 * i + 2].copy_from_slice(&q.scale);
                let mut fours = [0; LANES];
                s.store_i32(s.dot_unsigned(s.splat_i32(0), s.splat_u8(1), q.bytes), &mut fours);
                for (sum, fours) in sums[4 * i..].iter_mut().zip(fours.as_chunks::<4>().0) {
                    *sum = fours[0] + fours[1] + fours[2] + fours[3];
                }
            }
            if let Some(span) = self.of16.get_mut(at) {
                for (out, bytes) in span.bytes.iter_mut().zip(bytes) {
                    s.store_bytes(bytes, out);
                }
                for (i, sum) in sums.iter().enumerate() {
                    span.scales[i] = scales[i / 2];
                    span.totals[i] = scales[i / 2] * *sum as f32;
                }
            }
            if let Some(span) = self.of32.get_mut(at) {
                for (out, pair) in span.bytes.as_chunks_mut::<2>().0.iter_mut().zip(bytes.as_chunks::<2>().0)
                {
                    let [first, second] = s.regroup(pair[0], pair[1]);
                    s.store_bytes(first, &mut out[0]);
                    s.store_bytes(second, &mut out[1]);
                }
                for (i, sums) in sums.as_chunks::<2>().0.iter().enumerate() {
                    span.scales[i] = scales[i];
                    span.totals[i] = scales[i] * (sums[0] + sums[1]) as f32;
                }
            }
        }
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
        let QuantizeTile { x, cols, mt, out } = self;
        let group_words = TILE_WORDS * mt;
        for t in 0..mt {
            let Some(x) = x.get(t * cols..(t + 1) * cols) else {
                out.iter_mut().skip(t).step_by(mt).for_each(|w| *w = 0);
                continue;
            };
            for i in 0..stripes(x.len()) {
                let q = stripe(s, stripe_at(x, i, &mut [0.0; STRIPE]));
                let (mut words, mut fours) = ([0; LANES], [0; LANES]);
                s.store_i32(q.bytes, &mut words);
                s.store_i32(s.dot_unsigned(s.splat_i32(0), s.splat_u8(1), q.bytes), &mut fours);
                let mut twos = [0; LANES];
                if S::NARROW_SUMS {
                    let first = s.and(q.bytes, s.splat_i32(0xffff));
                    s.store_i32(s.dot_unsigned(s.splat_i32(0), s.splat_u8(1), first), &mut twos);
                }
                for g in 0..STRIPE / GROUP {
                    let out = &mut out[(i * (STRIPE / GROUP) + g) * group_words..][..group_words];
                    for (w, &word) in words[8 * g..8 * g + 8].iter().enumerate() {
                        out[w * mt + t] = word;
                    }
                    let sum = |fours: &[i32]| fours[0] + fours[1] + fours[2] + fours[3];
                    let halves = |x: &[i32; LANES]| [sum(&x[8 * g..][..4]), sum(&x[8 * g + 4..][..4])];
                    let ([first, second], [a, b]) = (halves(&fours), halves(&twos));
                    out[8 * mt + t] = q.scale[g].to_bits().cast_signed();
                    let sums = [(first + second, a + b), (first, a), (second, b)];
                    for (i, (sum, two)) in sums.into_iter().enumerate() {
                        out[(9 + i) * mt + t] = (-q.scale[g] * sum as f32).to_bits().cast_signed();
                        out[(12 + i) * mt + t] = match S::NARROW_SUMS {
                            true => (two - sum) << 16 | -two & 0xffff,
                            false => -128 * sum,
                        };
                    }
                }
            }
        }
    }
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
        let row = stripes(cols) * STRIPE / 2;
        for t in 0..layout.tile() {
            // The first word, and how far it is to the next pair and the next group of columns.
            let (first, width, group) = match layout {
                Layout::Pairs => {
                    (t / LANES * GROUP / 2 * LANES + t % LANES, LANES, GROUP / 2 * layout.tile())
                }
                _ => (t * row, 1, GROUP / 2),
            };
            let x = x.get(t * cols..(t + 1) * cols);
            for i in 0..stripes(cols) {
                let mut padded = [0.0; STRIPE];
                let stripe = match x {
                    Some(x) => stripe_at(x, i, &mut padded),
                    None => &padded,
                };
                let (lanes, _) = stripe.as_chunks::<LANES>();
                for g in 0..STRIPE / GROUP {
                    let mut words = [0; LANES];
                    s.store_i32(s.to_bf16(s.load(&lanes[2 * g]), s.load(&lanes[2 * g + 1])), &mut words);
                    let out = &mut out[first + (i * (STRIPE / GROUP) + g) * group..];
                    for (out, word) in out.iter_mut().step_by(width).zip(words) {
                        *out = word;
                    }
                }
            }
        }
    }
}
