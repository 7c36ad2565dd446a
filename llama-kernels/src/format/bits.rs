//! Small fields spread to bytes, eight or sixteen at a time in the registers of a scalar unit; and
//! what formats of nibbles have in common.

use super::{Block, IntegerBlock};
use crate::ops::pack::{Sixteen, lanes};
use crate::simd::{LANES, STRIPE, Simd};

/// Eight nibbles, the low ones first, as eight bytes.
#[inline(always)]
pub(super) fn nibbles(x: u32) -> u64 {
    let x = u64::from(x);
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f
}

/// Eight fields of two bits as eight bytes.
#[inline(always)]
pub(super) fn twos(x: u16) -> u64 {
    let x = u64::from(x);
    let x = (x | x << 24) & 0x0000_00ff_0000_00ff;
    let x = (x | x << 12) & 0x000f_000f_000f_000f;
    (x | x << 6) & 0x0303_0303_0303_0303
}

/// The low twelve bits of each of four words as sixteen bytes of three.
#[inline(always)]
pub(super) fn threes(words: [[u8; 2]; 4]) -> [u8; 16] {
    let [a, b, c, d] = words.map(|word| u64::from(u16::from_le_bytes(word)));
    let spread = |x: u64| {
        let x = x & 0x0000_003f_0000_003f | (x & 0x0000_0fc0_0000_0fc0) << 10;
        x & 0x0007_0007_0007_0007 | (x & 0x0038_0038_0038_0038) << 5
    };
    bytes(spread(a | b << 32), spread(c | d << 32))
}

/// Sixteen nibbles `n`, each as `2 * n + 1`.
#[inline(always)]
pub(super) fn odd_nibbles(x: [[u8; 2]; 4]) -> [u8; 16] {
    let [[a, b], [c, d], [e, f], [g, h]] = x;
    let odd = |x: [u8; 4]| nibbles(u32::from_le_bytes(x)) << 1 | 0x0101_0101_0101_0101;
    bytes(odd([a, b, c, d]), odd([e, f, g, h]))
}

/// 32 less than each of eight bytes below 64, signed.
#[inline(always)]
pub(super) fn less_32(x: u64) -> u64 {
    // No byte carries: 96 are added to at most 63, and the highest bit is turned.
    (x + 0x6060_6060_6060_6060) ^ 0x8080_8080_8080_8080
}

/// Twenty-eight bits as four bytes of seven.
#[inline(always)]
pub(super) fn sevens(bits: u32) -> u32 {
    (bits & 0x7f) | (bits & 0x7f << 7) << 1 | (bits & 0x7f << 14) << 2 | (bits & 0x7f << 21) << 3
}

/// Seven sign bits as eight: the last one makes the number of minus signs even. For eight bytes at once.
#[inline(always)]
pub(super) fn even_signs(bits: u64) -> u64 {
    let mut parity = bits ^ bits >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    bits | (parity & 0x0101_0101_0101_0101) << 7
}

/// The low seven bits of four words as four bytes.
#[inline(always)]
pub(super) fn low_sevens(x: u64) -> u64 {
    let x = x & 0x007f_007f_007f_007f;
    let x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
    (x | x >> 16) & 0xffff_ffff
}

/// The halves of 32 bytes.
#[inline(always)]
pub(super) fn split(x: &[u8; 32]) -> [&[u8; 16]; 2] {
    let (halves, _) = x.as_chunks::<16>();
    [&halves[0], &halves[1]]
}

/// The bytes of a span's eight blocks of `N`.
#[inline(always)]
pub(super) fn eight<B: Block, const N: usize>(span: &[B]) -> &[[u8; N]; 8] {
    const { assert!(size_of::<B>() == N) };
    let (blocks, _) = B::bytes(span).as_chunks::<N>();
    blocks.try_into().expect("eight blocks")
}

/// The low nibbles, and the high ones.
#[inline(always)]
pub(super) fn nibble_halves<S: Simd>(s: S, x: S::I) -> [S::I; 2] {
    [s.and(x, s.splat_u8(15)), s.bits(x, [4; 4], 15)]
}

/// The nibbles of the last sixteen bytes of four blocks of 32 weights, in the order of the row.
#[inline(always)]
pub(super) fn nibbles_in_order<S: Simd, const N: usize>(
    s: S,
    blocks: &[[u8; N]; 8],
    pair: usize,
) -> [S::I; 2] {
    let q = |i: usize| blocks[4 * pair + i].last_chunk().expect("sixteen bytes");
    let mut stripes = [s.quarters([q(0), q(0), q(1), q(1)]), s.quarters([q(2), q(2), q(3), q(3)])];
    for stripe in &mut stripes {
        *stripe = s.bits(*stripe, [0, 4, 0, 4], 15);
    }
    stripes
}

/// The low nibbles, and the high ones, in 16-bit lanes.
#[inline(always)]
pub(super) fn nibbles_in_words<S: Simd>(s: S, q: &[u8; 16]) -> S::I {
    s.bits(s.widen_u8([q, q]), [0, 0, 4, 4], 15)
}

