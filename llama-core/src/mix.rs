//! Mixes: which format each tensor of a quantized model has.
//!
//! The table below is what llama.cpp's quantizer does to a dense Llama without an importance matrix
//! (`llama_tensor_get_type_impl` and `tensor_type_fallback` in its `src/llama-quant.cpp`, the numbers of
//! the file types in its `include/llama.h`): a mix has one format for most matrices, and others for those
//! in which errors hurt most.

use Format::{IQ4_NL, Q2_K, Q3_K, Q4_0, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
use Layers::{Eighth, Every, Few, Grouped, Sensitive, Sixteenth};
use llama_kernels::Format;
use std::fmt;

/// The formats of a model's matrices: one for all, or one of llama.cpp's mixes.
///
/// llama.cpp has further mixes that are named like a format, `Q2_K` for one; here such a name stands for
/// that format in all matrices.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
#[allow(non_camel_case_types, reason = "llama.cpp's own names")]
pub enum Mix {
    /// One format for all: llama.cpp's `--pure`.
    All(Format),
    /// [`Format::Q2_K`], with [`Format::Q4_K`] for the first layers' `ffn_down`.
    Q2_K_S,
    /// [`Format::Q3_K`].
    Q3_K_S,
    /// [`Format::Q3_K`], with more bits for `attn_v`, `attn_output` and `ffn_down`.
    Q3_K_M,
    /// The same with [`Format::Q5_K`] for these.
    Q3_K_L,
    /// [`Format::Q4_K`], with [`Format::Q5_K`] for the first layers' `attn_v` and `ffn_down`.
    Q4_K_S,
    /// [`Format::Q4_K`], with [`Format::Q6_K`] for `attn_v` and `ffn_down` of half of the layers: the
    /// first and the last eighth, and each third one between.
    Q4_K_M,
    /// [`Format::Q5_K`].
    Q5_K_S,
    /// [`Format::Q5_K`], with [`Format::Q6_K`] where [`Q4_K_M`](Self::Q4_K_M) has it.
    Q5_K_M,
}

/// A mix, as data. The output matrix is [`Format::Q6_K`] in all of them.
struct Recipe {
    mix: Mix,
    name: &'static str,
    /// The value of `general.file_type`.
    file_type: u32,
    /// What is not mentioned below.
    most: Format,
    /// The first rule that applies to a layer counts.
    attn_v: &'static [(Layers, Format)],
    attn_output: &'static [(Layers, Format)],
    ffn_down: &'static [(Layers, Format)],
}

/// Which layers a rule applies to.
#[derive(Clone, Copy)]
enum Layers {
    Every,
    /// The first so many.
    Few(usize),
    /// The first eighth, rounded down.
    Eighth,
    /// The first sixteenth, rounded down.
    Sixteenth,
    /// The first and the last eighth and each third one between.
    Sensitive,
    /// All of a model of which four or more heads share a key.
    Grouped,
}

const fn recipe(mix: Mix, name: &'static str, file_type: u32, most: Format) -> Recipe {
    Recipe { mix, name, file_type, most, attn_v: &[], attn_output: &[], ffn_down: &[] }
}

#[rustfmt::skip]
const RECIPES: [Recipe; 8] = [
    Recipe { attn_v: &[(Grouped, Q4_K)], ffn_down: &[(Eighth, Q4_K)], ..recipe(Mix::Q2_K_S, "Q2_K_S", 21, Q2_K) },
    recipe(Mix::Q3_K_S, "Q3_K_S", 11, Q3_K),
    Recipe {
        attn_v: &[(Few(2), Q5_K), (Every, Q4_K)], attn_output: &[(Every, Q4_K)],
        ffn_down: &[(Sixteenth, Q5_K), (Every, Q4_K)], ..recipe(Mix::Q3_K_M, "Q3_K_M", 12, Q3_K)
    },
    Recipe {
        attn_v: &[(Every, Q5_K)], attn_output: &[(Every, Q5_K)], ffn_down: &[(Every, Q5_K)],
        ..recipe(Mix::Q3_K_L, "Q3_K_L", 13, Q3_K)
    },
    Recipe { attn_v: &[(Few(4), Q5_K)], ffn_down: &[(Eighth, Q5_K)], ..recipe(Mix::Q4_K_S, "Q4_K_S", 14, Q4_K) },
    Recipe {
        attn_v: &[(Sensitive, Q6_K)], ffn_down: &[(Sensitive, Q6_K)],
        ..recipe(Mix::Q4_K_M, "Q4_K_M", 15, Q4_K)
    },
    recipe(Mix::Q5_K_S, "Q5_K_S", 16, Q5_K),
    Recipe {
        attn_v: &[(Sensitive, Q6_K)], ffn_down: &[(Sensitive, Q6_K)],
        ..recipe(Mix::Q5_K_M, "Q5_K_M", 17, Q5_K)
    },
];

impl Mix {
    /// The names that [`from_name`](Self::from_name) takes: those of the formats, then those of the mixes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let formats = Format::ALL.iter().map(|format| format.name());
        formats.chain(RECIPES.iter().map(|recipe| recipe.name))
    }

    /// The format or mix with this name, in any case.
    pub fn from_name(name: &str) -> Option<Mix> {
        let recipe = RECIPES.iter().find(|recipe| recipe.name.eq_ignore_ascii_case(name));
        recipe.map(|recipe| recipe.mix).or_else(|| Format::from_name(name).map(Mix::All))
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Mix::All(format) => format.name(),
            _ => self.recipe().name,
        }
    }

    /// llama.cpp's number for files of this mix, the value of `general.file_type`; `None` for a format
    /// that it makes no files of. Where several of its mixes are mostly of one format, that format in
    /// all matrices has the number of the plainest.
    pub fn file_type(self) -> Option<u32> {
        let Mix::All(format) = self else { return Some(self.recipe().file_type) };
        Some(match format {
            Format::F32 => 0,
            Format::F16 => 1,
            Format::Q4_0 => 2,
            Format::Q4_1 => 3,
            Format::Q8_0 => 7,
            Format::Q5_0 => 8,
            Format::Q5_1 => 9,
            Format::Q2_K => 21,
            Format::Q3_K => 11,
            Format::Q4_K => 14,
            Format::Q5_K => 16,
            Format::Q6_K => 18,
            Format::IQ2_XXS => 19,
            Format::IQ2_XS => 20,
            Format::IQ3_XXS => 23,
            Format::IQ1_S => 24,
            Format::IQ4_NL => 25,
            Format::IQ3_S => 26,
            Format::IQ2_S => 29,
            Format::IQ4_XS => 30,
            Format::IQ1_M => 31,
            Format::BF16 => 32,
            Format::TQ1_0 => 36,
            Format::TQ2_0 => 37,
            Format::MXFP4 => 38,
            Format::NVFP4 => 39,
            Format::Q1_0 => 40,
            _ => return None,
        })
    }

    /// The format of the matrix with this GGUF name and rows of `cols` weights, in a model of `layers`
    /// layers of which `group` query heads share a key. A model whose output is tied to its embedding
    /// asks for `output.weight`.
    ///
    /// A format whose blocks do not divide the rows is replaced by one of about as many bits in blocks of
    /// 32, or by [`Format::F16`].
    pub fn format(self, tensor: &str, cols: usize, layers: usize, group: usize) -> Format {
        let chosen = match self {
            Mix::All(format) => format,
            _ => self.recipe().format(tensor, layers, group),
        };
        let fits = |format: &Format| cols.is_multiple_of(format.block_len());
        [Some(chosen), fallback(chosen)].into_iter().flatten().find(fits).unwrap_or(Format::F16)
    }

    /// # Panics
    /// For [`Mix::All`], which has none.
    fn recipe(self) -> &'static Recipe {
        RECIPES.iter().find(|recipe| recipe.mix == self).expect("one recipe a mix")
    }
}

