//! NEON: every 64-bit ARM; from [`DOTPROD`] on also `sdot` (phones since 2018, Apple since M1), at [`I8MM`]
//! also `smmla` (Apple since M2, Graviton since 3).
//!
//! All products are of signed bytes: lanes below 64 read the same either way, so signed and unsigned
//! weights share their instructions. The intrinsics of DOTPROD, I8MM and half precision are not stable
//! on the oldest compiler that this crate supports, so these few instructions are inline assembly.

use super::{Kernel, LANES, Need, STRIPE, Simd, needs};
use crate::acts::Layout;
use crate::format::{FloatBlock, IntegerBlock, Lanes};
use crate::limits;
use crate::ops::gemm;
use core::arch::aarch64::*;
use core::arch::asm;
use std::arch::is_aarch64_feature_detected;

/// The level of NEON alone.
pub(crate) const BASE: u32 = 0;
/// The level of DOTPROD.
pub(crate) const DOTPROD: u32 = 1;
/// The level of I8MM and DOTPROD.
pub(crate) const I8MM: u32 = 2;

/// The CPU has NEON, and DOTPROD and I8MM if `LEVEL` says so.
#[derive(Clone, Copy, Debug)]
pub struct Neon<const LEVEL: u32>(());

/// Tokens in a tile of the integer engine: sixteen accumulators, and one register holds four columns
/// of all four tokens.
const TILE: usize = 4;

/// Evaluates intrinsics. Every use is in a method of `Neon`, whose value is the proof.
macro_rules! neon {
    ($($body:tt)*) => {
        // SAFETY: a `Neon` exists, so `new` has found the features that these intrinsics need;
        // memory is accessed through references to arrays of the accessed size only.
        unsafe { $($body)* }
    };
}

/// Applies an operation to the four physical registers of each logical one; or evaluates an expression
/// for each of the four indices. No closures here: they would not always be inlined.
macro_rules! each {
    ($f:ident, $($v:expr),*) => { each!(i => $f($($v[i]),*)) };
    ($i:ident => $body:expr) => {
        [
            {
                let $i = 0;
                neon! { $body }
            },
            {
                let $i = 1;
                neon! { $body }
            },
            {
                let $i = 2;
                neon! { $body }
            },
            {
                let $i = 3;
                neon! { $body }
            },
        ]
    };
}

mod panel;

impl<const LEVEL: u32> Neon<LEVEL> {
    /// Four registers from memory.
    #[inline(always)]
    fn load4(self, x: &[u8; STRIPE]) -> [int32x4_t; 4] {
        let (x, _) = x.as_chunks::<16>();
        [self.load1(&x[0]), self.load1(&x[1]), self.load1(&x[2]), self.load1(&x[3])]
    }

    /// One register from memory.
    #[inline(always)]
    fn load1(self, x: &[u8; 16]) -> int32x4_t {
        neon! { vreinterpretq_s32_u8(vld1q_u8(x.as_ptr())) }
    }

    /// `acc` plus the sums of four adjacent products of signed bytes.
    ///
    /// Without `sdot`: two products are at most 2 * 128 * 127, which fits 16 bits.
    #[inline(always)]
    fn dot16(self, acc: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        neon! {
            if LEVEL >= DOTPROD {
                return sdot(acc, w, x);
            }
            let (w, x) = (vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x));
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(w, x)))
        }
    }
}

// SAFETY: `new` checks exactly the features that `run` enables.
unsafe impl<const LEVEL: u32> Simd for Neon<LEVEL> {
    type F = [float32x4_t; 4];
    type I = [int32x4_t; 4];
    type H = [float32x4_t; 2];

