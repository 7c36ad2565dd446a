//! What takes fields of structures, or lanes, from several places into one register.

use super::{AMX, Avx512};
use crate::format::SixBitHead;
use crate::simd::{LANES, STRIPE, Simd};
use core::arch::x86_64::*;

/// Of each half of eight structures of `STRIDE` bytes, side by side, where two registers begin that hold their last sixteen bytes
/// in whole double words, and which those are of both.
const fn double_words<const STRIDE: usize>() -> ([[usize; 2]; 2], [[u32; LANES]; 2]) {
    assert!(STRIDE.is_multiple_of(2) && STRIDE >= 16 && STRIDE <= 24, "two structures within a register");
    let (mut at, mut index, mut half) = ([[0; 2]; 2], [[0; LANES]; 2], 0);
    while half < 2 {
        let first = (4 * half + 1) * STRIDE - 16;
        let second = if half == 0 { first + STRIDE } else { 8 * STRIDE - STRIPE };
        at[half] = [first, second];
        let mut i = 0;
        while i < LANES {
            let byte = first + i / 4 * STRIDE + i % 4 * 4;
            index[half][i] = match i / 4 % 2 {
                0 => (byte - first) / 4,
                _ => LANES + (byte - second) / 4,
            } as u32;
            i += 1;
        }
        half += 1;
    }
    (at, index)
}

/// [`Simd::sums`]: four registers by nine shuffles and five additions, instead of four and four for each.
#[inline(always)]
pub(super) fn sums<const LEVEL: u32, const R: usize>(s: Avx512<LEVEL>, v: [__m512; R]) -> [f32; R] {
    let mut out = [0.0; R];
    if R != 4 {
        for (out, v) in out.iter_mut().zip(v) {
            *out = s.sum(v);
        }
        return out;
    }
    let [a, b, c, d] = [v[0], v[1 % R], v[2 % R], v[3 % R]];
    avx512! {
        // Halves onto halves, two registers in one; quarters onto quarters, four in one; and so on.
        let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
        let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
        let v = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
        let v = _mm512_add_ps(v, _mm512_permute_ps::<0b11_10_11_10>(v));
        let v = _mm512_add_ps(v, _mm512_movehdup_ps(v));
        let first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        let mut four = [0.0; 4];
        _mm_storeu_ps(four.as_mut_ptr(), _mm512_castps512_ps128(_mm512_permutexvar_ps(first, v)));
        out.copy_from_slice(&four);
    }
    out
}

/// [`Simd::strided`]: one permutation of words of two of the three registers that hold the eight structures. They are the same for
/// both halves, and for the scales: loads of 64 bytes cross a line each, and their number is what counts. On Intel,
/// where a permutation of words of two registers is three instructions, one of double words: the first and third of the
/// structures, and the others, lie at whole double words from where a register is loaded.
#[inline(always)]
pub(super) fn strided<const LEVEL: u32, const STRIDE: usize>(
    s: Avx512<LEVEL>,
    x: &[[u8; STRIDE]; 8],
    half: usize,
) -> __m512i {
    const { assert!(STRIDE.is_multiple_of(2), "whole words") };
    const { assert!(STRIDE > 16 && 8 * STRIDE <= 3 * STRIPE, "three registers") };
    let (at, index) = const {
        let at = [[0, STRIPE], [STRIPE, 8 * STRIDE - STRIPE]];
        let (mut index, mut i) = ([[0u16; 32]; 2], 0);
        while i < 64 {
            let [first, second] = at[i / 32];
            let byte = (i / 8 + 1) * STRIDE - 16 + i % 8 * 2;
            let word = if byte < first + STRIPE { (byte - first) / 2 } else { 32 + (byte - second) / 2 };
            index[i / 32][i % 32] = word as u16;
            i += 1;
        }
        (at, index)
    };
    let register = |at: usize| x.as_flattened()[at..].first_chunk().expect("a register");
    if LEVEL == AMX {
        let (at, index) = const { double_words::<STRIDE>() };
        let [first, second] = at[half];
        return avx512! {
            let index = _mm512_loadu_si512(index[half].as_ptr().cast());
            _mm512_permutex2var_epi32(s.load_bytes(register(first)), index, s.load_bytes(register(second)))
        };
    }
    let [first, second] = at[half];
    avx512! {
        let index = _mm512_loadu_si512(index[half].as_ptr().cast());
        _mm512_permutex2var_epi16(s.load_bytes(register(first)), index, s.load_bytes(register(second)))
    }
}

