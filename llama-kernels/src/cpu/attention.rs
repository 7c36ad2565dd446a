//! How attention is cut: by chunks of positions for few tokens, by tiles of queries for many.
//!
//! Either way a row's chunks are evaluated one by one and merged in their order, so the result is the
//! same to the bit.

use super::{Ops, Parts, lock};
use crate::buffer::Buffer;
use crate::kv::{KvLayer, KvShape};
use crate::ops::attention::{self, Attend, CHUNK, Scratch};
use crate::simd::LANES;
use std::ops::Range;

/// Query rows that a prompt's attention takes through the cache together, if no token has more: enough
/// to widen each key and value for, few enough for their scores and sums to stay in the caches. (One Zen 4 core, 512 tokens
/// after 3,584, 96 -> 192 -> 384 rows: 1.01 and 1.02 times as fast with heads of 64 features, 1.04 and 1.06 with 128, and
/// twice the room each time. By matrix tiles, from 192 to 384: 1.07 and 0.94.)
const QUERY_ROWS: usize = 384;
/// Up to this many tokens the chunks of a context are dealt out separately.
const SPLIT_TOKENS: usize = 4;
/// Pieces for each thread, where there are tokens enough, so that all threads finish at the same time.
const PIECES: usize = 4;

/// One worker's scratch.
#[derive(Default)]
pub(super) struct Rows {
    queries: Buffer<[f32; LANES]>,
    visible: Vec<usize>,
    hidden: Vec<usize>,
    records: Buffer<[f32; LANES]>,
    part: Buffer<[f32; LANES]>,
    scratch: Scratch,
}

/// Bytes of the workers' scratch and of the records that they share.
pub(super) fn scratch_size(threads: usize, tokens: usize, heads: usize, kv: &KvShape) -> usize {
    let group = heads / kv.heads.max(1);
    let rows = QUERY_ROWS.max(group * tokens.min(SPLIT_TOKENS));
    let (key, record) = (4 * kv.key_type.padded(kv.key_dim), 4 * LANES * attention::lines(kv.value_dim));
    let worker = rows * (key + 2 * size_of::<usize>() + 2 * record) + Scratch::size(rows, kv);
    let chunks = kv.positions.div_ceil(CHUNK);
    threads * worker + tokens.min(SPLIT_TOKENS) * heads * chunks * record
}

/// One attention operation.
pub(super) struct Attention<'a, 'o> {
    pub(super) ops: &'a Ops<'a>,
    pub(super) qkv: &'a [f32],
    pub(super) kv: &'a KvLayer,
    pub(super) features: usize,
    pub(super) group: usize,
    pub(super) heads: usize,
    pub(super) start: usize,
    /// Whether a row's sums are the same whatever the number of tokens, to the bit.
    pub(super) exact: bool,
    pub(super) out: Parts<'o, f32>,
}

impl Attention<'_, '_> {
    pub(super) fn run(mut self, tokens: usize) {
        if tokens == 0 {
            return;
        }
        // By the number of tokens, for that of the rows in a piece depends on the threads.
        self.exact |= tokens <= SPLIT_TOKENS;
        if tokens <= SPLIT_TOKENS {
            self.by_chunk(tokens);
        } else {
            self.by_tile(tokens);
        }
    }

