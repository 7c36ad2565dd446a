//! Instruction sets: one file each, one vocabulary.
//!
//! Every kernel is written once, over logical registers of the same size on every machine:
//!
//! | type      | holds                                        | AVX-512 | AVX2  | NEON  |
//! |-----------|----------------------------------------------|---------|-------|-------|
//! | [`Simd::F`] | 16 floats                                  | 1 zmm   | 2 ymm | 4 q   |
//! | [`Simd::I`] | 64 bytes of integers: one stripe of weights| 1 zmm   | 2 ymm | 4 q   |
//!
//! A fixed logical width, rather than the width of a physical register, is what makes a format
//! one file: its `unpack` names lanes and bytes, never an ISA's width. The order of summation is
//! then the same everywhere too. A physical register less than 64 bytes wide costs nothing, since
//! a logical register is just an unrolled pair or quadruple.
//!
//! A value of a type that implements [`Simd`] is a proof: [`Simd::new`] returns it only on a CPU
//! that has every feature that [`Simd::run`] enables. Methods are `#[inline(always)]` and become
//! part of the function that `run` compiles with those features; calling them outside of `run` is
//! correct but slow.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod exp;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
mod plain;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use scalar::Scalar;

use crate::acts::Layout;
use crate::format::{FloatBlock, IntegerBlock, Lanes, SixBitHead};
use crate::ops::fixed_point::SHORT_WORDS;
use crate::ops::pack::{Coming, Integers};
use crate::ops::{attention, dots, floats, gemm, gemv, shorts};

/// Lanes of [`Simd::F`].
pub const LANES: usize = 16;

/// Weights in a stripe: the bytes of [`Simd::I`].
pub const STRIPE: usize = 64;

/// Weights in a span: four stripes, whose scales fill one register if there is one for each 16 weights.
pub const SPAN: usize = 4 * STRIPE;

/// What an instruction set needs, of the CPU or of the system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Need {
    /// A feature, by the name that Rust has for it, or a few words.
    pub name: &'static str,
    /// Whether it is there.
    pub found: bool,
}

