//! The transformer: one pass over the next tokens of a sequence, be it one or five hundred.

use crate::kv_cache::KvCache;
use crate::mixture::mixture;
use crate::state::State;
use crate::weights::{FeedForward, Mlp, Weights};
use crate::{Config, Token};
use llama_kernels::{Cpu, Rotation};

/// What a pass reads: all of it immutable, shared by every session of a model.
pub(crate) struct ModelParts {
    pub(crate) config: Config,
    pub(crate) weights: Weights,
}

/// Which tokens' logits a pass yields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outputs {
    /// The last one's.
    Last,
    /// Every one's.
    All,
}

/// How a pass is to be computed.
pub(crate) struct Pass<'a> {
    pub(crate) cpu: &'a Cpu,
    /// How heads turn; the cache's keys were turned by the same.
    pub(crate) rotation: &'a Rotation,
    pub(crate) outputs: Outputs,
    pub(crate) deterministic: bool,
}

/// Evaluates `tokens`, appends their keys and values to the cache and leaves logits in the state. What a
/// model does not have (biases, norms of heads) is empty, and then no work.
///
/// # Panics
/// If the state or the cache has no room for them, or a token is not in the vocabulary.
pub(crate) fn forward(
    pass: &Pass<'_>,
    model: &ModelParts,
    tokens: &[Token],
    kv: &mut KvCache,
    state: &mut State,
) {
    let ModelParts { config: cfg, weights } = model;
    let (n, start, turning) = (tokens.len(), kv.len(), cfg.n_heads + cfg.n_kv_heads);
    let s = state.batch(cfg, tokens, start, pass.rotation, pass.outputs);
    pass.cpu.region(pass.deterministic, |cpu| {
        cpu.embed(s.x, weights.token_embd.matrix(), s.ids); // [n, d_model]
        for (layer, kv) in weights.layers.iter().zip(kv.layers_mut()) {
            let [q, k, v] = [&layer.attn_q, &layer.attn_k, &layer.attn_v].map(|w| w.matrix());
            let norms = [(cfg.n_heads, &layer.attn_q_norm[..]), (cfg.n_kv_heads, &layer.attn_k_norm)];

            cpu.rmsnorm(s.xn, s.x, &layer.attn_norm, cfg.norm_eps);
            cpu.matmul(s.qkv, &[q, k, v], s.xn); // [n, q | k | v]
            cpu.add_bias(s.qkv, &layer.attn_bias);
            cpu.head_norms(s.qkv, n, norms, cfg.norm_eps);
            cpu.rope(s.qkv, n, turning, cfg.head_dim, s.rope, pass.rotation.pairs);
            cpu.push_kv(kv, s.qkv, n, start);
            cpu.attention(s.att, s.qkv, kv, cfg.n_heads, n, start); // softmax(q k^T / sqrt(d)) v, causal
            cpu.matmul_add(s.x, layer.attn_output.matrix(), s.att); // x += Wo att

            cpu.rmsnorm(s.xn, s.x, &layer.ffn_norm, cfg.norm_eps);
            match &layer.ffn {
                FeedForward::Dense(Mlp { gate, up, down }) => {
                    let h = &mut s.h[..n * gate.matrix().rows()];
                    cpu.swiglu(h, gate.matrix(), up.matrix(), s.xn); // h = silu(Wg x) * (Wu x)
                    cpu.matmul_add(s.x, down.matrix(), h); // x += Wd h
                }
                FeedForward::Sparse { router, experts, .. } => {
                    mixture(cpu, s.x, s.xn, (router, experts), s.h, s.routes); // x += sum of w_e mlp_e(x)
                }
            }
        }
        let first = n - s.logits.len() / cfg.vocab; // of the tokens whose logits are wanted
        let (x, xn) = (&s.x[first * cfg.d_model..], &mut s.xn[first * cfg.d_model..]);
        cpu.rmsnorm(xn, x, &weights.output_norm, cfg.norm_eps);
        cpu.matmul(s.logits, &[weights.output.matrix()], xn); // [1 or n, vocab]
    });
    kv.advance(n);
}
