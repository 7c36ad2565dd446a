//! Rotary position embedding, and the ways to stretch it beyond the context of the training.

use crate::{Error, Result};
use llama_kernels::{Pairs, Rotation};
use std::f64::consts::PI;

/// Rotary position embedding (Su et al. 2021): pair `i` of a head turns by
/// `position * freq_base^(-2i / dims)`, or by what [`scaling`](Self::scaling) makes of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rope {
    /// How many of a head's first dimensions turn; even, at most `head_dim`.
    pub dims: usize,
    /// Which two of them turn together.
    pub pairs: Pairs,
    /// The base of the frequencies (`rope.freq_base`).
    pub freq_base: f32,
    /// How angles are scaled (`rope.scaling.type`).
    pub scaling: Scaling,
    /// How many times longer the context becomes (`rope.scaling.factor`): 1 without scaling.
    pub factor: f32,
    /// Positions before the stretching (`rope.scaling.original_context_length`).
    pub original_context: usize,
    /// How much of the unscaled angles YaRN keeps: 1 is what the paper keeps, 0 is linear scaling.
    pub ext_factor: f32,
    /// What the rotated features are multiplied by, beside YaRN's own factor (`rope.scaling.attn_factor`).
    pub attn_factor: f32,
    /// Turns over the original context from which on YaRN scales nothing.
    pub beta_fast: f32,
    /// Turns over the original context up to which YaRN scales in full.
    pub beta_slow: f32,
}

/// How angles are scaled for contexts longer than those of the training.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Scaling {
    /// Not at all.
    #[default]
    None,
    /// All angles are divided by the factor (Chen et al. 2023).
    Linear,
    /// The base is multiplied by `factor^(dims / (dims - 2))`: the slowest pair is scaled by the factor,
    /// the fastest hardly (NTK-aware).
    Ntk,
    /// The same with a factor that grows with the text, so that short texts are as without scaling: texts
    /// of up to `n` original contexts have the factor `n * factor - (factor - 1)`. When the text grows
    /// beyond an original context, the cached keys are turned to the new base.
    Dynamic,
    /// Each pair by what it turns over the original context (Peng et al. 2023), with scores magnified.
    Yarn,
}

impl Scaling {
    /// Every kind.
    pub const ALL: [Scaling; 5] =
        [Scaling::None, Scaling::Linear, Scaling::Ntk, Scaling::Dynamic, Scaling::Yarn];

    /// The name: of `none`, `linear` and `yarn` the one that files and llama.cpp's users know.
    pub fn name(self) -> &'static str {
        match self {
            Scaling::None => "none",
            Scaling::Linear => "linear",
            Scaling::Ntk => "ntk",
            Scaling::Dynamic => "dynamic",
            Scaling::Yarn => "yarn",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Scaling> {
        Scaling::ALL.into_iter().find(|scaling| scaling.name() == name)
    }
}

/// What a session changes of its model's [`Rope`]; `None` leaves it as it is.
///
/// ```
/// use llama_core::{Options, RopeOptions, Scaling};
///
/// let rope = RopeOptions { scaling: Some(Scaling::Yarn), factor: Some(4.0), ..RopeOptions::default() };
/// let options = Options::default().context(16384).rope(rope);
/// ```
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct RopeOptions {
    /// How angles are scaled. A factor alone means linear scaling if the model has none.
    pub scaling: Option<Scaling>,
    /// How many times longer the context becomes.
    pub factor: Option<f32>,
    /// The base of the frequencies.
    pub freq_base: Option<f32>,
    /// Positions before the stretching.
    pub original_context: Option<usize>,
    /// How much of the unscaled angles YaRN keeps.
    pub ext_factor: Option<f32>,
    /// What the rotated features are multiplied by, beside YaRN's own factor.
    pub attn_factor: Option<f32>,
    /// Turns over the original context from which on YaRN scales nothing.
    pub beta_fast: Option<f32>,
    /// Turns over the original context up to which YaRN scales in full.
    pub beta_slow: Option<f32>,
}

impl Rope {
    /// Without scaling.
    pub(crate) fn plain(dims: usize, pairs: Pairs, freq_base: f32, context: usize) -> Rope {
        Rope {
            dims,
            pairs,
            freq_base,
            scaling: Scaling::None,
            factor: 1.0,
            original_context: context,
            ext_factor: 1.0,
            attn_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        }
    }

