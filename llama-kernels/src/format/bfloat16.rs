//! BF16: the upper half of an IEEE single, little-endian.

use super::{Block, FloatBlock, FloatKind};
use crate::simd::{LANES, Simd};
use half::bf16;

/// One weight as its two little-endian bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct BF16([u8; 2]);

// SAFETY: a byte array: alignment 1, no padding, every bit pattern valid.
unsafe impl Block for BF16 {
    const LEN: usize = 1;

    fn dequantize(&self, out: &mut [f32]) {
        out[0] = bf16::from_le_bytes(self.0).to_f32();
    }

    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        BF16(bf16::from_f32(x[0]).to_le_bytes())
    }
}

impl FloatBlock for BF16 {
    const KIND: FloatKind = FloatKind::BF16;

    #[inline(always)]
    fn widen<S: Simd>(s: S, blocks: &[Self; LANES]) -> S::F {
        s.load_bf16(Self::bytes(blocks).try_into().expect("sixteen blocks of two bytes"))
    }

    #[inline(always)]
    fn narrow<S: Simd>(s: S, x: S::F) -> [Self; LANES] {
        let mut out = [0.0; LANES];
        s.store(x, &mut out);
        out.map(|v| BF16(bf16::from_f32(v).to_le_bytes()))
    }
}
