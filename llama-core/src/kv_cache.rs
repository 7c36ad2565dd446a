//! Stand-in for the cache of keys and values until the real one is merged.

use crate::Config;

pub(crate) struct KvCache {
    context: usize,
    len: usize,
    /// A running digest of the tokens, from which fake logits are made.
    pub(crate) digests: Vec<u64>,
}

impl KvCache {
    pub(crate) fn new(_config: &Config, context: usize) -> KvCache {
        KvCache { context, len: 0, digests: Vec::new() }
    }

    pub(crate) fn bytes(config: &Config, context: usize) -> u64 {
        (context as u64) * (config.d_model as u64) * 4
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn context(&self) -> usize {
        self.context
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        assert!(len <= self.len);
        self.len = len;
        self.digests.truncate(len);
    }

    pub(crate) fn push(&mut self, digest: u64) {
        assert!(self.len < self.context);
        self.len += 1;
        self.digests.push(digest);
    }
}