    /// The same with a session's changes.
    pub(crate) fn with(&self, options: &RopeOptions) -> Result<Rope> {
        let positive = |option, value: Option<f32>, own| match value {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(out_of_range(option, "a finite number above 0", value.to_string()))
            }
            _ => Ok(value.unwrap_or(own)),
        };
        let ext_factor = options.ext_factor.unwrap_or(self.ext_factor);
        if !(0.0..=1.0).contains(&ext_factor) {
            return Err(out_of_range("yarn-ext-factor", "a number from 0 to 1", ext_factor.to_string()));
        }
        let original_context = options.original_context.unwrap_or(self.original_context);
        if original_context == 0 {
            return Err(out_of_range("yarn-orig-ctx", "1 or more", "0".into()));
        }
        let scaling = match (options.scaling, self.scaling) {
            (None, Scaling::None) if options.factor.is_some() => Scaling::Linear,
            (scaling, own) => scaling.unwrap_or(own),
        };
        Ok(Rope {
            dims: self.dims,
            pairs: self.pairs,
            freq_base: positive("rope-freq-base", options.freq_base, self.freq_base)?,
            scaling,
            factor: positive("rope-scale", options.factor, self.factor)?,
            original_context,
            ext_factor,
            attn_factor: positive("yarn-attn-factor", options.attn_factor, self.attn_factor)?,
            beta_fast: positive("yarn-beta-fast", options.beta_fast, self.beta_fast)?,
            beta_slow: positive("yarn-beta-slow", options.beta_slow, self.beta_slow)?,
        })
    }

    /// Where the text ends up to which a token at this position may be evaluated with one rotation.
    pub(crate) fn stage_end(&self, position: usize) -> usize {
        match self.scaling {
            Scaling::Dynamic => (position / self.original_context + 1).saturating_mul(self.original_context),
            _ => usize::MAX,
        }
    }

    /// How heads turn in a text that ends at `end`, with the divisors of the frequencies that a model may
    /// have (`rope_freqs.weight`).
    pub(crate) fn rotation(&self, end: usize, divisors: Option<&[f32]>) -> Rotation {
        let (dims, factor) = (self.dims as f64, f64::from(self.factor));
        let stretched = |factor: f64| f64::from(self.freq_base) * factor.powf(dims / (dims - 2.0));
        let base = match self.scaling {
            Scaling::Ntk => stretched(factor),
            Scaling::Dynamic => {
                let contexts = end.div_ceil(self.original_context).max(1) as f64;
                stretched((contexts * factor - (factor - 1.0)).max(1.0))
            }
            Scaling::None | Scaling::Linear | Scaling::Yarn => f64::from(self.freq_base),
        };
        let frequency = |i: usize| {
            let divisor = divisors.map_or(1.0, |divisors| f64::from(divisors[i]));
            let frequency = base.powf(-2.0 * i as f64 / dims) / divisor;
            match self.scaling {
                Scaling::Linear => frequency / factor,
                Scaling::Yarn => {
                    let kept = f64::from(self.ext_factor) * self.unscaled(i);
                    frequency * (kept + (1.0 - kept) / factor)
                }
                Scaling::None | Scaling::Ntk | Scaling::Dynamic => frequency,
            }
        };
        let frequencies = (0..self.dims / 2).map(frequency).collect();
        Rotation { frequencies, magnitude: self.magnitude(), pairs: self.pairs }
    }

    /// YaRN's ramp: 1 for pairs that turn often enough to be left alone, 0 for those that are scaled.
    /// As in ggml, it is even between two whole pairs.
    fn unscaled(&self, i: usize) -> f64 {
        let (dims, base) = (self.dims as f64, f64::from(self.freq_base));
        let pair = |turns: f32| {
            let radians = 2.0 * PI * f64::from(turns);
            dims * (self.original_context as f64 / radians).ln() / (2.0 * base.ln())
        };
        let low = pair(self.beta_fast).floor().max(0.0);
        let high = pair(self.beta_slow).ceil().min(dims - 1.0);
        1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0)
    }

    /// What turned features are multiplied by, and so the root of what scores are multiplied by.
    fn magnitude(&self) -> f64 {
        let yarn = self.scaling == Scaling::Yarn && self.ext_factor != 0.0 && self.factor > 1.0;
        let own = if yarn { 1.0 + 0.1 * f64::from(self.factor).ln() } else { 1.0 };
        own * f64::from(self.attn_factor)
    }
}

fn out_of_range(option: &'static str, expected: &str, found: String) -> Error {
    Error::Option { option, expected: expected.into(), found }
}
