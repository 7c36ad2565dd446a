//! The exponential function and the logistic one, over sixteen lanes.

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

    struct Exp([f32; LANES]);

    impl Kernel for Exp {
        type Out = [f32; LANES];
        #[inline(always)]
        fn call<S: Simd>(self, s: S) -> Self::Out {
            let mut out = [0.0; LANES];
            s.store(exp(s, s.load(&self.0)), &mut out);
            out
        }
    }

    fn check(run: impl Fn(Exp) -> [f32; LANES]) {
        let mut x = -87.0f32;
        while x < 88.0 {
            let lanes: [f32; LANES] = std::array::from_fn(|i| x + i as f32 * 0.037);
            for (x, y) in lanes.iter().zip(run(Exp(lanes))) {
                let exact = f64::from(*x).exp();
                let error = (f64::from(y) - exact).abs() / exact;
                assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}) = {y}, expected {exact}");
            }
            x += 0.59;
        }
        let edge = run(Exp([
            f32::NEG_INFINITY,
            -88.0,
            -1e30,
            0.0,
            1e30,
            f32::NAN,
            -0.0,
            1.0,
            0.,
            0.,
            0.,
            0.,
            0.,
            0.,
            0.,
            0.,
        ]));
        assert_eq!(edge[..4], [0.0, 0.0, 0.0, 1.0]);
        assert!(edge[4] == f32::INFINITY && edge[5].is_nan());
    }

    #[test]
    fn scalar_is_accurate() {
        check(|k| Scalar.run(k));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn vectors_are_accurate() {
        if let Some(s) = crate::simd::Avx2::<false>::new() {
            check(|k| s.run(k));
        }
        if let Some(s) = crate::simd::Avx512::<0>::new() {
            check(|k| s.run(k));
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[test]
    fn vectors_are_accurate() {
        let s = crate::simd::Neon::<{ crate::simd::neon::BASE }>::new().expect("every 64-bit ARM has NEON");
        check(|k| s.run(k));
    }
}
