//! Searches that the encoders share: integers and scales that come close to given weights.
//!
//! The measure is the weighted sum of squared errors. Given the integers, the best scale (and minimum)
//! is a linear regression; given the scale, the best integers are found by rounding. A search for one
//! group therefore tries a row of scales around the one that just spans the weights, fits each to the
//! integers that it leads to, and keeps the best fit ([`scale`], [`scale_and_min`]).
//!
//! In the K formats the groups' scales are small integers times a scale of the block. There the block's
//! scale follows from the groups' best ones, the integers of each group are chosen among the neighbours
//! of the exact quotient by the error that they really lead to, and the block's scale is fitted once
//! more to all of them ([`Symmetric`], [`Affine`]).

use half::f16;

/// The integers that a lane or a scale can take, both ends included.
#[derive(Clone, Copy)]
pub(super) struct Levels {
    pub(super) lo: f32,
    pub(super) hi: f32,
}

impl Levels {
    /// The nearest level; the lowest one for what is no number.
    #[inline(always)]
    fn nearest(self, v: f32) -> f32 {
        // Adding and subtracting 1.5 * 2^23 rounds to an integer, in two instructions on any machine.
        const MAGIC: f32 = 12_582_912.0;
        (v.max(self.lo).min(self.hi) + MAGIC) - MAGIC
    }
}

/// `1 / x`, or zero where that is no finite number.
#[inline(always)]
pub(super) fn inverse(x: f32) -> f32 {
    if x.abs() >= f32::MIN_POSITIVE { 1.0 / x } else { 0.0 }
}

/// How much the error of each weight matters, in groups of `N`: 1 each unless something is known.
///
/// What has no importance keeps a small one, so that its scale is not left to chance.
///
/// # Panics
/// If there are not `G * N`.
pub(super) fn importance<const G: usize, const N: usize>(known: Option<&[f32]>) -> [[f32; N]; G] {
    let Some(known) = known else { return [[1.0; N]; G] };
    assert_eq!(known.len(), G * N, "an importance for each weight");
    let largest = known.iter().fold(0.0f32, |a, &b| a.max(b));
    // Relative to the largest they cannot overflow.
    let relative = inverse(largest);
    std::array::from_fn(|g| std::array::from_fn(|i| (known[g * N + i] * relative).max(1e-6)))
}

/// Views a block's weights as groups.
///
/// # Panics
/// If there are not `G * N`.
pub(super) fn groups<const G: usize, const N: usize>(x: &[f32]) -> &[[f32; N]; G] {
    assert_eq!(x.len(), G * N, "weights of a block");
    x.as_chunks().0.try_into().expect("the number of groups was checked")
}

/// A sum over a group, in four lanes so that it can be vectorised.
#[inline(always)]
fn sum<const N: usize>(term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0; 4];
    for i in 0..N / 4 {
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane += term(4 * i + j);
        }
    }
    (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])
}

/// The element of largest magnitude, the first of equals.
pub(super) fn extreme<const N: usize>(x: &[f32; N]) -> f32 {
    x.iter().fold(x[0], |m, &v| if v.abs() > m.abs() { v } else { m })
}

/// Encodes 32 weights as `d * (q - zero)`, `q` in `0..2 * zero`.
///
/// Without importance the weight of largest magnitude (the first of equals) becomes `-zero` exactly, as
/// in ggml's reference.
///
/// # Panics
/// If there are not 32 weights.
pub(super) fn symmetric(x: &[f32], known: Option<&[f32]>, zero: f32) -> (f16, [u8; 32]) {
    let [x]: &[[f32; 32]; 1] = groups(x);
    if known.is_some() {
        let ([w], levels) = (importance::<1, 32>(known), Levels { lo: -zero, hi: zero - 1.0 });
        let d = f16::from_f32(scale(x, &w, levels));
        let inverse = inverse(d.to_f32());
        return (d, x.map(|x| (levels.nearest(x * inverse) + zero) as u8));
    }
    let d = extreme(x) / -zero;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    (f16::from_f32(d), x.map(|x| ((x * inverse + (zero + 0.5)) as u8).min(2 * zero as u8 - 1)))
}

