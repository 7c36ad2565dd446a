//! F16: IEEE half precision, little-endian.

use super::{Block, FloatBlock, FloatKind};
use crate::simd::{LANES, Simd};
use half::f16;

/// One weight as its two little-endian bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct F16([u8; 2]);

// SAFETY: a byte array: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for F16 {
    const LEN: usize = 1;

    fn dequantize(&self, out: &mut [f32]) {
        out[0] = f16::from_le_bytes(self.0).to_f32();
    }

    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        F16(f16::from_f32(x[0]).to_le_bytes())
    }
}

impl FloatBlock for F16 {
    const KIND: FloatKind = FloatKind::F16;

    #[inline(always)]
    fn widen<S: Simd>(s: S, blocks: &[Self; LANES]) -> S::F {
        s.load_f16(Self::bytes(blocks).try_into().expect("sixteen blocks of two bytes"))
    }

    #[inline(always)]
    fn narrow<S: Simd>(s: S, x: S::F) -> [Self; LANES] {
        let mut out = [0; 2 * LANES];
        s.store_f16(x, &mut out);
        std::array::from_fn(|i| F16([out[2 * i], out[2 * i + 1]]))
    }
}
