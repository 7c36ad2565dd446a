//! How far an f32 implementation may be from the f64 [`oracle`]: derived, never tuned.
//!
//! The rules, all from the standard model of rounding (every f32 operation is exact up to a factor
//! `1 + d` with `|d| <= U`; N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, ch. 3):
//!
//! - a value that went through `n` roundings carries a factor `1 + t` with `|t| <= gamma(n)`. In an
//!   inner product of length `n`, in *any* order and with or without fused multiply-add, each product
//!   goes through at most `n`, so the sum is off by at most `gamma(n) * sum |w x|`;
//! - int8 activations are part of a kernel's definition, so its answer is computed from the
//!   *rounded* activations and stays sharp. Only where `x / scale` is so near to a tie that f32
//!   cannot tell the side may a kernel round the other way: there the bound takes in a whole step;
//! - an exponential is within [`EXP`], and errors in its argument are relative errors of the result.
//!
//! An operation's [`Answer`] holds the expected values and the bounds, and judges what was found.

use crate::oracle::{self, GROUP, Heads, Int8, dot, widen};
use crate::rope::Rope;
use llama_kernels::Format;

mod products;

pub use products::matmul;

/// The unit roundoff of f32.
pub const U: f64 = f32::EPSILON as f64 / 2.0;

/// The relative error of the kernels' exponential: two units in the last place.
pub const EXP: f64 = 4.0 * U;

/// The smallest normal f32: what an underflow, or an exponential's cut-off, may lose.
pub const TINY: f64 = f32::MIN_POSITIVE as f64;

/// Standard deviations that a rounding error, taken as random, stays within. Of a million Gaussian
/// values the largest is at 5; the rest is for what is estimated from a few samples.
pub const LAMBDA: f64 = 8.0;

/// Higham's `gamma_n = nU / (1 - nU)`: the relative error after `n` roundings.
pub fn gamma(n: usize) -> f64 {
    let nu = n as f64 * U;
    nu / (1.0 - nu)
}

/// The error of an f32 inner product of length `n`, whose `|w x|` add up to `sum_abs`.
pub fn dot_bound(n: usize, sum_abs: f64) -> f64 {
    gamma(n) * sum_abs + n as f64 * TINY
}

/// The error of rounding a value of at most 65504 to f16: half a unit of its 11 bits, or of the
/// subnormals' spacing.
pub fn f16_error(x: f64) -> f64 {
    (x.abs() * 2f64.powi(-11)).max(2f64.powi(-25))
}

/// The error of rounding to bf16: half a unit of its 8 bits.
pub fn bf16_error(x: f64) -> f64 {
    x.abs() * 2f64.powi(-8) + TINY
}

/// The error of each activation when its group is rounded to int8: half a step, and the doubt of
/// the f32 quotient, which is at most 127. Against exact activations a product is therefore off by
/// `sum |w| * int8_error`: a loose bound, which the kernels' tests do not need (see above).
pub fn int8_error(x: &[f32]) -> Vec<f64> {
    let scales = Int8::quantize(x).scales;
    (0..x.len()).map(|i| f64::from(scales[i / GROUP]) * (0.5 + 127.0 * QUOTIENT)).collect()
}

/// The relative doubt of `x / scale` in f32: the scale's division, its reciprocal, the product,
/// and one more for second-order terms.
const QUOTIENT: f64 = 4.0 * U;

/// Whether an instruction set multiplies so many tokens with floats of two bytes in fixed point of 14 bits.
fn in_shorts(isa: &str, format: Format, tokens: usize) -> bool {
    match (isa, format) {
        (_, Format::F32) => false,
        ("avx2", _) => tokens >= 28,
        ("avxvnni" | "avx512vnni", _) | ("avx512bf16", Format::F16) => tokens >= 24,
        _ => false,
    }
}

