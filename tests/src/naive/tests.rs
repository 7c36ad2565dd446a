use super::*;
use crate::close::violation;
use llama_core::synth::{Family, Shape, Spec, Synth};
use std::path::PathBuf;

/// A file of the test data, which need not be there.
fn data(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")).join(name);
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
    }
    path.exists().then_some(path)
}

/// A small vocabulary, quick to multiply by.
fn synthetic(layers: usize, format: Format) -> Naive {
    of_shape(Shape { layers, vocab: 400, ..Shape::from_name("tiny").unwrap() }, format)
}

fn of_shape(shape: Shape, format: Format) -> Naive {
    let synth = Synth::new(&Spec { shape, format: format.into(), seed: 1 }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    synth.write(std::fs::File::create(&path).unwrap(), |_| ()).unwrap();
    Naive::load(&Gguf::read(&path).unwrap())
}

/// Models that differ from this one as faulty engines do. The graph of a layer, its norms and
/// the rotation are wrong from the first token, from the second or in one feature of 256.
fn faulty(model: &Naive) -> Vec<(&'static str, Naive)> {
    let mut faulty = ["base", "dims", "eps", "one norm", "gate and up"].map(|what| (what, model.clone()));
    faulty[0].1.rope.base = 20_000.0;
    faulty[1].1.rope.dims = 30;
    faulty[2].1.eps = 0.01;
    faulty[3].1.layers[0].attn_norm[5] *= -1.0;
    let network = &mut faulty[4].1.layers[0].networks[0];
    std::mem::swap(&mut network.gate, &mut network.up);
    faulty.to_vec()
}

const PROMPT: [u32; 12] = [1, 300, 399, 261, 262, 300, 300, 7, 350, 399, 261, 333];

#[test]
fn a_trained_model_tells_its_story() {
    let (Some(model), Some(text)) =
        (data("models/stories260K.gguf"), data("models/stories260K.expected_greedy_200.txt"))
    else {
        return;
    };
    let gguf = Gguf::read(&model).unwrap();
    let pieces: Vec<&str> = gguf.strs("tokenizer.ggml.tokens").unwrap().collect();
    let mut bytes = Vec::new();
    for token in Naive::load(&gguf).greedy(&[1], 200) {
        let piece = pieces[token as usize];
        match piece.strip_prefix("<0x").and_then(|hex| u8::from_str_radix(&hex[..2], 16).ok()) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(piece.replace('\u{2581}', " ").bytes()),
        }
    }
    // The space before the first word belongs to the tokenizer, not to the text.
    let told = String::from_utf8(bytes).unwrap();
    assert_eq!(told.trim_start(), std::fs::read_to_string(text).unwrap());
}

#[test]
fn the_bound_admits_an_engine_and_is_informative() {
    let mut models: Vec<(String, Naive)> =
        Format::ALL.iter().map(|&format| (format.to_string(), synthetic(2, format))).collect();
    if let Some(path) = data("models/stories260K.gguf") {
        models.push(("stories260K".into(), Naive::load(&Gguf::read(&path).unwrap())));
    }
    for (name, model) in models {
        let engine = model.logits_with(&PROMPT, Rounding::Nearest);
        for (position, (answer, found)) in model.answers(&PROMPT).iter().zip(&engine).enumerate() {
            let what = format!("{name}, position {position}");
            answer.check(&narrow(found), &what);
            let error = |i: usize| (found[i] - answer.expected[i]).abs() / answer.bound[i];
            let used = (0..found.len()).map(error).fold(0.0, f64::max);
            assert!(used > 0.05, "{what}: the bound is {:.0} times the largest error", 1.0 / used);
        }
    }
}

/// Positions at which a model's logits are within the bounds.
fn met(answers: &[Answer], model: &Naive) -> usize {
    let logits = model.logits_with(&PROMPT, Rounding::Perturbed(99));
    let meets = |(answer, found): &(&Answer, Vec<f64>)| {
        violation(&narrow(found), &answer.expected, &answer.bound).is_none()
    };
    answers.iter().zip(logits).filter(meets).count()
}

