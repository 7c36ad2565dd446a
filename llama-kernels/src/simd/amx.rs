//! AMX: the bfloat16 matrix engine, one `tdpbf16ps` for 16 x 16 x 32 products.
//!
//! Weights are the A operand: a tile row is 32 consecutive weights of one row, so that unpacking needs
//! no transposition. Activations are B, in [`Layout::Pairs`](crate::acts::Layout::Pairs), rounded once per
//! batch. There is no scaling per group: weights are unpacked to bfloat16 with their scale applied, in
//! one rounding of the exact value (where it is a product; a minimum's difference is rounded to `f32` first).
//!
//! ```text
//! for each block of 128 rows:                        (dealt out to workers by `cpu`)
//!   for each block of KC columns:                    (B's part stays in the second-level cache)
//!     for each panel of 32 rows: unpacked into 32 KiB, while the tiles work on the panel before
//!       for each 32 tokens: 2 x 2 tiles of C += A x B
//! transpose each tile of C, in registers, to [token][row]
//! ```
//!
//! BF16 weights are tiles as they lie in the file, so that only the activations are rounded. F32 and F16 stay
//! with the float engine: rounding such models to bfloat16 costs precision that their users chose to pay for.
//!
//! C lives in the output between blocks of columns and is reloaded as the initial accumulator, so that
//! the size of a block does not change a bit of the result.
//!
//! Tiles are state of the thread, by the system's permission, which is asked for once per process. A call
//! configures them, and a guard releases them when it returns or unwinds. Nothing else uses tiles, and
//! the compiler knows of none, so they survive from one `asm!` to the next.

use super::avx512::{AMX, Avx512};
use super::{LANES, Need, SPAN, STRIPE, Simd};
use crate::acts::{GROUP, PAIR_WORDS};
use crate::format::{Grouping, IntegerBlock, Lanes, Less, MOST_BLOCKS, Of, Subtrahend};
use crate::matrix::Matrix;
use crate::ops::gemm::Job;
use core::arch::asm;
use core::arch::x86_64::*;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Groups of 32 columns in a block: 512 columns of 512 tokens are 512 KiB of B.
const KC: usize = 16;
/// Rows of a panel.
const ROWS: usize = 2 * LANES;

/// Bfloat16 tiles in the CPU, and a system that lets this process use them; it is asked once.
pub(super) fn needs() -> [Need; 3] {
    static FOUND: OnceLock<[bool; 3]> = OnceLock::new();
    let [tiles, bf16, system] = *FOUND.get_or_init(|| {
        const TILE_STATE: u32 = 0b11 << 17;
        if !is_x86_feature_detected!("xsave") || __cpuid(0).eax < 7 {
            return [false; 3];
        }
        let features = __cpuid_count(7, 0).edx;
        let (bf16, tiles) = (features >> 22 & 1 == 1, features >> 24 & 1 == 1);
        let state: u32;
        // SAFETY: the CPU has XSAVE, enabled by the system, as was just checked; XCR0 is read.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") state, out("edx") _, options(nostack, nomem)) }
        let enabled = state & TILE_STATE == TILE_STATE;
        [tiles, bf16, bf16 && tiles && enabled && permitted()]
    });
    [
        Need { name: "amx-tile", found: tiles },
        Need { name: "amx-bf16", found: bf16 },
        Need { name: "the system's permission to use tiles", found: system },
    ]
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

/// Evaluates intrinsics, where an `Avx512`, of AMX for bfloat16, is the proof.
macro_rules! amx {
    ($($body:tt)*) => {
        // SAFETY: callers hold an `Avx512`; no memory is accessed but through its safe methods.
        unsafe { $($body)* }
    };
}

/// Weights that become lines of bfloat16 panels.
trait Source {
    /// Unpacks the `at`th span of a row: line `i` of the panel's row gets 32 columns of it. Columns beyond
    /// the row's end are zero.
    fn unpack(s: Avx512<AMX>, row: &[u8], at: usize, lines: &mut [[u8; STRIPE]]);
}

/// Blocks of an integer format.
struct Integers<B>(PhantomData<B>);

impl<B: IntegerBlock> Source for Integers<B> {
    #[inline(always)]
    fn unpack(s: Avx512<AMX>, row: &[u8], at: usize, lines: &mut [[u8; STRIPE]]) {
        unpack::<B>(s, row, at, lines);
    }
}

/// Numbers that are bfloat16 already.
struct Pairs;

impl Source for Pairs {
    #[inline(always)]
    fn unpack(_: Avx512<AMX>, row: &[u8], at: usize, lines: &mut [[u8; STRIPE]]) {
        let span = &row[at * 2 * SPAN..];
        for i in 0..SPAN / GROUP {
            let rest = span.get(i * STRIPE..).unwrap_or(&[]);
            let line = &mut lines[i * ROWS];
            match rest.first_chunk() {
                Some(whole) => *line = *whole,
                None => {
                    *line = [0; STRIPE];
                    line[..rest.len()].copy_from_slice(rest);
                }
            }
        }
    }
}

/// [`Source::unpack`] of integers.
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
    let (mut scale, mut min) = ([0.0; LANES], [0.0; LANES]);
    Of::<B>::each16(s, w.scale, &mut scale);
    let scale = s.load(&scale);
    // value = scale * q + offset, in one multiply-add
    let zero = Less::<B>::ZERO.map_or(0.0, |zero| (1u32 << zero) as f32);
    let mut offset = s.mul(scale, s.splat(-zero));
    if Less::<B>::MINS {
        Of::<B>::each16(s, w.min, &mut min);
        offset = s.sub(offset, s.load(&min));
    }
    for pair in 0..SPAN / STRIPE / 2 {
        let [a, b] = B::unpack(s, span, pair);
        let stripes = if Of::<B>::LEN == 32 { row_order(s, a, b) } else { [a, b] };
        for (i, q) in stripes.into_iter().enumerate() {
            for half in 0..2 {
                let group = 4 * pair + 2 * i + half;
                let pairs = if <B::Lanes as Lanes>::BITS <= 4 && Of::<B>::LEN == 32 {
                    by_table(q, scale, offset, group)
                } else {
                    by_product::<B>(q, scale, offset, group)
                };
                s.store_bytes(pairs, &mut lines[group * ROWS]);
            }
        }
    }
}

