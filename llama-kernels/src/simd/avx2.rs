//! AVX2 with FMA and F16C: every x86-64 laptop since 2013. With `VNNI`, also AVX-VNNI, whose
//! `vpdpbusd` does the work of three instructions: laptops since 2021.

use super::{Avx512, Kernel, LANES, Need, STRIPE, Simd, needs, x86};
use crate::acts::Layout;
use crate::format::{FloatBlock, IntegerBlock, Lanes};
use crate::limits;
use crate::ops::fixed_point::SHORT_WORDS;
use crate::ops::floats::{Floats, Words};
use crate::ops::pack::{Coming, Integers};
use crate::ops::{self, gemm};
use core::arch::x86_64::*;

/// The CPU has AVX2, FMA and F16C, and AVX-VNNI if `VNNI`.
#[derive(Clone, Copy, Debug)]
pub struct Avx2<const VNNI: bool>(());

impl<const LEVEL: u32> From<Avx512<LEVEL>> for Avx2<false> {
    /// A CPU with AVX-512 F has AVX2; the other features are among those that the token stands for.
    fn from(_: Avx512<LEVEL>) -> Self {
        Avx2(())
    }
}

/// Tokens in a tile of the integer engine: eight accumulators, beside them two registers of weights and what is made
/// of them.
const TILE: usize = 4;

/// Evaluates intrinsics. Every use is in a method of `Avx2`, whose value is the proof.
macro_rules! avx2 {
    ($($body:tt)*) => {
        // SAFETY: an `Avx2` exists, so `new` has found the features that these intrinsics need;
        // memory is accessed through references to arrays of the accessed size only.
        unsafe { $($body)* }
    };
}

/// Applies an operation to both physical registers of a logical one.
macro_rules! both {
    ($f:ident, $($v:expr),*) => { avx2! { [$f($($v[0]),*), $f($($v[1]),*)] } };
}

/// The same for an expression of one register. No closures here: they would not always be inlined.
macro_rules! each {
    ($x:ident in $v:expr => $body:expr) => {{
        let v = $v;
        [
            {
                let $x = v[0];
                avx2! { $body }
            },
            {
                let $x = v[1];
                avx2! { $body }
            },
        ]
    }};
}

/// Halves onto halves, to one float.
macro_rules! fold {
    ($a:expr, $f8:ident, $f4:ident, $f1:ident) => {
        avx2! {
            let a = $f8($a[0], $a[1]);
            let a = $f4(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = $f4(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32($f1(a, _mm_movehdup_ps(a)))
        }
    };
}

/// A panel's line, of sixteen rows, in two registers.
#[rustfmt::skip]
macro_rules! rows {
    ($line:literal) => {
        concat!("vmovdqu {v}, ymmword ptr [{r} + 64 * ", $line, "]\n",
                "vmovdqu {w}, ymmword ptr [{r} + 64 * ", $line, " + 32]\n")
    };
}

mod dots;
mod floats;
mod panel;
mod shorts;

impl<const VNNI: bool> Avx2<VNNI> {
    /// Sums of four adjacent byte products, `w` unsigned.
    #[inline(always)]
    fn dot32(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        avx2! {
            if VNNI {
                _mm256_dpbusd_avx_epi32(acc, w, x)
            } else {
                _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)))
            }
        }
    }

    /// Sixteen bytes of eight rows as four words of each.
    ///
    /// # Safety
    /// Sixteen bytes are read at each address.
    #[inline(always)]
    unsafe fn words(self, p: [*const f32; 8]) -> [__m256i; 4] {
        avx2! {
            let (a, b) = (_mm256_loadu2_m128(p[4], p[0]), _mm256_loadu2_m128(p[5], p[1]));
            let (c, d) = (_mm256_loadu2_m128(p[6], p[2]), _mm256_loadu2_m128(p[7], p[3]));
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (ef, gh) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            [_mm256_castps_si256(_mm256_shuffle_ps::<0x44>(ab, cd)), _mm256_castps_si256(_mm256_shuffle_ps::<0xee>(ab, cd)),
             _mm256_castps_si256(_mm256_shuffle_ps::<0x44>(ef, gh)), _mm256_castps_si256(_mm256_shuffle_ps::<0xee>(ef, gh))]
        }
    }

    /// Each of eight lanes four times, two lanes a register. Those for the first halves are brought together first:
    /// a permutation within halves takes AMD's CPUs one operation, one across them two.
    #[inline(always)]
    fn repeated(self, a: __m256) -> [__m256; 4] {
        avx2! {
            let a = x86::permute(a, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
            [_mm256_permute_ps::<0x00>(a), _mm256_permute_ps::<0x55>(a),
             _mm256_permute_ps::<0xaa>(a), _mm256_permute_ps::<0xff>(a)]
        }
    }

    /// Sixteen floats to 32-bit integers, saturated to 16 bits, in the order that `packs` leaves.
    #[inline(always)]
    fn to_i16(self, x: [__m256; 2]) -> __m256i {
        avx2! { _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1])) }
    }
}

