//! Results from an engine's tiles, `[16 rows][token]`, to their places among the features of each token.
//!
//! Each token's features are pages of their own, and in no near cache: so all rows of a token are written at once, and
//! the lines of one [`AHEAD`] tokens further on are asked for. (One Zen 4 core, Q4_0, 512 tokens: this was 10 % of the
//! time of 2048 x 2048, sixteen rows of all tokens after each other, and asked for nothing; products with 512 tokens are
//! 1.01 to 1.04 times as fast, with 64 as fast. Stores past the caches gained nothing.)

use crate::buffer::Aligned;
use crate::simd::{Kernel, LANES, STRIPE, Simd};
use std::marker::PhantomData;

/// How many tokens ahead lines are asked for: with strides of powers of two they share a set of the first-level cache.
const AHEAD: usize = 6;

/// The same few features of all tokens, as one worker's own.
pub(crate) struct Strided<'a> {
    ptr: *mut f32,
    stride: usize,
    rows: usize,
    tokens: usize,
    slice: PhantomData<&'a mut [f32]>,
}

impl Strided<'_> {
    /// # Safety
    /// `rows` values at `ptr`, and at `tokens - 1` places after it that lie `stride` values apart, may be written as long
    /// as this lives, and nobody else reads or writes them.
    pub(crate) unsafe fn new(ptr: *mut f32, stride: usize, rows: usize, tokens: usize) -> Self {
        assert!(rows <= stride, "{rows} rows, {stride} values apart");
        Strided { ptr, stride, rows, tokens, slice: PhantomData }
    }

    /// Where a token's values begin, or would.
    fn at(&self, token: usize) -> *mut f32 {
        self.ptr.wrapping_add(token * self.stride)
    }

    /// A token's values.
    fn token(&mut self, token: usize) -> &mut [f32] {
        assert!(token < self.tokens, "token {token} of {}", self.tokens);
        // SAFETY: in bounds and not another's, by the contract of `new`; borrowed from `self`.
        unsafe { std::slice::from_raw_parts_mut(self.at(token), self.rows) }
    }
}

/// What becomes of results.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue {
    /// They are stored.
    Store,
    /// They are added to what is there.
    Add,
}

/// Some rows' results of all tokens, to their places.
pub(crate) struct Place<'a> {
    /// For each sixteen rows `[token][row]`, with more tokens than there are, perhaps.
    pub tile: &'a [[f32; LANES]],
    /// Whether it is `[row][token]` of each sixteen tokens, instead.
    pub turned: bool,
    /// Where they go.
    pub out: Strided<'a>,
    /// And how.
    pub epilogue: Epilogue,
}

impl Kernel for Place<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Place { tile, turned, mut out, epilogue } = self;
        let Some(padded) = tile.len().checked_div(out.rows.div_ceil(LANES)) else { return };
        assert!(padded >= out.tokens, "{} tokens, room for {padded}", out.tokens);
        if turned {
            return turn(s, tile, padded, &mut out, epilogue);
        }
        for t in 0..out.tokens {
            if t + AHEAD < out.tokens {
                for row in (0..out.rows).step_by(LANES) {
                    s.prefetch_to_write(out.at(t + AHEAD).wrapping_add(row).cast());
                }
            }
            for (i, out) in out.token(t).chunks_mut(LANES).enumerate() {
                put(s, &tile[i * padded + t], out, epilogue);
            }
        }
    }
}

/// The same from matrix tiles.
#[inline(always)]
fn turn<S: Simd>(s: S, tile: &[[f32; LANES]], padded: usize, out: &mut Strided<'_>, epilogue: Epilogue) {
    assert!(padded.is_multiple_of(LANES), "whole tiles of tokens");
    for first in (0..out.tokens).step_by(LANES) {
        let tokens = first..out.tokens.min(first + LANES);
        for row in (0..out.rows).step_by(LANES) {
            for t in tokens.clone() {
                s.prefetch_to_write(out.at(t + LANES).wrapping_add(row).cast());
            }
            let mut words = Aligned([[0; STRIPE]; LANES]);
            let lines = &tile[row / LANES * padded + first..][..LANES];
            for (words, line) in words.0.iter_mut().zip(lines) {
                s.store_bytes(s.to_bits(s.load(line)), words);
            }
            let mut turned = Aligned([[0; STRIPE]; LANES]);
            s.transpose(&words.0, &mut turned.0, 4);
            for (t, words) in tokens.clone().zip(&turned.0) {
                let mut values = [0.0; LANES];
                s.store(s.bit_cast(s.load_bytes(words)), &mut values);
                let rows = out.rows.min(row + LANES);
                put(s, &values, &mut out.token(t)[row..rows], epilogue);
            }
        }
    }
}

/// One token's results of up to sixteen rows.
#[inline(always)]
fn put<S: Simd>(s: S, values: &[f32; LANES], out: &mut [f32], epilogue: Epilogue) {
    if let Some(out) = out.first_chunk_mut() {
        let values = s.load(values);
        return match epilogue {
            Epilogue::Store => s.store(values, out),
            Epilogue::Add => s.store(s.add(s.load(out), values), out),
        };
    }
    for (out, value) in out.iter_mut().zip(values) {
        match epilogue {
            Epilogue::Store => *out = *value,
            Epilogue::Add => *out += value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{available, run_on};

    #[test]
    fn every_result_finds_its_place() {
        const STRIDE: usize = 50;
        for (rows, tokens, padded) in
            [(1usize, 1, 1), (16, 9, 12), (35, 13, 16), (48, 1, 4), (5, 8, 8), (0, 3, 4)]
        {
            let tile: Vec<[f32; LANES]> = (0..rows.div_ceil(LANES) * padded)
                .map(|i| std::array::from_fn(|row| (i / padded * LANES + row + i % padded * 1000) as f32))
                .collect();
            for isa in available() {
                for epilogue in [Epilogue::Store, Epilogue::Add] {
                    let mut found = vec![0.5; tokens * STRIDE];
                    // SAFETY: the slice has room for whole strides from each place on, and is not used meanwhile.
                    let out = unsafe { Strided::new(found.as_mut_ptr(), STRIDE, rows, tokens) };
                    run_on(isa, Place { tile: &tile, turned: false, out, epilogue }).unwrap();
                    for (i, found) in found.iter().enumerate() {
                        let (t, row) = (i / STRIDE, i % STRIDE);
                        let value = (row + 1000 * t) as f32;
                        let expected = match epilogue {
                            _ if row >= rows => 0.5,
                            Epilogue::Store => value,
                            Epilogue::Add => 0.5 + value,
                        };
                        assert_eq!(*found, expected, "{isa}: row {row} of {rows}, token {t} of {tokens}");
                    }
                }
            }
        }
    }
}
