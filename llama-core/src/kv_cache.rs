//! The conversation: keys and values of every token so far.
//!
//! Keys are cached as they turn with their position. So when tokens leave from the middle, those behind
//! them move up, and their keys turn back by as many positions.

use crate::Config;
use crate::session::Options;
use llama_kernels::{Cpu, KvLayer, KvShape, Rotation};
use std::ops::Range;

/// Preallocated for a whole context; what is not yet used costs address space only.
pub(crate) struct KvCache {
    layers: Vec<KvLayer>,
    len: usize,
    context: usize,
}

/// Positions whose tables are made at once.
const TURNED_AT_ONCE: usize = 512;

/// The cache of one layer.
pub(crate) fn shape(config: &Config, context: usize, options: &Options) -> KvShape {
    KvShape {
        heads: config.n_kv_heads,
        positions: context,
        key_dim: config.head_dim,
        value_dim: config.value_dim,
        key_type: options.cache_type_k,
        value_type: options.cache_type_v,
    }
}

impl KvCache {
    /// An empty cache of so many layers, of which tokens see so much; `None` if the system has no room for it.
    pub(crate) fn new(layer: KvShape, layers: usize, window: Option<usize>) -> Option<KvCache> {
        let context = layer.positions;
        let new = |_| Some(KvLayer::new(layer)?.with_window(window.unwrap_or(usize::MAX)));
        let layers = (0..layers).map(new).collect::<Option<_>>()?;
        Some(KvCache { layers, len: 0, context })
    }

    /// Bytes of a cache of so many layers when it is full.
    pub(crate) fn bytes(layer: &KvShape, layers: usize) -> u64 {
        (layer.bytes() as u64).saturating_mul(layers as u64)
    }

    /// Tokens that it holds.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Tokens that it has room for.
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// Forgets all but the first `len` tokens.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Says that the layers hold so many tokens, which somebody has put there.
    pub(crate) fn restored(&mut self, len: usize) {
        assert!(len <= self.context, "{len} tokens in a context of {}", self.context);
        self.len = len;
    }

    /// Forgets these tokens; those behind them move up, turned back.
    pub(crate) fn remove(&mut self, tokens: Range<usize>, cpu: &Cpu, rotation: &Rotation) {
        if self.len <= tokens.end {
            return self.truncate(tokens.start);
        }
        let mut table = vec![0.0; rotation.table_len()];
        rotation.change(&mut table, 0.0, rotation, tokens.len() as f64);
        cpu.region(false, |cpu| {
            for layer in &mut self.layers {
                cpu.shift_kv(layer, tokens.end..self.len, tokens.start, &table, rotation.pairs);
            }
        });
        self.len -= tokens.len();
    }

    /// Turns all keys from where one rotation has turned them to where another one does.
    pub(crate) fn turn(&mut self, cpu: &Cpu, from: &Rotation, to: &Rotation) {
        let mut tables = vec![0.0; TURNED_AT_ONCE.min(self.len) * from.table_len()];
        for start in (0..self.len).step_by(TURNED_AT_ONCE) {
            let positions = start..self.len.min(start + TURNED_AT_ONCE);
            let tables = &mut tables[..positions.len() * from.table_len()];
            for (position, table) in positions.clone().zip(tables.chunks_exact_mut(from.table_len())) {
                from.change(table, position as f64, to, 0.0);
            }
            cpu.region(false, |cpu| {
                for layer in &mut self.layers {
                    cpu.shift_kv(layer, positions.clone(), start, tables, from.pairs);
                }
            });
        }
    }

    /// Each layer's cache.
    pub(crate) fn layers(&self) -> &[KvLayer] {
        &self.layers
    }

    /// Each layer's cache, into which a pass writes from position [`len`](Self::len) on.
    pub(crate) fn layers_mut(&mut self) -> impl Iterator<Item = &mut KvLayer> {
        self.layers.iter_mut()
    }

    /// Counts the tokens that a pass has written to every layer.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}