    const NAME: &'static str = match LEVEL {
        BASE => "neon",
        DOTPROD => "dotprod",
        I8MM => "i8mm",
        _ => panic!("there are three levels"),
    };
    const SUMMARY: &'static str = match LEVEL {
        BASE => "128-bit registers: every 64-bit ARM",
        DOTPROD => "NEON with dot products of bytes: phones since 2018, Apple since M1",
        _ => "NEON with products of 2 x 8 matrices of bytes: Apple since M2, Graviton since 3",
    };
    const LAYOUT: Layout = Layout::Tiles(TILE);

    fn needs() -> Vec<Need> {
        let mut needs = needs!(is_aarch64_feature_detected: "neon");
        if LEVEL >= DOTPROD {
            needs.extend(needs!(is_aarch64_feature_detected: "dotprod"));
        }
        if LEVEL >= I8MM {
            needs.extend(needs!(is_aarch64_feature_detected: "i8mm"));
        }
        needs
    }

    fn new() -> Option<Self> {
        Self::needs().iter().all(|need| need.found).then_some(Neon(()))
    }

    fn run<K: Kernel>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "neon")]
        #[inline(never)]
        fn base<S: Simd, K: Kernel>(s: S, kernel: K) -> K::Out {
            kernel.call(s)
        }
        #[target_feature(enable = "neon,dotprod")]
        #[inline(never)]
        fn dotprod<S: Simd, K: Kernel>(s: S, kernel: K) -> K::Out {
            kernel.call(s)
        }
        #[target_feature(enable = "neon,dotprod,i8mm")]
        #[inline(never)]
        fn i8mm<S: Simd, K: Kernel>(s: S, kernel: K) -> K::Out {
            kernel.call(s)
        }
        // SAFETY: `self` exists, so `new` has found the features.
        unsafe {
            match LEVEL {
                BASE => base(self, kernel),
                DOTPROD => dotprod(self, kernel),
                _ => i8mm(self, kernel),
            }
        }
    }

    fn run_floats<K: Kernel>(self, kernel: K) -> K::Out {
        Neon::<BASE>(()).run(kernel)
    }

    fn run_rows<K: Kernel>(self, kernel: K) -> K::Out {
        match LEVEL {
            I8MM => Neon::<DOTPROD>(()).run(kernel),
            _ => self.run(kernel),
        }
    }

    #[inline(always)]
    fn multiply_bytes(self, rounds: usize) -> usize {
        limits::multiply_bytes::<Self, 1, TILE>(self, rounds)
    }
    #[inline(always)]
    fn gemm_integer<B: IntegerBlock>(self, job: gemm::Job<'_>) {
        gemm::integer::<Self, B, 1, TILE, TILE>(self, job);
    }
    /// Two rows times three tokens: 24 accumulators, and room for a quarter of the operands.
    #[inline(always)]
    fn gemm_float<B: FloatBlock>(self, job: gemm::Job<'_>) {
        gemm::float::<Self, B, 2, 3>(self, job);
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch has no effect but on caches, whatever the address.
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) p, options(readonly, nostack, preserves_flags)) }
    }

    #[inline(always)]
    fn prefetch_to_write(self, p: *const u8) {
        // SAFETY: as above.
        unsafe { asm!("prfm pstl1keep, [{}]", in(reg) p, options(readonly, nostack, preserves_flags)) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        neon! { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        each!(i => vld1q_f32(x.as_ptr().add(4 * i)))
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; LANES]) {
        for (v, out) in v.into_iter().zip(out.as_chunks_mut::<4>().0) {
            neon! { vst1q_f32(out.as_mut_ptr(), v) }
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vaddq_f32, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vsubq_f32, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vmulq_f32, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vdivq_f32, a, b)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(vfmaq_f32, c, a, b)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        each!(larger, a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        each!(i => vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        each!(vabsq_f32, a)
    }
    #[inline(always)]
    fn swap_pairs(self, a: Self::F) -> Self::F {
        each!(vrev64q_f32, a)
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        neon! {
            let a = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            let a = vadd_f32(vget_low_f32(a), vget_high_f32(a));
            vget_lane_f32::<0>(vpadd_f32(a, a))
        }
    }
    #[inline(always)]
    fn max_lane(self, a: Self::F) -> f32 {
        neon! {
            let a = larger(larger(a[0], a[2]), larger(a[1], a[3]));
            let a = larger(a, vextq_f32::<2>(a, a));
            vgetq_lane_f32::<0>(larger(a, vextq_f32::<1>(a, a)))
        }
    }
    #[inline(always)]
    fn any_above(self, a: Self::F, b: Self::F) -> bool {
        neon! {
            let low = vorrq_u32(vcgtq_f32(a[0], b[0]), vcgtq_f32(a[1], b[1]));
            let high = vorrq_u32(vcgtq_f32(a[2], b[2]), vcgtq_f32(a[3], b[3]));
            vmaxvq_u32(vorrq_u32(low, high)) != 0
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Self::F {
        let (x, _) = x.as_chunks::<8>();
        each!(i => widen_f16(vreinterpret_u16_u8(vld1_u8(x[i].as_ptr()))))
    }
    #[inline(always)]
    fn store_f16(self, v: Self::F, out: &mut [u8; 2 * LANES]) {
        for (v, out) in v.into_iter().zip(out.as_chunks_mut::<8>().0) {
            neon! { vst1_u8(out.as_mut_ptr(), vreinterpret_u8_u16(narrow_f16(v))) }
        }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Self::F {
        let (x, _) = x.as_chunks::<8>();
        each!(i => vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(x[i].as_ptr())))))
    }
    #[inline(always)]
    fn to_bf16(self, a: Self::F, b: Self::F) -> Self::I {
        let x = [[a[0], a[1]], [a[2], a[3]], [b[0], b[1]], [b[2], b[3]]];
        each!(i => vreinterpretq_s32_u16(vcombine_u16(round_bf16(x[i][0]), round_bf16(x[i][1]))))
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I {
        neon! { [vdupq_n_s32(x); 4] }
    }
    #[inline(always)]
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
        each!(vaddq_s32, a, b)
    }
    #[inline(always)]
    fn shl_i32(self, a: Self::I, count: u32) -> Self::I {
        each!(i => vshlq_s32(a[i], vdupq_n_s32(count as i32)))
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        each!(vcvtq_f32_s32, a)
    }
    #[inline(always)]
    fn to_i32(self, a: Self::F) -> Self::I {
        each!(vcvtnq_s32_f32, a)
    }
    #[inline(always)]
    fn load_i32(self, x: &[i32; LANES]) -> Self::I {
        each!(i => vld1q_s32(x.as_ptr().add(4 * i)))
    }
    #[inline(always)]
    fn store_i32(self, v: Self::I, out: &mut [i32; LANES]) {
        for (v, out) in v.into_iter().zip(out.as_chunks_mut::<4>().0) {
            neon! { vst1q_s32(out.as_mut_ptr(), v) }
        }
    }
    #[inline(always)]
    fn bit_cast(self, a: Self::I) -> Self::F {
        each!(vreinterpretq_f32_s32, a)
    }
    #[inline(always)]
    fn to_bits(self, a: Self::F) -> Self::I {
        each!(vreinterpretq_s32_f32, a)
    }

    #[inline(always)]
    fn load_bytes(self, x: &[u8; STRIPE]) -> Self::I {
        self.load4(x)
    }
    #[inline(always)]
    fn store_bytes(self, v: Self::I, out: &mut [u8; STRIPE]) {
        for (v, out) in v.into_iter().zip(out.as_chunks_mut::<16>().0) {
            neon! { vst1q_u8(out.as_mut_ptr(), vreinterpretq_u8_s32(v)) }
        }
    }
    #[inline(always)]
    fn splat_u8(self, x: u8) -> Self::I {
        neon! { [vreinterpretq_s32_u8(vdupq_n_u8(x)); 4] }
    }
    #[inline(always)]
    fn quarters(self, x: [&[u8; 16]; 4]) -> Self::I {
        [self.load1(x[0]), self.load1(x[1]), self.load1(x[2]), self.load1(x[3])]
    }
    #[inline(always)]
    fn regroup(self, a: Self::I, b: Self::I) -> [Self::I; 2] {
        [[a[0], a[2], b[0], b[2]], [a[1], a[3], b[1], b[3]]]
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        each!(vandq_s32, a, b)
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        each!(vorrq_s32, a, b)
    }
    #[inline(always)]
    fn xor(self, a: Self::I, b: Self::I) -> Self::I {
        each!(veorq_s32, a, b)
    }
    #[inline(always)]
    fn sub_u8(self, a: Self::I, b: Self::I) -> Self::I {
        each!(i => vreinterpretq_s32_u8(vsubq_u8(vreinterpretq_u8_s32(a[i]), vreinterpretq_u8_s32(b[i]))))
    }
    #[inline(always)]
    fn mul_u8(self, a: Self::I, b: Self::I) -> Self::I {
        each!(i => vreinterpretq_s32_u8(vmulq_u8(vreinterpretq_u8_s32(a[i]), vreinterpretq_u8_s32(b[i]))))
    }
    #[inline(always)]
    fn shr_halves(self, a: Self::I, low: u32, high: u32) -> Self::I {
        self.shr_quarters(a, [low, low, high, high])
    }
    #[inline(always)]
    fn shr_quarters(self, a: Self::I, counts: [u32; 4]) -> Self::I {
        each!(i => {
            let count = vdupq_n_s16(-(counts[i] as i16));
            vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(a[i]), count))
        })
    }
    #[inline(always)]
    fn mask(self, bits: u64) -> Self::I {
        let bits = bits.to_le_bytes();
        each!(i => {
            // Each byte of the mask eight times over, then its own bit of it.
            let bytes = vcombine_u8(vdup_n_u8(bits[2 * i]), vdup_n_u8(bits[2 * i + 1]));
            let bit = vcreate_u8(0x8040_2010_0804_0201);
            vreinterpretq_s32_u8(vtstq_u8(bytes, vcombine_u8(bit, bit)))
        })
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: Self::I) -> Self::I {
        let table = neon! { vld1q_u8(table.as_ptr()) };
        each!(i => vreinterpretq_s32_u8(vqtbl1q_u8(table, vreinterpretq_u8_s32(index[i]))))
    }
    #[inline(always)]
    fn halves(self, a: &[u8; 32], b: &[u8; 32]) -> Self::I {
        let ((a, _), (b, _)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
        [self.load1(&a[0]), self.load1(&a[1]), self.load1(&b[0]), self.load1(&b[1])]
    }
    #[inline(always)]
    fn to_i8(self, x: [Self::F; 4]) -> Self::I {
        each!(i => {
            let [a, b, c, d] = self.to_i32(x[i]);
            let low = vqmovn_high_s32(vqmovn_s32(a), b);
            let high = vqmovn_high_s32(vqmovn_s32(c), d);
            vreinterpretq_s32_s8(vqmovn_high_s16(vqmovn_s16(low), high))
        })
    }
    #[inline(always)]
    fn dot_unsigned(self, acc: Self::I, w: Self::I, x: Self::I) -> Self::I {
        self.dot_signed(acc, w, x)
    }
    #[inline(always)]
    fn dot_signed(self, mut acc: Self::I, w: Self::I, x: Self::I) -> Self::I {
        for i in 0..4 {
            acc[i] = self.dot16(acc[i], w[i], x[i]);
        }
        acc
    }

    #[inline(always)]
    fn words(self, x: [u64; 8]) -> Self::I {
        each!(i => vreinterpretq_s32_u64(vcombine_u64(vcreate_u64(x[2 * i]), vcreate_u64(x[2 * i + 1]))))
    }

    #[inline(always)]
    fn splat_f16(self, x: [u8; 2]) -> Self::F {
        neon! { [widen_f16(vdup_n_u16(u16::from_le_bytes(x))); 4] }
    }
    #[inline(always)]
    fn quarter<const I: usize>(self, a: Self::F) -> Self::F {
        neon! {
            [
                vdupq_laneq_f32::<0>(a[I]),
                vdupq_laneq_f32::<1>(a[I]),
                vdupq_laneq_f32::<2>(a[I]),
                vdupq_laneq_f32::<3>(a[I]),
            ]
        }
    }

    #[inline(always)]
    fn load8(self, x: &[f32; 8]) -> Self::H {
        neon! { [vld1q_f32(x.as_ptr()), vld1q_f32(x.as_ptr().add(4))] }
    }
    #[inline(always)]
    fn store8(self, v: Self::H, out: &mut [f32; 8]) {
        neon! {
            vst1q_f32(out.as_mut_ptr(), v[0]);
            vst1q_f32(out.as_mut_ptr().add(4), v[1]);
        }
    }
    #[inline(always)]
    fn splat8(self, x: f32) -> Self::H {
        neon! { [vdupq_n_f32(x); 2] }
    }
    #[inline(always)]
    fn mul8(self, a: Self::H, b: Self::H) -> Self::H {
        neon! { [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1])] }
    }
    #[inline(always)]
    fn fma8(self, a: Self::H, b: Self::H, c: Self::H) -> Self::H {
        neon! { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }
    }
    #[inline(always)]
    fn floats8_i8(self, x: u64) -> Self::H {
        neon! {
            let x = vmovl_s8(vcreate_s8(x));
            [vcvtq_f32_s32(vmovl_s16(vget_low_s16(x))), vcvtq_f32_s32(vmovl_high_s16(x))]
        }
    }
    #[inline(always)]
    fn floats8_f16(self, x: [[u8; 2]; 8]) -> Self::H {
        neon! {
            let x = vreinterpretq_u16_u8(vld1q_u8(x.as_ptr().cast()));
            [widen_f16(vget_low_u16(x)), widen_f16(vget_high_u16(x))]
        }
    }
    #[inline(always)]
    fn splat8_f16(self, x: [u8; 2]) -> Self::H {
        neon! { [widen_f16(vdup_n_u16(u16::from_le_bytes(x))); 2] }
    }
    #[inline(always)]
    fn half<const I: usize>(self, a: Self::H) -> Self::F {
        const { assert!(I < 2, "a register has two halves") };
        neon! {
            [
                vdupq_laneq_f32::<0>(a[I]),
                vdupq_laneq_f32::<1>(a[I]),
                vdupq_laneq_f32::<2>(a[I]),
                vdupq_laneq_f32::<3>(a[I]),
            ]
        }
    }
    #[inline(always)]
    fn widen8(self, a: Self::H) -> Self::F {
        let zero = neon! { vdupq_n_f32(0.0) };
        [a[0], a[1], zero, zero]
    }

    #[inline(always)]
    fn arrange_panel(self, lines: &mut [[u8; STRIPE]]) {
        if LEVEL >= I8MM {
            self.arrange_i8mm(lines);
        }
    }

    #[inline(always)]
    fn dot_panel<L: Lanes, const QUADS: usize, const MT: usize>(
        self,
        start: [Self::I; MT],
        w: &[[u8; STRIPE]; QUADS],
        x: &[[i32; MT]; QUADS],
    ) -> [Self::I; MT] {
        let mut acc = match LEVEL {
            BASE => self.panel_base::<L, QUADS, MT>(w, x),
            DOTPROD => self.panel_dotprod(w, x),
            _ => self.panel_i8mm(w, x),
        };
        for (acc, start) in acc.iter_mut().zip(start) {
            *acc = self.add_i32(*acc, start); // of zeros: here weights may be signed
        }
        acc
    }

    const REGISTERS: usize = 8;

    #[inline(always)]
    fn widen_i8(self, x: &[u8; LANES]) -> Self::I {
        neon! {
            let x = vld1q_s8(x.as_ptr().cast());
            let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ]
        }
    }
}

