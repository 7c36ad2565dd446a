//! AMX: the bfloat16 matrix engine, one `tdpbf16ps` for 16 x 16 x 32 products.
//!
//! Weights are the A operand: a tile row is 32 consecutive weights of one row, so that unpacking needs
//! no transposition. Activations are B, in [`Layout::Pairs`](crate::acts::Layout::Pairs), rounded once per
//! batch. There is no scaling per group: weights are unpacked to bfloat16 with their scale applied, in
//! one rounding of the exact value.
//!
//! ```text
//! for each block of 128 rows:                        (dealt out to workers by `cpu`)
//!   for each block of KC columns:                    (B's part stays in the second-level cache)
//!     for each panel of 32 rows: unpacked into 32 KiB, while the tiles work on the panel before
//!       for each 32 tokens: 2 x 2 tiles of C += A x B
//! transpose each tile of C, in registers, to [token][row]
//! ```
//!
//! F32, F16 and BF16 stay with the float engine: rounding the activations of such models to bfloat16 costs
//! precision that their users chose to pay for.
//!
//! C lives in the output between blocks of columns and is reloaded as the initial accumulator, so that
//! the size of a block does not change a bit of the result.
//!
//! Tiles are state of the thread, by the system's permission, which is asked for once per process. A call
//! configures them, and a guard releases them when it returns or unwinds. Nothing else uses tiles, and
//! the compiler knows of none, so they survive from one `asm!` to the next.

use super::avx512::{AMX, Avx512};
use super::{LANES, SPAN, STRIPE, Simd};
use crate::acts::{GROUP, PAIR_WORDS};
use crate::format::{IntegerBlock, Lanes, MOST_BLOCKS};
use crate::matrix::Matrix;
use crate::ops::gemm::Job;
use core::arch::asm;
use core::arch::x86_64::*;
use std::sync::OnceLock;

/// Groups of 32 columns in a block: 512 columns of 512 tokens are 512 KiB of B.
const KC: usize = 16;
/// Rows of a panel.
const ROWS: usize = 2 * LANES;

/// Whether the CPU has bfloat16 tiles and the system lets this process use them.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        const TILE_STATE: u32 = 0b11 << 17;
        if !is_x86_feature_detected!("xsave") || __cpuid(0).eax < 7 {
            return false;
        }
        let features = __cpuid_count(7, 0).edx;
        let (bf16, tiles) = (features >> 22 & 1 == 1, features >> 24 & 1 == 1);
        let state: u32;
        // SAFETY: the CPU has XSAVE, enabled by the system, as was just checked; XCR0 is read.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") state, out("edx") _, options(nostack, nomem)) }
        let enabled = state & TILE_STATE == TILE_STATE;
        bf16 && tiles && enabled && permitted()
    })
}

/// Asks Linux for the use of the tiles' state; false if it refuses, as when signal stacks are too small.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the call reads no memory; the registers that a system call overwrites are declared.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM,
             in("rsi") XTILEDATA, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

/// Other systems have no such call here.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Eight tiles of 16 rows of 64 bytes, until dropped.
struct Tiles(());

