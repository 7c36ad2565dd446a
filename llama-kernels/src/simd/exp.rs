//! Exponential functions and the logistic one, over sixteen lanes.

use super::Simd;

/// `e^x`, to about 1 ulp of the true value in -87.3..=88.3.
///
/// Range reduction to `|r| <= ln(2) / 2` in two steps (Cody and Waite), a Taylor polynomial of
/// degree 7 (its truncation error is below 2^-27 there), and a scaling of the exponent.
/// Below -87.7 the result is exactly zero, so that masked scores get no weight; above 88.4 it is
/// infinite; no-numbers stay no-numbers.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let x = s.max(s.splat(-88.03), x);
    let x = s.min(s.splat(89.0), x);
    let n = s.to_i32(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let nf = s.to_f32(n);
    let r = s.fma(nf, s.splat(-0.693_359_4), x);
    let r = s.fma(nf, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    let scale = s.bit_cast(s.shl_i32(s.add_i32(n, s.splat_i32(127)), 23)); // 2^n; zero for n = -127
    s.mul(p, scale)
}

/// `2^x` for `x <= 0`, to 1.5 ulp of the true value: what attention makes of its scores, which it has in units of `ln(2)`.
///
/// Like [`exp`], with less to be done: there is no second step of the reduction, the polynomial (relative minimax, of degree
/// 5, exactly 1 at zero) has two terms less, and the exponent is added in integers. At -127 and below the result is
/// exactly zero, so that masked scores get no weight.
#[inline(always)]
#[allow(clippy::approx_constant, reason = "a coefficient of the fit is near ln 2, and is not it")]
pub(crate) fn exp2<S: Simd>(s: S, x: S::F) -> S::F {
    let x = s.max(s.splat(-127.0), x);
    let n = s.to_i32(x);
    let r = s.sub(x, s.to_f32(n));
    let mut p = s.splat(0.001_326_472_7);
    for c in [0.009_671_513, 0.055_507_336, 0.240_222_42, 0.693_147, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    s.bit_cast(s.add_i32(s.to_bits(p), s.shl_i32(n, 23)))
}

/// `x / (1 + e^-x)`, the activation of Llama's feed-forward layers.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    let e = exp(s, s.sub(s.splat(0.0), x));
    s.div(x, s.add(s.splat(1.0), e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Kernel, LANES, Scalar};
    use std::ops::Range;

    struct Exp([f32; LANES]);
    struct Exp2([f32; LANES]);

    impl Kernel for Exp {
        type Out = [f32; LANES];
        #[inline(always)]
        fn call<S: Simd>(self, s: S) -> Self::Out {
            let mut out = [0.0; LANES];
            s.store(exp(s, s.load(&self.0)), &mut out);
            out
        }
    }

    impl Kernel for Exp2 {
        type Out = [f32; LANES];
        #[inline(always)]
        fn call<S: Simd>(self, s: S) -> Self::Out {
            let mut out = [0.0; LANES];
            s.store(exp2(s, s.load(&self.0)), &mut out);
            out
        }
    }

    /// Compares sixteen results at a time, of arguments all over a range.
    fn sweep(
        range: Range<f32>,
        f: impl Fn([f32; LANES]) -> [f32; LANES],
        exact: impl Fn(f64) -> f64,
        ulps: f64,
    ) {
        let mut x = range.start;
        while x < range.end {
            let lanes: [f32; LANES] = std::array::from_fn(|i| x + i as f32 * 0.037);
            for (x, y) in lanes.iter().zip(f(lanes)) {
                let exact = exact(f64::from(*x));
                let error = (f64::from(y) - exact).abs() / exact;
                assert!(error < ulps * f64::from(f32::EPSILON), "of {x}: {y}, expected {exact}");
            }
            x += 0.59;
        }
    }

    fn check<S: Simd>(s: S) {
        sweep(-87.0..88.0, |x| s.run(Exp(x)), f64::exp, 2.0);
        sweep(-126.0..-0.6, |x| s.run(Exp2(x)), f64::exp2, 1.5);
        let with = |edge: &[f32]| std::array::from_fn(|i| edge.get(i).copied().unwrap_or(0.0));
        let edge = s.run(Exp(with(&[f32::NEG_INFINITY, -88.0, -1e30, 0.0, 1e30, f32::NAN, -0.0, 1.0])));
        assert_eq!(edge[..4], [0.0, 0.0, 0.0, 1.0]);
        assert!(edge[4] == f32::INFINITY && edge[5].is_nan());
        let edge = s.run(Exp2(with(&[f32::NEG_INFINITY, -127.0, -1e30, 0.0, -0.0, -1.0, -126.0, f32::NAN])));
        assert_eq!(edge[..7], [0.0, 0.0, 0.0, 1.0, 1.0, 0.5, f32::MIN_POSITIVE]);
        assert!(edge[7].is_nan());
    }

    #[test]
    fn scalar_is_accurate() {
        check(Scalar);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn vectors_are_accurate() {
        if let Some(s) = crate::simd::Avx2::<false>::new() {
            check(s);
        }
        if let Some(s) = crate::simd::Avx512::<0>::new() {
            check(s);
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[test]
    fn vectors_are_accurate() {
        let s = crate::simd::Neon::<{ crate::simd::neon::BASE }>::new().expect("every 64-bit ARM has NEON");
        check(s);
    }
}
