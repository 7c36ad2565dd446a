//! Each operation in f64, written as its definition.
//!
//! Nothing here is fast, and nothing shares code with the kernels except
//! [`Matrix::dequantize_row`], which is itself the definition of a weight format.
//! Activations are token-major `[token][feature]`, heads are consecutive within a token.

use llama_kernels::Matrix;

/// Activations that share one int8 scale.
pub const GROUP: usize = 32;

/// f32 values as f64, exactly.
pub fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// `y[t][r] = sum_c w[r][c] * x[t][c]`, token-major.
///
/// # Panics
/// If `x` is not `tokens` times `w.cols()` long.
pub fn matmul(w: &Matrix, x: &[f64], tokens: usize) -> Vec<f64> {
    assert_eq!(x.len(), tokens * w.cols(), "{tokens} tokens of {} activations", w.cols());
    let mut y = vec![0.0; tokens * w.rows()];
    let mut weights = vec![0.0; w.cols()];
    for r in 0..w.rows() {
        w.dequantize_row(r, &mut weights);
        for t in 0..tokens {
            y[t * w.rows() + r] = dot(&widen(&weights), &x[t * w.cols()..(t + 1) * w.cols()]);
        }
    }
    y
}

/// The inner product.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `x / sqrt(mean(x^2) + eps) * weight`, for one token.
pub fn rmsnorm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let mean_square = dot(x, x) / x.len() as f64;
    x.iter().zip(weight).map(|(x, w)| x / (mean_square + eps).sqrt() * w).collect()
}

/// `exp(x_i) / sum_j exp(x_j)`.
pub fn softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = x.iter().map(|x| (x - max).exp()).sum();
    x.iter().map(|x| (x - max).exp() / sum).collect()
}

/// `x / (1 + exp(-x))`.
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// `silu(gate) * up`.
pub fn swiglu(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(&g, &u)| silu(g) * u).collect()
}

/// How a token's queries, keys and values divide into heads.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads, a multiple of `kv`.
    pub query: usize,
    /// Key and value heads; query head `h` reads number `h / (query / kv)`.
    pub kv: usize,
    /// Features of a query and of a key head.
    pub dim: usize,
    /// Features of a value head: `dim`, in every model that is known.
    pub value_dim: usize,
}

/// Causal grouped-query attention: for each query head, `softmax(q . k / sqrt(dim)) v`.
///
/// `q` is `[token][query head][dim]`; `k` and `v` are `[position][kv head][dim or value_dim]`. The
/// tokens are the last positions: token `t` of `n` sees all but the `n - 1 - t` positions at the end.
pub fn attention(q: &[f64], k: &[f64], v: &[f64], heads: Heads) -> Vec<f64> {
    attention_within(q, k, v, heads, usize::MAX)
}

/// The same where a token at position `i` sees position `j` only if `i - j < window`.
pub fn attention_within(q: &[f64], k: &[f64], v: &[f64], heads: Heads, window: usize) -> Vec<f64> {
    let Heads { query, kv, dim, value_dim } = heads;
    let tokens = q.len() / (query * dim);
    let past = k.len() / (kv * dim) - tokens;
    let mut y = Vec::with_capacity(tokens * query * value_dim);
    for (t, h) in (0..tokens).flat_map(|t| (0..query).map(move |h| (t, h))) {
        let (q, from) = (&q[(t * query + h) * dim..][..dim], h / (query / kv));
        let key = |p: usize| &k[(p * kv + from) * dim..][..dim];
        let value = |p: usize| &v[(p * kv + from) * value_dim..][..value_dim];
        let seen = (past + t + 1).saturating_sub(window)..past + t + 1;
        let scores: Vec<f64> = seen.clone().map(|p| dot(q, key(p)) / (dim as f64).sqrt()).collect();
        let weights = softmax(&scores);
        let sum = |i: usize| seen.clone().zip(&weights).map(|(p, weight)| weight * value(p)[i]).sum::<f64>();
        y.extend((0..value_dim).map(sum));
    }
    y
}

/// Activations rounded to int8 in groups of [`GROUP`], each with its own scale.
#[derive(Clone, Debug)]
pub struct Int8 {
    /// The rounded quotients `x / scale`, -127 to 127.
    pub q: Vec<i8>,
    /// One scale a group: its largest magnitude / 127, in f32.
    pub scales: Vec<f32>,
}

impl Int8 {
    /// Rounds to the nearest, ties away from zero.
    pub fn quantize(x: &[f32]) -> Int8 {
        let scale = |group: &[f32]| group.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
        let scales: Vec<f32> = x.chunks(GROUP).map(scale).collect();
        let q = |(i, &x)| (f64::from(x) / f64::from(scales[i / GROUP])).round() as i8; // 0 / 0 is 0
        Int8 { q: x.iter().enumerate().map(q).collect(), scales }
    }

    /// `scale * q`, exactly.
    pub fn dequantize(&self) -> Vec<f64> {
        let scale = |i: usize| f64::from(self.scales[i / GROUP]);
        self.q.iter().enumerate().map(|(i, &q)| f64::from(q) * scale(i)).collect()
    }
}

/// Weights of a row that share a scale in fixed point.
pub const SPAN: usize = 256;

/// Numbers in fixed point.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// The rounded quotients.
    pub q: Vec<i32>,
    /// One scale a group.
    pub scales: Vec<f64>,
    /// Numbers of a group.
    pub group: usize,
}

impl Fixed {
    /// The largest quotient in two bytes, `127 * 256 + 127`.
    const LARGEST: f32 = 32639.0;

    /// The largest quotient in 14 bits.
    const LARGEST_SHORT: f32 = 8191.0;