impl Tiles {
    fn configure(_proof: Avx512<AMX>) -> Tiles {
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut config =
            Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.row_bytes[..8].fill(64);
        config.rows[..8].fill(16);
        // SAFETY: the proof says that the CPU has tiles and the process may use them; `config` is the 64
        // bytes that the instruction reads.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) }
        Tiles(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the tiles were configured by this thread.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

/// Unpacks the `at`th span of a row: line `i` of the panel's row gets 32 columns of it. Columns beyond the
/// row's end are zero.
#[inline(always)]
fn unpack<B: IntegerBlock>(s: Avx512<AMX>, row: &[u8], at: usize, lines: &mut [[u8; STRIPE]]) {
    let n = SPAN / B::LEN;
    let rest = &B::cast(row)[at * n..];
    let mut padded = [B::zeroed(); MOST_BLOCKS];
    let span = match rest.get(..n) {
        Some(span) => span,
        None => {
            padded[..rest.len()].copy_from_slice(rest);
            &padded[..n]
        }
    };
    let w = B::scales(s, span);
    // value = scale * q + offset, exactly as far as one rounding allows
    let zero = B::ZERO.map_or(0.0, |zero| (1u32 << zero) as f32);
    let mut offset = s.mul(w.scale, s.splat(-zero));
    if <B::Lanes as Lanes>::MINS {
        offset = s.sub(offset, w.min);
    }
    for i in 0..SPAN / STRIPE {
        let q = B::unpack(s, span, i);
        for half in 0..2 {
            let pairs = if <B::Lanes as Lanes>::BITS <= 4 && !<B::Lanes as Lanes>::HALVES {
                by_table(q, w.scale, offset, 2 * i + half)
            } else {
                by_product::<B>(q, w.scale, offset, 2 * i + half)
            };
            s.store_bytes(pairs, &mut lines[(2 * i + half) * ROWS]);
        }
    }
}

/// Evaluates intrinsics, where an `Avx512<AMX>` is the proof.
macro_rules! amx {
    ($($body:tt)*) => {
        // SAFETY: callers hold an `Avx512<AMX>`; no memory is accessed but through its safe methods.
        unsafe { $($body)* }
    };
}

/// A group of nibbles: a table of the sixteen values, rounded once, and a permutation.
#[inline(always)]
fn by_table(q: __m512i, scale: __m512, offset: __m512, group: usize) -> __m512i {
    amx! {
        let lane = _mm512_set1_epi32(2 * group as i32);
        let scale = _mm512_permutexvar_ps(lane, scale);
        let offset = _mm512_permutexvar_ps(lane, offset);
        let index = _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.);
        let table = _mm512_cvtneps_pbh(_mm512_fmadd_ps(index, scale, offset));
        let table = _mm512_castsi256_si512(std::mem::transmute::<__m256bh, __m256i>(table));
        let q = if group.is_multiple_of(2) { _mm512_castsi512_si256(q) } else { _mm512_extracti64x4_epi64::<1>(q) };
        _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(q), table)
    }
}

/// A group of any integers.
#[inline(always)]
fn by_product<B: IntegerBlock>(q: __m512i, scale: __m512, offset: __m512, group: usize) -> __m512i {
    amx! {
        let q = if group.is_multiple_of(2) { _mm512_castsi512_si256(q) } else { _mm512_extracti64x4_epi64::<1>(q) };
        let mut floats = [_mm512_setzero_ps(); 2];
        for (i, floats) in floats.iter_mut().enumerate() {
            let q = if i == 0 { _mm256_castsi256_si128(q) } else { _mm256_extracti128_si256::<1>(q) };
            let q = if <B::Lanes as Lanes>::BITS < 8 { _mm512_cvtepu8_epi32(q) } else { _mm512_cvtepi8_epi32(q) };
            let lane = _mm512_set1_epi32((2 * group + i) as i32);
            let scale = _mm512_permutexvar_ps(lane, scale);
            let offset = _mm512_permutexvar_ps(lane, offset);
            *floats = _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), scale, offset);
        }
        std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(floats[1], floats[0]))
    }
}

/// The rows of a panel that are to be unpacked, a span at a time.
struct Unpacking<'a> {
    w: Matrix<'a>,
    first: usize,
    rows: usize,
    /// Spans of the block of columns: where it starts, and how many.
    start: usize,
    spans: usize,
    done: usize,
}

impl Unpacking<'_> {
    fn left(&self) -> usize {
        self.rows * self.spans - self.done
    }

    /// Unpacks one more span into `lines`, the panel.
    #[inline(always)]
    fn step<B: IntegerBlock>(&mut self, s: Avx512<AMX>, lines: &mut [[u8; STRIPE]]) {
        let (row, span) = (self.done / self.spans, self.done % self.spans);
        let bytes = self.w.rows_bytes(self.first + row..self.first + row + 1);
        let line = span * (SPAN / GROUP) * ROWS + row;
        unpack::<B>(s, bytes, self.start + span, &mut lines[line..]);
        self.done += 1;
    }
}

