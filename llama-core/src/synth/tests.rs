use super::*;
use crate::gguf::tests::from_bytes;
use crate::{Config, Weights};

fn small(format: impl Into<Mix>, seed: u64) -> Spec {
    let tiny = Shape::from_name("tiny").unwrap();
    Spec { shape: Shape { layers: 1, d_ff: 256, vocab: 500, ..tiny }, format: format.into(), seed }
}

#[test]
fn equal_specs_give_equal_bytes() {
    for format in Mix::names().map(|name| Mix::from_name(name).unwrap()) {
        let write = |seed| {
            let synth = Synth::new(&small(format, seed)).unwrap();
            let mut last = 0;
            let file = synth.write(Vec::new(), |done| last = done).unwrap();
            assert_eq!((file.len() as u64, last), (synth.file_bytes(), synth.file_bytes()), "{format}");
            file
        };
        let file = write(1);
        assert!(file == write(1), "{format}");
        assert!(file != write(2), "{format}");
    }
}

#[test]
fn what_is_written_is_a_model() {
    for &format in Format::ALL {
        let synth = Synth::new(&small(format, 1)).unwrap();
        let gguf = from_bytes(synth.write(Vec::new(), |_| ()).unwrap()).unwrap();
        let config = Config::new(&gguf).unwrap();
        assert_eq!((config.n_heads, config.n_kv_heads, config.vocab), (8, 2, 500), "{format}");
        assert_eq!(gguf.u32("general.quantization_version").unwrap(), 2);
        let file_type = Mix::All(format).file_type();
        assert_eq!(gguf.opt_u32("general.file_type").unwrap(), file_type, "{format}");
        let weights = Weights::load(&gguf, &config).unwrap();
        assert_eq!(weights.output.matrix().format(), format);
        let mut row = vec![0.0; 256];
        let mut squares = 0.0;
        for i in 0..500 {
            weights.token_embd.matrix().dequantize_row(i, &mut row);
            squares += row.iter().map(|w| w * w).sum::<f32>();
        }
        let mean_square = squares / (500.0 * 256.0);
        assert!((0.7..1.3).contains(&mean_square), "{format}: {mean_square}");
    }
}

#[test]
fn shapes_have_the_sizes_of_the_real_models() {
    // Parameters as published; sizes of the 7B in Q4_0 (all matrices of one format), and of published
    // files in llama.cpp's mixes (those of the 13B are rounded to 10 MB, of the 70B to 100 MB).
    let all = |name: &str, mix| tensors(&Shape::from_name(name).unwrap(), mix);
    for (name, expected) in [("7b", 6.74), ("13b", 13.02), ("34b", 33.74), ("70b", 68.98), ("1.1b", 1.10)] {
        let weights: usize = all(name, Format::Q4_0.into()).iter().map(Tensor::weights).sum();
        let found = weights as f64 / 1e9;
        assert!((found - expected).abs() < 0.006, "{name}: {found}");
    }
    for (name, format, expected) in [
        ("7B", Format::Q4_0.into(), 3.791e9),
        ("7B", Mix::Q4_K_M, 4.081e9),
        ("13B", Mix::Q3_K_S, 5.66e9),
        ("13B", Mix::Q3_K_M, 6.34e9),
        ("13B", Mix::Q3_K_L, 6.93e9),
        ("13B", Mix::Q4_K_S, 7.42e9),
        ("13B", Mix::Q4_K_M, 7.866e9),
        ("13B", Mix::Q5_K_S, 8.97e9),
        ("13B", Mix::Q5_K_M, 9.23e9),
        ("70B", Mix::Q3_K_S, 29.9e9),
        ("70B", Mix::Q3_K_M, 33.3e9),
        ("70B", Mix::Q3_K_L, 36.1e9),
        ("70B", Mix::Q4_K_S, 39.2e9),
        ("70B", Mix::Q4_K_M, 41.4e9),
        ("70B", Mix::Q5_K_S, 47.5e9),
        ("70B", Mix::Q5_K_M, 48.8e9),
    ] {
        let bytes = |t: &Tensor| t.format.row_bytes(t.weights()).unwrap();
        let found = all(name, format).iter().map(bytes).sum::<usize>() as f64; // a header has 0.7e6
        let rounding = if name == "70B" { 0.06e9 } else { 0.006e9 };
        assert!((found - expected).abs() < rounding, "{name} {format}: {found}");
    }
}

