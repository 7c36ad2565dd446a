//! IQ4_NL: 32 nibbles that index sixteen unevenly spaced levels, and one half-precision scale.
//!
//! Byte `i` holds weight `i` in its low nibble and weight `i + 16` in its high one.

use super::{Block, IntegerBlock, Lane, Nothing, Of32, Scales, bits, search};
use crate::ops::pack::Sixteen;
use crate::simd::{LANES, Simd};
use half::f16;

/// 18 bytes for 32 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IQ4_NL {
    d: [u8; 2],
    q: [u8; 16],
}

const _: () = assert!(size_of::<IQ4_NL>() == 18 && align_of::<IQ4_NL>() == 1);

/// The levels: dense around zero, where the weights are. ggml's `kvalues_iq4nl`.
pub(super) const LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for IQ4_NL {
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(out.len(), Self::LEN);
        let d = f16::from_le_bytes(self.d).to_f32();
        for (i, &q) in self.q.iter().enumerate() {
            out[i] = d * f32::from(LEVELS[usize::from(q & 15)]);
            out[i + 16] = d * f32::from(LEVELS[usize::from(q >> 4)]);
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let ([x], [importance]) = (search::groups::<1, 32>(x), search::importance::<1, 32>(importance));
        let group = Group { x, importance: &importance };
        let d = f16::from_f32(group.best_scale());
        IQ4_NL { d: d.to_le_bytes(), q: group.codes(d.to_f32()) }
    }
}

impl IntegerBlock for IQ4_NL {
    type Lanes = Lane<8, Of32, Nothing>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        Scales::new(s.strided8_f16::<18>(bits::eight(span)))
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        let [a, b] = bits::nibble_halves(s, s.strided::<18>(bits::eight(span), pair));
        let levels = LEVELS.map(|v| v as u8);
        [s.lookup(&levels, a), s.lookup(&levels, b)]
    }

    #[inline(always)]
    fn arranged<S: Simd>(s: S, span: &[Self]) -> [S::I; 4] {
        let (blocks, levels) = (bits::eight(span), LEVELS.map(|v| v as u8));
        let packed = [s.strided::<18>(blocks, 0), s.strided::<18>(blocks, 1)];
        let [a, b, c, d] = bits::arranged_nibbles(s, packed);
        [s.lookup(&levels, a), s.lookup(&levels, b), s.lookup(&levels, c), s.lookup(&levels, d)]
    }

    #[inline(always)]
    fn pack<S: Simd>(s: S, rows: &[&[Self]; LANES], to: &mut Sixteen<'_>) {
        bits::pack_nibbles::<S, Self, { 8 * 18 }>(s, rows, to, Some(&LEVELS.map(|v| v as u8)));
    }
}

/// Thirty-two weights that share a scale, and how much their squared errors matter.
pub(super) struct Group<'a> {
    pub(super) x: &'a [f32; 32],
    pub(super) importance: &'a [f32; 32],
}

impl Group<'_> {
    /// The scale of least error, as far as a search finds it: the extreme weight is put at, and a
    /// little beyond and short of, either end of the levels. The best try decides the levels, they
    /// the best scale for them, and that the levels once more.
    pub(super) fn best_scale(&self) -> f32 {
        let extreme = search::extreme(self.x);
        let ends = [-127.0f32, 113.0];
        let tries = ends.iter().flat_map(|end| (-4..=2).map(move |step| end * (1.0 - step as f32 / 24.0)));
        let best = tries.fold((0.0, 0.0), |best, end| self.better(best, extreme / end));
        (0..2).fold(best, |best, _| self.better(best, best.0)).0
    }

    /// The best scale so far and by how much it lowers the sum of squared errors, against the scale that
    /// is best for the levels which `scale` chooses.
    fn better(&self, best: (f32, f32), scale: f32) -> (f32, f32) {
        let (projection, norm) = self.moments(scale);
        let gain = projection * projection / norm;
        if gain > best.1 { (projection / norm, gain) } else { best }
    }

    /// The sums of `x * l` and of `l * l`, where `l` is the level nearest to `x / scale`.
    fn moments(&self, scale: f32) -> (f32, f32) {
        let (mut projection, mut norm) = ([0.0; 8], [0.0; 8]);
        for (i, level) in self.levels(scale).into_iter().enumerate() {
            projection[i % 8] += self.importance[i] * self.x[i] * level;
            norm[i % 8] += self.importance[i] * level * level;
        }
        (projection.iter().sum(), norm.iter().sum())
    }

    /// The sum of the squared errors.
    pub(super) fn error(&self, scale: f32) -> f32 {
        let mut sums = [0.0; 8];
        for (i, level) in self.levels(scale).into_iter().enumerate() {
            let error = self.x[i] - scale * level;
            sums[i % 8] += self.importance[i] * error * error;
        }
        sums.iter().sum()
    }

    /// The level nearest to each `x / scale`.
    fn levels(&self, scale: f32) -> [f32; 32] {
        let inverse = search::inverse(scale);
        let mut levels = [f32::from(LEVELS[0]); 32];
        for pair in LEVELS.windows(2) {
            let [a, b] = [f32::from(pair[0]), f32::from(pair[1])];
            for (level, x) in levels.iter_mut().zip(self.x) {
                *level += if x * inverse > 0.5 * (a + b) { b - a } else { 0.0 };
            }
        }
        levels
    }

    /// The codes of the nearest levels, as the formats store them.
    pub(super) fn codes(&self, scale: f32) -> [u8; 16] {
        let inverse = search::inverse(scale);
        let code = |i: usize| nearest(self.x[i] * inverse) as u8;
        std::array::from_fn(|i| code(i) | code(i + 16) << 4)
    }
}

/// The index of the level that is nearest to `v`: how many midpoints between levels lie below it.
fn nearest(v: f32) -> usize {
    let below = |pair: &[i8]| v > 0.5 * (f32::from(pair[0]) + f32::from(pair[1]));
    LEVELS.windows(2).map(|pair| usize::from(below(pair))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_kept() {
        // All sixteen levels occur, so that no other scale is better.
        for scale in [-0.5f32, 0.25] {
            let x: [f32; 32] = std::array::from_fn(|i| scale * f32::from(LEVELS[i * 5 % 16]));
            let mut y = [0.0; 32];
            IQ4_NL::quantize(&x, None).dequantize(&mut y);
            assert_eq!(x, y);
        }
    }

    #[test]
    fn importance_moves_the_error() {
        let x: [f32; 32] = std::array::from_fn(|i| (i as f32 * 2.3).sin());
        let error = |importance: Option<&[f32]>| {
            let mut y = [0.0; 32];
            IQ4_NL::quantize(&x, importance).dequantize(&mut y);
            x[..4].iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum::<f32>()
        };
        let importance: [f32; 32] = std::array::from_fn(|i| if i < 4 { 1.0 } else { 1e-6 });
        assert!(error(Some(&importance)) < 0.5 * error(None), "{} {}", error(Some(&importance)), error(None));
    }
}