/// Encodes 32 weights as `d * q + m`, `q` in `0..=top`.
///
/// Without importance the lowest weight becomes 0 and the highest `top`, as in ggml's reference.
///
/// # Panics
/// If there are not 32 weights.
pub(super) fn affine(x: &[f32], known: Option<&[f32]>, top: f32) -> (f16, f16, [u8; 32]) {
    let [x]: &[[f32; 32]; 1] = groups(x);
    if known.is_some() {
        let ([w], levels) = (importance::<1, 32>(known), Levels { lo: 0.0, hi: top });
        let (scale, min) = scale_and_min(x, &w, top);
        let (d, m) = (f16::from_f32(scale), f16::from_f32(-min));
        let (inverse, offset) = (inverse(d.to_f32()), m.to_f32());
        return (d, m, x.map(|x| levels.nearest((x - offset) * inverse) as u8));
    }
    // The first of equals, so that the sign of a zero does not depend on the machine.
    let lowest = x.iter().fold(x[0], |m, &v| if v < m { v } else { m });
    let highest = x.iter().fold(x[0], |m, &v| if v > m { v } else { m });
    let d = (highest - lowest) / top;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let q = x.map(|x| (((x - lowest) * inverse + 0.5) as u8).min(top as u8));
    (f16::from_f32(d), f16::from_f32(lowest), q)
}

/// The scale for which `scale * q`, with the best `q`, comes closest to `x`.
pub(super) fn scale<const N: usize>(x: &[f32; N], w: &[f32; N], levels: Levels) -> f32 {
    let extreme = extreme(x);
    let unit = inverse(extreme);
    let fit = |inverse: f32| {
        let q: [f32; N] = std::array::from_fn(|i| levels.nearest(x[i] * inverse));
        let xq = sum::<N>(|i| w[i] * x[i] * q[i]);
        let qq = sum::<N>(|i| w[i] * q[i] * q[i]);
        // The fit lowers the squared error by this much.
        if qq > 0.0 { (xq * xq / qq, xq / qq) } else { (0.0, 0.0) }
    };
    // Where the extreme comes to lie: about the lowest level, or the highest, or clipped beyond them.
    let starts = STRETCHES.flat_map(|step| {
        let stretch = 0.4 * step as f32;
        [(levels.lo - stretch) * unit, (levels.hi + stretch) * unit]
    });
    let best = starts.map(fit).fold((0.0, 0.0), better);
    better(best, fit(inverse(best.1))).1
}

/// Steps of 0.4 levels by which a start stretches weights beyond the extreme levels.
const STRETCHES: std::ops::RangeInclusive<i32> = -2..=3;

/// The one of larger gain, which is in front; the former of equals.
fn better<T>(a: (f32, T), b: (f32, T)) -> (f32, T) {
    if b.0 > a.0 { b } else { a }
}

/// The scale and the minimum, neither negative, for which `scale * q - min` comes closest to `x`;
/// `q` in `0..=top`.
pub(super) fn scale_and_min<const N: usize>(x: &[f32; N], w: &[f32; N], top: f32) -> (f32, f32) {
    let levels = Levels { lo: 0.0, hi: top };
    let lowest = x.iter().fold(0.0f32, |a, &b| a.min(b));
    let highest = x.iter().fold(lowest, |a, &b| a.max(b));
    // Measured from the lowest weight: the sums stay free of cancellation.
    let y: [f32; N] = x.map(|x| x - lowest);
    let (sw, sy) = (sum::<N>(|i| w[i]), sum::<N>(|i| w[i] * y[i]));
    let unit = inverse(highest - lowest);
    let fit = |inverse: f32, offset: f32| {
        let q: [f32; N] = std::array::from_fn(|i| levels.nearest((y[i] - offset) * inverse));
        let sq = sum::<N>(|i| w[i] * q[i]);
        let qq = sum::<N>(|i| w[i] * q[i] * q[i]);
        let yq = sum::<N>(|i| w[i] * y[i] * q[i]);
        let determinant = sw * qq - sq * sq;
        let mut scale = (sw * yq - sq * sy) / determinant;
        let mut offset = (qq * sy - sq * yq) / determinant;
        if !(offset <= -lowest && determinant > 1e-6 * sw * qq) {
            // The minimum would be negative, or the integers are all equal: without one.
            offset = -lowest;
            scale = (yq - offset * sq) / qq;
        }
        // The squared error is that of `y = 0`, less this much.
        let gain = 2.0 * (scale * yq + offset * sy)
            - scale * scale * qq
            - 2.0 * scale * offset * sq
            - offset * offset * sw;
        if scale > 0.0 { (gain, (scale, 0.0 - lowest - offset)) } else { (f32::NEG_INFINITY, (0.0, 0.0)) }
    };
    let starts = STRETCHES.map(|step| (top + 0.4 * step as f32) * unit);
    // Compared with no scale at all, the right choice if all weights are equal and negative.
    let mut best = starts.map(|start| fit(start, 0.0)).fold((0.0, (0.0, 0.0 - lowest)), better);
    for _ in 0..REFINEMENTS {
        let (scale, min) = best.1;
        best = better(best, fit(inverse(scale), -min - lowest));
    }
    best.1
}