/// A span's nibbles [arranged](super::Grouping::arrange): two registers of packed ones, each the sixteen bytes of four blocks.
#[inline(always)]
pub(super) fn arranged_nibbles<S: Simd>(s: S, [first, last]: [S::I; 2]) -> [S::I; 4] {
    let [a, b] = s.zip::<8>(first, last);
    let ([a, c], [b, d]) = (nibble_halves(s, a), nibble_halves(s, b));
    [a, b, c, d]
}

/// The bytes of sixteen rows' spans.
#[inline(always)]
pub(super) fn spans<'a, B: Block, const N: usize>(rows: &[&'a [B]; LANES]) -> [&'a [u8; N]; LANES] {
    let mut out = [&[0; N]; LANES];
    for (out, row) in out.iter_mut().zip(rows) {
        *out = B::bytes(row).try_into().expect("a span");
    }
    out
}

/// Sixteen rows of blocks of 32 weights into a panel: the low nibbles of a block's last sixteen bytes, then the high
/// ones, or what a table has for them. `N` bytes are a span.
#[inline(always)]
pub(super) fn pack_nibbles<S: Simd, B: IntegerBlock, const N: usize>(
    s: S,
    rows: &[&[B]; LANES],
    to: &mut Sixteen<'_>,
    table: Option<&[u8; 16]>,
) {
    let bytes = spans::<B, N>(rows);
    for (block, lines) in to.bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        to.next.ask::<S, B>(s, 2 * block..2 * block + 2);
        let (halves, words) = (lines.as_chunks_mut().0, s.fours(&bytes, (block + 1) * (N / 8) - 16));
        let [low, high] = halves else { unreachable!("eight lines") };
        store_nibbles::<S, B>(s, &words, table, low, high);
    }
    to.numbers_by_rows::<S, B>(s, rows);
}

/// The low nibbles of four lines of a panel, and the high ones, or what a table has for them.
#[inline(always)]
pub(super) fn store_nibbles<S: Simd, B: IntegerBlock>(
    s: S,
    words: &[S::I; 4],
    table: Option<&[u8; 16]>,
    low: &mut [[u8; STRIPE]; 4],
    high: &mut [[u8; STRIPE]; 4],
) {
    // By reference: as a loop over values it would not be unrolled, with its registers in memory.
    for ((&q, low), high) in words.iter().zip(low.iter_mut()).zip(high.iter_mut()) {
        let mut q = nibble_halves(s, q);
        if let Some(table) = table {
            q = [s.lookup(table, q[0]), s.lookup(table, q[1])];
        }
        s.store_bytes(lanes::<S, B>(s, q[0]), low);
        s.store_bytes(lanes::<S, B>(s, q[1]), high);
    }
}

/// Each byte of words, a group's scale of sixteen rows, signed, times `d`: a line a group.
#[inline(always)]
pub(super) fn scale_bytes<S: Simd>(s: S, words: S::I, d: S::F, out: &mut [[f32; LANES]]) {
    // A byte at the top of a word is 2^24 times as much. Powers of two change no rounding.
    let d = s.mul(d, s.splat(1.0 / (1 << 24) as f32));
    for (byte, out) in out.iter_mut().enumerate() {
        let top = s.and(s.shl_i32(words, 24 - 8 * byte as u32), s.splat_i32(0xff00_0000_u32.cast_signed()));
        s.store(s.mul(d, s.to_f32(top)), out);
    }
}

/// Sixteen bytes from two halves.
#[inline(always)]
pub(super) fn bytes(low: u64, high: u64) -> [u8; 16] {
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stay_in_order() {
        assert_eq!(nibbles(0x8765_4321).to_le_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(twos(0b11_10_01_00_00_01_10_11).to_le_bytes(), [3, 2, 1, 0, 0, 1, 2, 3]);
        let words = [0o7654, 0o3210, 0o1357, 0xf000 | 0o2460].map(u16::to_le_bytes);
        assert_eq!(threes(words), [4, 5, 6, 7, 0, 1, 2, 3, 7, 5, 3, 1, 0, 6, 4, 2]);
        let odd = odd_nibbles([[0x10, 0x32], [0x54, 0x76], [0x98, 0xba], [0xdc, 0xfe]]);
        assert_eq!(odd, std::array::from_fn(|i| 2 * i as u8 + 1));
        let signed = less_32(u64::from_le_bytes([0, 1, 31, 32, 33, 62, 63, 7])).to_le_bytes();
        assert_eq!(signed.map(|b| b as i8), [-32, -31, -1, 0, 1, 30, 31, -25]);
    }

    #[test]
    fn words_become_bytes() {
        assert_eq!(low_sevens(0xff81_0002_0003_1204), 0x0102_0304);
    }

    #[test]
    fn signs_are_even() {
        let all = u64::from_le_bytes(std::array::from_fn(|_| 0x7f));
        let bits = 0x0fff_ffff;
        assert_eq!(sevens(bits), 0x7f7f_7f7f);
        for byte in even_signs(all).to_le_bytes() {
            assert_eq!(byte, 0xff);
        }
        assert_eq!(even_signs(0x0300_0000_0000_0001), 0x0300_0000_0000_0081);
    }
}
