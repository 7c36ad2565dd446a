//! One head's cached positions, moved towards the beginning.
//!
//! Values are copied as they are. Keys turn with their position, so they are widened, turned and rounded
//! again: in f32 that costs a rounding, in the other types as much as the first rounding did. What the
//! rotation leaves alone is rounded to itself.

use super::cache;
use super::push::{Push, Role};
use super::rope::{Pairs, Rope};
use crate::kv::{KvShape, KvType};
use crate::simd::{Kernel, LANES, Simd};
use std::ops::Range;

/// Positions `from` of one head become those from `to` on, which is not behind `from.start`.
pub(crate) struct Shift<'a> {
    /// The head's blocks of keys, and of values.
    pub keys: &'a mut [u8],
    pub values: &'a mut [u8],
    pub shape: &'a KvShape,
    pub from: Range<usize>,
    pub to: usize,
    /// How keys turn: a table for each position, or one for all.
    pub tables: &'a [f32],
    /// Values of a table.
    pub table: usize,
    pub pairs: Pairs,
}

impl Kernel for Shift<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Shift { keys, values, shape, from, to, tables, table, pairs } = self;
        assert!(to <= from.start, "positions move to the beginning");
        let (dim, kind, size) = (shape.key_dim, shape.key_type, shape.key_block());
        let mut tile = vec![[0.0; LANES]; kind.padded(dim)];
        let mut row = vec![0.0; dim];
        for block in from.start / LANES..from.end.div_ceil(LANES) {
            // A copy: what is written below may be the same block, or an earlier one.
            cache::widen_keys(s, kind, &keys[block * size..(block + 1) * size], &mut tile);
            for position in (block * LANES).max(from.start)..((block + 1) * LANES).min(from.end) {
                let (slot, target) = (position % LANES, to + (position - from.start));
                row.iter_mut().zip(&tile).for_each(|(x, features)| *x = features[slot]);
                let own = if tables.len() == table { 0 } else { (position - from.start) * table };
                let table = &tables[own..own + table];
                Rope { heads: &mut row, head_dim: dim, table, pairs }.call(s);
                let block = &mut keys[target / LANES * size..][..size];
                Push { role: Role::Key, kind, x: &row, block, slot: target % LANES }.call(s);
                if target != position {
                    copy_value(shape.value_type, shape.value_dim, values, position, target);
                }
            }
        }
    }
}

/// Copies the value at one position to another, as it is cached.
fn copy_value(kind: KvType, dim: usize, values: &mut [u8], from: usize, to: usize) {
    let row = kind.row_bytes(dim);
    let block = |position: usize| position / LANES * LANES * row;
    let mut copy = |from: usize, to: usize, len: usize| values.copy_within(from..from + len, to);
    let (len, bytes) = (kind.format().block_len(), kind.format().block_bytes());
    if len == 1 {
        return copy(block(from) + from % LANES * row, block(to) + to % LANES * row, row);
    }
    // Groups of sixteen scales, then the bytes of sixteen positions.
    let (scale, quants) = (2, bytes - 2);
    for group in 0..row / bytes {
        let [from, to] =
            [from, to].map(|position| (block(position) + group * LANES * bytes, position % LANES));
        copy(from.0 + from.1 * scale, to.0 + to.1 * scale, scale);
        let first = LANES * scale;
        copy(from.0 + first + from.1 * quants, to.0 + first + to.1 * quants, quants);
    }
}