// SAFETY: `new` checks exactly the features that `run` enables.
unsafe impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type H = __m256;

    const NAME: &'static str = if VNNI { "avxvnni" } else { "avx2" };
    const SUMMARY: &'static str = match VNNI {
        false => "256-bit registers: x86-64 since 2013",
        true => "AVX2 with dot products of bytes: laptops since 2021",
    };
    const LAYOUT: Layout = Layout::Tiles(TILE);

    fn needs() -> Vec<Need> {
        let mut needs = needs!(is_x86_feature_detected: "avx2", "fma", "f16c");
        if VNNI {
            needs.extend(needs!(is_x86_feature_detected: "avxvnni"));
        }
        needs
    }

    fn new() -> Option<Self> {
        Self::needs().iter().all(|need| need.found).then_some(Avx2(()))
    }

    fn run<K: Kernel>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline(never)]
        fn plain<S: Simd, K: Kernel>(s: S, kernel: K) -> K::Out {
            kernel.call(s)
        }
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        #[inline(never)]
        fn vnni<S: Simd, K: Kernel>(s: S, kernel: K) -> K::Out {
            kernel.call(s)
        }
        // SAFETY: `self` exists, so `new` has found the features.
        unsafe { if VNNI { vnni(self, kernel) } else { plain(self, kernel) } }
    }

    fn run_floats<K: Kernel>(self, kernel: K) -> K::Out {
        Avx2::<false>(()).run(kernel)
    }

    #[inline(always)]
    fn multiply_bytes(self, rounds: usize) -> usize {
        match VNNI {
            true => limits::multiply_bytes::<Self, 1, TILE>(self, rounds),
            false => panel::multiply(Avx2(()), rounds),
        }
    }
    #[inline(always)]
    fn gemm_integer<B: IntegerBlock>(self, job: gemm::Job<'_>) {
        gemm::integer::<Self, B, 1, TILE, TILE>(self, job);
    }
    #[inline(always)]
    fn gemm_float<B: FloatBlock>(self, job: gemm::Job<'_>) {
        if job.acts.tokens < Self::PANELS_FROM {
            gemm::float::<Self, B, { dots::ROWS }, { dots::TOKENS }>(self, job);
        } else {
            ops::floats::product::<Self, Floats<B>, 1>(self, job);
        }
    }

    #[inline(always)]
    fn multiply_fixed(self, rounds: usize) -> usize {
        ops::shorts::multiply(self, rounds)
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
        avx2! { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        avx2! { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; LANES]) {
        avx2! {
            _mm256_storeu_ps(out.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v[1]);
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        let sign = avx2! { [_mm256_set1_ps(-0.0); 2] };
        both!(_mm256_andnot_ps, sign, a)
    }
    #[inline(always)]
    fn swap_pairs(self, a: Self::F) -> Self::F {
        each!(a in a => _mm256_permute_ps::<0b10_11_00_01>(a))
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        fold!(a, _mm256_add_ps, _mm_add_ps, _mm_add_ss)
    }
    #[inline(always)]
    fn max_lane(self, a: Self::F) -> f32 {
        fold!(a, _mm256_max_ps, _mm_max_ps, _mm_max_ss)
    }
    #[inline(always)]
    fn any_above(self, a: Self::F, b: Self::F) -> bool {
        avx2! {
            let low = _mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]);
            let high = _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1]);
            _mm256_movemask_ps(_mm256_or_ps(low, high)) != 0
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Self::F {
        avx2! {
            let p = x.as_ptr().cast::<__m128i>();
            [_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1)))]
        }
    }
    #[inline(always)]
    fn store_f16(self, v: Self::F, out: &mut [u8; 2 * LANES]) {
        avx2! {
            let p = out.as_mut_ptr().cast::<__m128i>();
            _mm_storeu_si128(p, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
            _mm_storeu_si128(p.add(1), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]));
        }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Self::F {
        let p = x.as_ptr().cast::<__m128i>();
        each!(i in [0, 1] => {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(i)));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        })
    }

    #[inline(always)]
    fn to_bf16(self, a: Self::F, b: Self::F) -> Self::I {
        // Adds just below a half of the last kept bit, and one more if that bit is odd; infinities stay.
        each!(x in [a, b] => {
            let low = _mm256_castps_si256(x[0]);
            let high = _mm256_castps_si256(x[1]);
            let odd = _mm256_set1_epi32(1);
            let bias = _mm256_set1_epi32(0x7fff);
            let low_odd = _mm256_and_si256(_mm256_srli_epi32::<16>(low), odd);
            let high_odd = _mm256_and_si256(_mm256_srli_epi32::<16>(high), odd);
            let low = _mm256_srli_epi32::<16>(_mm256_add_epi32(low, _mm256_add_epi32(bias, low_odd)));
            let high = _mm256_srli_epi32::<16>(_mm256_add_epi32(high, _mm256_add_epi32(bias, high_odd)));
            _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high))
        })
    }

    #[inline(always)]
    fn pack_shorts(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_packs_epi32, a, b)
    }
    #[inline(always)]
    fn max_shorts(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_max_epu16, a, b)
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I {
        avx2! { [_mm256_set1_epi32(x); 2] }
    }
    #[inline(always)]
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_add_epi32, a, b)
    }
    #[inline(always)]
    fn shl_i32(self, a: Self::I, count: u32) -> Self::I {
        each!(a in a => _mm256_sll_epi32(a, _mm_cvtsi32_si128(count as i32)))
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        both!(_mm256_cvtepi32_ps, a)
    }
    #[inline(always)]
    fn to_i32(self, a: Self::F) -> Self::I {
        both!(_mm256_cvtps_epi32, a)
    }
    #[inline(always)]
    fn load_i32(self, x: &[i32; LANES]) -> Self::I {
        avx2! {
            let p = x.as_ptr().cast::<__m256i>();
            [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))]
        }
    }
    #[inline(always)]
    fn store_i32(self, v: Self::I, out: &mut [i32; LANES]) {
        avx2! {
            let p = out.as_mut_ptr().cast::<__m256i>();
            _mm256_storeu_si256(p, v[0]);
            _mm256_storeu_si256(p.add(1), v[1]);
        }
    }
    #[inline(always)]
    fn bit_cast(self, a: Self::I) -> Self::F {
        both!(_mm256_castsi256_ps, a)
    }
    #[inline(always)]
    fn to_bits(self, a: Self::F) -> Self::I {
        both!(_mm256_castps_si256, a)
    }

    #[inline(always)]
    fn load_bytes(self, x: &[u8; STRIPE]) -> Self::I {
        avx2! {
            let p = x.as_ptr().cast::<__m256i>();
            [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))]
        }
    }
    #[inline(always)]
    fn store_bytes(self, v: Self::I, out: &mut [u8; STRIPE]) {
        avx2! {
            let p = out.as_mut_ptr().cast::<__m256i>();
            _mm256_storeu_si256(p, v[0]);
            _mm256_storeu_si256(p.add(1), v[1]);
        }
    }
    #[inline(always)]
    fn splat_u8(self, x: u8) -> Self::I {
        avx2! { [_mm256_set1_epi8(x as i8); 2] }
    }
    #[inline(always)]
    fn quarters(self, x: [&[u8; 16]; 4]) -> Self::I {
        each!(x in [[x[0], x[1]], [x[2], x[3]]] => {
            let low = _mm256_castsi128_si256(_mm_loadu_si128(x[0].as_ptr().cast()));
            _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(x[1].as_ptr().cast()))
        })
    }
    #[inline(always)]
    fn transpose(self, lines: &[[u8; STRIPE]; LANES], out: &mut [[u8; STRIPE]], stride: usize) {
        for (i, lines) in lines.as_chunks::<8>().0.iter().enumerate() {
            for quarter in 0..4 {
                let mut at = [std::ptr::null(); 8];
                for (at, line) in at.iter_mut().zip(lines) {
                    *at = line[16 * quarter..].as_ptr().cast();
                }
                // SAFETY: four times sixteen bytes are in each line.
                for (word, rows) in unsafe { self.words(at) }.into_iter().enumerate() {
                    let line = &mut out[quarter * stride + word];
                    let half: &mut [u8; 32] = &mut line.as_chunks_mut().0[i];
                    avx2! { _mm256_storeu_si256(half.as_mut_ptr().cast(), rows) }
                }
            }
        }
    }
    #[inline(always)]
    fn fours<const N: usize>(self, rows: &[&[u8; N]; LANES], at: usize) -> [Self::I; 4] {
        assert!(at + 16 <= N, "sixteen bytes from {at} on in {N}");
        let mut halves = avx2! { [[_mm256_setzero_si256(); 4]; 2] };
        for (half, rows) in halves.iter_mut().zip(rows.as_chunks::<8>().0) {
            let mut address = [std::ptr::null(); 8];
            for (address, row) in address.iter_mut().zip(rows) {
                *address = row.as_ptr().wrapping_add(at).cast();
            }
            // SAFETY: so many bytes are in each row.
            *half = unsafe { self.words(address) };
        }
        let [a, b] = halves;
        [[a[0], b[0]], [a[1], b[1]], [a[2], b[2]], [a[3], b[3]]]
    }
    #[inline(always)]
    fn regroup(self, a: Self::I, b: Self::I) -> [Self::I; 2] {
        let first = each!(x in [a, b] => _mm256_permute2x128_si256::<0x20>(x[0], x[1]));
        let second = each!(x in [a, b] => _mm256_permute2x128_si256::<0x31>(x[0], x[1]));
        [first, second]
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_and_si256, a, b)
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_or_si256, a, b)
    }
    #[inline(always)]
    fn xor(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_xor_si256, a, b)
    }
    #[inline(always)]
    fn sub_u8(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_sub_epi8, a, b)
    }
    #[inline(always)]
    fn mul_u8(self, a: Self::I, b: Self::I) -> Self::I {
        each!(x in [[a[0], b[0]], [a[1], b[1]]] => {
            let low = _mm256_set1_epi16(255);
            let even = _mm256_and_si256(_mm256_mullo_epi16(x[0], x[1]), low);
            let odd = _mm256_mullo_epi16(_mm256_srli_epi16::<8>(x[0]), _mm256_andnot_si256(low, x[1]));
            _mm256_or_si256(even, odd)
        })
    }
    #[inline(always)]
    fn shr_halves(self, a: Self::I, low: u32, high: u32) -> Self::I {
        avx2! {
            let counts = [_mm_cvtsi32_si128(low as i32), _mm_cvtsi32_si128(high as i32)];
            [_mm256_srl_epi16(a[0], counts[0]), _mm256_srl_epi16(a[1], counts[1])]
        }
    }
    #[inline(always)]
    fn shr_quarters(self, a: Self::I, [b, c, d, e]: [u32; 4]) -> Self::I {
        each!(x in [(a[0], b as i32, c as i32), (a[1], d as i32, e as i32)] => {
            _mm256_srlv_epi32(x.0, _mm256_setr_epi32(x.1, x.1, x.1, x.1, x.2, x.2, x.2, x.2))
        })
    }
    #[inline(always)]
    fn mask(self, bits: u64) -> Self::I {
        each!(bits in [bits as i32, (bits >> 32) as i32] => {
            // Each byte of the mask eight times over, then its own bit of it.
            let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread);
            _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)
        })
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: Self::I) -> Self::I {
        let table = avx2! { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())) };
        each!(index in index => _mm256_shuffle_epi8(table, index))
    }
    #[inline(always)]
    fn halves(self, a: &[u8; 32], b: &[u8; 32]) -> Self::I {
        avx2! { [_mm256_loadu_si256(a.as_ptr().cast()), _mm256_loadu_si256(b.as_ptr().cast())] }
    }
    #[inline(always)]
    fn to_i8(self, x: [Self::F; 4]) -> Self::I {
        each!(x in [[x[0], x[1]], [x[2], x[3]]] => {
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); // undoes the lane-wise packing
            _mm256_permutevar8x32_epi32(_mm256_packs_epi16(self.to_i16(x[0]), self.to_i16(x[1])), order)
        })
    }
    #[inline(always)]
    fn dot_unsigned(self, acc: Self::I, w: Self::I, x: Self::I) -> Self::I {
        [self.dot32(acc[0], w[0], x[0]), self.dot32(acc[1], w[1], x[1])]
    }
    /// One side has to be unsigned. With VNNI, `w` is moved up to a zero of 128. To `vpmaddubsw` that would be too large: there
    /// the sign of `w` moves over to `x`.
    #[inline(always)]
    fn dot_signed(self, acc: Self::I, w: Self::I, x: Self::I) -> Self::I {
        if VNNI {
            return self.dot_unsigned(acc, self.xor(w, self.splat_u8(128)), x);
        }
        self.dot_unsigned(acc, both!(_mm256_abs_epi8, w), both!(_mm256_sign_epi8, x, w))
    }

    #[inline(always)]
    fn words(self, x: [u64; 8]) -> Self::I {
        let x = x.map(u64::cast_signed);
        each!(i in [0, 4] => _mm256_setr_epi64x(x[i], x[i + 1], x[i + 2], x[i + 3]))
    }
    #[inline(always)]
    fn octets<const N: usize>(self, table: &[u64; N], [a, b, c, d, e, f, g, h]: [usize; 8]) -> Self::I {
        let (a, b) = (x86::octets(table, a, b), x86::octets(table, c, d));
        let (c, d) = (x86::octets(table, e, f), x86::octets(table, g, h));
        avx2! { [_mm256_set_m128i(b, a), _mm256_set_m128i(d, c)] }
    }
    #[inline(always)]
    fn quads<const N: usize>(self, table: &[u32; N], index: [usize; 16]) -> Self::I {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = index;
        let (a, b) = (x86::quads(table, [a, b, c, d]), x86::quads(table, [e, f, g, h]));
        let (c, d) = (x86::quads(table, [i, j, k, l]), x86::quads(table, [m, n, o, p]));
        avx2! { [_mm256_set_m128i(b, a), _mm256_set_m128i(d, c)] }
    }

    #[inline(always)]
    fn floats_f16(self, a: Self::I) -> [Self::F; 2] {
        avx2! {
            let low = _mm256_set1_epi32(0xffff);
            let low = _mm256_packus_epi32(_mm256_and_si256(a[0], low), _mm256_and_si256(a[1], low));
            let high = _mm256_packus_epi32(_mm256_srli_epi32::<16>(a[0]), _mm256_srli_epi32::<16>(a[1]));
            let low = _mm256_permute4x64_epi64::<0b11_01_10_00>(low);
            let high = _mm256_permute4x64_epi64::<0b11_01_10_00>(high);
            [[_mm256_cvtph_ps(_mm256_castsi256_si128(low)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(low))],
             [_mm256_cvtph_ps(_mm256_castsi256_si128(high)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(high))]]
        }
    }
    #[inline(always)]
    fn splat_f16(self, x: [u8; 2]) -> Self::F {
        avx2! { [_mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(x))); 2] }
    }
    #[inline(always)]
    fn quarter<const I: usize>(self, a: Self::F) -> Self::F {
        const { assert!(I < 4, "a register has four quarters") };
        let [a, b, c, d] = self.repeated(a[I / 2]);
        if I.is_multiple_of(2) { [a, b] } else { [c, d] }
    }

    #[inline(always)]
    fn load8(self, x: &[f32; 8]) -> Self::H {
        avx2! { _mm256_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store8(self, v: Self::H, out: &mut [f32; 8]) {
        avx2! { _mm256_storeu_ps(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn splat8(self, x: f32) -> Self::H {
        avx2! { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn mul8(self, a: Self::H, b: Self::H) -> Self::H {
        avx2! { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn fma8(self, a: Self::H, b: Self::H, c: Self::H) -> Self::H {
        avx2! { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn floats8_i8(self, x: u64) -> Self::H {
        avx2! { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(x.cast_signed()))) }
    }
    #[inline(always)]
    fn floats8_f16(self, x: [[u8; 2]; 8]) -> Self::H {
        avx2! { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn splat8_f16(self, x: [u8; 2]) -> Self::H {
        avx2! { _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(x))) }
    }
    #[inline(always)]
    fn half<const I: usize>(self, a: Self::H) -> Self::F {
        const { assert!(I < 2, "a register has two halves") };
        let [a, b, c, d] = self.repeated(a);
        if I == 0 { [a, b] } else { [c, d] }
    }
    #[inline(always)]
    fn widen8(self, a: Self::H) -> Self::F {
        [a, avx2! { _mm256_setzero_ps() }]
    }

    /// Products of small weights are added in 16 bits.
    #[inline(always)]
    fn dot_pair<L: Lanes>(self, w: [Self::I; 2], x: [Self::I; 2]) -> Self::I {
        if VNNI || L::BITS == 8 {
            let dot = if L::BITS < 8 { Self::dot_unsigned } else { Self::dot_signed };
            return dot(self, dot(self, self.splat_i32(0), w[0], x[0]), w[1], x[1]);
        }
        let (a, b) = (both!(_mm256_maddubs_epi16, w[0], x[0]), both!(_mm256_maddubs_epi16, w[1], x[1]));
        let (sums, ones) = (both!(_mm256_add_epi16, a, b), avx2! { [_mm256_set1_epi16(1); 2] });
        both!(_mm256_madd_epi16, sums, ones)
    }

    #[inline(always)]
    fn dot_panel<L: Lanes, const QUADS: usize, const MT: usize>(
        self,
        start: [Self::I; MT],
        w: &[[u8; STRIPE]; QUADS],
        x: &[[i32; MT]; QUADS],
    ) -> [Self::I; MT] {
        match VNNI {
            true => panel::vnni::<QUADS, MT>(start, w, x),
            false => gemm::dot_panel::<Self, L, QUADS, MT>(self, start, w, x),
        }
    }

    #[inline(always)]
    fn integer_tile<L: Lanes, const P: usize, const MT: usize>(
        self,
        panels: [&Integers; P],
        x: &[i32],
        coming: &mut Coming,
        c: [&mut [[f32; LANES]; MT]; P],
    ) {
        if VNNI {
            return gemm::integer_tile::<Self, L, P, MT>(self, panels, x, coming, c);
        }
        for (panel, c) in panels.into_iter().zip(c) {
            let c = c.as_mut_slice().try_into().expect("the one width of tiles");
            panel::tile::<L>(Avx2(()), panel, x, coming, c);
        }
    }

    #[inline(always)]
    fn dot_floats<B: FloatBlock, const R: usize, const T: usize>(
        self,
        w: [&[B]; R],
        x: [&[f32]; T],
        ahead: usize,
    ) -> [[f32; R]; T] {
        dots::dot(self, w, x, ahead)
    }

    #[inline(always)]
    fn float_panel<W: Words, const P: usize, const T: usize>(
        self,
        panels: [&[[u8; STRIPE]]; P],
        x: &[i32],
        c: [&mut [[f32; LANES]]; P],
    ) {
        for (panel, c) in panels.into_iter().zip(c) {
            match (W::COLS, T) {
                (1, 6) => avx2! { floats::six(panel, x, c) },
                (1, 5) => avx2! { floats::five(panel, x, c) },
                _ => ops::floats::panel::<Self, W, 1, T>(self, [panel], x, [c]),
            }
        }
    }

    #[inline(always)]
    fn add_shorts<const P: usize, const T: usize>(
        self,
        sums: &mut [[Self::F; T]; P],
        lines: [&[[u8; STRIPE]; LANES]; P],
        x: &[[i32; T]; SHORT_WORDS],
    ) {
        for (sums, lines) in sums.iter_mut().zip(lines) {
            shorts::add(self, sums, lines, x);
        }
    }

    // Two cores of an Emerald Rapids, 2048 x 2048, F16 and BF16 in turns with multiply-adds: with 20, 24, 28, 32, 64, 128 and 512
    // tokens 0.94, 0.93 to 0.99, 1.05 to 1.13, 1.11, 1.16 to 1.26, 1.26 to 1.30 and 1.27 to 1.34 times as fast; with AVX-VNNI 1.0,
    // 1.16, 1.24 to 1.5, 1.27, 1.48 to 1.61, 1.55 and 1.67. Two Zen 4 cores, AVX2, 2048 x 4096, with 28, 32, 64, 128 and 512 tokens F16
    // 0.94, 0.99, 1.36, 1.35 and 1.44, BF16 1.02, 1.10, 1.30, 1.37 and 1.39.
    const SHORTS_FROM: usize = if VNNI { 24 } else { 28 };

    // F16, one core, 4096 x 4096, in turns: with 32, 64 and 512 tokens panels take 1.19, 1.01 and 0.83 of the time.
    const PANELS_FROM: usize = 64;

    const NARROW_SUMS: bool = !VNNI;

    const SIGNED_ZERO: Option<u32> = if VNNI { Some(7) } else { None };

    const ASKS: bool = !VNNI;

    const ACROSS: bool = true;

    const REGISTERS: usize = 8;

    #[inline(always)]
    fn widen_i8(self, x: &[u8; LANES]) -> Self::I {
        let p = x.as_ptr();
        each!(p in [p, p.wrapping_add(8)] => _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())))
    }
}
