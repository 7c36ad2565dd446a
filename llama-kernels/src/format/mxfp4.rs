//! MXFP4: 32 four-bit floats (E2M1) and a power of two (E8M0); the OCP Microscaling Formats
//! Specification 1.0.
//!
//! Byte `i` holds weight `i` in its low nibble and weight `i + 16` in its high one. In integers: the
//! doubled values, with half of the scale.

use super::{Block, IntegerBlock, Lane, Of32, Scales, Zero, bits, search};
use crate::simd::Simd;

/// 17 bytes for 32 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MXFP4 {
    e: u8,
    q: [u8; 16],
}

const _: () = assert!(size_of::<MXFP4>() == 17 && align_of::<MXFP4>() == 1);

/// Twice the value of each E2M1 number.
pub(super) const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The same, 16 higher: without a sign.
pub(super) const E2M1_LANES: [u8; 16] = {
    let mut lanes = [0; 16];
    let mut i = 0;
    while i < 16 {
        lanes[i] = (E2M1[i] + 16) as u8;
        i += 1;
    }
    lanes
};

/// Half of the power of two `2^(e - 127)`.
fn half_scale(e: u8) -> f32 {
    match e {
        0 | 1 => f32::from_bits(0x0020_0000 << e), // subnormal
        _ => f32::from_bits(u32::from(e - 1) << 23),
    }
}

/// The E2M1 number nearest to half of `v`; of two, the one that is nearer to zero.
fn nearest(v: f32) -> u8 {
    let magnitude = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0].iter().map(|m| u8::from(v.abs() > *m)).sum::<u8>();
    if v < 0.0 && magnitude > 0 { magnitude | 8 } else { magnitude }
}

// SAFETY: bytes only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for MXFP4 {
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(out.len(), Self::LEN);
        let d = half_scale(self.e);
        for (i, &q) in self.q.iter().enumerate() {
            out[i] = d * f32::from(E2M1[usize::from(q & 15)]);
            out[i + 16] = d * f32::from(E2M1[usize::from(q >> 4)]);
        }
    }

    /// The largest weight is taken to 1.5..3, 3..6 or 6..12 (where 6 is the most that there is),
    /// whichever gives the least error.
    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let ([x], [importance]) = (search::groups::<1, 32>(x), search::importance::<1, 32>(importance));
        let exponent = (search::extreme(x).abs().to_bits() >> 23) as u8;
        let unit = half_scale(exponent);
        let error = |d: f32| {
            // Relative to the largest weight, whose square may be too small for a float.
            let error = |v: f32| (v / d - f32::from(E2M1[usize::from(nearest(v / d))])) * (d / unit);
            (0..32).map(|i| importance[i] * error(x[i]) * error(x[i])).sum::<f32>()
        };
        let mut best = (0, f32::INFINITY);
        for e in [1, 2, 3].map(|less| exponent.saturating_sub(less)) {
            let error = error(half_scale(e));
            if error < best.1 {
                best = (e, error);
            }
        }
        let d = half_scale(best.0);
        let q = std::array::from_fn(|i| nearest(x[i] / d) | nearest(x[i + 16] / d) << 4);
        MXFP4 { e: best.0, q }
    }
}

impl IntegerBlock for MXFP4 {
    type Lanes = Lane<5, Of32, Zero<4>>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        Scales::new(s.load8(&std::array::from_fn(|i| half_scale(span[i].e))))
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        let blocks = &span[4 * pair..][..4];
        let packed = s.quarters([&blocks[0].q, &blocks[1].q, &blocks[2].q, &blocks[3].q]);
        let [a, b] = bits::nibble_halves(s, packed);
        [s.lookup(&E2M1_LANES, a), s.lookup(&E2M1_LANES, b)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_powers_of_two() {
        for (e, scale) in [(0, -127), (1, -126), (2, -125), (127, 0), (254, 127)] {
            assert_eq!(f64::from(half_scale(e)), 0.5 * 2f64.powi(scale));
        }
    }

    #[test]
    fn values_are_kept() {
        for scale in [2f32.powi(-128), 2f32.powi(-100), 0.25, 2f32.powi(100)] {
            let x: [f32; 32] = std::array::from_fn(|i| scale * f32::from(E2M1[i % 16]));
            let mut y = [1.0; 32];
            MXFP4::quantize(&x, None).dequantize(&mut y);
            assert_eq!(x, y);
        }
        let mut y = [1.0; 32];
        MXFP4::quantize(&[0.0; 32], None).dequantize(&mut y);
        assert_eq!(y, [0.0; 32]);
    }
}
