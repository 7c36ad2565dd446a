//! Promise 3: any number of threads gives the same bits, always. However a text is divided among
//! passes, the logits are within the derived bound by default, and the same bits if
//! [`Options::deterministic`] is set.

use llama_core::gguf::Gguf;
use llama_core::synth::{Shape, Spec, Synth};
use llama_core::{Model, Options, Sampler, Token};
use llama_kernels::{Cpu, CpuOptions, Format, KvType};
use llama_tests::naive::Naive;
use llama_tests::shapes::Data;
use std::fs::File;
use std::sync::Arc;

const VOCAB: usize = 400;
const CONTEXT: usize = 600;
const TOKENS: usize = 24;

/// A small model whose matrices are all in this format, as an engine and as the oracle read it.
fn synthetic(format: Format) -> (Model, Naive) {
    written(format, Shape { layers: 1, ..Shape::from_name("tiny").unwrap() })
}

fn written(format: Format, shape: Shape) -> (Model, Naive) {
    let shape = Shape { d_ff: 512, vocab: VOCAB, context: CONTEXT, ..shape };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    Synth::new(&Spec { shape, format: format.into(), seed: 3 })
        .unwrap()
        .write(File::create(&path).unwrap(), |_| ())
        .unwrap();
    (Model::read(&path).unwrap(), Naive::load(&Gguf::read(&path).unwrap()))
}

fn text(tokens: usize) -> Vec<Token> {
    let mut data = Data::new(1);
    (0..tokens).map(|_| Token(data.below(VOCAB) as u32)).collect()
}

fn cpu(isa: &str, threads: usize) -> Arc<Cpu> {
    Arc::new(
        Cpu::new(&CpuOptions { threads: Some(threads), isa: Some(isa.to_owned()), ..CpuOptions::default() })
            .unwrap(),
    )
}

/// The logits of every token, evaluated in calls of these lengths, which repeat.
fn logits(model: &Model, options: Options, tokens: &[Token], calls: &[usize]) -> Vec<f32> {
    let mut session = model.session(options).unwrap();
    let (mut left, mut logits) = (tokens, Vec::new());
    for &call in calls.iter().cycle() {
        let (now, later) = left.split_at(call.min(left.len()));
        logits.extend(session.forward_all(now).unwrap());
        left = later;
        if left.is_empty() {
            break;
        }
    }
    assert_eq!(logits.len(), tokens.len() * VOCAB);
    logits
}

#[track_caller]
fn assert_same_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
    if let Some(i) = found.iter().zip(expected).position(differs) {
        let (position, token) = (i / VOCAB, i % VOCAB);
        panic!("{what}: position {position}, token {token}: {:e}, not {:e}", found[i], expected[i]);
    }
}

#[test]
fn threads_change_no_bit() {
    let tokens = text(TOKENS);
    for &format in Format::ALL {
        let (model, _) = synthetic(format);
        for isa in llama_kernels::available() {
            let cpus = [1, 2, 3, 5].map(|threads| cpu(isa, threads));
            for deterministic in [false, true] {
                let run = |cpu: &Arc<Cpu>| {
                    let options = Options::default().cpu(cpu.clone()).deterministic(deterministic);
                    logits(&model, options, &tokens, &[29, 1, 3])
                };
                let alone = run(&cpus[0]);
                for cpu in &cpus[1..] {
                    let what = format!("{format}, {isa}, {} threads", cpu.threads());
                    assert_same_bits(&run(cpu), &alone, &what);
                }
            }
        }
    }
}

/// Ways to evaluate the tokens: the most that go through the model at once, and the calls.
const DIVISIONS: [(usize, &[usize]); 8] = [
    (512, &[TOKENS]),     // at once
    (512, &[1]),          // one by one
    (9, &[TOKENS]),       // in micro-batches
    (3, &[TOKENS]),       // of few tokens
    (512, &[17, 1, 1]),   // prompts and answers
    (512, &[2, 4, 8, 5]), // all small
    (16, &[21, 3]),       // both
    (1, &[TOKENS]),       // the smallest
];