/// What a kernel does to activations before it multiplies them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activations {
    /// It takes them as they are, in f32.
    Float,
    /// It rounds them to int8 in groups of 32, by [`Int8::quantize`].
    Int8,
    /// It rounds them, and the weights too, to bf16.
    Bf16,
    /// It rounds them, and the weights too, to [fixed point](crate::oracle::Fixed), and leaves the products of second bytes out.
    Fixed,
    /// It rounds them, and the weights too, to [fixed point of 14 bits](crate::oracle::Fixed::shorts).
    Shorts,
}

impl Activations {
    /// What goes with a weight format: int8 for the quantized ones.
    pub fn of(format: Format) -> Activations {
        if format.block_len() == 1 { Activations::Float } else { Activations::Int8 }
    }

    /// Whether it is what some instruction sets do with floats in prompts.
    pub fn rounds_floats(self) -> bool {
        matches!(self, Activations::Bf16 | Activations::Fixed | Activations::Shorts)
    }

    /// What an instruction set does with a batch: products of many tokens may be in bfloat16, those of
    /// bfloat16 weights and, with matrix tiles, of others; or in fixed point, those of halves, and of bfloat16 weights where
    /// nothing else multiplies these.
    pub fn on(isa: &str, format: Format, tokens: usize, deterministic: bool) -> Activations {
        Activations::beside(isa, format, &[format], tokens, deterministic)
    }

    /// The same where matrices of all these formats are multiplied at once: matrix tiles take fewer than 17 tokens if all
    /// weights are such floats, and fewer than 12 if they are all in bfloat16.
    pub fn beside(
        isa: &str,
        format: Format,
        all: &[Format],
        tokens: usize,
        deterministic: bool,
    ) -> Activations {
        let floats = all.iter().all(|format| match format {
            Format::F16 => tokens > 11,
            format => *format == Format::BF16,
        });
        let own = Activations::of(format);
        if tokens <= 8 || deterministic || format == Format::F32 {
            return own;
        }
        match (isa, format) {
            ("amx", Format::F16) if tokens > 16 || floats => Activations::Fixed,
            ("amx", _) if tokens > 16 || floats => Activations::Bf16,
            ("avx512bf16", Format::BF16) => Activations::Bf16,
            (_, Format::F16 | Format::BF16) if in_shorts(isa, format, tokens) => Activations::Shorts,
            _ => own,
        }
    }
}

/// Expected values, and how far from each a correct implementation may be.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The values in f64.
    pub expected: Vec<f64>,
    /// The largest error allowed for each.
    pub bound: Vec<f64>,
}

impl Answer {
    /// Values that are known exactly.
    pub fn exact(x: &[f32]) -> Answer {
        Answer { expected: widen(x), bound: vec![0.0; x.len()] }
    }

    /// The answer to `self + x`, rounded once more: a residual.
    pub fn plus(mut self, x: &[f32]) -> Answer {
        for ((e, b), &x) in self.expected.iter_mut().zip(&mut self.bound).zip(x) {
            *e += f64::from(x);
            *b += U * (e.abs() + *b);
        }
        self
    }

    /// Panics unless every value found is within its bound; see [`assert_close`].
    #[track_caller]
    pub fn check(&self, found: &[f32], what: &str) {
        assert_close(found, &self.expected, &self.bound, what);
    }
}

/// Panics, naming the worst offender, unless `|found - expected| <= bound` everywhere.
#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f64], bound: &[f64], what: &str) {
    if let Some(violation) = violation(found, expected, bound) {
        panic!("{what}: {violation}");
    }
}

