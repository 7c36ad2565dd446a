//! What llama.cpp makes of synthetic models of every architecture and of scaled rotations: the naive
//! transformer agrees with it, and with the naive transformer all engines do.

use crate::rewritten;
use llama_core::gguf::{Gguf, Value};
use llama_core::synth::{Family, Shape, Spec, Synth};
use llama_core::{Model, Options, Token};
use llama_kernels::Format;
use llama_tests::naive::Naive;

/// Half a step of the 16 bits that logarithms of probabilities are saved in, and of five digits.
const SAVED: f64 = 0.5 * 17.0 / 65535.0 + 0.5e-5;

/// The model that `reference.py` had written.
fn model(family: Family) -> Gguf {
    let shape = Shape { layers: 2, ..Shape::from_name("tiny").unwrap() }.of(family);
    let file = tempfile::NamedTempFile::new().unwrap();
    let synth = Synth::new(&Spec { shape, format: Format::F32.into(), seed: 5 }).unwrap();
    synth.write(file.as_file(), |_| ()).unwrap();
    Gguf::read(file.path()).unwrap()
}

/// What the flags of a case are as keys of the file.
fn keys(case: &str) -> Vec<(&'static str, Value<'static>)> {
    match case {
        "linear" => vec![("rope.scaling.type", "linear".into()), ("rope.scaling.factor", 4f32.into())],
        "yarn" | "yarn of halves" => vec![
            ("rope.scaling.type", "yarn".into()),
            ("rope.scaling.factor", 4f32.into()),
            ("rope.scaling.original_context_length", 512u32.into()),
        ],
        "base" => vec![("rope.freq_base", 500f32.into())],
        _ => vec![],
    }
}

#[test]
fn llama_cpp_agrees() {
    for line in include_str!("reference.txt").lines() {
        let fields: Vec<&str> = line.split("; ").collect();
        let [case, architecture, tokens, likeliest] = fields[..] else { panic!("{line}") };
        let tokens: Vec<u32> = tokens.split(' ').map(|token| token.parse().unwrap()).collect();
        let likeliest = likeliest.split(' ').map(|pair| {
            let (token, value) = pair.split_once(':').unwrap();
            (token.parse().unwrap(), value.parse().unwrap())
        });
        let likeliest: Vec<(usize, f64)> = likeliest.collect();

        let family = Family::from_name(architecture).unwrap();
        let name = if family == Family::Mixtral { "llama" } else { architecture };
        let keys: Vec<(String, Value<'_>)> =
            keys(case).into_iter().map(|(key, value)| (format!("{name}.{key}"), value)).collect();
        let keys: Vec<(&str, Value<'_>)> = keys.iter().map(|(key, value)| (&key[..], *value)).collect();
        let gguf = rewritten(&model(family), &keys, |_| ());
        let answers = Naive::load(&gguf).answers(&tokens);
        let answer = &answers[answers.len() - 1];

        // Logarithms of probabilities are logits but for one number, which the favourite's takes out.
        let (first, saved_first) = likeliest[0];
        for &(token, saved) in &likeliest {
            let expected = answer.expected[token] - answer.expected[first];
            let bound = answer.bound[token] + answer.bound[first] + 2.0 * SAVED;
            let off = saved - saved_first - expected;
            assert!(off.abs() <= bound, "{case}, {architecture}, token {token}: {off:e} within {bound:e}");
            assert!(bound < 0.05, "{case}: {bound} tells nothing");
        }
        let model = Model::from_gguf(gguf).unwrap();
        let mut session = model.session(Options::default().context(32)).unwrap();
        let tokens: Vec<Token> = tokens.into_iter().map(Token).collect();
        answer.check(session.forward(&tokens).unwrap(), case);
    }
}