#[test]
fn divided_texts_agree() {
    let tokens = text(TOKENS);
    for &format in Format::ALL {
        let (model, naive) = synthetic(format);
        let answers =
            |naive: &Naive| naive.answers(&tokens.iter().map(|token| token.0).collect::<Vec<u32>>());
        let exact = answers(&naive);
        for isa in llama_kernels::available() {
            let cpu = cpu(isa, 2);
            let rounded = naive.rounded(isa).as_ref().map(answers);
            let answers = rounded.as_ref().unwrap_or(&exact);
            for (ubatch, calls) in DIVISIONS {
                let options = Options::default().cpu(cpu.clone()).ubatch(ubatch);
                let found = logits(&model, options, &tokens, calls);
                for (position, (answer, found)) in answers.iter().zip(found.chunks(VOCAB)).enumerate() {
                    let what = format!("{format}, {isa}, {ubatch} at once of {calls:?}, position {position}");
                    answer.check(found, &what);
                }
            }
        }
    }
}

#[test]
fn divided_texts_are_the_same_bits_if_deterministic() {
    let tokens = text(TOKENS);
    for &format in Format::ALL {
        let (model, _) = synthetic(format);
        for isa in llama_kernels::available() {
            let cpu = cpu(isa, 2);
            let run = |(ubatch, calls): (usize, &[usize])| {
                let options = Options::default().cpu(cpu.clone()).ubatch(ubatch).deterministic(true);
                logits(&model, options, &tokens, calls)
            };
            let whole = run(DIVISIONS[0]);
            for division in &DIVISIONS[1..] {
                assert_same_bits(&run(*division), &whole, &format!("{format}, {isa}, {division:?}"));
            }
        }
    }
}

/// Attention takes a long context in chunks, and the queries of several tokens at once: here one of
/// each token, as no heads share a key.
#[test]
fn long_texts_are_the_same_bits_if_deterministic() {
    let tokens = text(CONTEXT);
    let shape = Shape { layers: 1, kv_heads: 8, ..Shape::from_name("tiny").unwrap() };
    let (model, _) = written(Format::Q8_0, shape);
    let options = || Options::default().cpu(cpu(llama_kernels::default_isa(), 2)).deterministic(true);
    for (i, k) in KvType::ALL.into_iter().enumerate() {
        let v = KvType::ALL[(i + 2) % KvType::ALL.len()];
        let options = || options().cache_type_k(k).cache_type_v(v);
        let whole = logits(&model, options(), &tokens, &[CONTEXT]);
        for (ubatch, calls) in [(512, &[500, 1, 4, 7][..]), (100, &[CONTEXT]), (7, &[CONTEXT])] {
            let found = logits(&model, options().ubatch(ubatch), &tokens, calls);
            assert_same_bits(&found, &whole, &format!("{ubatch} at once of {calls:?}, {k} and {v}"));
        }
    }
}

#[test]
fn threads_change_no_bit_of_any_cache() {
    let tokens = text(TOKENS);
    let (model, _) = synthetic(Format::Q8_0);
    for isa in llama_kernels::available() {
        for (i, k) in KvType::ALL.into_iter().enumerate() {
            let v = KvType::ALL[(i + 2) % KvType::ALL.len()];
            let run = |threads| {
                let options = Options::default().cpu(cpu(isa, threads)).cache_type_k(k).cache_type_v(v);
                logits(&model, options, &tokens, &[17, 3, 1])
            };
            let alone = run(1);
            for threads in [2, 5] {
                assert_same_bits(&run(threads), &alone, &format!("{isa}, {threads} threads, {k} and {v}"));
            }
        }
    }
}

/// The comparison sees what it is for: without the option, some bits do depend on the division.
#[test]
fn the_option_makes_a_difference() {
    let tokens = text(TOKENS);
    let differs = |&format: &Format| {
        let (model, _) = synthetic(format);
        let run = |calls| logits(&model, Options::default(), &tokens, calls);
        run(&[TOKENS]) != run(&[1])
    };
    assert!(Format::ALL.iter().any(differs));
}

#[test]
fn the_same_seed_draws_the_same_text_on_any_number_of_threads() {
    let (model, _) = synthetic(Format::Q4_0);
    for isa in llama_kernels::available() {
        let draw = |threads| {
            let mut session = model.session(Options::default().cpu(cpu(isa, threads))).unwrap();
            session.forward(&text(20)).unwrap();
            let mut sampler = Sampler::new(7).temperature(0.9).top_k(40);
            session
                .generate(&mut sampler)
                .ignore_eos()
                .take(60)
                .collect::<llama_core::Result<String>>()
                .unwrap()
        };
        let alone = draw(1);
        assert!(!alone.is_empty());
        for threads in [2, 3, 5] {
            assert_eq!(draw(threads), alone, "{isa}, {threads} threads");
        }
    }
}
