//! AVX-512 (F, BW, VL, DQ): servers since 2017, AMD since Zen 4; from [`VNNI`] on also AVX512-VNNI, from
//! [`BF16`] on the conversions to bfloat16 and its dot products (AMD since Zen 4, some servers since 2020),
//! and at [`AMX`] the matrix tiles and GFNI (servers since 2023): bits of bytes are shifted and masked in one instruction. (Few
//! tokens, in turns: Q5_K 1.05 to 1.19 times as fast, Q4_K 1.01 to 1.09, Q6_K 1.03 to 1.09, Q4_0 1.02 to 1.12 with
//! permutations of double words in place of words.)
//!
//! [`BF16`] differs from [`VNNI`] in prompts of bfloat16 weights (`avx512/bf16.rs`). On Zen 4 `vdpbf16ps` runs at the
//! rate of a multiply-add, of which it does twice the work (101 GMAC/s a core where F16 reaches 45); by published
//! timings Intel runs it more slowly than the multiply-adds that it saves. So it is chosen by itself on AMD only.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes only, and there is no `vpsignb` here to move a sign
//! over: signed weights have 128 added ([`Simd::SIGNED_ZERO`]), and the drivers subtract `128 * sum(x)`
//! through the sums that they have anyway.
//!
//! VBMI was looked at and left out: no codebook has more entries than `vpshufb` looks up (16) and fewer than a
//! grid's 256, which `vpermb` could not hold. `vpmultishiftqb` would shift and gather the high bits of Q5_K and
//! Q6_K in one instruction instead of one or two, of about seven for 64 weights that wait for memory anyway.

use super::{Avx2, Kernel, LANES, Need, STRIPE, Simd, amx, needs, plain, x86};
use crate::acts::Layout;
use crate::format::{FloatBlock, IntegerBlock, Lanes, SixBitHead};
use crate::limits;
use crate::ops::{attention, dots, floats, gemm, gemv, shorts};
use core::arch::x86_64::*;

/// The CPU has AVX-512 F, BW, VL and DQ, and what its level adds to them.
#[derive(Clone, Copy, Debug)]
pub struct Avx512<const LEVEL: u32>(());

/// The level of AVX-512 alone.
pub(crate) const BASE: u32 = 0;
/// The level of AVX512-VNNI.
pub(crate) const VNNI: u32 = 1;
/// The level of AVX512-VNNI and AVX512-BF16.
pub(crate) const BF16: u32 = 2;
/// The level of AMX with bfloat16 tiles, AVX512-VNNI and AVX512-BF16.
pub(crate) const AMX: u32 = 3;

/// Evaluates intrinsics. Every use is in a method of `Avx512`, whose value is the proof.
macro_rules! avx512 {
    ($($body:tt)*) => {
        // SAFETY: an `Avx512` exists, so `new` has found the features that these intrinsics need;
        // memory is accessed through references to arrays of the accessed size only.
        unsafe { $($body)* }
    };
}

/// So many tokens and more are multiplied by matrix tiles of bfloat16, where there are any: for fewer, unpacking weights to it is
/// too much. (Integers, two cores of an Emerald Rapids, 2048 x 4096, in turns, beside tiles of bytes, or AVX512-VNNI's with 17 and 20:
/// with 12, 16, 17, 20, 24 and 32 tokens Q4_0 0.87, 0.86, 1.21, 1.13, 1.11 and 1.21, Q8_0 0.80, 0.78, 1.14, 1.21, 1.09 and 1.06, Q4_K
/// 0.94, 0.94, 1.24, 1.28, 1.27 and 1.17, Q6_K 0.90, 0.89, 0.96, 0.95, 1.42 and 1.31; rows of 11008, 24 tokens: 1.01, 1.01, 1.23 and
/// 1.30.) BF16 alone always is: beside multiply-adds, with 9, 12, 16 and 20 tokens 1.19, 1.40, 1.86 and 1.79. F16 alone is multiplied
/// in fixed point from 12 on: with 9 to 11 tokens 0.92 to 1.10, with 12 1.03 to 1.11, with 16 1.44 to 1.53 (2048 x 2048 and 2048 x
/// 5632).
const MATRIX_TILES_FROM: usize = 17;