/// The bfloat16 engine.
#[inline(always)]
pub(super) fn gemm<B: IntegerBlock>(s: Avx512<AMX>, job: Job<'_>) {
    let Job { w, rows, acts, out, panel, .. } = job;
    let (k, tokens) = (acts.cols, acts.tokens);
    assert_eq!(w.cols(), k, "columns of the matrix, features of the activations");
    let groups = k.div_ceil(STRIPE) * (STRIPE / GROUP);
    let padded = tokens.next_multiple_of(2 * LANES);
    assert!(out.len() >= rows.len().div_ceil(LANES) * padded, "room for every tile of the result");
    let [now, next] = &mut panel.pairs;
    let (mut now, mut next) = (&mut now[..], &mut next[..]);
    let tiles = Tiles::configure(s);
    for start in (0..groups).step_by(KC) {
        let n = KC.min(groups - start);
        let unpacking = |first: usize| Unpacking {
            w,
            first,
            rows: ROWS.min(rows.end.saturating_sub(first)),
            start: start * GROUP / SPAN,
            spans: (n * GROUP).div_ceil(SPAN),
            done: 0,
        };
        let mut coming = unpacking(rows.start);
        while coming.left() > 0 {
            coming.step::<B>(s, now);
        }
        for first in rows.clone().step_by(ROWS) {
            let mut coming = unpacking(first + ROWS);
            let panel = Block { a: now, start, n, upper: first + LANES < rows.end };
            let c = &mut out[(first - rows.start) / LANES * padded..];
            let (mut debt, work, steps) = (0, coming.left(), padded / ROWS * n);
            for tile in 0..padded / ROWS {
                let wide = tokens > tile * ROWS + LANES;
                let b = &acts.tile(tile)[start * PAIR_WORDS..][..n * PAIR_WORDS];
                panel.load(c, tile, padded, wide);
                for step in 0..n {
                    panel.multiply(b, step, wide);
                    debt += work; // the next panel is unpacked evenly in the shadow of the products
                    while debt >= steps && coming.left() > 0 {
                        debt -= steps;
                        coming.step::<B>(s, next);
                    }
                }
                panel.store(c, tile, padded, wide);
            }
            while coming.left() > 0 {
                coming.step::<B>(s, next);
            }
            std::mem::swap(&mut now, &mut next);
        }
    }
    drop(tiles);
    let panels = rows.len().div_ceil(LANES);
    for tile in out[..panels * padded].as_chunks_mut::<LANES>().0 {
        transpose(s, tile);
    }
}

/// A panel of A for one block of columns.
struct Block<'a> {
    a: &'a [[u8; STRIPE]],
    start: usize,
    n: usize,
    /// Whether there are more than sixteen rows.
    upper: bool,
}

