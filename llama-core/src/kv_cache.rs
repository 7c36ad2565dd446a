//! The conversation: keys and values of every token so far, in half precision.

use crate::Config;
use llama_kernels::KvLayer;

/// Preallocated for a whole context; what is not yet used costs address space only.
pub(crate) struct KvCache {
    layers: Vec<KvLayer>,
    len: usize,
    context: usize,
}

impl KvCache {
    /// An empty cache; `None` if the system has no room for it.
    pub(crate) fn new(config: &Config, context: usize) -> Option<KvCache> {
        let layer = || KvLayer::new(config.n_kv_heads, context, config.head_dim, config.value_dim);
        let layers = (0..config.n_layers).map(|_| layer()).collect::<Option<_>>()?;
        Some(KvCache { layers, len: 0, context })
    }

    /// Bytes of a cache when it is full.
    pub(crate) fn bytes(config: &Config, context: usize) -> u64 {
        let layer = KvLayer::size(config.n_kv_heads, context, config.head_dim, config.value_dim);
        (layer as u64).saturating_mul(config.n_layers as u64)
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