impl Recipe {
    fn format(&self, tensor: &str, layers: usize, group: usize) -> Format {
        let Some((layer, part)) = tensor.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            return if tensor == "output.weight" { Q6_K } else { self.most };
        };
        let rules = match part {
            "attn_v.weight" => self.attn_v,
            "attn_output.weight" => self.attn_output,
            "ffn_down.weight" | "ffn_down_exps.weight" => self.ffn_down,
            _ => &[],
        };
        let layer = layer.parse().unwrap_or(usize::MAX);
        let rule = rules.iter().find(|(which, _)| which.have(layer, layers, group));
        let format = rule.map_or(self.most, |rule| rule.1);
        // llama.cpp knows the 70B by its 80 layers and shared keys. Its attn_v is an eighth of attn_q, so
        // more bits cost little.
        match (part, format) {
            ("attn_v.weight", Q3_K | Q4_K) if layers == 80 && group > 1 => Q5_K,
            _ => format,
        }
    }
}

impl Layers {
    fn have(self, layer: usize, layers: usize, group: usize) -> bool {
        let eighth = layers / 8;
        match self {
            Every => true,
            Few(few) => layer < few,
            Eighth => layer < eighth,
            Sixteenth => layer < layers / 16,
            Sensitive => layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2,
            Grouped => group >= 4,
        }
    }
}