/// So many tokens times integers go through a matrix tile of bytes, which they fill well: fewer through AVX512-VNNI's.
/// (`simd/amx/bytes.rs` has the figures.)
const fn byte_tiles(tokens: usize) -> bool {
    matches!(tokens, 12..=16)
}

mod bf16;
mod gather;
mod panel;

/// Halves onto halves, to one float. No closures here: they would not always be inlined.
macro_rules! fold {
    ($a:expr, $f8:ident, $f4:ident, $f1:ident) => {
        avx512! {
            let a = $f8(_mm512_castps512_ps256($a), _mm512_extractf32x8_ps::<1>($a));
            let a = $f4(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = $f4(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32($f1(a, _mm_movehdup_ps(a)))
        }
    };
}

/// Two half registers as one.
macro_rules! join {
    ($a:expr, $b:expr) => {
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512($a), $b)
    };
}

/// The matrix of bits that shifts a byte and keeps the bits of a mask: the last byte of it has the bits of which the lowest one
/// of the result is made.
#[inline(always)]
const fn matrix(shift: i32, mask: u8) -> i64 {
    let (mut rows, mut bit) = (0, 0);
    while bit < 8 {
        let from = bit + shift;
        if mask >> bit & 1 == 1 && from >= 0 && from < 8 {
            rows |= 1 << (8 * (7 - bit) + from);
        }
        bit += 1;
    }
    rows
}

impl<const LEVEL: u32> Avx512<LEVEL> {
    /// The products of unsigned and signed bytes, pairs added in 16 bits.
    #[inline(always)]
    fn pairs(self, w: __m512i, x: __m512i) -> __m512i {
        avx512! { _mm512_maddubs_epi16(w, x) }
    }

    /// Pairs of 16-bit lanes added to `acc` in 32 bits.
    #[inline(always)]
    fn widen(self, acc: __m512i, pairs: __m512i) -> __m512i {
        avx512! { _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1))) }
    }
}

// SAFETY: `new` checks exactly the features that `run` enables.
unsafe impl<const LEVEL: u32> Simd for Avx512<LEVEL> {
    type F = __m512;
    type I = __m512i;
    type H = __m256;