#[test]
fn rows_that_the_format_cannot_hold_are_f16() {
    let mut spec = small(Format::Q4_0, 1);
    spec.shape.d_ff = 172;
    let synth = Synth::new(&spec).unwrap();
    let format = |part: &str| synth.tensors().iter().find(|t| t.name.contains(part)).unwrap().format;
    let found = ["ffn_down", "ffn_up", "attn_norm"].map(format);
    assert_eq!(found, [Format::F16, Format::Q4_0, Format::F32]);
    synth.write(io::sink(), |_| ()).unwrap();
}

#[test]
fn impossible_shapes_are_refused() {
    let shape = small(Format::F32, 1).shape;
    for shape in [
        Shape { layers: 0, ..shape },
        Shape { heads: 7, ..shape },
        Shape { kv_heads: 3, ..shape },
        Shape { vocab: 300, ..shape },
        Shape { d_ff: usize::MAX, ..shape },
        Shape { rope_base: f32::NAN, ..shape },
        Shape { norm_eps: 0.0, ..shape },
        Shape { experts: (2, 3), ..shape },
        Shape { experts: (2, 0), ..shape },
    ] {
        let error = Synth::new(&Spec { shape, format: Format::F32.into(), seed: 1 });
        assert!(matches!(error, Err(Error::Option { option: "shape", .. })), "{shape:?}");
    }
}

#[test]
fn groups_have_the_statistics_of_drawn_weights() {
    let tensor = &tensors(&Shape::ALL[0], Format::Q8_0.into())[2];
    let (cols, rows) = (4096, 64);
    let mut palette = Palette::new(1);
    let groups = palette.groups(tensor).unwrap();
    let (mut bytes, mut weights, mut rng) = (Vec::new(), vec![0.0; cols * rows], Rng::named(1, "test"));
    (0..rows).for_each(|_| groups.row(&mut rng, cols, &mut bytes));
    Format::Q8_0.dequantize(&bytes, &mut weights);
    let moment =
        |p: i32| weights.iter().map(|&w| f64::from(w * 64.0).powi(p)).sum::<f64>() / weights.len() as f64;
    assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.02, "{} {}", moment(1), moment(2));
    assert!((moment(4) - 2.85).abs() < 0.1, "{}", moment(4)); // 3 - 1.2 / 8: eight uniform summands
    let product = |a: usize, b: usize| {
        let row = |r: usize| weights[r * cols..(r + 1) * cols].iter();
        row(a).zip(row(b)).map(|(a, b)| f64::from(a * b)).sum::<f64>()
    };
    assert!(product(0, 1).abs() < 0.1 && product(2, 63).abs() < 0.1, "rows are not independent");
}

#[test]
fn every_family_is_a_model() {
    for family in Family::ALL {
        assert_eq!(Family::from_name(&family.name().to_uppercase()), Some(family));
        let mut spec = small(Format::Q8_0, 1);
        spec.shape = spec.shape.of(family);
        let gguf = from_bytes(Synth::new(&spec).unwrap().write(Vec::new(), |_| ()).unwrap()).unwrap();
        let config = Config::new(&gguf).unwrap();
        assert_eq!(config.architecture, family.architecture());
        assert_eq!(config.window, (family == Family::Mistral).then_some(4096));
        assert_eq!(config.experts.is_some(), family == Family::Mixtral);
        let weights = Weights::load(&gguf, &config).unwrap();
        let tied = gguf.tensor("output.weight").is_none();
        assert_eq!((tied, !weights.layers[0].attn_bias.is_empty()), (family == Family::Qwen2, tied));
        let written: usize = tensors(&spec.shape, spec.format).iter().map(Tensor::weights).sum();
        assert_eq!(weights.parameters(), written as u64, "{family:?}");
    }
    // As published: 46.7 billion, of which a token uses 12.9.
    let mixtral = Shape { kv_heads: 8, d_ff: 14336, ..Shape::from_name("7b").unwrap() }.of(Family::Mixtral);
    let weights: usize = tensors(&mixtral, Format::Q4_0.into()).iter().map(Tensor::weights).sum();
    assert!((weights as f64 / 1e9 - 46.70).abs() < 0.01, "{weights}");
}
