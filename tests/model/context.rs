//! Longer contexts: what sessions change of the rotation, and texts that outgrow their context.

use crate::{CPUS, VOCAB, ids, rewritten, synthetic, text, tiny};
use llama_core::gguf::{Gguf, Value};
use llama_core::{Error, Model, Options, RopeOptions, Sampler, Scaling, StopReason, Token};
use llama_kernels::{Format, KvType};
use llama_tests::naive::Naive;
use std::path::Path;

const TOKENS: usize = 24;

/// The logits of a session with these options are those of a model whose file says so.
#[track_caller]
fn same(what: &str, rope: RopeOptions, keys: &[(&str, Value<'_>)]) {
    let gguf = synthetic(Format::F32, tiny(1));
    let tokens = text(TOKENS, VOCAB);
    let answers = Naive::load(&rewritten(&gguf, keys, |_| ())).answers(&ids(&tokens));
    let model = Model::from_gguf(gguf).unwrap();
    for [cpu, ..] in &*CPUS {
        for call in [TOKENS, 1] {
            let mut session = model.session(Options::default().cpu(cpu.clone()).rope(rope)).unwrap();
            let chunks = tokens.chunks(call);
            let logits: Vec<f32> = chunks.flat_map(|tokens| session.forward_all(tokens).unwrap()).collect();
            for (position, (answer, logits)) in answers.iter().zip(logits.chunks(VOCAB)).enumerate() {
                answer.check(logits, &format!("{what}, {call} at once, position {position}"));
            }
        }
    }
}

#[test]
fn what_options_say_is_what_files_say() {
    let none = RopeOptions::default();
    let factor = ("llama.rope.scaling.factor", Value::from(4f32));
    let kind = |kind| ("llama.rope.scaling.type", Value::from(kind));
    let original = ("llama.rope.scaling.original_context_length", Value::from(512u32));
    same("a base", RopeOptions { freq_base: Some(1e6), ..none }, &[("llama.rope.freq_base", 1e6f32.into())]);
    same("a factor alone is linear", RopeOptions { factor: Some(4.0), ..none }, &[factor]);
    let yarn = RopeOptions { scaling: Some(Scaling::Yarn), factor: Some(4.0), ..none };
    let yarn = RopeOptions { original_context: Some(512), ..yarn };
    same("YaRN", yarn, &[kind("yarn"), factor, original]);
    let attn = ("llama.rope.scaling.attn_factor", Value::from(1.25f32));
    let magnified = RopeOptions { attn_factor: Some(1.25), ..yarn };
    same("YaRN, magnified", magnified, &[kind("yarn"), factor, original, attn]);
    // 32 dimensions, a factor of 8: the slowest pair, which turns by base^(-30/32), is eight times slower.
    let base = 1e4f64 * 8f64.powf(32.0 / 30.0);
    let ntk = RopeOptions { scaling: Some(Scaling::Ntk), factor: Some(8.0), ..none };
    same("NTK-aware", ntk, &[("llama.rope.freq_base", (base as f32).into())]);
    // A text within its original context is not scaled at all.
    let dynamic = RopeOptions { scaling: Some(Scaling::Dynamic), original_context: Some(TOKENS), ..none };
    same("dynamic, short", dynamic, &[]);
}

#[test]
fn a_files_scaling_can_be_switched_off() {
    let gguf = synthetic(Format::F32, tiny(1));
    let keys = [("llama.rope.scaling.type", "yarn".into()), ("llama.rope.scaling.factor", 4f32.into())];
    let tokens = text(TOKENS, VOCAB);
    let logits = |gguf: Gguf, rope| {
        let model = Model::from_gguf(gguf).unwrap();
        model.session(Options::default().rope(rope)).unwrap().forward_all(&tokens).unwrap()
    };
    let yarn = rewritten(&gguf, &keys, |_| ());
    let off = logits(yarn, RopeOptions { scaling: Some(Scaling::None), ..RopeOptions::default() });
    assert_eq!(off, logits(gguf, RopeOptions::default()));
}

#[test]
fn senseless_rotations_are_refused() {
    let model = Model::from_gguf(synthetic(Format::F32, tiny(1))).unwrap();
    let none = RopeOptions::default();
    for rope in [
        RopeOptions { factor: Some(0.0), ..none },
        RopeOptions { freq_base: Some(f32::NAN), ..none },
        RopeOptions { ext_factor: Some(2.0), ..none },
        RopeOptions { original_context: Some(0), ..none },
        RopeOptions { beta_fast: Some(-1.0), ..none },
    ] {
        let error = model.session(Options::default().rope(rope)).map(drop).unwrap_err();
        assert!(matches!(error, Error::Option { .. }), "{rope:?}: {error}");
    }
    let error = model.session(Options::default().context(8).context_shift(6)).map(drop).unwrap_err();
    assert!(matches!(error, Error::Option { option: "keep", .. }), "{error}");
}

/// The base changes when the text outgrows its original context, wherever the calls end.
#[test]
fn dynamic_scaling_does_not_depend_on_how_tokens_are_divided() {
    let model = Model::from_gguf(synthetic(Format::F32, tiny(2))).unwrap();
    let tokens = text(50, VOCAB);
    let rope = RopeOptions { scaling: Some(Scaling::Dynamic), ..RopeOptions::default() };
    let session = |rope| {
        let options = Options::default().context(64).deterministic(true).cache_type_k(KvType::F32);
        model.session(options.rope(RopeOptions { original_context: Some(16), ..rope })).unwrap()
    };
    let whole = session(rope).forward_all(&tokens).unwrap();
    for call in [1, 7, 16, 33] {
        let mut session = session(rope);
        let found = tokens.chunks(call).flat_map(|tokens| session.forward_all(tokens).unwrap());
        assert!(found.zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits()), "{call} at once");
    }
    // The first stage is the model's own, the next is another.
    let plain = session(RopeOptions::default()).forward_all(&tokens).unwrap();
    assert_eq!(whole[..16 * VOCAB], plain[..16 * VOCAB]);
    assert_ne!(whole[16 * VOCAB..17 * VOCAB], plain[16 * VOCAB..17 * VOCAB]);
    // Back in the first stage, the keys turn back, to a rounding of f32.
    let mut back = session(rope);
    back.forward(&tokens).unwrap();
    back.truncate(12);
    let logits = back.forward(&tokens[12..14]).unwrap();
    let answers = Naive::load(model.gguf()).answers(&ids(&tokens[..14]));
    answers[13].check(logits, "after a stage back");
}

fn stories() -> Option<Model> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/models/stories260K.gguf"));
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return None;
    }
    Some(Model::read(path).unwrap())
}

