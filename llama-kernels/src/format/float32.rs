//! F32: IEEE single precision, little-endian.

use super::{Block, FloatBlock, FloatKind};
use crate::simd::{LANES, Simd};

/// One weight as its four little-endian bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct F32([u8; 4]);

// SAFETY: a byte array: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for F32 {
    const LEN: usize = 1;

    fn dequantize(&self, out: &mut [f32]) {
        out[0] = f32::from_le_bytes(self.0);
    }

    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        F32(x[0].to_le_bytes())
    }
}

impl FloatBlock for F32 {
    const KIND: FloatKind = FloatKind::F32;

    #[inline(always)]
    fn widen<S: Simd>(s: S, blocks: &[Self; LANES]) -> S::F {
        s.load(&blocks.map(|b| f32::from_le_bytes(b.0)))
    }

    #[inline(always)]
    fn narrow<S: Simd>(s: S, x: S::F) -> [Self; LANES] {
        let mut out = [0.0; LANES];
        s.store(x, &mut out);
        out.map(|v| F32(v.to_le_bytes()))
    }
}