/// What llama.cpp takes where rows are no whole blocks of 256.
fn fallback(format: Format) -> Option<Format> {
    match format {
        Format::IQ1_S | Format::IQ1_M => Some(IQ4_NL),
        Format::IQ2_XXS | Format::IQ2_XS | Format::IQ2_S => Some(IQ4_NL),
        Format::IQ3_XXS | Format::IQ3_S | Format::IQ4_XS => Some(IQ4_NL),
        Q2_K | Q3_K | Format::TQ1_0 | Format::TQ2_0 => Some(Q4_0),
        Q4_K => Some(Q5_0),
        Q5_K => Some(Q5_1),
        Q6_K => Some(Q8_0),
        _ => None,
    }
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

    /// (layers, query heads that share a key)
    const SHAPES: [(usize, usize); 3] = [(32, 1), (40, 1), (80, 8)]; // 7b, 13b, 70b

    /// The formats of one tensor in every layer.
    fn formats(mix: Mix, part: &str, (layers, group): (usize, usize)) -> Vec<Format> {
        (0..layers).map(|i| mix.format(&format!("blk.{i}.{part}.weight"), 8192, layers, group)).collect()
    }

    /// `special` in these layers, `others` in the rest.
    fn except(layers: usize, special: Format, those: &[usize], others: Format) -> Vec<Format> {
        (0..layers).map(|i| if those.contains(&i) { special } else { others }).collect()
    }

    #[test]
    fn names_are_read_back() {
        for name in Mix::names() {
            assert_eq!(Mix::from_name(&name.to_lowercase()).map(Mix::name), Some(name));
        }
        assert_eq!(Mix::from_name("Q4_K_X"), None);
        assert_eq!(Mix::from_name("Q4_K"), Some(Mix::All(Q4_K)));
    }

    #[test]
    fn q4_k_m_is_that_of_llama_cpp() {
        // The layers whose attn_v and ffn_down are Q6_K in published files of Llama 2.
        let sensitive: [&[usize]; 3] = [
            &[0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31],
            &[0, 1, 2, 3, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34, 35, 36, 37, 38, 39],
            &[
                0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45, 48, 51, 54, 57,
                60, 63, 66, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79,
            ],
        ];
        for (shape, sensitive) in SHAPES.into_iter().zip(sensitive) {
            let formats = |part| formats(Mix::Q4_K_M, part, shape);
            // The other layers of the 70B have Q5_K.
            let plain_v = if shape.0 == 80 { Q5_K } else { Q4_K };
            assert_eq!(formats("attn_v"), except(shape.0, Q6_K, sensitive, plain_v), "{shape:?}");
            assert_eq!(formats("ffn_down"), except(shape.0, Q6_K, sensitive, Q4_K), "{shape:?}");
            for part in ["attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"] {
                assert_eq!(formats(part), vec![Q4_K; shape.0], "{part} {shape:?}");
            }
            let of = |tensor| Mix::Q4_K_M.format(tensor, 8192, shape.0, shape.1);
            assert_eq!([of("output.weight"), of("token_embd.weight")], [Q6_K, Q4_K], "{shape:?}");
        }
        // 80 layers without shared keys are Llama 1 65B, and shared keys alone make no 70B.
        assert_eq!(Mix::Q4_K_M.format("blk.10.attn_v.weight", 8192, 80, 1), Q4_K);
        assert_eq!(Mix::Q4_K_M.format("blk.7.attn_v.weight", 8192, 48, 8), Q4_K);
    }

    #[test]
    fn the_other_mixes_are_those_of_llama_cpp() {
        // attn_v, attn_output and ffn_down: those of the first layers, how many, those of the others.
        type Expected = [(Format, [usize; 3], Format); 3];
        let all = |format| (format, [0; 3], format);
        let eighths = [4, 5, 10];
        let expected: [(Mix, Format, Expected); 6] = [
            (Mix::Q2_K_S, Q2_K, [(Q4_K, [0, 0, 80], Q2_K), all(Q2_K), (Q4_K, eighths, Q2_K)]),
            (Mix::Q3_K_S, Q3_K, [all(Q3_K); 3]),
            (Mix::Q3_K_M, Q3_K, [(Q5_K, [2; 3], Q4_K), all(Q4_K), (Q5_K, [2, 2, 5], Q4_K)]),
            (Mix::Q3_K_L, Q3_K, [all(Q5_K); 3]),
            (Mix::Q4_K_S, Q4_K, [(Q5_K, [4; 3], Q4_K), all(Q4_K), (Q5_K, eighths, Q4_K)]),
            (Mix::Q5_K_S, Q5_K, [all(Q5_K); 3]),
        ];
        for (mix, most, expected) in expected {
            for (i, shape) in SHAPES.into_iter().enumerate() {
                for (part, (first, count, then)) in ["attn_v", "attn_output", "ffn_down"].iter().zip(expected)
                {
                    let mut expected = vec![first; count[i]];
                    expected.resize(shape.0, then);
                    if (i, *part) == (2, "attn_v") {
                        // More bits for the 70B, as above.
                        let more = |format: &mut Format| *format = if *format == Q6_K { Q6_K } else { Q5_K };
                        expected.iter_mut().filter(|format| **format != Q2_K).for_each(more);
                    }
                    assert_eq!(formats(mix, part, shape), expected, "{mix} {part} {shape:?}");
                }
                for part in ["attn_q", "attn_k", "ffn_gate", "ffn_up"] {
                    assert_eq!(formats(mix, part, shape), vec![most; shape.0], "{mix} {part} {shape:?}");
                }
                let of = |tensor| mix.format(tensor, 8192, shape.0, shape.1);
                assert_eq!([of("output.weight"), of("token_embd.weight")], [Q6_K, most], "{mix}");
            }
        }
        for part in ["attn_v", "ffn_down"] {
            let bits = |mix| formats(mix, part, (40, 1)).into_iter().map(|format| format == Q6_K);
            assert!(bits(Mix::Q5_K_M).eq(bits(Mix::Q4_K_M)), "{part}");
        }
        assert_eq!(formats(Mix::Q5_K_M, "attn_v", (80, 8))[10], Q5_K);
    }

    #[test]
    fn rows_of_other_lengths_fall_back() {
        let format = |mix: Mix, tensor, cols| mix.format(tensor, cols, 4, 4);
        for (mix, expected) in [
            (Mix::All(Q4_K), Q5_0),
            (Mix::All(Q5_K), Q5_1),
            (Mix::All(Q6_K), Q8_0),
            (Mix::All(Q2_K), Q4_0),
            (Mix::All(Q3_K), Q4_0),
            (Mix::All(Format::TQ2_0), Q4_0),
            (Mix::All(Format::IQ4_XS), IQ4_NL),
            (Mix::All(Format::IQ1_S), IQ4_NL),
            (Mix::All(Q4_0), Q4_0),
            (Mix::All(Format::Q8_K), Format::F16),
        ] {
            assert_eq!(format(mix, "blk.1.ffn_down.weight", 704), expected, "{mix}");
            assert_eq!(format(mix, "blk.1.ffn_down.weight", 172), Format::F16, "{mix}");
        }
        assert_eq!(format(Mix::Q4_K_M, "blk.3.ffn_down.weight", 704), Q8_0);
        assert_eq!(format(Mix::Q4_K_M, "blk.1.ffn_up.weight", 704), Q5_0);
        assert_eq!(format(Mix::Q4_K_M, "output.weight", 96), Q8_0);
        assert_eq!(format(Mix::All(Format::F32), "output.weight", 7), Format::F32);
    }

    #[test]
    fn file_types_are_unique_but_for_pure_files() {
        let mut numbers: Vec<u32> = RECIPES.iter().map(|recipe| recipe.file_type).collect();
        let pure = Format::ALL.iter().filter_map(|&format| Mix::All(format).file_type());
        // Q2_K to Q5_K have the number of their smallest mix.
        numbers.extend(pure.filter(|number| ![21, 11, 14, 16].contains(number)));
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count);
        assert_eq!((Mix::Q4_K_M.file_type(), Mix::All(Q4_0).file_type()), (Some(15), Some(2)));
    }
}
