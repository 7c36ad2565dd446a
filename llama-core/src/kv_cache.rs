//! The conversation: keys and values of every token so far.

use crate::Config;
use crate::session::Options;
use llama_kernels::{KvLayer, KvShape};

/// Preallocated for a whole context; what is not yet used costs address space only.
pub(crate) struct KvCache {
    layers: Vec<KvLayer>,
    len: usize,
    context: usize,
}

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
    /// An empty cache of so many layers; `None` if the system has no room for it.
    pub(crate) fn new(layer: KvShape, layers: usize) -> Option<KvCache> {
        let context = layer.positions;
        let layers = (0..layers).map(|_| KvLayer::new(layer)).collect::<Option<_>>()?;
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

    /// Each layer's cache, into which a pass writes from position [`len`](Self::len) on.
    pub(crate) fn layers_mut(&mut self) -> impl Iterator<Item = &mut KvLayer> {
        self.layers.iter_mut()
    }

    /// Counts the tokens that a pass has written to every layer.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}
