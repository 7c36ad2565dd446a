//! Shapes of models, and the families that they may belong to.

use super::vocabulary;

/// The dimensions of a Llama model.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shape {
    /// `7b`, `70b`, …
    pub name: &'static str,
    /// Transformer layers.
    pub layers: usize,
    /// Features of the residual stream.
    pub d_model: usize,
    /// Features of the feed-forward network.
    pub d_ff: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Pieces of the vocabulary.
    pub vocab: usize,
    /// Positions that the model was made for.
    pub context: usize,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Whose architecture it is.
    pub family: Family,
    /// Positions that a token sees; 0: all.
    pub window: usize,
    /// Experts of each feed-forward layer, and how many of them a token goes through; 0: a single network.
    pub experts: (usize, usize),
}

/// Whose architecture a model has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Family {
    /// Llama's.
    #[default]
    Llama,
    /// Llama's with a sliding window.
    Mistral,
    /// Llama's with experts.
    Mixtral,
    /// With biases of queries, keys and values, and an output that is tied to the embedding.
    Qwen2,
    /// With norms of heads.
    Qwen3,
}

impl Family {
    /// Every one.
    pub const ALL: [Family; 5] =
        [Family::Llama, Family::Mistral, Family::Mixtral, Family::Qwen2, Family::Qwen3];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Mixtral => "mixtral",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
        }
    }

    /// The family of this name, in any case.
    pub fn from_name(name: &str) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.name().eq_ignore_ascii_case(name))
    }

    /// The value of `general.architecture`.
    pub(super) fn architecture(self) -> &'static str {
        match self {
            Family::Llama | Family::Mistral | Family::Mixtral => "llama",
            Family::Qwen2 | Family::Qwen3 => self.name(),
        }
    }
}

impl Shape {
    /// Llama 2 7B, 13B and 70B, Code Llama 34B, TinyLlama 1.1B, and one that is quick to test with; then
    /// Llama 1 7B and Code Llama 7B, which differ from Llama 2 in context, epsilon, vocabulary or base.
    pub const ALL: &'static [Shape] = &[
        Shape::new("7b", 32, 4096, 11008, 32, 32),
        Shape::new("13b", 40, 5120, 13824, 40, 40),
        Shape { context: 16384, rope_base: 1e6, ..Shape::new("34b", 48, 8192, 22016, 64, 8) },
        Shape::new("70b", 80, 8192, 28672, 64, 8),
        Shape { context: 2048, ..Shape::new("1.1b", 22, 2048, 5632, 32, 4) },
        Shape { context: 2048, ..Shape::new("tiny", 4, 256, 704, 8, 2) },
        Shape { context: 2048, norm_eps: 1e-6, ..Shape::new("llama1-7b", 32, 4096, 11008, 32, 32) },
        Shape {
            context: 16384,
            rope_base: 1e6,
            vocab: 32_016,
            ..Shape::new("codellama-7b", 32, 4096, 11008, 32, 32)
        },
    ];

    const fn new(
        name: &'static str,
        layers: usize,
        d_model: usize,
        d_ff: usize,
        heads: usize,
        kv_heads: usize,
    ) -> Shape {
        Shape {
            name,
            layers,
            d_model,
            d_ff,
            heads,
            kv_heads,
            vocab: 32_000,
            context: 4096,
            rope_base: 1e4,
            norm_eps: 1e-5,
            family: Family::Llama,
            window: 0,
            experts: (0, 0),
        }
    }

    /// The same shape in another family: Mistral 7B's window, Mixtral's experts, and the bases of each.
    pub fn of(self, family: Family) -> Shape {
        let own = Shape { family, ..self };
        match family {
            Family::Llama => own,
            Family::Mistral => Shape { window: 4096, ..own },
            Family::Mixtral => Shape { experts: (8, 2), rope_base: 1e6, ..own },
            Family::Qwen2 | Family::Qwen3 => Shape { rope_base: 1e6, norm_eps: 1e-6, ..own },
        }
    }

    /// The shape of this name, in any case.
    pub fn from_name(name: &str) -> Option<Shape> {
        Shape::ALL.iter().copied().find(|shape| shape.name.eq_ignore_ascii_case(name))
    }

    pub(super) fn is_valid(&self) -> bool {
        self.layers.wrapping_sub(1) < 1024
            && self.d_model.wrapping_sub(1) < 1 << 20
            && self.d_ff.wrapping_sub(1) < 1 << 20
            && self.heads > 0
            && self.kv_heads > 0
            && self.heads.is_multiple_of(self.kv_heads)
            && self.d_model.is_multiple_of(2 * self.heads)
            && (vocabulary::SMALLEST..1 << 20).contains(&self.vocab)
            && (1..1 << 31).contains(&self.context)
            && self.rope_base >= 1.0
            && self.norm_eps > 0.0
            && self.window < 1 << 31
            && self.experts.0 < 1 << 10
            && (self.experts.0 == 0) == (self.experts.1 == 0)
            && self.experts.1 <= self.experts.0
    }
}
