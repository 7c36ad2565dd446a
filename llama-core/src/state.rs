//! The scratch of a pass: activations, token-major, for one micro-batch.

use crate::config::Experts;
use crate::forward::Outputs;
use crate::mixture::Routes;
use crate::{Config, Token};
use llama_kernels::{Buffer, Cpu, Rotation};

/// Room for the activations of `ubatch` tokens.
pub(crate) struct State {
    ubatch: usize,
    ids: Vec<u32>,
    x: Buffer<f32>,
    xn: Buffer<f32>,
    qkv: Buffer<f32>,
    att: Buffer<f32>,
    h: Buffer<f32>,
    rope: Buffer<f32>,
    routes: Routes,
    logits: Vec<f32>,
}

/// The part of a state that a pass over `n` tokens uses.
pub(crate) struct Batch<'a> {
    /// The tokens: `[n]`.
    pub(crate) ids: &'a [u32],
    /// The residual stream: `[n, d_model]`.
    pub(crate) x: &'a mut [f32],
    /// Its normalisation: `[n, d_model]`.
    pub(crate) xn: &'a mut [f32],
    /// Queries, keys and values: `[n, q | k | v]`.
    pub(crate) qkv: &'a mut [f32],
    /// Attention's result: `[n, n_heads * value_dim]`.
    pub(crate) att: &'a mut [f32],
    /// The feed-forward layer's hidden activations, for the widest layer: `[n, d_ff]`.
    pub(crate) h: &'a mut [f32],
    /// Each position's rotations: `[n, 2 * rope.dims]`.
    pub(crate) rope: &'a [f32],
    /// The ways of tokens to their experts.
    pub(crate) routes: &'a mut Routes,
    /// `[1, vocab]`, or `[n, vocab]`.
    pub(crate) logits: &'a mut [f32],
}

impl State {
    pub(crate) fn new(config: &Config, ubatch: usize) -> State {
        let room = |features: usize| Buffer::new(ubatch * features);
        State {
            ubatch,
            ids: Vec::with_capacity(ubatch),
            x: room(config.d_model),
            xn: room(config.d_model),
            qkv: room(qkv_width(config)),
            att: room(config.attention_width()),
            h: room(widest_ff(config)),
            rope: room(2 * config.rope.dims),
            routes: Routes::new(ubatch, experts(config).count, experts(config).used, config.d_model),
            logits: vec![0.0; config.vocab],
        }
    }

    /// Bytes that a state holds, with the scratch that passes of its size make a [`Cpu`] hold.
    pub(crate) fn bytes(config: &Config, ubatch: usize, threads: usize) -> u64 {
        let widest = config.d_model.max(widest_ff(config)).max(config.attention_width());
        let features = 2 * config.d_model
            + qkv_width(config)
            + config.attention_width()
            + widest_ff(config)
            + 2 * config.rope.dims;
        let floats = (ubatch as u64).saturating_mul(features as u64).saturating_add(config.vocab as u64);
        let Experts { count, used } = experts(config);
        let routes = Routes::bytes(ubatch, count, used, config.d_model);
        (4 * floats).saturating_add(Cpu::scratch_size(threads, ubatch, widest) as u64).saturating_add(routes)
    }

    /// The most recent pass's logits.
    pub(crate) fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Puts the logits of the most recent token back.
    pub(crate) fn restore_logits(&mut self, logits: Vec<f32>) {
        self.logits = logits;
    }

    /// Prepares for a pass over `tokens` from position `start` on.
    ///
    /// The rotations are computed here, once for all layers, in double precision. A table of the whole
    /// context would save a microsecond per token and cost up to 100 MB at 100,000 positions.
    pub(crate) fn batch(
        &mut self,
        config: &Config,
        tokens: &[Token],
        start: usize,
        rotation: &Rotation,
        outputs: Outputs,
    ) -> Batch<'_> {
        let n = tokens.len();
        assert!((1..=self.ubatch).contains(&n), "{n} tokens, room for {}", self.ubatch);
        self.ids.clear();
        self.ids.extend(tokens.iter().map(|token| token.0));
        let turns = rotation.table_len();
        for (i, table) in self.rope[..n * turns].chunks_exact_mut(turns).enumerate() {
            rotation.table(table, (start + i) as f64);
        }
        self.logits.resize(if outputs == Outputs::All { n * config.vocab } else { config.vocab }, 0.0);
        Batch {
            ids: &self.ids,
            x: &mut self.x[..n * config.d_model],
            xn: &mut self.xn[..n * config.d_model],
            qkv: &mut self.qkv[..n * qkv_width(config)],
            att: &mut self.att[..n * config.attention_width()],
            h: &mut self.h[..n * widest_ff(config)],
            rope: &self.rope[..n * turns],
            routes: &mut self.routes,
            logits: &mut self.logits,
        }
    }
}

fn qkv_width(config: &Config) -> usize {
    config.q_width() + config.k_width() + config.v_width()
}

/// Those of the model, or none.
fn experts(config: &Config) -> Experts {
    config.experts.unwrap_or(Experts { count: 0, used: 0 })
}

fn widest_ff(config: &Config) -> usize {
    config.d_ff.iter().copied().max().unwrap_or(0)
}
