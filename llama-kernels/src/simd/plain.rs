//! What shuffles do, through memory: the definitions that an instruction set starts with, and replaces where it is fast.

use super::{LANES, STRIPE, Simd};
use std::array::from_fn;

/// [`Simd::transpose`]
#[inline(always)]
pub(super) fn transpose(lines: &[[u8; STRIPE]; LANES], out: &mut [[u8; STRIPE]], stride: usize) {
    for word in 0..LANES {
        let line = &mut out[word / 4 * stride + word % 4];
        for (out, row) in line.as_chunks_mut::<4>().0.iter_mut().zip(lines) {
            *out = row.as_chunks::<4>().0[word];
        }
    }
}

/// [`Simd::fours`]
#[inline(always)]
pub(super) fn fours<S: Simd, const N: usize>(s: S, rows: &[&[u8; N]; LANES], at: usize) -> [S::I; 4] {
    let mut lines = [[0; STRIPE]; 4];
    for (r, row) in rows.iter().enumerate() {
        for (four, line) in row[at..at + 16].as_chunks::<4>().0.iter().zip(&mut lines) {
            line.as_chunks_mut().0[r] = *four;
        }
    }
    lines.map(|line| s.load_bytes(&line))
}

/// [`Simd::ungroup`]
#[inline(always)]
pub(super) fn ungroup<S: Simd>(s: S, a: S::I, b: S::I) -> [S::I; 2] {
    let mut both = [[0; STRIPE]; 2];
    s.store_bytes(a, &mut both[0]);
    s.store_bytes(b, &mut both[1]);
    let [a, b] = both.each_ref().map(|x| x.as_chunks::<16>().0);
    [s.quarters([&a[0], &b[0], &a[1], &b[1]]), s.quarters([&a[2], &b[2], &a[3], &b[3]])]
}

/// [`Simd::bits`]
#[inline(always)]
pub(super) fn bits<S: Simd>(s: S, a: S::I, shifts: [i32; 4], mask: u8) -> S::I {
    let [b, c, d, e] = shifts;
    let left = -b.min(c).min(d).min(e).min(0);
    let a = if left > 0 { s.shl_i32(a, left.cast_unsigned()) } else { a };
    let (b, c) = ((b + left).cast_unsigned(), (c + left).cast_unsigned());
    let (d, e) = ((d + left).cast_unsigned(), (e + left).cast_unsigned());
    let a = match (b == c && d == e, b | c | d | e) {
        (_, 0) => a,
        (true, _) => s.shr_halves(a, b, d),
        _ => s.shr_quarters(a, [b, c, d, e]),
    };
    s.and(a, s.splat_u8(mask))
}

/// [`Simd::widen_u8`]
#[inline(always)]
pub(super) fn widen_u8<S: Simd>(s: S, x: [&[u8; 16]; 2]) -> S::I {
    s.load_bytes(&from_fn(|i| if i % 2 == 0 { x[i / 32][i / 2 % 16] } else { 0 }))
}

/// [`Simd::zip`]
#[inline(always)]
pub(super) fn zip<S: Simd, const N: usize>(s: S, a: S::I, b: S::I) -> [S::I; 2] {
    let mut both = [[0; STRIPE]; 2];
    s.store_bytes(a, &mut both[0]);
    s.store_bytes(b, &mut both[1]);
    [0, 8].map(|half| {
        let byte = |i: usize| both[i / N % 2][i / 16 * 16 + half + i % 16 / (2 * N) * N + i % N];
        s.load_bytes(&from_fn(byte))
    })
}

/// [`Simd::add_where`]
#[inline(always)]
pub(super) fn add_where<S: Simd>(s: S, a: S::I, b: S::I, c: S::I, x: u8) -> S::I {
    let (mut bytes, mut found) = ([0; STRIPE], [0; STRIPE]);
    s.store_bytes(a, &mut bytes);
    s.store_bytes(s.and(b, c), &mut found);
    s.load_bytes(&from_fn(|i| bytes[i].wrapping_add(if found[i] == 0 { 0 } else { x })))
}

/// [`Simd::floats_f16`]
#[inline(always)]
pub(super) fn floats_f16<S: Simd>(s: S, a: S::I) -> [S::F; 2] {
    let mut words = [0; LANES];
    s.store_i32(a, &mut words);
    let mut halves = [[[0; 2]; LANES]; 2];
    for (i, word) in words.iter().enumerate() {
        let [a, b, c, d] = word.to_le_bytes();
        (halves[0][i], halves[1][i]) = ([a, b], [c, d]);
    }
    halves.map(|x| s.load_f16(x.as_flattened().first_chunk().expect("sixteen numbers")))
}

/// [`Simd::turn`]
#[inline(always)]
pub(super) fn turn<S: Simd>(s: S, a: S::F) -> S::F {
    let mut lanes = [0.0; LANES];
    s.store(a, &mut lanes);
    s.load(&from_fn(|i| lanes[4 * (i % 4) + i / 4]))
}

/// [`Simd::twice`]
#[inline(always)]
pub(super) fn twice<S: Simd>(s: S, a: S::H) -> S::F {
    let mut lanes = [0.0; LANES / 2];
    s.store8(a, &mut lanes);
    s.load(&from_fn(|i| lanes[i / 4 + i % 4 / 2 * 4]))
}

/// [`Simd::dot_shorts`] lane by lane.
pub(super) fn dot_shorts<S: Simd>(s: S, acc: S::I, a: S::I, b: S::I) -> S::I {
    let [mut acc, a, b] = [acc, a, b].map(|words| {
        let mut lanes = [0; LANES];
        s.store_i32(words, &mut lanes);
        lanes
    });
    for (acc, (a, b)) in acc.iter_mut().zip(a.into_iter().zip(b)) {
        let product = |shift: u32| i32::from((a >> shift) as i16) * i32::from((b >> shift) as i16);
        *acc = acc.wrapping_add(product(0)).wrapping_add(product(16));
    }
    s.load_i32(&acc)
}

/// [`Simd::max_shorts`] lane by lane.
pub(super) fn max_shorts<S: Simd>(s: S, a: S::I, b: S::I) -> S::I {
    let mut words = [[0; LANES]; 2];
    s.store_i32(a, &mut words[0]);
    s.store_i32(b, &mut words[1]);
    let max = |a: i32, b: i32, shift: u32| u32::from(((a >> shift) as u16).max((b >> shift) as u16));
    s.load_i32(&from_fn(|i| {
        let [a, b] = [words[0][i], words[1][i]];
        (max(a, b, 0) | max(a, b, 16) << 16).cast_signed()
    }))
}
