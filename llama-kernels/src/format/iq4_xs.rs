//! IQ4_XS: nibbles that index IQ4_NL's sixteen levels, and a six-bit scale for each 32 weights.
//!
//! The scale is `d * (s - 32)`. Of each 32 weights, byte `i` holds weight `i` in its low nibble and
//! weight `i + 16` in its high one.

use super::iq4_nl::{Group, LEVELS};
use super::{Block, IntegerBlock, Lane, Nothing, Of32, Scales, bits, search};
use crate::simd::Simd;
use half::f16;

/// 136 bytes for 256 weights.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IQ4_XS {
    d: [u8; 2],
    /// The high two bits of the scales.
    scales_high: [u8; 2],
    /// The low four bits of the scales.
    scales_low: [u8; 4],
    /// For each 64 weights twice 32.
    q: [[[u8; 16]; 2]; 4],
}

const _: () = assert!(size_of::<IQ4_XS>() == 136 && align_of::<IQ4_XS>() == 1);

impl IQ4_XS {
    /// The scales of weights `64 * stripe ..`, twice 32.
    #[inline(always)]
    fn scales(&self, stripe: usize) -> [i8; 2] {
        let low = self.scales_low[stripe];
        let high = (u16::from_le_bytes(self.scales_high) >> (4 * stripe)) as u8;
        [(low & 15) | (high & 3) << 4, (low >> 4) | (high & 12) << 2].map(|scale| scale as i8 - 32)
    }
}

// SAFETY: byte arrays only: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for IQ4_XS {
    const LEN: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(out.len(), Self::LEN);
        let d = f16::from_le_bytes(self.d).to_f32();
        let groups = self.q.as_flattened().iter().zip(out.as_chunks_mut::<32>().0);
        for (i, (q, out)) in groups.enumerate() {
            let scale = d * f32::from(self.scales(i / 2)[i % 2]);
            for (i, &q) in q.iter().enumerate() {
                out[i] = scale * f32::from(LEVELS[usize::from(q & 15)]);
                out[i + 16] = scale * f32::from(LEVELS[usize::from(q >> 4)]);
            }
        }
    }

    /// The groups' best scales become multiples of the `d` that takes the largest of them to -32; of
    /// the multiples around each, the one of least error is taken.
    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let (x, importance) = (search::groups::<8, 32>(x), search::importance::<8, 32>(importance));
        let groups: [Group<'_>; 8] = std::array::from_fn(|i| Group { x: &x[i], importance: &importance[i] });
        let best = std::array::from_fn::<f32, 8, _>(|i| groups[i].best_scale());
        let d = f16::from_f32(search::extreme(&best) / -32.0);
        let mut block =
            IQ4_XS { d: d.to_le_bytes(), scales_high: [0; 2], scales_low: [0; 4], q: [[[0; 16]; 2]; 4] };
        let d = d.to_f32();
        let mut high = 0;
        for (i, group) in groups.iter().enumerate() {
            let multiple = (best[i] * search::inverse(d)).round().clamp(-31.0, 30.0);
            let tries = [multiple - 1.0, multiple, multiple + 1.0].map(|m| (m, group.error(d * m)));
            let chosen = tries.iter().fold((0.0, f32::MAX), |best, &t| if t.1 < best.1 { t } else { best }).0;
            let scale = (chosen as i8 + 32) as u8;
            block.scales_low[i / 2] |= (scale & 15) << (i % 2 * 4);
            high |= u16::from(scale >> 4) << (2 * i);
            block.q.as_flattened_mut()[i] = group.codes(d * chosen);
        }
        block.scales_high = high.to_le_bytes();
        block
    }
}

impl IntegerBlock for IQ4_XS {
    type Lanes = Lane<8, Of32, Nothing>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, span: &[Self]) -> Scales<S, Self::Lanes> {
        let block = &span[0];
        let low = bits::nibbles(u32::from_le_bytes(block.scales_low));
        let high = bits::twos(u16::from_le_bytes(block.scales_high));
        let scales = s.floats8_i8(bits::less_32(low | high << 4));
        Scales::new(s.mul8(s.splat8_f16(block.d), scales))
    }

    #[inline(always)]
    fn unpack<S: Simd>(s: S, span: &[Self], pair: usize) -> [S::I; 2] {
        let [[first, second], [third, last]] = &span[0].q[2 * pair..][..2] else { unreachable!("two") };
        let [a, b] = bits::nibble_halves(s, s.quarters([first, second, third, last]));
        let levels = LEVELS.map(|v| v as u8);
        [s.lookup(&levels, a), s.lookup(&levels, b)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_scales_are_kept() {
        // Scales -32, 27, -22, .., one of them 0 would lose the group.
        let scale = |i: usize| [-32, 27, -22, 17, -12, 7, -3, 31][i] as f32 * 0.125;
        let x: [f32; 256] = std::array::from_fn(|i| scale(i / 32) * f32::from(LEVELS[i * 5 % 16]));
        let mut y = [0.0; 256];
        IQ4_XS::quantize(&x, None).dequantize(&mut y);
        assert_eq!(x, y);
        IQ4_XS::quantize(&[0.0; 256], None).dequantize(&mut y);
        assert_eq!(y, [0.0; 256]);
    }
}