    /// Activations in two bytes, in groups of [`SPAN`].
    pub fn quantize(x: &[f32]) -> Fixed {
        Fixed::scaled(x, SPAN, Fixed::LARGEST, f64::MIN_POSITIVE)
    }

    /// Numbers in 14 bits, activations in groups of [`GROUP`], weights of [`SPAN`].
    pub fn shorts(x: &[f32], group: usize) -> Fixed {
        Fixed::scaled(x, group, Fixed::LARGEST_SHORT, f64::MIN_POSITIVE)
    }

    /// Weights in two bytes, in groups of [`SPAN`]; the least scale is 2^-29, with which every half is exact.
    pub fn of_weights(x: &[f32]) -> Fixed {
        Fixed::scaled(x, SPAN, Fixed::LARGEST, 2f64.powi(-29))
    }

    /// The scale is the smallest power of two with which the largest magnitude is at most `most`.
    fn scaled(x: &[f32], group: usize, most: f32, least: f64) -> Fixed {
        let scale = |group: &[f32]| {
            let largest = group.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let exact = f64::from(largest / most);
            if exact == 0.0 { 0.0 } else { exact.log2().ceil().exp2().max(least) }
        };
        let scales: Vec<f64> = x.chunks(group).map(scale).collect();
        let q = |(i, &x): (usize, &f32)| (f64::from(x) / scales[i / group]).round_ties_even() as i32; // 0 / 0 is 0
        Fixed { q: x.iter().enumerate().map(q).collect(), scales, group }
    }

    /// The scale of the `i`th number.
    pub fn step(&self, i: usize) -> f64 {
        self.scales[i / self.group]
    }

    /// `scale * q`, exactly.
    pub fn dequantize(&self) -> Vec<f64> {
        self.times_scale(|q| q)
    }

    /// What the second of the two signed bytes makes of that: the products of these are left out.
    pub fn second_bytes(&self) -> Vec<f64> {
        self.times_scale(|q| i32::from(q as i8))
    }

    fn times_scale(&self, part: impl Fn(i32) -> i32) -> Vec<f64> {
        self.q.iter().enumerate().map(|(i, &q)| f64::from(part(q)) * self.step(i)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llama_kernels::Format;

    #[test]
    fn matmul_by_hand() {
        let mut bytes = Vec::new();
        Format::F32.quantize(&[1.0, -2.0, 3.0, 0.5, 4.0, -1.0], &mut bytes);
        let w = Matrix::new(Format::F32, 2, 3, &bytes).unwrap();
        let y = matmul(&w, &[1.0, 2.0, -1.0, 0.0, 1.0, 10.0], 2);
        assert_eq!(y, [-6.0, 9.5, 28.0, -6.0]);
    }

    #[test]
    fn rmsnorm_by_hand() {
        assert_eq!(rmsnorm(&[3.0, -4.0], &[1.0, 2.0], 12.5), [3.0 / 5.0, -8.0 / 5.0]);
    }

    #[test]
    fn softmax_and_silu_by_hand() {
        let p = softmax(&[1000.0, 1000.0 + 3f64.ln()]);
        assert!((p[0] - 0.25).abs() < 1e-12 && (p[1] - 0.75).abs() < 1e-12, "{p:?}");
        assert_eq!(silu(0.0), 0.0);
        assert!((swiglu(&[3f64.ln()], &[4.0])[0] - 3.0 * 3f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn attention_is_causal_and_grouped() {
        // Two query heads share one key/value head of one feature; two tokens after one past position.
        let heads = Heads { query: 2, kv: 1, dim: 1, value_dim: 1 };
        let (k, v) = ([0.0, 3f64.ln(), 1e9], [8.0, 4.0, 2.0]);
        let y = attention(&[1.0, -1.0, 1.0, 0.0], &k, &v, heads);
        let expected = [5.0, 7.0, 2.0, 14.0 / 3.0];
        assert!(y.iter().zip(expected).all(|(y, e)| (y - e).abs() < 1e-12), "{y:?}");
        // A window of two hides the first position from the second token.
        let y = attention_within(&[1.0, -1.0, 1.0, 0.0], &k, &v, heads, 2);
        let expected = [5.0, 7.0, 2.0, 3.0];
        assert!(y.iter().zip(expected).all(|(y, e)| (y - e).abs() < 1e-12), "{y:?}");
    }

    #[test]
    fn int8_keeps_extremes_and_zero_groups() {
        let mut x = vec![0.0f32; 64];
        (x[3], x[4], x[5]) = (-254.0, 1.0, 2.9);
        let int8 = Int8::quantize(&x);
        assert_eq!((int8.q[3], int8.q[4], int8.q[5]), (-127, 1, 1));
        assert_eq!(int8.scales, [2.0, 0.0]);
        assert_eq!(int8.dequantize()[32..], [0.0; 32]);
    }

    #[test]
    fn fixed_point_is_two_signed_bytes() {
        let mut x = vec![0.0f32; 300];
        (x[0], x[1], x[2], x[299]) = (-32639.0, 128.0, 127.0, 3.0);
        let fixed = Fixed::quantize(&x);
        assert_eq!((&fixed.q[..3], fixed.q[299]), (&[-32639, 128, 127][..], 3 << 13));
        assert_eq!(fixed.second_bytes()[..3], [-127.0, -128.0, 127.0]);
        assert_eq!(fixed.dequantize()[299], 3.0);
        // 1.9921875 would be 32640 at the scale of 1.99.
        let scale = |x: f32| Fixed::of_weights(&[x]).scales[0];
        assert_eq!(
            [1.99, 1.9921875, 65504.0, 6e-8].map(scale),
            [0.5f64.powi(14), 0.5f64.powi(13), 4.0, 0.5f64.powi(29)]
        );
    }
}
