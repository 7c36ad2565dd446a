//! Plain Rust: the definition of every operation, and what runs where nothing better exists.

use super::{Kernel, LANES, Need, STRIPE, Simd};
use crate::acts::Layout;
use crate::format::{FloatBlock, IntegerBlock};
use crate::limits;
use crate::ops::gemm;
use half::{bf16, f16};
use std::array::from_fn;

/// No instruction set in particular.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

/// The bytes of a 32-bit lane.
fn bytes(lane: i32) -> [u8; 4] {
    lane.to_le_bytes()
}

/// Adds halves to halves until one lane is left.
fn fold(mut x: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            x[i] = f(x[i], x[i + n]);
        }
    }
    x[0]
}

// SAFETY: `run` enables nothing.
unsafe impl Simd for Scalar {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type H = [f32; 8];

    const NAME: &'static str = "scalar";
    const SUMMARY: &'static str = "plain Rust, for any CPU";
    const LAYOUT: Layout = Layout::Tiles(4);

    fn needs() -> Vec<Need> {
        Vec::new()
    }

    fn new() -> Option<Self> {
        Some(Scalar)
    }

    fn run<K: Kernel>(self, kernel: K) -> K::Out {
        kernel.call(self)
    }

    fn multiply_bytes(self, rounds: usize) -> usize {
        limits::multiply_bytes::<Self, 1, 4>(self, rounds)
    }
    fn gemm_integer<B: IntegerBlock>(self, job: gemm::Job<'_>) {
        gemm::integer::<Self, B, 1, 4, 4>(self, job);
    }
    fn gemm_float<B: FloatBlock>(self, job: gemm::Job<'_>) {
        gemm::float::<Self, B, 2, 2>(self, job);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn swap_pairs(self, a: Self::F) -> Self::F {
        from_fn(|i| a[i ^ 1])
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        fold(a, |a, b| a + b)
    }
    #[inline(always)]
    fn max_lane(self, a: Self::F) -> f32 {
        fold(a, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn any_above(self, a: Self::F, b: Self::F) -> bool {
        a.iter().zip(b).any(|(a, b)| *a > b)
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Self::F {
        from_fn(|i| f16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn store_f16(self, v: Self::F, out: &mut [u8; 2 * LANES]) {
        for (v, out) in v.iter().zip(out.as_chunks_mut::<2>().0) {
            *out = f16::from_f32(*v).to_le_bytes();
        }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Self::F {
        from_fn(|i| bf16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32())
    }

    #[inline(always)]
    fn to_bf16(self, a: Self::F, b: Self::F) -> Self::I {
        let half = |i: usize| bf16::from_f32(if i < LANES { a[i] } else { b[i - LANES] }).to_bits();
        from_fn(|i| i32::from(half(2 * i)) & 0xffff | i32::from(half(2 * i + 1)) << 16)
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn shl_i32(self, a: Self::I, count: u32) -> Self::I {
        a.map(|a| a << count)
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        a.map(|a| a as f32)
    }
    #[inline(always)]
    fn to_i32(self, a: Self::F) -> Self::I {
        a.map(|a| a.round_ties_even() as i32)
    }
    #[inline(always)]
    fn load_i32(self, x: &[i32; LANES]) -> Self::I {
        *x
    }
    #[inline(always)]
    fn store_i32(self, v: Self::I, out: &mut [i32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn bit_cast(self, a: Self::I) -> Self::F {
        a.map(|a| f32::from_bits(a as u32))
    }
    #[inline(always)]
    fn to_bits(self, a: Self::F) -> Self::I {
        a.map(|a| a.to_bits().cast_signed())
    }

    #[inline(always)]
    fn load_bytes(self, x: &[u8; STRIPE]) -> Self::I {
        from_fn(|i| i32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
    }
    #[inline(always)]
    fn store_bytes(self, v: Self::I, out: &mut [u8; STRIPE]) {
        for (v, out) in v.iter().zip(out.as_chunks_mut::<4>().0) {
            *out = v.to_le_bytes();
        }
    }
    #[inline(always)]
    fn splat_u8(self, x: u8) -> Self::I {
        [i32::from_le_bytes([x; 4]); LANES]
    }
    #[inline(always)]
    fn quarters(self, x: [&[u8; 16]; 4]) -> Self::I {
        self.load_bytes(&from_fn(|i| x[i / 16][i % 16]))
    }
    #[inline(always)]
    fn regroup(self, a: Self::I, b: Self::I) -> [Self::I; 2] {
        let quarter = |i: usize, lane: usize| if i < 4 { a[4 * i + lane] } else { b[4 * (i - 4) + lane] };
        from_fn(|half| from_fn(|i| quarter(2 * (i / 4) + half, i % 4)))
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn xor(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    fn sub_u8(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| {
            let (a, b) = (bytes(a[i]), bytes(b[i]));
            i32::from_le_bytes(from_fn(|j| a[j].wrapping_sub(b[j])))
        })
    }
    #[inline(always)]
    fn mul_u8(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| {
            let (a, b) = (bytes(a[i]), bytes(b[i]));
            i32::from_le_bytes(from_fn(|j| a[j].wrapping_mul(b[j])))
        })
    }
    #[inline(always)]
    fn shr_halves(self, a: Self::I, low: u32, high: u32) -> Self::I {
        self.shr_quarters(a, [low, low, high, high])
    }
    #[inline(always)]
    fn shr_quarters(self, a: Self::I, counts: [u32; 4]) -> Self::I {
        from_fn(|i| {
            let ([a, b, c, d], count) = (bytes(a[i]), counts[i / 4]);
            let ([a, b], [c, d]) = (
                (u16::from_le_bytes([a, b]) >> count).to_le_bytes(),
                (u16::from_le_bytes([c, d]) >> count).to_le_bytes(),
            );
            i32::from_le_bytes([a, b, c, d])
        })
    }
    #[inline(always)]
    fn mask(self, bits: u64) -> Self::I {
        self.load_bytes(&from_fn(|i| if bits >> i & 1 == 1 { 255 } else { 0 }))
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: Self::I) -> Self::I {
        index.map(|lane| i32::from_le_bytes(bytes(lane).map(|i| table[usize::from(i & 15)])))
    }
    #[inline(always)]
    fn halves(self, a: &[u8; 32], b: &[u8; 32]) -> Self::I {
        self.load_bytes(&from_fn(|i| if i < 32 { a[i] } else { b[i - 32] }))
    }
    #[inline(always)]
    fn to_i8(self, x: [Self::F; 4]) -> Self::I {
        self.load_bytes(&from_fn(|i| x[i / LANES][i % LANES].round_ties_even() as i8 as u8))
    }
    #[inline(always)]
    fn dot_unsigned(self, acc: Self::I, w: Self::I, x: Self::I) -> Self::I {
        from_fn(|i| {
            let (w, x) = (bytes(w[i]), bytes(x[i]));
            (0..4).fold(acc[i], |acc, j| acc + i32::from(w[j]) * i32::from(x[j] as i8))
        })
    }
    #[inline(always)]
    fn dot_signed(self, acc: Self::I, w: Self::I, x: Self::I) -> Self::I {
        from_fn(|i| {
            let (w, x) = (bytes(w[i]), bytes(x[i]));
            (0..4).fold(acc[i], |acc, j| acc + i32::from(w[j] as i8) * i32::from(x[j] as i8))
        })
    }

    #[inline(always)]
    fn words(self, x: [u64; 8]) -> Self::I {
        from_fn(|i| (x[i / 2] >> (i % 2 * 32)) as i32)
    }

    #[inline(always)]
    fn splat_f16(self, x: [u8; 2]) -> Self::F {
        [f16::from_le_bytes(x).to_f32(); LANES]
    }
    #[inline(always)]
    fn quarter<const I: usize>(self, a: Self::F) -> Self::F {
        from_fn(|i| a[4 * I + i / 4])
    }

    #[inline(always)]
    fn load8(self, x: &[f32; 8]) -> Self::H {
        *x
    }
    #[inline(always)]
    fn store8(self, v: Self::H, out: &mut [f32; 8]) {
        *out = v;
    }
    #[inline(always)]
    fn splat8(self, x: f32) -> Self::H {
        [x; 8]
    }
    #[inline(always)]
    fn mul8(self, a: Self::H, b: Self::H) -> Self::H {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn fma8(self, a: Self::H, b: Self::H, c: Self::H) -> Self::H {
        from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn floats8_i8(self, x: u64) -> Self::H {
        x.to_le_bytes().map(|x| f32::from(x as i8))
    }
    #[inline(always)]
    fn floats8_f16(self, x: [[u8; 2]; 8]) -> Self::H {
        x.map(|x| f16::from_le_bytes(x).to_f32())
    }
    #[inline(always)]
    fn splat8_f16(self, x: [u8; 2]) -> Self::H {
        [f16::from_le_bytes(x).to_f32(); 8]
    }
    #[inline(always)]
    fn half<const I: usize>(self, a: Self::H) -> Self::F {
        from_fn(|i| a[4 * I + i / 4])
    }
    #[inline(always)]
    fn widen8(self, a: Self::H) -> Self::F {
        from_fn(|i| if i < 8 { a[i] } else { 0.0 })
    }

    const REGISTERS: usize = 4;

    #[inline(always)]
    fn widen_i8(self, x: &[u8; LANES]) -> Self::I {
        x.map(|x| i32::from(x as i8))
    }
}