    const NAME: &'static str = ["avx512", "avx512vnni", "avx512bf16", "amx"][LEVEL as usize];
    const SUMMARY: &'static str = [
        "512-bit registers: servers since 2017, AMD since Zen 4",
        "AVX-512 with dot products of bytes: servers since 2019, AMD since Zen 4",
        "AVX512-VNNI with dot products of bfloat16: not by default on Intel, where they are slow",
        "AVX512-VNNI with bfloat16 matrix tiles: servers since 2023",
    ][LEVEL as usize];
    const SIGNED_ZERO: Option<u32> = if LEVEL >= VNNI { Some(7) } else { None };
    const LAYOUT: Layout = match LEVEL {
        AMX => Layout::Pairs,
        BASE => Layout::Tiles(TILE),
        _ => Layout::Tiles(panel::TILE),
    };
    #[inline(always)]
    fn layout(tokens: usize, rounded: bool) -> Layout {
        let narrower = tokens.next_multiple_of(NARROW) < tokens.next_multiple_of(TILE);
        match LEVEL {
            BASE if narrower => Layout::Tiles(NARROW),
            AMX if byte_tiles(tokens) && !rounded => Layout::Tiles(amx::TOKENS),
            AMX if tokens < MATRIX_TILES_FROM && !rounded => Avx512::<VNNI>::LAYOUT,
            _ => Self::LAYOUT,
        }
    }
    const BF16: bool = LEVEL >= BF16;
    const FIXED_FROM: usize = if LEVEL == AMX { 12 } else { usize::MAX };

    fn needs() -> Vec<Need> {
        let mut needs =
            needs!(is_x86_feature_detected: "avx512f", "avx512bw", "avx512vl", "avx512dq", "fma", "f16c");
        if LEVEL >= VNNI {
            needs.extend(needs!(is_x86_feature_detected: "avx512vnni"));
        }
        if LEVEL >= BF16 {
            needs.extend(needs!(is_x86_feature_detected: "avx512bf16"));
        }
        if LEVEL >= AMX {
            needs.extend(needs!(is_x86_feature_detected: "gfni"));
            needs.extend(amx::needs());
        }
        needs
    }

    fn new() -> Option<Self> {
        Self::needs().iter().all(|need| need.found).then_some(Avx512(()))
    }

    fn preferred(self) -> bool {
        let vendor = __cpuid(0);
        let amd =
            [vendor.ebx, vendor.edx, vendor.ecx] == [*b"Auth", *b"enti", *b"cAMD"].map(u32::from_le_bytes);
        LEVEL != BF16 || amd
    }

    fn run<K: Kernel>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
        #[inline(never)]
        fn base<S: Simd, K: Kernel>(s: S, kernel: K) -> K::Out {
            kernel.call(s)
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c,avx512vnni")]
        #[inline(never)]
        fn vnni<S: Simd, K: Kernel>(s: S, kernel: K) -> K::Out {
            kernel.call(s)
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c,avx512vnni,avx512bf16")]
        #[inline(never)]
        fn bf16<S: Simd, K: Kernel>(s: S, kernel: K) -> K::Out {
            kernel.call(s)
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c,avx512vnni,avx512bf16,gfni")]
        #[inline(never)]
        fn amx<S: Simd, K: Kernel>(s: S, kernel: K) -> K::Out {
            kernel.call(s)
        }
        // SAFETY: `self` exists, so `new` has found the features of its level.
        unsafe {
            match LEVEL {
                BASE => base(self, kernel),
                VNNI => vnni(self, kernel),
                BF16 => bf16(self, kernel),
                _ => amx(self, kernel),
            }
        }
    }

    fn run_floats<K: Kernel>(self, kernel: K) -> K::Out {
        Avx512::<BASE>(()).run(kernel)
    }

    /// Through registers of 32 bytes where there are no tiles. On Zen 4, a 1.1B model in F16 generated 1.25 times as fast so
    /// while memory gave 62 to 66 GB/s, and as fast while it gave 37 (one row at a time); on an Emerald Rapids four rows side by
    /// side are 1.10 to 1.15 times as fast through registers of 64 bytes.
    fn run_streams<K: Kernel>(self, kernel: K) -> K::Out {
        if LEVEL == AMX { self.run_floats(kernel) } else { Avx2::<false>::from(self).run(kernel) }
    }

    fn run_attention<K: Kernel>(self, kernel: K) -> K::Out {
        if LEVEL == AMX { self.run(kernel) } else { self.run_floats(kernel) }
    }

    fn run_rows<K: Kernel>(self, kernel: K) -> K::Out {
        match LEVEL {
            BASE | AMX => self.run(kernel),
            _ => Avx512::<VNNI>(()).run(kernel),
        }
    }

    fn run_tiles<K: Kernel>(self, layout: Layout, kernel: K) -> K::Out {
        match LEVEL {
            AMX if layout == Layout::Tiles(amx::TOKENS) => self.run(kernel),
            BF16.. if layout != Layout::Pairs => Avx512::<VNNI>(()).run(kernel),
            _ => self.run(kernel),
        }
    }

    #[inline(always)]
    fn multiply_bytes(self, rounds: usize) -> usize {
        match LEVEL {
            BASE => limits::multiply_bytes::<Self, 1, TILE>(self, rounds),
            _ => limits::multiply_bytes::<Self, { panel::PANELS }, { panel::TILE }>(self, rounds),
        }
    }
    #[inline(always)]
    fn gemm_integer<B: IntegerBlock>(self, job: gemm::Job<'_>) {
        if LEVEL == AMX {
            match job.acts.layout {
                Layout::Pairs => amx::gemm_integer::<B>(Avx512(()), job),
                _ => amx::gemm_bytes::<B>(Avx512(()), job),
            }
        } else {
            match LEVEL {
                BASE => gemm::integer::<Self, B, 1, TILE, NARROW>(self, job),
                _ => gemm::integer::<Self, B, { panel::PANELS }, { panel::TILE }, { panel::TILE }>(self, job),
            }
        }
    }
    #[inline(always)]
    fn attend(self, job: attention::Attend<'_>) {
        if LEVEL == AMX { amx::attend(Avx512(()), job) } else { attention::attend(self, job) }
    }
    #[inline(always)]
    fn multiply_tiles(self, rounds: usize) -> usize {
        if LEVEL == AMX { amx::multiply(Avx512(()), rounds) } else { 0 }
    }
    #[inline(always)]
    fn multiply_pairs(self, rounds: usize) -> usize {
        if LEVEL == BF16 { bf16::peak(Avx512(()), rounds) } else { 0 }
    }
    #[inline(always)]
    fn multiply_fixed(self, rounds: usize) -> usize {
        match LEVEL {
            BASE => 0,
            AMX => amx::multiply_fixed(Avx512(()), rounds),
            _ => shorts::multiply(self, rounds),
        }
    }
    #[inline(always)]
    fn gemm_float<B: FloatBlock>(self, job: gemm::Job<'_>) {
        if job.acts.tokens < Self::PANELS_FROM {
            gemm::float::<Self, B, ROWS, TOKENS>(self, job);
        } else {
            floats::product::<Self, floats::Floats<B>, 2>(self, job);
        }
    }
    #[inline(always)]
    fn gemm_pairs<B: FloatBlock>(self, job: gemm::Job<'_>) {
        match LEVEL {
            BF16 if job.acts.tokens < Self::PAIR_PANELS_FROM => bf16::gemm(Avx512(()), job),
            BF16 => floats::product::<Avx512<BF16>, floats::Pairs, 2>(Avx512(()), job),
            _ if B::BF16 => amx::gemm_bf16::<B>(Avx512(()), job),
            _ => amx::gemm_f16::<B>(Avx512(()), job),
        }
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // Into the second level: so far ahead, lines for the first would push out what is used now.
        // SAFETY: a prefetch has no effect but on caches, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }

    #[inline(always)]
    fn prefetch_to_write(self, p: *const u8) {
        x86::prefetch_to_write(p);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        avx512! { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        avx512! { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; LANES]) {
        avx512! { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        avx512! { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        avx512! { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        avx512! { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        avx512! { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        avx512! { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        avx512! { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        avx512! { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        avx512! { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn swap_pairs(self, a: Self::F) -> Self::F {
        avx512! { _mm512_permute_ps::<0b10_11_00_01>(a) }
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        fold!(a, _mm256_add_ps, _mm_add_ps, _mm_add_ss)
    }
    #[inline(always)]
    fn sums<const R: usize>(self, v: [Self::F; R]) -> [f32; R] {
        gather::sums(self, v)
    }
    #[inline(always)]
    fn max_lane(self, a: Self::F) -> f32 {
        fold!(a, _mm256_max_ps, _mm_max_ps, _mm_max_ss)
    }
    #[inline(always)]
    fn any_above(self, a: Self::F, b: Self::F) -> bool {
        avx512! { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) != 0 }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Self::F {
        avx512! { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn store_f16(self, v: Self::F, out: &mut [u8; 2 * LANES]) {
        avx512! {
            let half = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), half);
        }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Self::F {
        avx512! {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    fn to_bf16(self, a: Self::F, b: Self::F) -> Self::I {
        avx512! {
            if LEVEL >= BF16 {
                let pairs = _mm512_cvtne2ps_pbh(b, a);
                return std::mem::transmute::<__m512bh, __m512i>(pairs);
            }
            // Adds just below a half of the last kept bit, and one more if that bit is odd.
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            let (odd, bias) = (_mm512_set1_epi32(1), _mm512_set1_epi32(0x7fff));
            let a_odd = _mm512_and_si512(_mm512_srli_epi32::<16>(a), odd);
            let b_odd = _mm512_and_si512(_mm512_srli_epi32::<16>(b), odd);
            let a = _mm512_srli_epi32::<16>(_mm512_add_epi32(a, _mm512_add_epi32(bias, a_odd)));
            let b = _mm512_srli_epi32::<16>(_mm512_add_epi32(b, _mm512_add_epi32(bias, b_odd)));
            join!(_mm512_cvtepi32_epi16(a), _mm512_cvtepi32_epi16(b))
        }
    }

    #[inline(always)]
    fn dot_shorts(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        if LEVEL < VNNI {
            return avx512! { _mm512_add_epi32(acc, _mm512_madd_epi16(a, b)) };
        }
        avx512! { _mm512_dpwssd_epi32(acc, a, b) }
    }
    #[inline(always)]
    fn pack_shorts(self, a: Self::I, b: Self::I) -> Self::I {
        avx512! { _mm512_packs_epi32(a, b) }
    }
    #[inline(always)]
    fn max_shorts(self, a: Self::I, b: Self::I) -> Self::I {
        avx512! { _mm512_max_epu16(a, b) }
    }

    #[inline(always)]
    fn dot_bf16(self, acc: Self::F, a: Self::I, b: Self::I) -> Self::F {
        match LEVEL {
            BASE | VNNI => dots::pairs_by_floats(self, acc, a, b),
            _ => bf16::dot(Avx512(()), acc, a, b),
        }
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I {
        avx512! { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
        avx512! { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    fn shl_i32(self, a: Self::I, count: u32) -> Self::I {
        avx512! { _mm512_sll_epi32(a, _mm_cvtsi32_si128(count as i32)) }
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        avx512! { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    fn to_i32(self, a: Self::F) -> Self::I {
        avx512! { _mm512_cvtps_epi32(a) }
    }
    #[inline(always)]
    fn load_i32(self, x: &[i32; LANES]) -> Self::I {
        avx512! { _mm512_loadu_si512(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store_i32(self, v: Self::I, out: &mut [i32; LANES]) {
        avx512! { _mm512_storeu_si512(out.as_mut_ptr().cast(), v) }
    }
    #[inline(always)]
    fn bit_cast(self, a: Self::I) -> Self::F {
        avx512! { _mm512_castsi512_ps(a) }
    }
    #[inline(always)]
    fn to_bits(self, a: Self::F) -> Self::I {
        avx512! { _mm512_castps_si512(a) }
    }

    #[inline(always)]
    fn load_bytes(self, x: &[u8; STRIPE]) -> Self::I {
        avx512! { _mm512_loadu_si512(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store_bytes(self, v: Self::I, out: &mut [u8; STRIPE]) {
        avx512! { _mm512_storeu_si512(out.as_mut_ptr().cast(), v) }
    }
    #[inline(always)]
    fn splat_u8(self, x: u8) -> Self::I {
        avx512! { _mm512_set1_epi8(x as i8) }
    }
    #[inline(always)]
    fn quarters(self, x: [&[u8; 16]; 4]) -> Self::I {
        avx512! {
            // Straight from memory, which takes no permutation.
            let a = _mm512_castsi128_si512(_mm_loadu_si128(x[0].as_ptr().cast()));
            let a = _mm512_inserti32x4::<1>(a, _mm_loadu_si128(x[1].as_ptr().cast()));
            let a = _mm512_inserti32x4::<2>(a, _mm_loadu_si128(x[2].as_ptr().cast()));
            _mm512_inserti32x4::<3>(a, _mm_loadu_si128(x[3].as_ptr().cast()))
        }
    }
    #[inline(always)]
    fn strided<const STRIDE: usize>(self, x: &[[u8; STRIDE]; 8], half: usize) -> Self::I {
        gather::strided(self, x, half)
    }
    #[inline(always)]
    fn transpose(self, lines: &[[u8; STRIPE]; LANES], out: &mut [[u8; STRIPE]], stride: usize) {
        let mut words = [self.splat(0.0); LANES];
        for (words, line) in words.iter_mut().zip(lines) {
            *words = self.bit_cast(self.load_bytes(line));
        }
        for (word, rows) in amx::transposed(self, words).into_iter().enumerate() {
            self.store_bytes(self.to_bits(rows), &mut out[word / 4 * stride + word % 4]);
        }
    }
    #[inline(always)]
    fn fours<const N: usize>(self, rows: &[&[u8; N]; LANES], at: usize) -> [Self::I; 4] {
        gather::fours(self, rows, at)
    }
    #[inline(always)]
    fn regroup(self, a: Self::I, b: Self::I) -> [Self::I; 2] {
        avx512! { [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b)] }
    }
    #[inline(always)]
    fn ungroup(self, a: Self::I, b: Self::I) -> [Self::I; 2] {
        avx512! {
            let first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
            let second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
            [_mm512_permutex2var_epi64(a, first, b), _mm512_permutex2var_epi64(a, second, b)]
        }
    }
    #[inline(always)]
    fn zip<const N: usize>(self, a: Self::I, b: Self::I) -> [Self::I; 2] {
        const { assert!(N == 4 || N == 8, "words of four or eight bytes") };
        avx512! {
            match N {
                4 => [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)],
                _ => [_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)],
            }
        }
    }
    #[inline(always)]
    fn eights<const I: usize>(self, rows: &[[u8; 32]; 4]) -> Self::I {
        let (both, _) = rows.as_flattened().as_chunks();
        avx512! {
            let (a, b) = (self.load_bytes(&both[0]), self.load_bytes(&both[1]));
            let words = _mm512_setr_epi64(0, 8, 0, 8, 4, 12, 4, 12);
            _mm512_permutex2var_epi64(a, _mm512_add_epi64(words, _mm512_set1_epi64(I as i64)), b)
        }
    }
    #[inline(always)]
    fn add_where(self, a: Self::I, b: Self::I, c: Self::I, x: u8) -> Self::I {
        avx512! { _mm512_mask_add_epi8(a, _mm512_test_epi8_mask(b, c), a, self.splat_u8(x)) }
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        avx512! { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        avx512! { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn xor(self, a: Self::I, b: Self::I) -> Self::I {
        avx512! { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    fn sub_u8(self, a: Self::I, b: Self::I) -> Self::I {
        avx512! { _mm512_sub_epi8(a, b) }
    }
    #[inline(always)]
    fn mul_u8(self, a: Self::I, b: Self::I) -> Self::I {
        avx512! {
            let low = _mm512_set1_epi16(255);
            let even = _mm512_and_si512(_mm512_mullo_epi16(a, b), low);
            let odd = _mm512_mullo_epi16(_mm512_srli_epi16::<8>(a), _mm512_andnot_si512(low, b));
            _mm512_or_si512(even, odd)
        }
    }
    #[inline(always)]
    fn shr_halves(self, a: Self::I, low: u32, high: u32) -> Self::I {
        avx512! {
            let counts = join!(_mm256_set1_epi16(low as i16), _mm256_set1_epi16(high as i16));
            _mm512_srlv_epi16(a, counts)
        }
    }
    #[inline(always)]
    fn shr_quarters(self, a: Self::I, counts: [u32; 4]) -> Self::I {
        let [b, c, d, e] = counts.map(i64::from);
        avx512! { _mm512_srlv_epi64(a, _mm512_setr_epi64(b, b, c, c, d, d, e, e)) }
    }
    /// Where there is GFNI, as at the level of AMX, in one instruction: each byte times a matrix of bits.
    #[inline(always)]
    fn bits(self, a: Self::I, shifts: [i32; 4], mask: u8) -> Self::I {
        if LEVEL != AMX {
            return plain::bits(self, a, shifts, mask);
        }
        let [b, c, d, e] = shifts;
        // Not by `map`: that would stay a call.
        let (b, c, d, e) = (matrix(b, mask), matrix(c, mask), matrix(d, mask), matrix(e, mask));
        avx512! { _mm512_gf2p8affine_epi64_epi8::<0>(a, _mm512_setr_epi64(b, b, c, c, d, d, e, e)) }
    }
    #[inline(always)]
    fn mask(self, bits: u64) -> Self::I {
        avx512! { _mm512_movm_epi8(bits) }
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: Self::I) -> Self::I {
        avx512! {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, index)
        }
    }
    #[inline(always)]
    fn halves(self, a: &[u8; 32], b: &[u8; 32]) -> Self::I {
        avx512! { join!(_mm256_loadu_si256(a.as_ptr().cast()), _mm256_loadu_si256(b.as_ptr().cast())) }
    }
    #[inline(always)]
    fn widen_u8(self, x: [&[u8; 16]; 2]) -> Self::I {
        avx512! {
            let first = _mm256_castsi128_si256(_mm_loadu_si128(x[0].as_ptr().cast()));
            _mm512_cvtepu8_epi16(_mm256_inserti128_si256::<1>(first, _mm_loadu_si128(x[1].as_ptr().cast())))
        }
    }
    #[inline(always)]
    fn to_i8(self, x: [Self::F; 4]) -> Self::I {
        avx512! {
            let a = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x[0]));
            let b = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x[1]));
            let c = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x[2]));
            let d = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x[3]));
            join!(_mm256_set_m128i(b, a), _mm256_set_m128i(d, c))
        }
    }
    #[inline(always)]
    fn dot_unsigned(self, acc: Self::I, w: Self::I, x: Self::I) -> Self::I {
        avx512! { if LEVEL >= VNNI { _mm512_dpbusd_epi32(acc, w, x) } else { self.widen(acc, self.pairs(w, x)) } }
    }
    #[inline(always)]
    fn dot_signed(self, acc: Self::I, w: Self::I, x: Self::I) -> Self::I {
        avx512! {
            if LEVEL >= VNNI {
                return _mm512_dpbusd_epi32(acc, _mm512_xor_si512(w, _mm512_set1_epi8(-128)), x);
            }
            let negative = _mm512_movepi8_mask(w);
            let x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
            self.widen(acc, self.pairs(_mm512_abs_epi8(w), x))
        }
    }

    #[inline(always)]
    fn words(self, x: [u64; 8]) -> Self::I {
        let [a, b, c, d, e, f, g, h] = x.map(u64::cast_signed);
        avx512! { _mm512_setr_epi64(a, b, c, d, e, f, g, h) }
    }
    #[inline(always)]
    fn octets<const N: usize>(self, table: &[u64; N], [a, b, c, d, e, f, g, h]: [usize; 8]) -> Self::I {
        let (a, b) = (x86::octets(table, a, b), x86::octets(table, c, d));
        let (c, d) = (x86::octets(table, e, f), x86::octets(table, g, h));
        avx512! { join!(_mm256_set_m128i(b, a), _mm256_set_m128i(d, c)) }
    }
    #[inline(always)]
    fn quads<const N: usize>(self, table: &[u32; N], index: [usize; 16]) -> Self::I {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = index;
        let (a, b) = (x86::quads(table, [a, b, c, d]), x86::quads(table, [e, f, g, h]));
        let (c, d) = (x86::quads(table, [i, j, k, l]), x86::quads(table, [m, n, o, p]));
        avx512! { join!(_mm256_set_m128i(b, a), _mm256_set_m128i(d, c)) }
    }

    #[inline(always)]
    fn floats_f16(self, a: Self::I) -> [Self::F; 2] {
        avx512! {
            let high = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(a));
            [_mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)), _mm512_cvtph_ps(high)]
        }
    }
    #[inline(always)]
    fn splat_f16(self, x: [u8; 2]) -> Self::F {
        avx512! { _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes(x))) }
    }
    #[inline(always)]
    fn quarter<const I: usize>(self, a: Self::F) -> Self::F {
        avx512! {
            let lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            _mm512_permutexvar_ps(_mm512_add_epi32(lanes, _mm512_set1_epi32(4 * I as i32)), a)
        }
    }
    #[inline(always)]
    fn turn(self, a: Self::F) -> Self::F {
        avx512! {
            let lanes = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_ps(lanes, a)
        }
    }

    #[inline(always)]
    fn load8(self, x: &[f32; 8]) -> Self::H {
        avx512! { _mm256_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store8(self, v: Self::H, out: &mut [f32; 8]) {
        avx512! { _mm256_storeu_ps(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn splat8(self, x: f32) -> Self::H {
        avx512! { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn mul8(self, a: Self::H, b: Self::H) -> Self::H {
        avx512! { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn fma8(self, a: Self::H, b: Self::H, c: Self::H) -> Self::H {
        avx512! { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn floats8_i8(self, x: u64) -> Self::H {
        avx512! { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(x.cast_signed()))) }
    }
    #[inline(always)]
    fn floats8_f16(self, x: [[u8; 2]; 8]) -> Self::H {
        avx512! { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn strided8_f16<const STRIDE: usize>(self, x: &[[u8; STRIDE]; 8]) -> Self::H {
        gather::strided8_f16(self, x)
    }
    #[inline(always)]
    fn six_bits(self, head: &SixBitHead) -> [Self::H; 2] {
        gather::six_bits(self, head)
    }
    #[inline(always)]
    fn splat8_f16(self, x: [u8; 2]) -> Self::H {
        avx512! { _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(x))) }
    }
    #[inline(always)]
    fn half<const I: usize>(self, a: Self::H) -> Self::F {
        const { assert!(I < 2, "a register has two halves") };
        avx512! {
            let lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            let lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(4 * I as i32));
            _mm512_permutexvar_ps(lanes, _mm512_castps256_ps512(a))
        }
    }
    #[inline(always)]
    fn twice(self, a: Self::H) -> Self::F {
        avx512! {
            let lanes = _mm512_setr_epi32(0, 0, 4, 4, 1, 1, 5, 5, 2, 2, 6, 6, 3, 3, 7, 7);
            _mm512_permutexvar_ps(lanes, _mm512_castps256_ps512(a))
        }
    }
    #[inline(always)]
    fn widen8(self, a: Self::H) -> Self::F {
        avx512! { _mm512_zextps256_ps512(a) }
    }

    #[inline(always)]
    fn dot_panel<L: Lanes, const QUADS: usize, const MT: usize>(
        self,
        start: [Self::I; MT],
        w: &[[u8; STRIPE]; QUADS],
        x: &[[i32; MT]; QUADS],
    ) -> [Self::I; MT] {
        if LEVEL >= VNNI {
            panel::vnni(self, start, w, x)
        } else {
            panel::base::<L, LEVEL, QUADS, MT>(self, start, w, x)
        }
    }

    const ACROSS: bool = true;

    const SPANS: bool = true;

    /// Without VNNI, products of small weights are added in 16 bits.
    #[inline(always)]
    fn dot_span<L: Lanes>(self, acc: Self::I, w: [Self::I; 4], x: [Self::I; 4]) -> Self::I {
        if LEVEL >= VNNI || L::BITS == 8 {
            return gemv::dot_span::<Self, L>(self, acc, w, x);
        }
        avx512! {
            let first = _mm512_add_epi16(self.pairs(w[0], x[0]), self.pairs(w[1], x[1]));
            let last = _mm512_add_epi16(self.pairs(w[2], x[2]), self.pairs(w[3], x[3]));
            // Eight products of bytes of at most 31 and 127 are less than 2^15.
            match L::BITS {
                ..=5 => self.widen(acc, _mm512_add_epi16(first, last)),
                _ => self.widen(self.widen(acc, first), last),
            }
        }
    }

    // One Zen 5 core, 4096 x 4096, in turns: with 64, 128 and 512 tokens F16's panels make it 1.0 to 1.02, 1.07 and 1.15
    // times as fast (two cores with 64: 0.93), F32's 1.26, 1.38 and 1.49 times.
    const PANELS_FROM: usize = 128;

    // Two cores of an Emerald Rapids, 2048 x 2048, F16 and BF16 in turns with multiply-adds: with 20, 24, 28, 32 and 40 tokens 0.93,
    // 1.0 to 1.07, 1.18, 1.22 to 1.25 and 1.38 times as fast, with 512 1.7 to 1.8. Two Zen 4 cores, 2048 x 4096, F16 with 24, 32,
    // 48, 64, 128 and 512: 1.0, 1.12, 1.32, 1.44, 1.75 and 1.89.
    const SHORTS_FROM: usize = if matches!(LEVEL, VNNI | BF16) { 24 } else { usize::MAX };

    // One Zen 4 core, in turns: with 128 tokens panels of pairs make it 0.91 to 1.04 times as fast, with 512 1.01 to 1.09
    // (two cores 1.14).
    const PAIR_PANELS_FROM: usize = 256;

    #[inline(always)]
    fn dot_panels<L: Lanes, const P: usize, const QUADS: usize, const MT: usize>(
        self,
        start: [[Self::I; MT]; P],
        w: [&[[u8; STRIPE]; QUADS]; P],
        x: &[[i32; MT]; QUADS],
    ) -> [[Self::I; MT]; P] {
        if LEVEL >= VNNI && P == panel::PANELS && MT == panel::TILE {
            panel::pairs(self, start, w, x)
        } else {
            gemm::dot_panels::<Self, L, P, QUADS, MT>(self, start, w, x)
        }
    }

    const REGISTERS: usize = 32;

    #[inline(always)]
    fn widen_i8(self, x: &[u8; LANES]) -> Self::I {
        avx512! { _mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast())) }
    }
}

/// Rows and tokens of a tile of the float engine: 24 accumulators, four registers of weights and one of activations.
const ROWS: usize = 4;
const TOKENS: usize = 6;

/// Tokens in a tile without VNNI: twelve integer and twelve float accumulators leave room for the operands.
const TILE: usize = 12;

/// Tokens in a narrower one, for batches that fill it better.
const NARROW: usize = 8;