/// Times that a group's best scale and minimum are fitted to the integers that they lead to.
const REFINEMENTS: usize = 1;

/// A block of `G` groups of `N` weights, each `d * scale * q`.
pub(super) struct Symmetric<const G: usize, const N: usize> {
    /// The block's scale.
    pub(super) d: f16,
    /// The groups' scales.
    pub(super) scales: [i8; G],
    /// The integers, counted from the lowest level.
    pub(super) q: [[u8; N]; G],
}

impl<const G: usize, const N: usize> Symmetric<G, N> {
    /// Encodes a block with integers in `levels` and groups' scales in `scale_levels`.
    ///
    /// # Panics
    /// If there are not `G * N` weights.
    pub(super) fn new(x: &[f32], known: Option<&[f32]>, levels: Levels, scale_levels: Levels) -> Self {
        let (x, w) = (groups::<G, N>(x), importance::<G, N>(known));
        let ideal: [f32; G] = std::array::from_fn(|g| scale(&x[g], &w[g], levels));
        // The extreme scale becomes the lowest level, which is the one of largest magnitude.
        let mut d = f16::from_f32(extreme(&ideal) / scale_levels.lo);
        let mut best = (f32::INFINITY, d, [0.0; G]);
        for _ in 0..PASSES {
            let unit = inverse(d.to_f32());
            let (mut total, mut scales) = (0.0, [0.0; G]);
            let (mut xv, mut vv) = (0.0, 0.0);
            for (g, ideal) in ideal.iter().enumerate() {
                let (x, w) = (&x[g], &w[g]);
                let mut least = f32::INFINITY;
                let mut sums = (0.0, 0.0);
                for step in [0.0, -1.0, 1.0] {
                    let s = scale_levels.nearest(ideal * unit + step);
                    let scale = d.to_f32() * s;
                    let inverse = inverse(scale);
                    let q: [f32; N] = std::array::from_fn(|i| levels.nearest(x[i] * inverse));
                    let error = sum::<N>(|i| w[i] * square(x[i] - scale * q[i]));
                    if error < least {
                        (least, scales[g]) = (error, s);
                        sums =
                            (s * sum::<N>(|i| w[i] * x[i] * q[i]), s * s * sum::<N>(|i| w[i] * q[i] * q[i]));
                    }
                }
                total += least;
                xv += sums.0;
                vv += sums.1;
            }
            if total < best.0 {
                best = (total, d, scales);
            }
            d = f16::from_f32(xv * inverse(vv));
        }
        let (_, d, scales) = best;
        let q = std::array::from_fn(|g| {
            let inverse = inverse(d.to_f32() * scales[g]);
            x[g].map(|x| (levels.nearest(x * inverse) - levels.lo) as u8)
        });
        Symmetric { d, scales: scales.map(|s| s as i8), q }
    }
}

/// A block of `G` groups of `N` weights, each `d * scale * q - dmin * min`.
pub(super) struct Affine<const G: usize, const N: usize> {
    /// The block's scale.
    pub(super) d: f16,
    /// The block's scale of the minimums.
    pub(super) dmin: f16,
    /// The groups' scales.
    pub(super) scales: [u8; G],
    /// The groups' minimums.
    pub(super) mins: [u8; G],
    /// The integers.
    pub(super) q: [[u8; N]; G],
}

