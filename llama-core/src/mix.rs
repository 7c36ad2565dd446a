//! Mixes: which format each tensor of a quantized model has.

use llama_kernels::Format;
use std::fmt;

/// The formats of a model's matrices: one for all, or llama.cpp's choice per tensor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
#[allow(non_camel_case_types, reason = "llama.cpp's own names")]
pub enum Mix {
    /// One format for all.
    All(Format),
    /// [`Format::Q4_K`], but [`Format::Q6_K`] for what errors in hurt most: the output matrix, and
    /// `attn_v` and `ffn_down` of the first and the last eighth of the layers and of each third one
    /// between.
    Q4_K_M,
}

impl Mix {
    /// The names that [`from_name`](Self::from_name) takes: those of the formats, then those of the mixes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Format::ALL.iter().map(|format| format.name()).chain(["Q4_K_M"])
    }

    /// The format or mix with this name, in any case.
    pub fn from_name(name: &str) -> Option<Mix> {
        if name.eq_ignore_ascii_case("Q4_K_M") {
            return Some(Mix::Q4_K_M);
        }
        Format::from_name(name).map(Mix::All)
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Mix::All(format) => format.name(),
            Mix::Q4_K_M => "Q4_K_M",
        }
    }

    /// The format of the matrix with this GGUF name, in a model of so many layers.
    pub fn format(self, tensor: &str, layers: usize) -> Format {
        match self {
            Mix::All(format) => format,
            Mix::Q4_K_M => {
                let layer = tensor.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
                let sensitive = match layer {
                    Some((layer, "attn_v.weight" | "ffn_down.weight")) => {
                        layer.parse().is_ok_and(|layer| has_more_bits(layer, layers))
                    }
                    _ => tensor == "output.weight",
                };
                if sensitive { Format::Q6_K } else { Format::Q4_K }
            }
        }
    }
}

/// llama.cpp's choice of the layers that are worth more bits.
fn has_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

impl From<Format> for Mix {
    fn from(format: Format) -> Mix {
        Mix::All(format)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in Mix::names() {
            assert_eq!(Mix::from_name(&name.to_lowercase()).map(Mix::name), Some(name));
        }
        assert_eq!(Mix::from_name("Q4_K_X"), None);
    }

    #[test]
    fn q4_k_m_is_that_of_llama_cpp() {
        // The layers whose attn_v and ffn_down are Q6_K in published 7B files.
        let sensitive = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
        for layer in 0..32 {
            let format = |part: &str| Mix::Q4_K_M.format(&format!("blk.{layer}.{part}.weight"), 32);
            let expected = if sensitive.contains(&layer) { Format::Q6_K } else { Format::Q4_K };
            assert_eq!([format("attn_v"), format("ffn_down")], [expected; 2], "layer {layer}");
            assert_eq!([format("attn_k"), format("ffn_up")], [Format::Q4_K; 2], "layer {layer}");
        }
        assert_eq!(Mix::Q4_K_M.format("output.weight", 32), Format::Q6_K);
        assert_eq!(Mix::Q4_K_M.format("token_embd.weight", 32), Format::Q4_K);
    }
}