/// Twenty contexts of text in one: nothing but the context is held, in any type of cache.
#[test]
fn a_text_may_outgrow_its_context() {
    let Some(model) = stories() else { return };
    for kind in KvType::ALL {
        let options = Options::default().context(256).context_shift(8).cache_type_k(kind).cache_type_v(kind);
        let mut session = model.session(options).unwrap();
        session.push("Once upon a time, there was a little girl").unwrap();
        let kept = session.tokens()[..9].to_vec();
        let mut sampler = Sampler::new(3).temperature(0.6);
        let wanted = if kind == KvType::F16 { 5000 } else { 1000 };
        let mut text = String::new();
        for piece in session.generate(&mut sampler).ignore_eos().take(wanted) {
            text += &piece.unwrap();
        }
        let stats = session.stats();
        assert_eq!((session.stopped(), stats.generated_tokens), (None, wanted), "{kind}");
        assert!(session.tokens().len() <= 256 && stats.forgotten_tokens > wanted - 256, "{kind}: {stats:?}");
        assert_eq!(session.tokens()[..9], kept, "{kind}");
        // It is still a story: words of letters, most of them known from the beginning of the text.
        let words = text.split_whitespace().filter(|word| ["the", "and", "to", "was", "a"].contains(word));
        let share = words.count() as f64 / text.split_whitespace().count() as f64;
        assert!(share > 0.12, "{kind}: {share:.3} of the words are the commonest ones");
    }
}

#[test]
fn without_shift_a_full_context_ends_the_text() {
    let Some(model) = stories() else { return };
    let mut session = model.session(Options::default().context(64)).unwrap();
    let mut sampler = Sampler::greedy();
    assert_eq!(session.generate(&mut sampler).ignore_eos().count(), 63);
    assert_eq!(session.stopped(), Some(StopReason::Context));
}

/// A long prompt makes room for itself, if what is to be kept and the prompt fit the context.
#[test]
fn prompts_make_room_too() {
    let model = Model::from_gguf(synthetic(Format::F32, tiny(1))).unwrap();
    let mut session = model.session(Options::default().context(32).context_shift(2)).unwrap();
    let tokens = text(100, VOCAB);
    let bos = model.tokenizer().bos().unwrap();
    session.forward(&[bos]).unwrap();
    session.forward(&tokens[..27]).unwrap();
    session.forward(&tokens[27..40]).unwrap();
    // Half of the 25 beside the kept ones leave, rounded down.
    let expected: Vec<Token> = [&[bos][..], &tokens[..2], &tokens[2 + 12..40]].concat();
    assert_eq!(session.tokens(), expected);
    session.forward(&tokens[40..68]).unwrap();
    assert_eq!(session.tokens(), [&[bos], &tokens[..2], &tokens[39..68]].concat());
    let error = session.forward(&tokens[..29]).unwrap_err();
    assert!(matches!(error, Error::Context { tokens: 29, room: 28, context: 32 }), "{error}");
    assert_eq!(session.tokens().len(), 32);
}
