//! The transformer: one pass over the next tokens of a sequence, be it one or five hundred.

use crate::kv_cache::KvCache;
use crate::state::State;
use crate::weights::Weights;
use crate::{Config, Token};
use llama_kernels::Cpu;

/// What a pass reads: all of it immutable, shared by every session of a model.
pub(crate) struct ModelParts {
    pub(crate) config: Config,
    pub(crate) weights: Weights,
    /// Radians per position for each rotated pair of a head: `[rope.dims / 2]`.
    pub(crate) frequencies: Vec<f64>,
}

impl ModelParts {
    pub(crate) fn new(config: Config, weights: Weights) -> ModelParts {
        let rope = &config.rope;
        let frequency = |i: usize| {
            let frequency = f64::from(rope.freq_base).powf(-2.0 * i as f64 / rope.dims as f64);
            let divisor = weights.rope_freqs.as_ref().map_or(1.0, |divisors| f64::from(divisors[i]));
            frequency * f64::from(rope.scale) / divisor
        };
        let frequencies = (0..rope.dims / 2).map(frequency).collect();
        ModelParts { config, weights, frequencies }
    }
}

/// Which tokens' logits a pass yields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outputs {
    /// The last one's.
    Last,
    /// Every one's.
    All,
}

/// Evaluates `tokens`, appends their keys and values to the cache and leaves logits in the state.
///
/// # Panics
/// If the state or the cache has no room for them, or a token is not in the vocabulary.
pub(crate) fn forward(
    cpu: &Cpu,
    model: &ModelParts,
    tokens: &[Token],
    kv: &mut KvCache,
    state: &mut State,
    outputs: Outputs,
    deterministic: bool,
) {
    let ModelParts { config: cfg, weights, frequencies } = model;
    let (n, start) = (tokens.len(), kv.len());
    let s = state.batch(cfg, tokens, start, frequencies, outputs);
    cpu.region(deterministic, |cpu| {
        cpu.embed(s.x, weights.token_embd.matrix(), s.ids); // [n, d_model]
        for (layer, kv) in weights.layers.iter().zip(kv.layers_mut()) {
            let [q, k, v, output, gate, up, down] = layer.matrices().map(|tensor| tensor.matrix());
            let h = &mut s.h[..n * gate.rows()];

            cpu.rmsnorm(s.xn, s.x, &layer.attn_norm, cfg.norm_eps);
            cpu.matmul(s.qkv, &[q, k, v], s.xn); // [n, q | k | v]
            cpu.rope(s.qkv, n, cfg.n_heads + cfg.n_kv_heads, cfg.head_dim, s.rope);
            cpu.push_kv(kv, s.qkv, n, start);
            cpu.attention(s.att, s.qkv, kv, cfg.n_heads, n, start); // softmax(q k^T / sqrt(d)) v, causal
            cpu.matmul_add(s.x, output, s.att); // x += Wo att

            cpu.rmsnorm(s.xn, s.x, &layer.ffn_norm, cfg.norm_eps);
            cpu.swiglu(h, gate, up, s.xn); // h = silu(Wg x) * (Wu x)
            cpu.matmul_add(s.x, down, h); // x += Wd h
        }
        let first = n - s.logits.len() / cfg.vocab; // of the tokens whose logits are wanted
        let (x, xn) = (&s.x[first * cfg.d_model..], &mut s.xn[first * cfg.d_model..]);
        cpu.rmsnorm(xn, x, &weights.output_norm, cfg.norm_eps);
        cpu.matmul(s.logits, &[weights.output.matrix()], xn); // [1 or n, vocab]
    });
    kv.advance(n);
}