/// The value that is furthest beyond its bound, described; `None` if there is none.
pub fn violation(found: &[f32], expected: &[f64], bound: &[f64]) -> Option<String> {
    assert_eq!(expected.len(), bound.len(), "one bound a value");
    if found.len() != expected.len() {
        return Some(format!("expected {} values, found {}", expected.len(), found.len()));
    }
    let error = |i: usize| (f64::from(found[i]) - expected[i]).abs();
    let excess = |i: usize| if error(i).is_nan() { f64::INFINITY } else { error(i) / bound[i] };
    let beyond = |i: &usize| error(*i).is_nan() || bound[*i].is_nan() || error(*i) > bound[*i];
    let offenders = (0..found.len()).filter(beyond).count();
    let worst = (0..found.len()).filter(beyond).max_by(|&a, &b| excess(a).total_cmp(&excess(b)))?;
    Some(format!(
        "{offenders} of {} values out of bounds, worst at {worst}: \
         expected {:e}, found {:e}, error {:e}, bound {:e}",
        found.len(),
        expected[worst],
        found[worst],
        error(worst),
        bound[worst]
    ))
}

/// Whether f32 arithmetic may round `x / scale` to either side.
fn is_tie(x: f32, scale: f64) -> bool {
    let quotient = f64::from(x).abs() / scale;
    (quotient.fract() - 0.5).abs() <= QUOTIENT * quotient
}

/// Panics unless `q` and `scales` are `x` rounded to int8: each scale within one unit in the last
/// place, each integer the nearest one, or either neighbour at a tie.
#[track_caller]
pub fn assert_quantized(x: &[f32], q: &[i8], scales: &[f32], what: &str) {
    let int8 = Int8::quantize(x);
    let bound: Vec<f64> = int8.scales.iter().map(|&s| 2.0 * U * f64::from(s)).collect();
    assert_close(scales, &widen(&int8.scales), &bound, &format!("{what}: scales"));
    assert_eq!(q.len(), x.len(), "{what}: integers");
    for (i, (&found, &expected)) in q.iter().zip(&int8.q).enumerate() {
        let (step, x) = (f64::from(int8.scales[i / GROUP]), x[i]);
        let allowed = if is_tie(x, step) { 1 } else { 0 };
        let error = (i32::from(found) - i32::from(expected)).abs();
        assert!(error <= allowed, "{what}: value {i}, {x:e} / {step:e}: expected {expected}, found {found}");
    }
}

/// RMS normalisation of one token. The sum of squares has no cancellation, so its error is relative;
/// the root halves it; the mean, `eps`, the root, the division and two products add six.
pub fn rmsnorm(x: &[f32], weight: &[f32], eps: f32) -> Answer {
    let expected = oracle::rmsnorm(&widen(x), &widen(weight), f64::from(eps));
    let bound = expected.iter().map(|y| gamma(x.len() + 6) * y.abs() + TINY).collect();
    Answer { expected, bound }
}

/// Rotation of the heads of one token, `dim` features each. The angle may be computed in f32
/// (frequency, scale, product and its own rounding: four), sine and cosine are within a unit in the
/// last place, and three products (the magnitude's is one) and a sum follow.
pub fn rope(heads: &[f32], dim: usize, pos: usize, rope: &Rope) -> Answer {
    let (mut expected, mut bound) = (Vec::new(), Vec::new());
    for head in heads.chunks_exact(dim) {
        expected.extend(rope.rotate(&widen(head), pos));
        bound.extend((0..dim).map(|i| {
            rope.pair_of(i).map_or(0.0, |pair| {
                let size: f64 = rope.pair(pair).map(|i| f64::from(head[i].abs())).iter().sum();
                let angle = rope.angle(pos as f64, pair).abs();
                rope.magnitude().max(1.0) * size * (4.0 * U * angle + gamma(6)) + TINY
            })
        }));
    }
    Answer { expected, bound }
}

/// The relative error of an unnormalised softmax weight among `n`, whose score is `below` the
/// largest one and uncertain by `doubt`. The maximum may be found on the way (online softmax), with
/// up to `n` rescalings, each an exponential and a product; their arguments add up to `below`.
fn weight_error(n: usize, below: f64, doubt: f64) -> f64 {
    (doubt + 2.0 * U * below + (n + 1) as f64 * (EXP + U)).exp_m1()
}