impl Block<'_> {
    /// The four tiles of C for 32 tokens: rows 0..16 and 16..32, each for tokens 0..16 and 16..32.
    #[inline(always)]
    fn c(&self, c: &mut [[f32; LANES]], tile: usize, padded: usize) -> [*mut f32; 2] {
        let upper = if self.upper { padded } else { 0 };
        assert!(c.len() >= upper + (tile + 1) * ROWS, "room for the tiles of C");
        let base = c.as_mut_ptr().cast::<f32>().wrapping_add(tile * ROWS * LANES);
        let [low, high] = [base, base.wrapping_add(upper * LANES)];
        [low, high]
    }

    #[inline(always)]
    fn load(&self, c: &mut [[f32; LANES]], tile: usize, padded: usize, wide: bool) {
        let [low, high] = self.c(c, tile, padded);
        // SAFETY: `c` checked that 32 lines of 64 bytes lie at both pointers; the tiles are configured.
        unsafe {
            if self.start == 0 {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    options(nostack, nomem)
                );
                return;
            }
            asm!("tileloadd tmm0, [{c} + {s}]", "tileloadd tmm2, [{d} + {s}]",
                 c = in(reg) low, d = in(reg) high, s = in(reg) 64usize, options(nostack, readonly));
            if wide {
                asm!("tileloadd tmm1, [{c} + {s} + 1024]", "tileloadd tmm3, [{d} + {s} + 1024]",
                     c = in(reg) low, d = in(reg) high, s = in(reg) 64usize, options(nostack, readonly));
            }
        }
    }

    #[inline(always)]
    fn multiply(&self, b: &[i32], step: usize, wide: bool) {
        let a = self.a[step * ROWS..][..ROWS].as_ptr();
        let b = b[step * PAIR_WORDS..][..PAIR_WORDS].as_ptr();
        // SAFETY: both slices were checked to hold two tiles, 2 KiB; the tiles are configured.
        unsafe {
            if wide {
                asm!("tileloadd tmm6, [{b} + {s}]", "tileloadd tmm4, [{a} + {s}]",
                     "tileloadd tmm7, [{b} + {s} + 1024]", "tdpbf16ps tmm0, tmm4, tmm6",
                     "tileloadd tmm5, [{a} + {s} + 1024]", "tdpbf16ps tmm1, tmm4, tmm7",
                     "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                     a = in(reg) a, b = in(reg) b, s = in(reg) 64usize, options(nostack, readonly));
            } else {
                asm!("tileloadd tmm6, [{b} + {s}]", "tileloadd tmm4, [{a} + {s}]", "tdpbf16ps tmm0, tmm4, tmm6",
                     "tileloadd tmm5, [{a} + {s} + 1024]", "tdpbf16ps tmm2, tmm5, tmm6",
                     a = in(reg) a, b = in(reg) b, s = in(reg) 64usize, options(nostack, readonly));
            }
        }
    }

    #[inline(always)]
    fn store(&self, c: &mut [[f32; LANES]], tile: usize, padded: usize, wide: bool) {
        let [low, high] = self.c(c, tile, padded);
        debug_assert!(self.n > 0);
        // SAFETY: as in `load`. Without upper rows both pointers are equal, and the lower tiles are
        // stored last.
        unsafe {
            asm!("tilestored [{d} + {s}], tmm2", "tilestored [{c} + {s}], tmm0",
                 c = in(reg) low, d = in(reg) high, s = in(reg) 64usize, options(nostack));
            if wide {
                asm!("tilestored [{d} + {s} + 1024], tmm3", "tilestored [{c} + {s} + 1024], tmm1",
                     c = in(reg) low, d = in(reg) high, s = in(reg) 64usize, options(nostack));
            }
        }
    }
}

/// Transposes sixteen lines of sixteen floats.
#[inline(always)]
fn transpose(s: Avx512<AMX>, tile: &mut [[f32; LANES]; LANES]) {
    let mut r = [s.splat(0.0); LANES];
    for (r, line) in r.iter_mut().zip(tile.iter()) {
        *r = s.load(line);
    }
    let mut t = r;
    amx! {
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        for i in 0..4 {
            for j in 0..2 {
                let (a, b) = (_mm512_castps_pd(t[4 * i + j]), _mm512_castps_pd(t[4 * i + j + 2]));
                r[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                r[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
        }
        // r[4 i + j] holds in its quarter b column 4 b + j of rows 4 i ..
        for j in 0..4 {
            let even = [
                _mm512_shuffle_f32x4::<0x88>(r[j], r[4 + j]),
                _mm512_shuffle_f32x4::<0x88>(r[8 + j], r[12 + j]),
            ];
            let odd = [
                _mm512_shuffle_f32x4::<0xdd>(r[j], r[4 + j]),
                _mm512_shuffle_f32x4::<0xdd>(r[8 + j], r[12 + j]),
            ];
            t[j] = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
            t[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
            t[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]);
            t[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]);
        }
    }
    for (t, line) in t.iter().zip(tile) {
        s.store(*t, line);
    }
}
