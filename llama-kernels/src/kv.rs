//! One layer's cache of keys and values.

use crate::buffer::Buffer;
use crate::format::F16;
use crate::ops::attention::KvHead;
use crate::simd::LANES;

/// Keys and values in half precision, `[kv head][position][feature]`, preallocated for a whole context.
///
/// Rows are padded with zeros to sixteen features. Positions never written cost no memory, because
/// the system maps untouched pages only when they are written.
pub struct KvLayer {
    pub(crate) keys: Buffer<F16>,
    pub(crate) values: Buffer<F16>,
    pub(crate) heads: usize,
    pub(crate) positions: usize,
    pub(crate) key_dim: usize,
    pub(crate) value_dim: usize,
}

impl KvLayer {
    /// An empty cache for `heads` KV heads and `positions` positions; `None` if the system has no room.
    pub fn new(heads: usize, positions: usize, key_dim: usize, value_dim: usize) -> Option<KvLayer> {
        let room = |dim: usize| {
            let row = dim.checked_next_multiple_of(LANES)?;
            Buffer::try_new(heads.checked_mul(positions)?.checked_mul(row)?)
        };
        Some(KvLayer { keys: room(key_dim)?, values: room(value_dim)?, heads, positions, key_dim, value_dim })
    }

    /// Bytes that [`new`](Self::new) sets aside; saturates.
    pub fn size(heads: usize, positions: usize, key_dim: usize, value_dim: usize) -> usize {
        let row = key_dim.next_multiple_of(LANES).saturating_add(value_dim.next_multiple_of(LANES));
        heads.saturating_mul(positions).saturating_mul(row).saturating_mul(size_of::<F16>())
    }

    /// Positions that there is room for.
    pub fn positions(&self) -> usize {
        self.positions
    }

    pub(crate) fn key_stride(&self) -> usize {
        self.key_dim.next_multiple_of(LANES)
    }

    pub(crate) fn value_stride(&self) -> usize {
        self.value_dim.next_multiple_of(LANES)
    }

    /// One head's rows.
    pub(crate) fn head(&self, head: usize) -> KvHead<'_, F16> {
        let (key_stride, value_stride) = (self.key_stride(), self.value_stride());
        let (k, v) = (self.positions * key_stride, self.positions * value_stride);
        KvHead {
            keys: &self.keys[head * k..(head + 1) * k],
            values: &self.values[head * v..(head + 1) * v],
            key_stride,
            value_stride,
        }
    }
}