/// Softmax of one row of scores.
pub fn softmax(x: &[f32]) -> Answer {
    let expected = oracle::softmax(&widen(x));
    let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let n = x.len();
    let errors: Vec<f64> = x.iter().map(|&v| weight_error(n, max - f64::from(v), 0.0)).collect();
    let sum = dot(&expected, &errors) + gamma(2 * n + 2);
    let bound = expected.iter().zip(&errors).map(|(p, e)| p * (e + sum) / (1.0 - sum) + TINY);
    Answer { bound: bound.collect(), expected }
}

/// `silu(gate) * up`, from inputs that may carry errors of their own. The slope of `silu` is at most
/// 1.1; the exponential, a sum, a division and a product follow.
pub fn swiglu(gate: &Answer, up: &Answer) -> Answer {
    let expected = oracle::swiglu(&gate.expected, &up.expected);
    let bound = (0..expected.len()).map(|i| {
        let (g, u) = (gate.expected[i], up.expected[i].abs());
        let carried = 1.1 * gate.bound[i] * (u + up.bound[i]) + oracle::silu(g).abs() * up.bound[i];
        let size = expected[i].abs() + carried;
        carried + (EXP + gamma(4)) * size + (1.0 + g.abs()) * (1.0 + u) * TINY
    });
    Answer { bound: bound.collect(), expected }
}

/// Causal attention over keys and values given exactly as the cache holds them (already rounded to
/// f16, say). Scores are inner products, scaled; each weight then carries a softmax's error; the sums
/// of weights and of weighted values have no order and up to `n` rescalings.
pub fn attention(q: &[f32], k: &[f32], v: &[f32], heads: Heads) -> Answer {
    attention_within(q, k, v, heads, usize::MAX, 0.0)
}

/// What matrix tiles make of one of attention's products, relative to it: both operands are two numbers of 8 bits, 16
/// bits together, and the product of the lesser ones is left out.
pub const TILED_PRODUCT: f64 = 3.1 / 65536.0;

