//! How attention is cut: by chunks of positions for few tokens, by tiles of queries for many.
//!
//! Either way a row's chunks are evaluated one by one and merged in their order, so the result is the
//! same to the bit.

use super::{Ops, Parts, Worker, grown, lock};
use crate::buffer::Buffer;
use crate::kv::KvLayer;
use crate::ops::attention::{self, Attend, CHUNK};
use crate::simd::LANES;
use std::ops::Range;

/// Query rows that a prompt's attention takes through the cache together.
const QUERY_ROWS: usize = 16;
/// Up to this many tokens the chunks of a context are dealt out separately.
const SPLIT_TOKENS: usize = 4;

/// One attention operation.
pub(super) struct Attention<'a, 'o> {
    pub(super) ops: &'a Ops<'a>,
    pub(super) qkv: &'a [f32],
    pub(super) kv: &'a KvLayer,
    pub(super) features: usize,
    pub(super) group: usize,
    pub(super) heads: usize,
    pub(super) start: usize,
    pub(super) out: Parts<'o, f32>,
}

impl Attention<'_, '_> {
    pub(super) fn run(self, tokens: usize) {
        if tokens <= SPLIT_TOKENS {
            self.by_chunk(tokens);
        } else {
            self.by_tile(tokens);
        }
    }

    /// The query rows of one KV head for some tokens, scaled and padded, token by token.
    fn gather(&self, worker: &mut Worker, tokens: Range<usize>, head: usize) {
        let (dim, lines) = (self.kv.key_dim, self.kv.key_stride() / LANES);
        let scale = 1.0 / (dim as f32).sqrt();
        worker.queries.clear();
        worker.queries.resize(tokens.len() * self.group * lines, [0.0; LANES]);
        worker.visible.clear();
        let mut rows = worker.queries.chunks_exact_mut(lines);
        for t in tokens {
            let queries = &self.qkv[t * self.features + head * self.group * dim..][..self.group * dim];
            for (query, row) in queries.chunks_exact(dim).zip(&mut rows) {
                row.as_flattened_mut().iter_mut().zip(query).for_each(|(out, q)| *out = q * scale);
                worker.visible.push(self.start + t + 1);
            }
        }
    }

    fn attend(
        &self,
        queries: &[[f32; LANES]],
        visible: &[usize],
        head: usize,
        chunk: usize,
        out: &mut [[f32; LANES]],
    ) {
        let end = visible.last().copied().unwrap_or(0).min((chunk + 1) * CHUNK);
        let positions = chunk * CHUNK..end;
        self.ops.cpu.backend.attend(Attend { queries, visible, cache: self.kv.head(head), positions, out });
    }

    /// Writes one row's result.
    ///
    /// # Safety
    /// No other worker writes the same token and head.
    unsafe fn finish(&self, record: &[[f32; LANES]], token: usize, head: usize) {
        let dim = self.kv.value_dim;
        let start = (token * self.heads + head) * dim;
        // SAFETY: the caller's promise.
        attention::finish(record, unsafe { self.out.part(start..start + dim) });
    }

    /// Few tokens: every (token, KV head, chunk) is a piece of its own; records are merged in order.
    fn by_chunk(&self, tokens: usize) {
        let (kv_heads, record) = (self.kv.heads, attention::lines(self.kv.value_dim));
        let chunks = (self.start + tokens).div_ceil(CHUNK);
        let per_piece = self.group * record;
        let mut shared = lock(&self.ops.cpu.shared);
        let needed = tokens * kv_heads * chunks * per_piece;
        if shared.records.len() < needed {
            shared.records = Buffer::new(needed.next_power_of_two());
        }
        let records = Parts::new(&mut shared.records);
        self.ops.team.split(tokens * kv_heads * chunks, &|worker, piece| {
            let worker = &mut *lock(&self.ops.cpu.workers[worker]);
            let (chunk, head, token) = (piece % chunks, piece / chunks % kv_heads, piece / chunks / kv_heads);
            self.gather(worker, token..token + 1, head);
            // SAFETY: each piece writes its own records.
            let out = unsafe { records.part(piece * per_piece..(piece + 1) * per_piece) };
            if chunk * CHUNK < self.start + token + 1 {
                self.attend(&worker.queries, &worker.visible, head, chunk, out);
            } else {
                out.fill([0.0; LANES]); // wholly masked: no weight
            }
        });
        self.ops.team.split(tokens * kv_heads, &|_, piece| {
            let (head, token) = (piece % kv_heads, piece / kv_heads);
            // SAFETY: each piece reads and writes the records of its own token and KV head.
            let all = unsafe { records.part(piece * chunks * per_piece..(piece + 1) * chunks * per_piece) };
            let (total, parts) = all.split_at_mut(per_piece);
            for part in parts.chunks_exact(per_piece) {
                for (total, part) in total.chunks_exact_mut(record).zip(part.chunks_exact(record)) {
                    self.ops.cpu.backend.merge(total, part);
                }
            }
            for (i, total) in total.chunks_exact(record).enumerate() {
                // SAFETY: the piece owns this token's heads of its group.
                unsafe { self.finish(total, token, head * self.group + i) };
            }
        });
    }

    /// Many tokens: a piece is some of them for one KV head, over all of their positions.
    fn by_tile(&self, tokens: usize) {
        let (kv_heads, record) = (self.kv.heads, attention::lines(self.kv.value_dim));
        let per_tile = (QUERY_ROWS / self.group).max(1);
        let tiles = tokens.div_ceil(per_tile);
        self.ops.team.split(tiles * kv_heads, &|worker, piece| {
            let worker = &mut *lock(&self.ops.cpu.workers[worker]);
            let tile = tiles - 1 - piece / kv_heads; // the last tokens see the most: they go first
            let head = piece % kv_heads;
            let range = tile * per_tile..tokens.min((tile + 1) * per_tile);
            self.gather(worker, range.clone(), head);
            let Worker { queries, visible, records, part, .. } = worker;
            let (records, part) =
                (grown(records, visible.len() * record), grown(part, visible.len() * record));
            self.attend(queries, visible, head, 0, records);
            for chunk in 1..(self.start + range.end).div_ceil(CHUNK) {
                self.attend(queries, visible, head, chunk, part);
                for (total, part) in records.chunks_exact_mut(record).zip(part.chunks_exact(record)) {
                    self.ops.cpu.backend.merge(total, part);
                }
            }
            for (i, record) in records.chunks_exact(record).enumerate() {
                // SAFETY: the piece owns these tokens' heads of its group.
                unsafe {
                    self.finish(record, range.start + i / self.group, head * self.group + i % self.group)
                };
            }
        });
    }
}