/// The larger of each pair; `b` if either is no number, unlike `fmax`.
#[target_feature(enable = "neon")]
#[inline]
fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcgtq_f32(a, b), a, b)
}

/// Half precision to floats.
#[target_feature(enable = "neon")]
#[inline]
fn widen_f16(x: uint16x4_t) -> float32x4_t {
    let out;
    // SAFETY: reads and writes registers only.
    unsafe { asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) out, in(vreg) x, options(pure, nomem, nostack)) }
    out
}

/// Floats to half precision, to nearest even.
#[target_feature(enable = "neon")]
#[inline]
fn narrow_f16(x: float32x4_t) -> uint16x4_t {
    let out;
    // SAFETY: reads and writes registers only.
    unsafe { asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) out, in(vreg) x, options(pure, nomem, nostack)) }
    out
}

/// Floats to bfloat16, to nearest even.
#[target_feature(enable = "neon")]
#[inline]
fn round_bf16(x: float32x4_t) -> uint16x4_t {
    // Adds just below a half of the last kept bit, and one more if that bit is odd; infinities stay.
    let x = vreinterpretq_u32_f32(x);
    let odd = vandq_u32(vshrq_n_u32::<16>(x), vdupq_n_u32(1));
    vaddhn_u32(x, vaddq_u32(odd, vdupq_n_u32(0x7fff)))
}

/// `acc` plus the sums of four adjacent products of signed bytes.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn sdot(mut acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: reads and writes registers only.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) acc, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}