/// The same where a token at position `i` sees position `j` only if `i - j < window`, and products are off by some part of
/// them before they are added up.
pub fn attention_within(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    heads: Heads,
    window: usize,
    product: f64,
) -> Answer {
    let Heads { query, kv, dim, value_dim } = heads;
    let (q, k, v) = (widen(q), widen(k), widen(v));
    let expected = oracle::attention_within(&q, &k, &v, heads, window);
    let tokens = q.len() / (query * dim);
    let past = k.len() / (kv * dim) - tokens;
    let mut bound = Vec::with_capacity(expected.len());
    for (t, h) in (0..tokens).flat_map(|t| (0..query).map(move |h| (t, h))) {
        let (end, from) = (past + t + 1, h / (query / kv));
        let (first, n) = (end.saturating_sub(window), end.min(window));
        let q = &q[(t * query + h) * dim..][..dim];
        let key = |p: usize| &k[((first + p) * kv + from) * dim..][..dim];
        let value = |p: usize| &v[((first + p) * kv + from) * value_dim..][..value_dim];
        let root = (dim as f64).sqrt();
        let scores: Vec<f64> = (0..n).map(|p| dot(q, key(p)) / root).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let size = |p: usize| q.iter().zip(key(p)).map(|(q, k)| (q * k).abs()).sum::<f64>() / root;
        let doubt = |p: usize| dot_bound(dim + 3, size(p)) + product * size(p);
        let error = |p: usize| weight_error(n, max - scores[p], doubt(p));
        let weights = oracle::softmax(&scores);
        let errors: Vec<f64> = (0..n).map(|p| weights[p] * error(p) + TINY).collect();
        let sums = gamma(2 * n + 4) + product;
        let divisor = errors.iter().sum::<f64>() + sums;
        for i in 0..value_dim {
            let weighted = |p: usize| (errors[p] * (1.0 + sums) + weights[p] * sums) * value(p)[i].abs();
            let dividend: f64 = (0..n).map(weighted).sum();
            bound.push((dividend + expected[bound.len()].abs() * divisor) / (1.0 - divisor) + TINY);
        }
    }
    Answer { expected, bound }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::Data;
    use llama_kernels::Matrix;

    /// The judge accepts the correctly rounded answer and refuses one that is just beyond the
    /// bound, anywhere and on either side, and an answer that is not a number or too short.
    fn judges(answer: &Answer) {
        let found: Vec<f32> = answer.expected.iter().map(|&v| v as f32).collect();
        answer.check(&found, "rounded");
        let refused = |found: &[f32]| violation(found, &answer.expected, &answer.bound).is_some();
        for i in 0..found.len() {
            for sign in [1.0, -1.0] {
                let (e, b) = (answer.expected[i], answer.bound[i]);
                let mut planted = (e + sign * b) as f32;
                while (f64::from(planted) - e) * sign <= b {
                    planted = if sign > 0.0 { planted.next_up() } else { planted.next_down() };
                }
                let mut found = found.clone();
                found[i] = planted;
                assert!(refused(&found), "value {i}: {planted:e} passed for {e:e} within {b:e}");
                found[i] = f32::NAN;
                assert!(refused(&found), "value {i}: NaN passed");
            }
        }
        assert!(refused(&found[1..]), "a missing value passed");
    }

    /// The same inner product in f32, in three orders.
    fn f32_dots(a: &[f32], b: &[f32]) -> [f32; 3] {
        let mut lanes = [0f32; 8];
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            lanes[i % 8] = a.mul_add(*b, lanes[i % 8]);
        }
        let products = || a.iter().zip(b).map(|(a, b)| a * b);
        [products().sum(), products().rev().sum(), lanes.iter().sum()]
    }

    #[test]
    fn matmul_admits_every_order_and_no_lost_weight() {
        for (format, cols) in [(Format::F32, 257), (Format::F16, 40), (Format::BF16, 1)] {
            let mut data = Data::new(7);
            let (weights, x) = (data.weights(format, 3, cols), data.values(2 * cols));
            let answer = matmul(&weights.matrix(), &x, 2, Activations::of(format));
            judges(&answer);
            let mut row = vec![0.0; cols];
            for (r, t) in [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)] {
                weights.matrix().dequantize_row(r, &mut row);
                let (i, x) = (t * 3 + r, &x[t * cols..][..cols]);
                for found in f32_dots(&row, x) {
                    assert_close(&[found], &answer.expected[i..=i], &answer.bound[i..=i], "an order");
                }
                let lost = f64::from(row[0]) * f64::from(x[0]);
                assert!(lost.abs() > 2.0 * answer.bound[i], "a lost product of {lost:e} would pass");
            }
        }
    }

    #[test]
    fn int8_matmul_is_sharp_and_covers_ties() {
        let mut data = Data::new(8);
        let (weights, x) = (data.weights(Format::Q8_0, 5, 256), data.outliers(256));
        let w = weights.matrix();
        let answer = matmul(&w, &x, 1, Activations::Int8);
        judges(&answer);
        // Against the exact product, the error is within the half steps.
        let (exact, steps, mut row) = (oracle::matmul(&w, &widen(&x), 1), int8_error(&x), vec![0.0; 256]);
        for (r, &exact) in exact.iter().enumerate() {
            w.dequantize_row(r, &mut row);
            let loose: f64 = row.iter().zip(&steps).map(|(w, s)| f64::from(w.abs()) * s).sum();
            assert!((exact - answer.expected[r]).abs() <= loose);
            assert!(answer.bound[r] < loose / 100.0, "{:e} is no sharper than {loose:e}", answer.bound[r]);
        }
        // 63.5 steps may be rounded to 63 or 64, 63.4 may not.
        let mut x = vec![0.0; 32];
        (x[0], x[1], x[2]) = (127.0, 63.5, 63.4);
        let mut bytes = Vec::new();
        Format::Q8_0.quantize(&[1.0; 32], &mut bytes);
        let w = Matrix::new(Format::Q8_0, 1, 32, &bytes).unwrap();
        let weight = matmul(&w, &[1.0; 32], 1, Activations::Float).expected[0] / 32.0;
        let answer = matmul(&w, &x, 1, Activations::Int8);
        let with = |q1: f64, q2: f64| [((127.0 + q1 + q2) * weight) as f32];
        answer.check(&with(64.0, 63.0), "tie away from zero");
        answer.check(&with(63.0, 63.0), "tie to even");
        assert!(violation(&with(62.0, 63.0), &answer.expected, &answer.bound).is_some());
    }

    #[test]
    fn quantized_activations_are_exact_but_at_ties() {
        let mut x = Data::new(9).values(64);
        x[0] = 127.0;
        x[1] = -63.5;
        let Int8 { mut q, scales } = Int8::quantize(&x);
        assert_quantized(&x, &q, &scales, "away from zero");
        q[1] += 1;
        assert_quantized(&x, &q, &scales, "towards zero");
        let refuses = |q: &[i8], scales: &[f32]| {
            std::panic::catch_unwind(|| assert_quantized(&x, q, scales, "planted")).is_err()
        };
        q[40] += 1;
        assert!(refuses(&q, &scales));
        q[40] -= 1;
        assert!(!refuses(&q, &scales) && refuses(&q, &[scales[0], scales[1] * 1.000_001]));
    }

    #[test]
    fn the_other_operations_judge() {
        let mut data = Data::new(10);
        judges(&rmsnorm(&data.values(33), &data.values(33), 1e-5));
        let rotation = Rope { scale: 0.5, ..Rope::plain(6, 1e4) };
        judges(&rope(&data.values(16), 8, 100, &rotation));
        judges(&softmax(&data.outliers(17)));
        let (gate, up) = (Answer::exact(&data.outliers(20)), data.values(20));
        judges(&swiglu(&gate, &Answer::exact(&up)));
        judges(&Answer { expected: gate.expected.clone(), bound: vec![1e-3; 20] }.plus(&up));
        let heads = Heads { query: 4, kv: 2, dim: 8, value_dim: 6 };
        judges(&attention(&data.values(3 * 32), &data.values(9 * 16), &data.values(9 * 12), heads));
    }

    #[test]
    fn bounds_are_informative() {
        // A few parts in a million of the values they judge, at the sizes of real kernels.
        let mut data = Data::new(11);
        let small = |answer: &Answer| {
            let size = dot(&answer.expected, &answer.expected).sqrt();
            dot(&answer.bound, &answer.bound).sqrt() / size
        };
        let norm = small(&rmsnorm(&data.values(256), &data.values(256), 1e-5));
        let heads = Heads { query: 2, kv: 1, dim: 64, value_dim: 64 };
        let attended = small(&attention(&data.values(128), &data.values(6400), &data.values(6400), heads));
        assert!(norm < 2e-5 && attended < 1e-3, "{norm:e} {attended:e}");
    }

    #[test]
    fn narrow_floats_stay_within_their_error() {
        for (format, error) in [(Format::F16, f16_error as fn(f64) -> f64), (Format::BF16, bf16_error)] {
            let mut values = Data::new(12).outliers(1000);
            values.extend([1e-7, -3e-8, 1e-5, 65504.0, 0.0]);
            let (mut bytes, mut narrow) = (Vec::new(), vec![0.0; values.len()]);
            format.quantize(&values, &mut bytes);
            format.dequantize(&bytes, &mut narrow);
            let errors: Vec<f64> = widen(&values).iter().map(|&v| error(v)).collect();
            assert_close(&narrow, &widen(&values), &errors, format.name());
            let used = |i: usize| (f64::from(narrow[i]) - f64::from(values[i])).abs() > 0.9 * errors[i];
            assert!((0..1000).any(used), "{format}: nothing comes near the bound");
        }
    }
}