/// [`Simd::fours`]: four rows in each register, one a quarter, whose words are transposed within the quarters.
#[inline(always)]
pub(super) fn fours<const LEVEL: u32, const N: usize>(
    s: Avx512<LEVEL>,
    rows: &[&[u8; N]; LANES],
    at: usize,
) -> [__m512i; 4] {
    assert!(at + 16 <= N, "sixteen bytes from {at} on in {N}");
    let mut lines = [s.splat_i32(0); 4];
    for (i, line) in lines.iter_mut().enumerate() {
        // SAFETY: so many bytes are in each row.
        *line = unsafe {
            let quarter = |row: &[u8; N]| _mm_loadu_si128(row.as_ptr().add(at).cast());
            let line = _mm512_castsi128_si512(quarter(rows[i]));
            let line = _mm512_inserti32x4::<1>(line, quarter(rows[4 + i]));
            let line = _mm512_inserti32x4::<2>(line, quarter(rows[8 + i]));
            _mm512_inserti32x4::<3>(line, quarter(rows[12 + i]))
        };
    }
    let [a, b, c, d] = lines;
    avx512! {
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ef, gh) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        [_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd),
         _mm512_unpacklo_epi64(ef, gh), _mm512_unpackhi_epi64(ef, gh)]
    }
}

/// [`Simd::strided8_f16`]: one permutation of words, where two registers hold all: eight insertions cost a tenth of Q4_0's time.
#[inline(always)]
pub(super) fn strided8_f16<const LEVEL: u32, const STRIDE: usize>(
    s: Avx512<LEVEL>,
    x: &[[u8; STRIDE]; 8],
) -> __m256 {
    if !STRIDE.is_multiple_of(2) || 3 * STRIDE + 2 > STRIPE {
        return s.floats8_f16(std::array::from_fn(|i| [x[i][0], x[i][1]]));
    }
    let (second, index) = const {
        // The registers that `strided` reads, if they hold all.
        let second = if 7 * STRIDE + 2 <= 2 * STRIPE { STRIPE } else { 4 * STRIDE };
        let (mut index, mut i) = ([0u16; 32], 0);
        while i < 8 {
            let byte = i * STRIDE;
            index[i] = if i < 4 { byte / 2 } else { 32 + (byte - second) / 2 } as u16;
            i += 1;
        }
        (second, index)
    };
    let register = |at: usize| x.as_flattened()[at..].first_chunk().expect("a register");
    if LEVEL == AMX {
        let (first, last) = (register(0), register(4 * STRIDE));
        // Of one register each, the second one's into the upper half.
        return avx512! {
            let n = STRIDE as i16 / 2;
            let index = _mm512_castsi128_si512(_mm_setr_epi16(0, n, 2 * n, 3 * n, 0, n, 2 * n, 3 * n));
            let halves = _mm512_permutexvar_epi16(index, s.load_bytes(first));
            let halves = _mm512_mask_permutexvar_epi16(halves, 0xf0, index, s.load_bytes(last));
            _mm256_cvtph_ps(_mm512_castsi512_si128(halves))
        };
    }
    let (first, last) = (register(0), register(second));
    avx512! {
        let index = _mm512_loadu_si512(index.as_ptr().cast());
        let halves = _mm512_permutex2var_epi16(s.load_bytes(first), index, s.load_bytes(last));
        _mm256_cvtph_ps(_mm512_castsi512_si128(halves))
    }
}

/// [`Simd::six_bits`]: both at once, sixteen lanes.
#[inline(always)]
pub(super) fn six_bits<const LEVEL: u32>(_proof: Avx512<LEVEL>, head: &SixBitHead) -> [__m256; 2] {
    const LOW: i32 = 0x0f0f_0f0f;
    const BOTH: i32 = 0x3030_3030;
    avx512! {
        let words = _mm_loadu_si128(std::ptr::from_ref(head).cast());
        // Four scales, the other four, and the minimums likewise: from the first, third, second and third word.
        let low = _mm_srlv_epi32(_mm_shuffle_epi32::<0b11_10_11_01>(words), _mm_setr_epi32(0, 0, 0, 4));
        let high = _mm_srli_epi32::<2>(_mm_shuffle_epi32::<0b10_10_01_01>(words));
        let high = _mm_and_si128(high, _mm_setr_epi32(0, BOTH, 0, BOTH));
        let bytes = _mm_ternarylogic_epi32::<0xea>(low, _mm_setr_epi32(LOW | BOTH, LOW, LOW | BOTH, LOW), high);
        let factors = _mm512_castps128_ps512(_mm_cvtph_ps(words));
        let factors = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), factors);
        let all = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), factors);
        [_mm512_castps512_ps256(all), _mm512_extractf32x8_ps::<1>(all)]
    }
}