impl<const G: usize, const N: usize> Affine<G, N> {
    /// Encodes a block with integers in `0..=top` and groups' scales and minimums in `0..=scale_top`.
    ///
    /// # Panics
    /// If there are not `G * N` weights.
    pub(super) fn new(x: &[f32], known: Option<&[f32]>, top: f32, scale_top: f32) -> Self {
        let (x, w) = (groups::<G, N>(x), importance::<G, N>(known));
        let (levels, scale_levels) = (Levels { lo: 0.0, hi: top }, Levels { lo: 0.0, hi: scale_top });
        let ideal: [(f32, f32); G] = std::array::from_fn(|g| scale_and_min(&x[g], &w[g], top));
        let largest = ideal.iter().fold((0.0f32, 0.0f32), |a, b| (a.0.max(b.0), a.1.max(b.1)));
        let mut d = f16::from_f32(largest.0 / scale_top);
        let mut dmin = f16::from_f32(largest.1 / scale_top);
        let mut best = (f32::INFINITY, d, dmin, [(0.0, 0.0); G]);
        for _ in 0..PASSES {
            let (unit, unit_min) = (inverse(d.to_f32()), inverse(dmin.to_f32()));
            let (mut total, mut chosen) = (0.0, [(0.0, 0.0); G]);
            let mut normal = Normal::default();
            for (g, &(ideal, ideal_min)) in ideal.iter().enumerate() {
                let (x, w) = (&x[g], &w[g]);
                let mut least = f32::INFINITY;
                let mut sums = Normal::default();
                for step in [0.0, -1.0, 1.0] {
                    let s = scale_levels.nearest(ideal * unit + step);
                    let scale = d.to_f32() * s;
                    let inverse = inverse(scale);
                    for step in [0.0, -1.0, 1.0] {
                        let m = scale_levels.nearest(ideal_min * unit_min + step);
                        let min = dmin.to_f32() * m;
                        let q: [f32; N] = std::array::from_fn(|i| levels.nearest((x[i] + min) * inverse));
                        let error = sum::<N>(|i| w[i] * square(x[i] - (scale * q[i] - min)));
                        if error < least {
                            (least, chosen[g]) = (error, (s, m));
                            sums = Normal::of(x, w, &q, s, m);
                        }
                    }
                }
                total += least;
                normal.add(&sums);
            }
            if total < best.0 {
                best = (total, d, dmin, chosen);
            }
            let (next, next_min) = normal.solve();
            (d, dmin) = (f16::from_f32(next), f16::from_f32(next_min));
        }
        let (_, d, dmin, chosen) = best;
        let q = std::array::from_fn(|g| {
            let (inverse, min) = (inverse(d.to_f32() * chosen[g].0), dmin.to_f32() * chosen[g].1);
            x[g].map(|x| levels.nearest((x + min) * inverse) as u8)
        });
        Affine { d, dmin, scales: chosen.map(|c| c.0 as u8), mins: chosen.map(|c| c.1 as u8), q }
    }
}

/// Times that a block's scale is fitted to the groups'.
const PASSES: usize = 2;

fn square(x: f32) -> f32 {
    x * x
}

/// The sums of the normal equations for `x = d * u - dmin * m`, where `u = scale * q`.
#[derive(Default)]
struct Normal {
    uu: f32,
    um: f32,
    mm: f32,
    xu: f32,
    xm: f32,
}

impl Normal {
    fn of<const N: usize>(x: &[f32; N], w: &[f32; N], q: &[f32; N], s: f32, m: f32) -> Normal {
        let wq = sum::<N>(|i| w[i] * q[i]);
        Normal {
            uu: s * s * sum::<N>(|i| w[i] * q[i] * q[i]),
            um: s * m * wq,
            mm: m * m * sum::<N>(|i| w[i]),
            xu: s * sum::<N>(|i| w[i] * x[i] * q[i]),
            xm: m * sum::<N>(|i| w[i] * x[i]),
        }
    }