/// Undoes [`Simd::regroup`].
#[inline(always)]
fn row_order<const LEVEL: u32>(_proof: Avx512<LEVEL>, a: __m512i, b: __m512i) -> [__m512i; 2] {
    amx! {
        let first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
        let second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        [_mm512_permutex2var_epi64(a, first, b), _mm512_permutex2var_epi64(a, second, b)]
    }
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
    fn step<W: Source>(&mut self, s: Avx512<AMX>, lines: &mut [[u8; STRIPE]]) {
        let (row, span) = (self.done / self.spans, self.done % self.spans);
        let bytes = self.w.rows_bytes(self.first + row..self.first + row + 1);
        let line = span * (SPAN / GROUP) * ROWS + row;
        W::unpack(s, bytes, self.start + span, &mut lines[line..]);
        self.done += 1;
    }
}

/// The bfloat16 engine for integer formats.
#[inline(always)]
pub(super) fn gemm_integer<B: IntegerBlock>(s: Avx512<AMX>, job: Job<'_>) {
    gemm::<Integers<B>>(s, job);
}

/// The bfloat16 engine for matrices of bfloat16 numbers.
#[inline(always)]
pub(super) fn gemm_bf16(s: Avx512<AMX>, job: Job<'_>) {
    gemm::<Pairs>(s, job);
}

#[inline(always)]
fn gemm<W: Source>(s: Avx512<AMX>, job: Job<'_>) {
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
            coming.step::<W>(s, now);
        }
        for first in rows.clone().step_by(ROWS) {
            let mut coming = unpacking(first + ROWS);
            let panel = Block { a: now, start, n, upper: first + LANES < rows.end };
            let c = &mut out[(first - rows.start) / LANES * padded..];
            let (mut debt, work, steps) = (0, coming.left(), padded / ROWS * n);
            for tile in 0..padded / ROWS {
                let wide = tokens > tile * ROWS + LANES;
                let b = &acts.pairs(tile)[start * PAIR_WORDS..][..n * PAIR_WORDS];
                panel.load(c, tile, padded, wide);
                for step in 0..n {
                    panel.multiply(b, step, wide);
                    debt += work; // the next panel is unpacked evenly in the shadow of the products
                    while debt >= steps && coming.left() > 0 {
                        debt -= steps;
                        coming.step::<W>(s, next);
                    }
                }
                panel.store(c, tile, padded, wide);
            }
            while coming.left() > 0 {
                coming.step::<W>(s, next);
            }
            std::mem::swap(&mut now, &mut next);
        }
    }
    drop(tiles);
    let panels = rows.len().div_ceil(LANES);
    for tile in out[..panels * padded].as_chunks_mut::<LANES>().0 {
        let mut lines = [s.splat(0.0); LANES];
        for (r, line) in lines.iter_mut().zip(tile.iter()) {
            *r = s.load(line);
        }
        for (t, line) in transposed(s, lines).into_iter().zip(tile) {
            s.store(t, line);
        }
    }
}

/// Products of tiles that stay in the first-level cache, as [`Simd::multiply_tiles`] describes them.
#[inline(always)]
pub(super) fn multiply(s: Avx512<AMX>, rounds: usize) -> usize {
    /// Groups of 32 columns: 16 KiB of each operand.
    const GROUPS: usize = 8;
    /// Times that they go through the tiles before C is stored.
    const REPEATS: usize = 16;
    let (a, b) = (vec![[0; STRIPE]; GROUPS * ROWS], vec![0; GROUPS * PAIR_WORDS]);
    let mut c = vec![[0.0; LANES]; 2 * ROWS];
    let panel = Block { a: &a, start: 0, n: GROUPS, upper: true };
    let tiles = Tiles::configure(s);
    for _ in 0..rounds {
        panel.load(&mut c, 0, ROWS, true);
        for step in 0..REPEATS * GROUPS {
            panel.multiply(&b, step % GROUPS, true);
        }
        panel.store(&mut c, 0, ROWS, true);
    }
    drop(tiles);
    REPEATS * GROUPS * ROWS * ROWS * GROUP
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

/// Sixteen lines of sixteen floats (or any words), transposed.
#[inline(always)]
pub(super) fn transposed<const LEVEL: u32>(_proof: Avx512<LEVEL>, mut r: [__m512; LANES]) -> [__m512; LANES] {
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
    t
}