    /// The query rows of one KV head for some tokens, scaled and padded, token by token; how far each sees,
    /// and from where on.
    fn gather<'r>(
        &self,
        queries: &'r mut Buffer<[f32; LANES]>,
        [visible, hidden]: [&mut Vec<usize>; 2],
        tokens: Range<usize>,
        head: usize,
    ) -> &'r [[f32; LANES]] {
        let KvShape { key_dim: dim, key_type, .. } = *self.kv.shape();
        let lines = key_type.padded(dim) / LANES;
        let scale = std::f32::consts::LOG2_E / (dim as f32).sqrt();
        let queries = queries.room(tokens.len() * self.group * lines);
        visible.clear();
        hidden.clear();
        let mut rows = queries.chunks_exact_mut(lines.max(1));
        for t in tokens {
            let heads = &self.qkv[t * self.features + head * self.group * dim..][..self.group * dim];
            for (query, row) in heads.chunks_exact(dim.max(1)).zip(&mut rows) {
                let (row, rest) = row.as_flattened_mut().split_at_mut(dim);
                row.iter_mut().zip(query).for_each(|(out, q)| *out = q * scale);
                rest.fill(0.0);
                visible.push(self.start + t + 1);
                hidden.push(self.kv.first_visible(self.start + t));
            }
        }
        queries
    }

    fn attend(
        &self,
        queries: &[[f32; LANES]],
        [visible, hidden]: [&[usize]; 2],
        scratch: &mut Scratch,
        head: usize,
        chunk: usize,
        out: &mut [[f32; LANES]],
    ) {
        let end = visible.last().copied().unwrap_or(0).min((chunk + 1) * CHUNK);
        let positions = chunk * CHUNK..end.max(chunk * CHUNK);
        let cache = self.kv.head(head);
        let exact = self.exact;
        self.ops.cpu.backend.attend(Attend {
            queries,
            visible,
            hidden,
            cache,
            positions,
            exact,
            out,
            scratch,
        });
    }

    /// Writes one row's result.
    ///
    /// # Safety
    /// No other worker writes the same token and head.
    unsafe fn finish(&self, record: &[[f32; LANES]], token: usize, head: usize) {
        let dim = self.kv.shape().value_dim;
        let start = (token * self.heads + head) * dim;
        // SAFETY: the caller's promise.
        attention::finish(record, unsafe { self.out.part(start..start + dim) });
    }

    /// The first chunk that a token sees any of.
    fn first_chunk(&self, token: usize) -> usize {
        self.kv.first_visible(self.start + token) / CHUNK
    }

    /// Few tokens: every (KV head, chunk) is a piece of its own, for all of them; records are merged in
    /// order.
    fn by_chunk(&self, tokens: usize) {
        let (kv_heads, record) = (self.kv.shape().heads, attention::lines(self.kv.shape().value_dim));
        let before = self.first_chunk(0);
        let chunks = (self.start + tokens).div_ceil(CHUNK) - before;
        let rows = tokens * self.group;
        let per_piece = rows * record;
        let mut shared = lock(&self.ops.cpu.shared);
        let records = Parts::new(shared.records.room(kv_heads * chunks * per_piece));
        self.ops.team.split(kv_heads * chunks, &|worker, piece| {
            let Rows { queries, visible, hidden, scratch, .. } =
                &mut lock(&self.ops.cpu.workers[worker]).rows;
            let (chunk, head) = (before + piece % chunks, piece / chunks);
            let queries = self.gather(queries, [visible, hidden], 0..tokens, head);
            // SAFETY: each piece writes its own records.
            let out = unsafe { records.part(piece * per_piece..(piece + 1) * per_piece) };
            self.attend(queries, [visible, hidden], scratch, head, chunk, out);
        });
        self.ops.team.split(kv_heads, &|_, head| {
            // SAFETY: each piece reads and writes the records of its own KV head.
            let all = unsafe { records.part(head * chunks * per_piece..(head + 1) * chunks * per_piece) };
            let (totals, parts) = all.split_at_mut(per_piece);
            for part in parts.chunks_exact(per_piece) {
                self.merge(totals, part, record);
            }
            for (i, total) in totals.chunks_exact(record).enumerate() {
                // SAFETY: the piece owns the heads of its group.
                unsafe { self.finish(total, i / self.group, head * self.group + i % self.group) };
            }
        });
    }

    /// Many tokens: a piece is some of them for one KV head, over all of their positions.
    fn by_tile(&self, tokens: usize) {
        let (kv_heads, record) = (self.kv.shape().heads, attention::lines(self.kv.shape().value_dim));
        let mut per_tile = (QUERY_ROWS / self.group).clamp(1, tokens);
        while per_tile > 1 && tokens.div_ceil(per_tile) * kv_heads < PIECES * self.ops.threads() {
            per_tile = per_tile.div_ceil(2);
        }
        let tiles = tokens.div_ceil(per_tile);
        self.ops.team.split(tiles * kv_heads, &|worker, piece| {
            let Rows { queries, visible, hidden, records, part, scratch } =
                &mut lock(&self.ops.cpu.workers[worker]).rows;
            let tile = tiles - 1 - piece / kv_heads; // the last tokens see the most: they go first
            let head = piece % kv_heads;
            let range = tile * per_tile..tokens.min((tile + 1) * per_tile);
            let queries = self.gather(queries, [visible, hidden], range.clone(), head);
            let first = self.first_chunk(range.start);
            let (records, part) = (records.room(visible.len() * record), part.room(visible.len() * record));
            self.attend(queries, [visible, hidden], scratch, head, first, records);
            for chunk in first + 1..(self.start + range.end).div_ceil(CHUNK) {
                self.attend(queries, [visible, hidden], scratch, head, chunk, part);
                self.merge(records, part, record);
            }
            for (i, record) in records.chunks_exact(record).enumerate() {
                // SAFETY: the piece owns these tokens' heads of its group.
                unsafe {
                    self.finish(record, range.start + i / self.group, head * self.group + i % self.group)
                };
            }
        });
    }

    /// Adds the records of a later chunk to those of the earlier ones.
    fn merge(&self, totals: &mut [[f32; LANES]], parts: &[[f32; LANES]], record: usize) {
        for (total, part) in totals.chunks_exact_mut(record).zip(parts.chunks_exact(record)) {
            self.ops.cpu.backend.merge(total, part);
        }
    }
}