    fn add(&mut self, other: &Normal) {
        self.uu += other.uu;
        self.um += other.um;
        self.mm += other.mm;
        self.xu += other.xu;
        self.xm += other.xm;
    }

    /// `d` and `dmin`, neither negative.
    fn solve(&self) -> (f32, f32) {
        let determinant = self.uu * self.mm - self.um * self.um;
        if determinant > 1e-6 * self.uu * self.mm {
            let d = (self.mm * self.xu - self.um * self.xm) / determinant;
            let dmin = (self.um * self.xu - self.uu * self.xm) / determinant;
            if d >= 0.0 && dmin >= 0.0 {
                return (d, dmin);
            }
        }
        ((self.xu * inverse(self.uu)).max(0.0), 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;

    /// The formats whose encoders search.
    const FORMATS: [Format; 9] = [
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q2_K,
        Format::Q3_K,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
    ];

    fn encoded(format: Format, x: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
        let (mut bytes, mut values) = (Vec::new(), vec![0.0; x.len()]);
        format.quantize_weighted(x, importance, &mut bytes);
        format.dequantize(&bytes, &mut values);
        values
    }

    #[test]
    fn the_scale_is_found_below_noise() {
        let x: [f32; 16] =
            std::array::from_fn(|i| 0.3 * (i as f32 - 8.0) + if i % 2 == 0 { 0.05 } else { -0.05 });
        let found = scale(&x, &[1.0; 16], Levels { lo: -8.0, hi: 7.0 });
        assert!((found - 0.3).abs() < 0.005, "{found}");
        let y = x.map(|x| x + 1.0);
        let (found, min) = scale_and_min(&y, &[1.0; 16], 15.0);
        assert!((found - 0.3).abs() < 0.01 && (min - 1.4).abs() < 0.05, "{found} {min}");
    }

    #[test]
    fn a_minimum_is_never_negative() {
        let x: [f32; 16] = std::array::from_fn(|i| 10.0 + i as f32);
        let (scale, min) = scale_and_min(&x, &[1.0; 16], 3.0);
        assert!(min == 0.0 && (6.0..9.0).contains(&scale), "{scale} {min}");
        assert_eq!(scale_and_min(&[-2.0; 16], &[1.0; 16], 3.0), (0.0, 2.0));
        let (scale, min) = scale_and_min(&[2.0; 16], &[1.0; 16], 3.0);
        assert!([1.0, 2.0, 3.0].map(|q| q * scale).contains(&2.0) && min == 0.0, "{scale} {min}");
    }

    #[test]
    fn important_weights_have_smaller_errors() {
        let x: Vec<f32> = (0..4096).map(|i| (i as f32 * 1.7).sin() + (i as f32 * 0.013).cos()).collect();
        let importance: Vec<f32> = (0..4096).map(|i| if i % 7 == 0 { 40.0 } else { 1.0 }).collect();
        for format in FORMATS {
            let error = |values: &[f32]| (0..4096).step_by(7).map(|i| square(values[i] - x[i])).sum::<f32>();
            let (plain, weighted) = (encoded(format, &x, None), encoded(format, &x, Some(&importance)));
            assert!(
                error(&weighted) < 0.9 * error(&plain),
                "{format}: {} {}",
                error(&weighted),
                error(&plain)
            );
        }
    }

    #[test]
    fn any_floats_are_taken() {
        let odd = [0.0, -0.0, 1e-45, -1e-30, 1e30, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        for format in FORMATS {
            for scale in [1.0, 1e-40, 1e35] {
                let x: Vec<f32> = (0..512).map(|i| (i as f32).sin() * scale).collect();
                for value in odd {
                    let (mut x, mut importance) = (x.clone(), vec![1.0; 512]);
                    encoded(format, &x, Some(&vec![value; 512]));
                    importance[7] = value;
                    encoded(format, &x, Some(&importance));
                    x[3] = value;
                    encoded(format, &x, None);
                    encoded(format, &x, Some(&importance));
                }
            }
            assert!(encoded(format, &[0.0; 256], None).iter().all(|&v| v == 0.0), "{format}");
            assert!(encoded(format, &[0.0; 256], Some(&[0.0; 256])).iter().all(|&v| v == 0.0), "{format}");
        }
    }
}
