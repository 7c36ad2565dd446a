//! Stand-in for the graph until the real one is merged: logits that depend on all tokens so far.

use crate::kv_cache::KvCache;
use crate::state::State;
use crate::weights::Weights;
use crate::{Config, Token};
use llama_kernels::Cpu;

/// What a pass reads.
pub(crate) struct ModelParts {
    pub(crate) config: Config,
    pub(crate) weights: Weights,
}

impl ModelParts {
    pub(crate) fn new(config: Config, weights: Weights) -> ModelParts {
        ModelParts { config, weights }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outputs {
    Last,
    All,
}

pub(crate) fn forward(
    _cpu: &Cpu,
    model: &ModelParts,
    tokens: &[Token],
    kv: &mut KvCache,
    state: &mut State,
    outputs: Outputs,
) {
    assert!(tokens.len() <= state.ubatch);
    state.logits.clear();
    for (i, token) in tokens.iter().enumerate() {
        let before = kv.digests.last().copied().unwrap_or(1);
        kv.push((before ^ u64::from(token.0)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17));
        if outputs == Outputs::All || i + 1 == tokens.len() {
            let digest = kv.digests[kv.len() - 1];
            let vocab = model.config.vocab as u64;
            state
                .logits
                .extend((0..vocab).map(|v| ((digest >> 8).wrapping_mul(2 * v + 1) >> 40) as f32 / 4e6));
        }
    }
}