#[test]
fn the_bound_rejects_faulty_engines() {
    let model = synthetic(2, Format::F32);
    let answers = model.answers(&PROMPT);
    assert_eq!(met(&answers, &model), PROMPT.len());
    for (what, faulty) in faulty(&model) {
        assert!(met(&answers, &faulty) <= 1, "{what}"); // no rotation at position 0
    }
}

/// What tells the families apart is seen too: each fault makes of one family's model another's.
#[test]
fn the_bound_rejects_the_graph_of_another_family() {
    let model = |family| {
        let tiny = Shape { layers: 2, vocab: 400, d_ff: 256, ..Shape::from_name("tiny").unwrap() };
        let shape = tiny.of(family);
        of_shape(Shape { window: if shape.window > 0 { 5 } else { 0 }, ..shape }, Format::F32)
    };
    type Fault = fn(&mut Naive);
    let faults: [(&str, Family, Fault); 9] = [
        ("adjacent pairs", Family::Qwen2, |m| m.rope.pairs = Pairs::Adjacent),
        ("no bias of queries", Family::Qwen2, |m| m.layers[0].attn_bias[0] = None),
        ("no bias of values", Family::Qwen2, |m| m.layers[1].attn_bias[2] = None),
        ("no norm of keys", Family::Qwen3, |m| m.layers[0].attn_k_norm = None),
        ("no norm of queries", Family::Qwen3, |m| m.layers[1].attn_q_norm = None),
        ("a window of one more", Family::Mistral, |m| m.window += 1),
        ("a window of one less", Family::Mistral, |m| m.window -= 1),
        ("one expert", Family::Mixtral, |m| m.used = 1),
        ("other experts", Family::Mixtral, |m| m.layers[1].networks.reverse()),
    ];
    for (what, family, fault) in faults {
        let model = model(family);
        let answers = model.answers(&PROMPT);
        assert_eq!(met(&answers, &model), PROMPT.len(), "{family:?}");
        let mut faulty = model.clone();
        fault(&mut faulty);
        // Where nothing is to be seen yet, it is right: the first token turns by nothing and has no past.
        let unseen = if family == Family::Mistral { 5 } else { 1 };
        let met = met(&answers, &faulty);
        assert!(met <= unseen, "{what}: {met} positions");
    }
}

#[test]
fn the_sharp_bound_rejects_faulty_engines_with_int8() {
    for format in [Format::Q8_0, Format::Q4_0] {
        let model = synthetic(1, format);
        let answers = model.sharp_answers(&PROMPT);
        assert!(met(&answers, &model) > PROMPT.len() / 4, "{format}");
        for (what, faulty) in faulty(&model) {
            assert!(met(&answers, &faulty) <= 1, "{format}: {what}");
        }
    }
}

#[test]
fn the_likeliest_come_first() {
    assert_eq!(top_two(&[1.0, 3.0, -7.0, 3.0, 2.0]), [(1, 3.0), (3, 3.0)]);
}

#[test]
fn rounded_activations_need_a_bound_of_their_own() {
    assert!(synthetic(1, Format::F32).rounded("amx").is_none());
    assert!(synthetic(1, Format::F16).rounded("avx512").is_none());
    assert!(synthetic(1, Format::F16).rounded("amx").is_some());
    assert!(synthetic(1, Format::F16).rounded("avx512vnni").is_some());
    let model = synthetic(1, Format::BF16);
    let rounded = model.rounded("amx").unwrap();
    let engine = rounded.logits_with(&PROMPT, Rounding::Nearest);
    let meets = |answers: Vec<Answer>| {
        let met = |(logits, answer): (&Vec<f64>, &Answer)| {
            violation(&narrow(logits), &answer.expected, &answer.bound).is_none()
        };
        engine.iter().zip(&answers).filter(|(logits, answer)| met((logits, answer))).count()
    };
    assert_eq!(meets(rounded.answers(&PROMPT)), PROMPT.len());
    assert_eq!(meets(model.answers(&PROMPT)), 0);
}
