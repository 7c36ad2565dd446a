//! AMX: the bfloat16 matrix engine, one `tdpbf16ps` for 16 x 16 x 32 products, in prompts' [products](gemm) and
//! [attention]; and that of bytes, one `tdpbssd` for 16 x 16 x 64, in prompts of [a dozen tokens](bytes) and with weights
//! in [half precision](fixed).
//!
//! Tiles are state of the thread, by the system's permission, which is asked for once per process. A call
//! configures them, and a guard releases them when it returns or unwinds. Nothing else uses tiles, and
//! the compiler knows of none, so they survive from one `asm!` to the next.
//!
//! After each instruction that works on tiles come eight that do nothing. On an Emerald Rapids whose cores have another
//! guest on their other thread, which is most of the time, such an instruction takes at least 20 cycles, and 30 to 38 if the
//! next one follows at once: a product with its load takes 20 ns in place of 34, wherever its operands are. On a core of
//! its own it takes 8 to 9 either way. (Four in between: 24 ns, six 21, twelve and sixteen as eight. Instructions that
//! are of use do as well, but there are hardly enough, and those of an unpacked span in one place cost as little.)

use super::avx512::{AMX, Avx512};
use super::{LANES, Need, Simd};
use core::arch::asm;
use core::arch::x86_64::*;
use std::sync::OnceLock;

/// Rows that are multiplied at once: two tiles.
const ROWS: usize = 2 * LANES;

/// Tiles of bfloat16 and of bytes in the CPU, arithmetic in half precision, and a system that lets this process use them;
/// it is asked once.
pub(super) fn needs() -> [Need; 5] {
    static FOUND: OnceLock<[bool; 5]> = OnceLock::new();
    let [tiles, bf16, bytes, halves, system] = *FOUND.get_or_init(|| {
        const TILE_STATE: u32 = 0b11 << 17;
        if !is_x86_feature_detected!("xsave") || __cpuid(0).eax < 7 {
            return [false; 5];
        }
        let features = __cpuid_count(7, 0).edx;
        let [bf16, tiles, bytes, halves] = [22, 24, 25, 23].map(|bit| features >> bit & 1 == 1);
        let state: u32;
        // SAFETY: the CPU has XSAVE, enabled by the system, as was just checked; XCR0 is read.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") state, out("edx") _, options(nostack, nomem)) }
        let enabled = state & TILE_STATE == TILE_STATE;
        [tiles, bf16, bytes, halves, bf16 && tiles && bytes && halves && enabled && permitted()]
    });
    [
        Need { name: "amx-tile", found: tiles },
        Need { name: "amx-bf16", found: bf16 },
        Need { name: "amx-int8", found: bytes },
        Need { name: "avx512fp16", found: halves },
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

/// Eight tiles, until dropped.
struct Tiles(());

impl Tiles {
    /// Of sixteen rows of 64 bytes each.
    fn configure(s: Avx512<AMX>) -> Tiles {
        Tiles::new(s, [(16, 64); 8])
    }

    /// For products of `len` columns in bytes: C, A and B.
    fn of_bytes(s: Avx512<AMX>, len: usize) -> Tiles {
        let mut shapes = [(16, 64); 8];
        (shapes[1], shapes[2]) = ((16, len), (len / 4, 64));
        Tiles::new(s, shapes)
    }

    /// The rows of each, and their bytes.
    fn new(_proof: Avx512<AMX>, shapes: [(usize, usize); 8]) -> Tiles {
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
        for (i, (rows, bytes)) in shapes.into_iter().enumerate() {
            (config.rows[i], config.row_bytes[i]) = (rows as u8, bytes as u16);
        }
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

/// Eight instructions that do nothing, to follow one that works on tiles.
macro_rules! rest {
    () => {
        "nop\nnop\nnop\nnop\nnop\nnop\nnop\nnop"
    };
}

/// Two instructions that work on tiles, each followed by some that do nothing.
macro_rules! pair {
    ($a:ident, $b:ident, $first:literal, $second:literal) => {
        asm!("/* {a} {b} {s} */", $first, rest!(), $second, rest!(), a = in(reg) $a, b = in(reg) $b, s = in(reg) 64usize,
             options(nostack, readonly))
    };
}

/// Evaluates intrinsics, where an `Avx512`, of AMX for bfloat16, is the proof.
macro_rules! amx {
    ($($body:tt)*) => {
        // SAFETY: callers hold an `Avx512`; no memory is accessed but through its safe methods.
        unsafe { $($body)* }
    };
}

mod attention;
mod bytes;
mod fixed;
mod gemm;
mod unpacking;

pub(super) use attention::attend;
pub(super) use bytes::{TOKENS, gemm as gemm_bytes};
pub(super) use fixed::{gemm as gemm_f16, multiply as multiply_fixed};
pub(super) use gemm::{gemm_bf16, gemm_integer, multiply};

/// Transposes results, each sixteen rows by sixteen tokens.
#[inline(always)]
fn turn(s: Avx512<AMX>, out: &mut [[f32; LANES]]) {
    for tile in out.as_chunks_mut::<LANES>().0 {
        let mut lines = [s.splat(0.0); LANES];
        for (r, line) in lines.iter_mut().zip(tile.iter()) {
            *r = s.load(line);
        }
        for (t, line) in transposed(s, lines).into_iter().zip(tile) {
            s.store(t, line);
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