/// The needs that are features, each found or not by the detection macro that comes first.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! needs {
    ($detected:ident: $($feature:tt),*) => {
        vec![$($crate::simd::Need { name: $feature, found: $detected!($feature) }),*]
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use needs;

/// Work to be done with some instruction set: a closure that is generic over it.
pub trait Kernel {
    /// What the work yields.
    type Out;
    /// Does the work. Mark the implementation `#[inline(always)]`.
    fn call<S: Simd>(self, s: S) -> Self::Out;
}

/// A token that proves that this CPU has an instruction set, and the operations it offers.
///
/// The operations come first; the kernels that an ISA may replace are the defaulted methods at the end.
///
/// # Safety
/// A value is obtainable only if the CPU supports every feature that [`run`](Self::run) enables.
pub unsafe trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen `f32` lanes.
    type F: Copy;
    /// Sixty-four bytes of integers: `i8`/`u8` lanes, or sixteen `i32` lanes.
    type I: Copy;
    /// Eight `f32` lanes: half a register, for what there is one of for each 32 weights of a span.
    type H: Copy;

    /// The name that `--isa` takes.
    const NAME: &'static str;

    /// What it is and where it is found, in one line.
    const SUMMARY: &'static str;

    /// Every feature that [`run`](Self::run) enables, and what else must be there.
    fn needs() -> Vec<Need>;

    /// The token, if nothing that it needs is missing.
    fn new() -> Option<Self>;

    /// Whether this is a good choice on this CPU, and not only a possible one.
    fn preferred(self) -> bool {
        true
    }

    /// Compiles `kernel` with the ISA's features and runs it: the one place where they are listed.
    fn run<K: Kernel>(self, kernel: K) -> K::Out;

    // Levels of an ISA share what a higher one has nothing to add to: it is compiled once, on the lowest.

    /// [`run`](Self::run) for kernels that call no products of bytes and do not round to bfloat16.
    fn run_floats<K: Kernel>(self, kernel: K) -> K::Out {
        self.run(kernel)
    }

    /// The same for products of floats with one token, which are as fast as memory.
    fn run_streams<K: Kernel>(self, kernel: K) -> K::Out {
        self.run_floats(kernel)
    }

    /// The same for products of integers with few tokens.
    fn run_rows<K: Kernel>(self, kernel: K) -> K::Out {
        self.run(kernel)
    }

    /// The same for products of integers with many tokens, prepared in this layout.
    fn run_tiles<K: Kernel>(self, _layout: Layout, kernel: K) -> K::Out {
        self.run(kernel)
    }

    /// The same for attention.
    fn run_attention<K: Kernel>(self, kernel: K) -> K::Out {
        self.run_floats(kernel)
    }

    /// Asks for the cache line at `p`, which need not be mapped.
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}

    /// Asks for a line that is soon written to, likewise.
    #[inline(always)]
    fn prefetch_to_write(self, _p: *const u8) {}

    // Sixteen floats.

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// Sixteen floats from memory.
    fn load(self, x: &[f32; LANES]) -> Self::F;
    /// Sixteen floats to memory.
    fn store(self, v: Self::F, out: &mut [f32; LANES]);
    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, in one rounding where the ISA has it.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger of each pair; `b` if either is no number.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller of each pair; `b` if either is no number.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// Absolute values.
    fn abs(self, a: Self::F) -> Self::F;
    /// The neighbours of each adjacent pair exchanged: lanes 1, 0, 3, 2, ...
    fn swap_pairs(self, a: Self::F) -> Self::F;
    /// The sum of the lanes: halves are added to halves.
    fn sum(self, a: Self::F) -> f32;
    /// The sum of each register's lanes, added as [`sum`](Self::sum) adds them.
    #[inline(always)]
    fn sums<const R: usize>(self, a: [Self::F; R]) -> [f32; R] {
        let mut out = [0.0; R];
        for (out, a) in out.iter_mut().zip(a) {
            *out = self.sum(a);
        }
        out
    }
    /// The largest lane.
    fn max_lane(self, a: Self::F) -> f32;
    /// Whether any lane of `a` is larger than that of `b`.
    fn any_above(self, a: Self::F, b: Self::F) -> bool;
    /// Sixteen half-precision numbers, little-endian.
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Self::F;
    /// Rounds to half precision, to nearest even.
    fn store_f16(self, v: Self::F, out: &mut [u8; 2 * LANES]);
    /// Sixteen bfloat16 numbers, little-endian.
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Self::F;

    /// Thirty-two floats rounded to bfloat16, to nearest even: `a`, then `b`. Subnormal numbers may become
    /// zeros, which is what the engines that multiply bfloat16 take them for.
    fn to_bf16(self, a: Self::F, b: Self::F) -> Self::I;

    /// `acc` plus, in each lane, the products of two bfloat16 numbers. Subnormal numbers may be taken for zeros.
    #[inline(always)]
    fn dot_bf16(self, acc: Self::F, a: Self::I, b: Self::I) -> Self::F {
        dots::pairs_by_floats(self, acc, a, b)
    }

    /// `acc` plus, in each lane, the products of two 16-bit integers.
    #[inline(always)]
    fn dot_shorts(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        plain::dot_shorts(self, acc, a, b)
    }

    /// Two registers of 32-bit integers that fit 16 bits, as such: `a`'s and `b`'s, in the ISA's own order.
    #[inline(always)]
    fn pack_shorts(self, a: Self::I, b: Self::I) -> Self::I {
        self.or(self.and(a, self.splat_i32(0xffff)), self.shl_i32(b, 16))
    }

    /// The larger ones of unsigned 16-bit lanes.
    #[inline(always)]
    fn max_shorts(self, a: Self::I, b: Self::I) -> Self::I {
        plain::max_shorts(self, a, b)
    }

    // Sixteen 32-bit integers.

    /// All sixteen `i32` lanes `x`.
    fn splat_i32(self, x: i32) -> Self::I;
    /// `a + b` in 32-bit lanes, wrapping.
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I;
    /// Each 32-bit lane shifted left by `count` (0..=31).
    fn shl_i32(self, a: Self::I, count: u32) -> Self::I;
    /// 32-bit lanes to floats.
    fn to_f32(self, a: Self::I) -> Self::F;
    /// Floats to 32-bit lanes, to nearest even. The lanes must be in the range of `i32`.
    fn to_i32(self, a: Self::F) -> Self::I;
    /// Sixteen integers from memory.
    fn load_i32(self, x: &[i32; LANES]) -> Self::I;
    /// Sixteen integers to memory.
    fn store_i32(self, v: Self::I, out: &mut [i32; LANES]);
    /// The floats with these bits.
    fn bit_cast(self, a: Self::I) -> Self::F;
    /// The bits of floats.
    fn to_bits(self, a: Self::F) -> Self::I;

    // Sixty-four bytes.

    /// A stripe from memory.
    fn load_bytes(self, x: &[u8; STRIPE]) -> Self::I;
    /// A stripe to memory.
    fn store_bytes(self, v: Self::I, out: &mut [u8; STRIPE]);
    /// All bytes `x`.
    fn splat_u8(self, x: u8) -> Self::I;
    /// Four quarters of a stripe.
    fn quarters(self, x: [&[u8; 16]; 4]) -> Self::I;
    /// The same from the last sixteen bytes of four structures: of the first or of the second four of eight that lie
    /// side by side, of `STRIDE` bytes each.
    #[inline(always)]
    fn strided<const STRIDE: usize>(self, x: &[[u8; STRIDE]; 8], half: usize) -> Self::I {
        let quarter = |i: usize| x[4 * half + i].last_chunk().expect("sixteen bytes");
        self.quarters([quarter(0), quarter(1), quarter(2), quarter(3)])
    }
    /// Sixteen lines of sixteen 32-bit words, transposed: word `4 * i + j` of all of them becomes line
    /// `i * stride + j`.
    #[inline(always)]
    fn transpose(self, lines: &[[u8; STRIPE]; LANES], out: &mut [[u8; STRIPE]], stride: usize) {
        plain::transpose(lines, out, stride)
    }
    /// Bytes `at..at + 16` of sixteen rows, four by four: the `i`th register holds the `i`th four of each row.
    #[inline(always)]
    fn fours<const N: usize>(self, rows: &[&[u8; N]; LANES], at: usize) -> [Self::I; 4] {
        plain::fours(self, rows, at)
    }
    /// Two stripes in the order of the row, regrouped: of each 32 bytes the first half, then the second ones.
    fn regroup(self, a: Self::I, b: Self::I) -> [Self::I; 2];
    /// The inverse.
    #[inline(always)]
    fn ungroup(self, a: Self::I, b: Self::I) -> [Self::I; 2] {
        plain::ungroup(self, a, b)
    }
    /// Of each sixteen bytes of both, the first halves, `N` bytes (4 or 8) of each in turns; and the second halves.
    #[inline(always)]
    fn zip<const N: usize>(self, a: Self::I, b: Self::I) -> [Self::I; 2] {
        plain::zip::<Self, N>(self, a, b)
    }
    /// The `I`th eight bytes of four rows: of rows 0, 2, 0, 2, 1, 3, 1, 3.
    #[inline(always)]
    fn eights<const I: usize>(self, rows: &[[u8; 32]; 4]) -> Self::I {
        let sixteen = |row: usize| &rows[row].as_chunks::<16>().0[I / 2];
        let (first, last) = ([0, 0, 1, 1].map(sixteen), [2, 2, 3, 3].map(sixteen));
        self.zip::<8>(self.quarters(first), self.quarters(last))[I % 2]
    }
    /// `x` added to those bytes of `a` where `b` has any of the bits of `c`.
    #[inline(always)]
    fn add_where(self, a: Self::I, b: Self::I, c: Self::I, x: u8) -> Self::I {
        plain::add_where(self, a, b, c, x)
    }
    /// Bitwise and.
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise or.
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise exclusive or.
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a - b` in bytes, wrapping.
    fn sub_u8(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a * b` in bytes, wrapping.
    fn mul_u8(self, a: Self::I, b: Self::I) -> Self::I;
    /// 16-bit lanes shifted right by `low` in the first half of the stripe, by `high` in the second (0..=7);
    /// bits cross from byte to byte within a lane, so a mask follows.
    fn shr_halves(self, a: Self::I, low: u32, high: u32) -> Self::I;
    /// The same for the four quarters of a stripe.
    fn shr_quarters(self, a: Self::I, counts: [u32; 4]) -> Self::I;
    /// Bits of each byte: shifted right by its quarter's count, or left if that is negative, and those of `mask` kept. None of
    /// them may come from another byte, nor from bits that the largest shift to the left would take out of theirs.
    #[inline(always)]
    fn bits(self, a: Self::I, shifts: [i32; 4], mask: u8) -> Self::I {
        plain::bits(self, a, shifts, mask)
    }
    /// Bytes of 255 where the bit is set, of 0 elsewhere; bit 0 is the first byte.
    fn mask(self, bits: u64) -> Self::I;
    /// Each byte of `index`, which is in 0..=15, replaced by that entry of the table.
    fn lookup(self, table: &[u8; 16], index: Self::I) -> Self::I;
    /// Two halves of a stripe.
    fn halves(self, a: &[u8; 32], b: &[u8; 32]) -> Self::I;
    /// Sixteen bytes and sixteen more in 16-bit lanes.
    #[inline(always)]
    fn widen_u8(self, x: [&[u8; 16]; 2]) -> Self::I {
        plain::widen_u8(self, x)
    }
    /// Rounds 64 floats to bytes, to nearest even. The lanes must be in -128..=127.
    fn to_i8(self, x: [Self::F; 4]) -> Self::I;
    /// `acc` plus, in each 32-bit lane, the sum of its four byte products. Bytes of `w` are in 0..=63.
    fn dot_unsigned(self, acc: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// The same with signed bytes in `w`, to which [`SIGNED_ZERO`](Self::SIGNED_ZERO) is added first.
    /// Bytes of `x` are in -127..=127.
    fn dot_signed(self, acc: Self::I, w: Self::I, x: Self::I) -> Self::I;

    /// In each 32-bit lane the sum of eight byte products, of lanes as a format has them: four of each pair of
    /// registers.
    #[inline(always)]
    fn dot_pair<L: Lanes>(self, w: [Self::I; 2], x: [Self::I; 2]) -> Self::I {
        let dot = if L::BITS < 8 { Self::dot_unsigned } else { Self::dot_signed };
        dot(self, dot(self, self.splat_i32(0), w[0], x[0]), w[1], x[1])
    }

    /// `acc` plus, in each 32-bit lane, the sum of sixteen byte products, of lanes as a format has them: four of each pair of
    /// registers.
    #[inline(always)]
    fn dot_span<L: Lanes>(self, acc: Self::I, w: [Self::I; 4], x: [Self::I; 4]) -> Self::I {
        gemv::dot_span::<Self, L>(self, acc, w, x)
    }

    /// Eight words of eight bytes.
    fn words(self, x: [u64; 8]) -> Self::I;
    /// Eight entries of a table of eight bytes each; `N` is a power of two, indices are taken modulo `N`.
    #[inline(always)]
    fn octets<const N: usize>(self, table: &[u64; N], index: [usize; 8]) -> Self::I {
        self.words(std::array::from_fn(|i| table[index[i] & (N - 1)]))
    }
    /// Sixteen entries of a table of four bytes each; `N` is a power of two, indices are taken modulo `N`.
    #[inline(always)]
    fn quads<const N: usize>(self, table: &[u32; N], index: [usize; 16]) -> Self::I {
        let entry = |i: usize| u64::from(table[index[i] & (N - 1)]);
        self.words(std::array::from_fn(|i| entry(2 * i) | entry(2 * i + 1) << 32))
    }

    // The scales of a span, a lane for each 16 weights.

    /// Sixteen signed bytes as floats.
    #[inline(always)]
    fn floats_i8(self, x: [u8; 16]) -> Self::F {
        self.to_f32(self.widen_i8(&x))
    }
    /// The half-precision numbers in the low halves of sixteen words, and in the high ones.
    #[inline(always)]
    fn floats_f16(self, a: Self::I) -> [Self::F; 2] {
        plain::floats_f16(self, a)
    }
    /// All lanes this half-precision number.
    fn splat_f16(self, x: [u8; 2]) -> Self::F;
    /// The lanes of quarter `I`, each four times: what a stripe's sums of four products are multiplied by.
    fn quarter<const I: usize>(self, a: Self::F) -> Self::F;
    /// The lanes as a square of four by four, its rows and columns exchanged: lanes 0, 4, 8, 12, 1, ...
    #[inline(always)]
    fn turn(self, a: Self::F) -> Self::F {
        plain::turn(self, a)
    }

    // The scales of a span, a lane for each 32 weights.

    /// Eight floats from memory.
    fn load8(self, x: &[f32; 8]) -> Self::H;
    /// Eight floats to memory.
    fn store8(self, v: Self::H, out: &mut [f32; 8]);
    /// All eight lanes `x`.
    fn splat8(self, x: f32) -> Self::H;
    /// `a * b` of eight lanes.
    fn mul8(self, a: Self::H, b: Self::H) -> Self::H;
    /// `a * b + c` of eight lanes, in one rounding where the ISA has it.
    fn fma8(self, a: Self::H, b: Self::H, c: Self::H) -> Self::H;
    /// Eight signed bytes as floats.
    fn floats8_i8(self, x: u64) -> Self::H;
    /// Eight half-precision numbers.
    fn floats8_f16(self, x: [[u8; 2]; 8]) -> Self::H;
    /// The half-precision numbers with which eight structures of `STRIDE` bytes, side by side, begin.
    #[inline(always)]
    fn strided8_f16<const STRIDE: usize>(self, x: &[[u8; STRIDE]; 8]) -> Self::H {
        self.floats8_f16(std::array::from_fn(|i| [x[i][0], x[i][1]]))
    }
    /// The scales and the minimums that a block of six-bit ones begins with.
    #[inline(always)]
    fn six_bits(self, head: &SixBitHead) -> [Self::H; 2] {
        let [scales, mins] = head.scales.bytes().map(|bytes| self.floats8_i8(bytes));
        [self.mul8(self.splat8_f16(head.d), scales), self.mul8(self.splat8_f16(head.dmin), mins)]
    }
    /// All eight lanes this half-precision number.
    fn splat8_f16(self, x: [u8; 2]) -> Self::H;
    /// The lanes of half `I`, each four times.
    fn half<const I: usize>(self, a: Self::H) -> Self::F;
    /// Each lane twice: lanes 0, 0, 4, 4, 1, 1, 5, 5, 2, 2, 6, 6, 3, 3, 7, 7.
    #[inline(always)]
    fn twice(self, a: Self::H) -> Self::F {
        plain::twice(self, a)
    }
    /// Eight lanes and eight zeros.
    fn widen8(self, a: Self::H) -> Self::F;

    // The parts of kernels that an ISA may do its own way.

    /// Brings an integer panel's lines, as many as whole stripes of columns have, into the order that
    /// [`dot_panel`](Self::dot_panel) reads; once a panel, before all its tokens.
    #[inline(always)]
    fn arrange_panel(self, _lines: &mut [[u8; STRIPE]]) {}

    /// `start` plus the dot products of `QUADS` x 4 weights of sixteen rows with the activations of `MT` tokens.
    ///
    /// `w[q]` holds four bytes of each of the sixteen rows, `x[q][t]` the same four columns of token `t`;
    /// `w` has been through [`arrange_panel`](Self::arrange_panel). Where [`SIGNED_ZERO`](Self::SIGNED_ZERO) says
    /// so, bytes of `w` are unsigned whatever the format has.
    #[inline(always)]
    fn dot_panel<L: Lanes, const QUADS: usize, const MT: usize>(
        self,
        start: [Self::I; MT],
        w: &[[u8; STRIPE]; QUADS],
        x: &[[i32; MT]; QUADS],
    ) -> [Self::I; MT] {
        gemm::dot_panel::<Self, L, QUADS, MT>(self, start, w, x)
    }

    /// The same for `P` panels at once.
    #[inline(always)]
    fn dot_panels<L: Lanes, const P: usize, const QUADS: usize, const MT: usize>(
        self,
        start: [[Self::I; MT]; P],
        w: [&[[u8; STRIPE]; QUADS]; P],
        x: &[[i32; MT]; QUADS],
    ) -> [[Self::I; MT]; P] {
        gemm::dot_panels::<Self, L, P, QUADS, MT>(self, start, w, x)
    }

    /// Adds to `c`, `[token][row]` of each, the products of `P` panels with a tile of `MT` tokens, whose words `x` lie as
    /// `crate::acts` has it. With each group of columns, a part of `coming` is asked for, where [`ASKS`](Self::ASKS)
    /// says so.
    #[inline(always)]
    fn integer_tile<L: Lanes, const P: usize, const MT: usize>(
        self,
        panels: [&Integers; P],
        x: &[i32],
        coming: &mut Coming,
        c: [&mut [[f32; LANES]; MT]; P],
    ) {
        gemm::integer_tile::<Self, L, P, MT>(self, panels, x, coming, c);
    }

    /// The products of rows with tokens, `[token][row]`; all slices are of the same length, whole registers.
    ///
    /// With every line of weights, the one `ahead` bytes further on is asked for.
    #[inline(always)]
    fn dot_floats<B: FloatBlock, const R: usize, const T: usize>(
        self,
        w: [&[B]; R],
        x: [&[f32]; T],
        ahead: usize,
    ) -> [[f32; R]; T] {
        dots::floats(self, w, x, ahead)
    }

    /// Adds to `c`, `[token][row]` of each, the products of `P` panels, a word (`ops::floats::Words`) of sixteen rows a line, with
    /// the words of `T` tokens, side by side in `x`. A sum's columns are added in their order.
    #[inline(always)]
    fn float_panel<W: floats::Words, const P: usize, const T: usize>(
        self,
        panels: [&[[u8; STRIPE]]; P],
        x: &[i32],
        c: [&mut [[f32; LANES]]; P],
    ) {
        floats::panel::<Self, W, P, T>(self, panels, x, c);
    }

    /// Adds to `sums` the products of a group of 32 columns of `P` panels with `T` tokens, in fixed point of 14 bits.
    #[inline(always)]
    fn add_shorts<const P: usize, const T: usize>(
        self,
        sums: &mut [[Self::F; T]; P],
        lines: [&[[u8; STRIPE]; LANES]; P],
        x: &[[i32; T]; SHORT_WORDS],
    ) {
        shorts::add(self, sums, lines, x);
    }

    /// How many tokens it takes for products of floats to go through panels.
    const PANELS_FROM: usize = usize::MAX;

    /// The same for weights of two bytes in fixed point.
    const SHORTS_FROM: usize = usize::MAX;

    /// The same for products of bfloat16 weights with activations rounded to it.
    const PAIR_PANELS_FROM: usize = usize::MAX;

    /// The power of two that [`dot_signed`](Self::dot_signed) adds to signed weights, where the ISA
    /// multiplies unsigned bytes only; the drivers take its share off again.
    const SIGNED_ZERO: Option<u32> = None;

    /// Whether [`integer_tile`](Self::integer_tile) asks for what comes.
    const ASKS: bool = false;

    /// Whether few tokens are multiplied by a span at once, [arranged](crate::format::Grouping::arrange), and not by one
    /// half of it after the other.
    const SPANS: bool = false;

    /// Whether panels of integers are unpacked [across](IntegerBlock::pack) sixteen rows, by the formats that can be, and
    /// not row by row.
    const ACROSS: bool = false;

    /// Whether [`integer_tile`](Self::integer_tile) adds products of small weights in 16 bits, two columns to a sum: what
    /// is to be subtracted for the zero point is so from the start, if it comes in two parts.
    const NARROW_SUMS: bool = false;

    /// How the engines of this ISA want a batch's activations: tiles of as many tokens as the registers hold.
    const LAYOUT: Layout;

    /// The same for a batch of this many tokens: narrower tiles where they leave less of the last one unused. `rounded` says
    /// that all matrices are floats that so many tokens are multiplied with in bfloat16.
    #[inline(always)]
    fn layout(_tokens: usize, _rounded: bool) -> Layout {
        Self::LAYOUT
    }

    /// Multiplies bytes that lie in the first-level cache, as the integer engine does, `rounds` times, and
    /// returns how many multiplications a round has.
    fn multiply_bytes(self, rounds: usize) -> usize;

    /// Multiplies matrix tiles that lie in the first-level cache `rounds` times, and returns how many
    /// multiplications a round has: none where the ISA has no tiles.
    #[inline(always)]
    fn multiply_tiles(self, _rounds: usize) -> usize {
        0
    }

    /// Multiplies pairs of bfloat16 in registers, as the engine of bfloat16 weights does, `rounds` times, and returns
    /// how many multiplications a round has: none where the ISA has no vectors of them, or tiles that are faster.
    #[inline(always)]
    fn multiply_pairs(self, _rounds: usize) -> usize {
        0
    }

    /// Multiplies numbers in fixed point, as the engine of weights of two bytes does, on operands in the first-level cache, `rounds`
    /// times, and returns how many multiplications a round has: none where the ISA has no such engine.
    #[inline(always)]
    fn multiply_fixed(self, _rounds: usize) -> usize {
        0
    }

    /// Whether products of bfloat16 weights with many tokens read the activations rounded to bfloat16.
    const BF16: bool = false;

    /// The engine for integer formats.
    fn gemm_integer<B: IntegerBlock>(self, job: gemm::Job<'_>);

    /// The engine for float formats.
    fn gemm_float<B: FloatBlock>(self, job: gemm::Job<'_>);

    /// How many tokens it takes for those of half-precision weights to be multiplied in fixed point.
    const FIXED_FROM: usize = usize::MAX;

    /// The engine for weights and activations in bfloat16, or of half precision in fixed point. Not called for formats that
    /// [`BF16`](Self::BF16) and [`FIXED_FROM`](Self::FIXED_FROM) do not speak of.
    #[inline(always)]
    fn gemm_pairs<B: FloatBlock>(self, _job: gemm::Job<'_>) {}

    // What attention asks for.

    /// Attention of many rows, whose sums need not be those of few to the bit.
    #[inline(always)]
    fn attend(self, job: attention::Attend<'_>) {
        attention::attend(self, job);
    }

    /// How many [`F`](Self::F) the registers hold.
    const REGISTERS: usize;

    /// Sixteen signed bytes as 32-bit lanes.
    fn widen_i8(self, x: &[u8; LANES]) -> Self::I;
}

#[cfg(test)]
mod tests;
