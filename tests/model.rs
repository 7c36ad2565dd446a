//! Whole models against a naive transformer in f64 ([`llama_tests::naive`]), within the bound that it
//! derives: every format on every instruction set, prompts and single tokens, and the variants of the
//! graph that files may ask for.

#[path = "model/architectures.rs"]
mod architectures;
#[path = "model/cache_types.rs"]
mod cache_types;
#[path = "model/context.rs"]
mod context;
#[path = "model/reference.rs"]
mod reference;
#[path = "model/rounding.rs"]
mod rounding;

use llama_core::gguf::{Gguf, Value, Writer};
use llama_core::synth::{Shape, Spec, Synth};
use llama_core::{Model, Options, Token};
use llama_kernels::{Cpu, CpuOptions, Format};
use llama_tests::close::{Activations, Answer, violation};
use llama_tests::naive::{Naive, top_two};
use llama_tests::shapes::Data;
use std::io::Write;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;

/// Pieces of the vocabulary.
const VOCAB: usize = 360;

/// A small file whose matrices are all in this format: one block of the largest formats in a row, and
/// hardly more tokens than there are bytes, for emulators.
fn synthetic(format: Format, shape: Shape) -> Gguf {
    let shape = Shape { d_ff: 256, vocab: VOCAB, ..shape };
    let file = tempfile::NamedTempFile::new().unwrap();
    Synth::new(&Spec { shape, format: format.into(), seed: 3 })
        .unwrap()
        .write(file.as_file(), |_| ())
        .unwrap();
    Gguf::read(file.path()).unwrap()
}

fn tiny(layers: usize) -> Shape {
    Shape { layers, ..Shape::from_name("tiny").unwrap() }
}

fn text(tokens: usize, vocab: usize) -> Vec<Token> {
    let mut data = Data::new(2);
    (0..tokens).map(|_| Token(data.below(vocab) as u32)).collect()
}

fn ids(tokens: &[Token]) -> Vec<u32> {
    tokens.iter().map(|token| token.0).collect()
}

/// Every instruction set of this machine, with two threads, one and three.
static CPUS: LazyLock<Vec<[Arc<Cpu>; 3]>> = LazyLock::new(|| {
    let cpu = |isa: &str, threads| {
        Arc::new(
            Cpu::new(&CpuOptions {
                threads: Some(threads),
                isa: Some(isa.to_owned()),
                ..CpuOptions::default()
            })
            .unwrap(),
        )
    };
    llama_kernels::available().into_iter().map(|isa| [2, 1, 3].map(|threads| cpu(isa, threads))).collect()
});

/// The logits of every token by one instruction set, so many tokens at a time.
struct Run {
    what: String,
    isa: &'static str,
    call: usize,
    logits: Vec<f32>,
}

impl Run {
    /// What is done to activations that meet weights of this format.
    fn activations(&self, format: Format) -> Activations {
        Activations::on(self.isa, format, self.call, false)
    }
}

/// The logits of every token, on every instruction set: as a prompt, and one token at a time. The number
/// of threads changes no bit of them: all of the prompt's, and those of the first single tokens.
fn runs(model: &Model, tokens: &[Token]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for [two, others @ ..] in &*CPUS {
        let isa = two.isa();
        let session = |cpu: &Arc<Cpu>| model.session(Options::default().cpu(cpu.clone())).unwrap();
        for (how, call, repeated) in [("a prompt", tokens.len(), tokens.len()), ("single tokens", 1, 6)] {
            let logits = |cpu: &Arc<Cpu>, tokens: &[Token]| -> Vec<f32> {
                let mut session = session(cpu);
                tokens.chunks(call).flat_map(|tokens| session.forward_all(tokens).unwrap().to_vec()).collect()
            };
            let found = logits(two, tokens);
            for cpu in others {
                let again = logits(cpu, &tokens[..repeated]);
                let same = again.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{how} on {isa}: {} threads give other bits than two", cpu.threads());
            }
            runs.push(Run { what: format!("{how} on {isa}"), isa, call, logits: found });
        }
        // Only the last token's logits, those of the others taken from above.
        let mut logits = runs[runs.len() - 1].logits.clone();
        let (mut session, last) = (session(two), logits.len() - model.config().vocab);
        logits[last..].copy_from_slice(session.forward(tokens).unwrap());
        runs.push(Run { what: format!("the end of a prompt on {isa}"), isa, call: tokens.len(), logits });
    }
    runs
}

/// Checks every run against the model, or against the model in bfloat16 where that is what it does. Gives
/// the number of positions at which the bound leaves no other favourite, the least of the two.
fn check(what: &str, gguf: Gguf, tokens: &[Token]) -> usize {
    let naive = Naive::load(&gguf);
    let mut runs = runs(&Model::from_gguf(gguf).unwrap(), tokens);
    let mut decided = usize::MAX;
    for isa in llama_kernels::available() {
        let Some(rounded) = naive.rounded(isa) else { continue };
        let rounds = |run: &Run| {
            run.isa == isa
                && [Format::F16, Format::BF16].iter().any(|format| run.activations(*format).rounds_floats())
        };
        let (own, others): (Vec<Run>, Vec<Run>) = runs.into_iter().partition(rounds);
        runs = others;
        if !own.is_empty() {
            decided = decided.min(check_runs(&format!("{what} in bfloat16"), &rounded, &own, tokens));
        }
    }
    decided.min(check_runs(what, &naive, &runs, tokens))
}

/// Every run is within the bound at every position, and has the same favourite wherever the bound
/// leaves no other. Prints how often that is.
fn check_runs(what: &str, naive: &Naive, runs: &[Run], tokens: &[Token]) -> usize {
    let answers = naive.answers(&ids(tokens));
    let favourite = |answer: &Answer| {
        let [(first, most), (_, next)] = top_two(&answer.expected);
        let bound = answer.bound.iter().copied().fold(0.0, f64::max);
        assert!(bound > 0.0 && bound.is_finite(), "{what}: a bound of {bound}");
        (most - next > 2.0 * bound).then_some(first)
    };
    let favourites: Vec<Option<u32>> = answers.iter().map(favourite).collect();
    let decided = favourites.iter().flatten().count();
    eprintln!("{what}: the likeliest token is beyond doubt at {decided} of {} positions", tokens.len());
    assert!(decided > 0, "{what}: the bound leaves everything open");
    let vocab = answers[0].expected.len();
    for run in runs {
        for (position, logits) in run.logits.chunks(vocab).enumerate() {
            let what = format!("{what}, {}, position {position}", run.what);
            answers[position].check(logits, &what);
            let [(found, _), _] = top_two(&logits.iter().map(|&l| f64::from(l)).collect::<Vec<f64>>());
            assert!(favourites[position].is_none_or(|expected| expected == found), "{what}: token {found}");
        }
    }
    decided
}

/// A small file in this format that has a favourite after each token, as a trained model has: the
/// embedding of a token leans towards the row of the output matrix that belongs to its successor.
///
/// Without that, the two likeliest of many independent logits are closer than int8 activations can tell
/// apart at half of the positions, and no scale of the output matrix helps: the noise grows with it. The
/// embedding is what is changed because it is only looked up: every matrix that is multiplied stays as it
/// was written, in its format, whether that has an encoder or not. If it has none, the embedding is in F16.
fn with_favourites(format: Format) -> Gguf {
    let shape = tiny(1);
    rewritten(&synthetic(format, shape), &[], |tensors| {
        let index = |name: &str| tensors.iter().position(|(tensor, ..)| tensor == name).unwrap();
        let [embedding, output] = ["token_embd.weight", "output.weight"].map(index);
        let decoded = |index: usize| {
            let mut weights = vec![0.0; VOCAB * shape.d_model];
            tensors[index].2.dequantize(&tensors[index].3, &mut weights);
            weights
        };
        let (mut weights, rows) = (decoded(embedding), decoded(output));
        let size = |weights: &[f32]| weights.iter().map(|w| w * w).sum::<f32>().sqrt();
        for (token, weights) in weights.chunks_mut(shape.d_model).enumerate() {
            let row = &rows[successor(token) * shape.d_model..][..shape.d_model];
            let lean = LEAN * size(weights) / size(row);
            weights.iter_mut().zip(row).for_each(|(weight, row)| *weight += lean * row);
        }
        let (_, _, format, bytes) = &mut tensors[embedding];
        *format = if format.encodes() { *format } else { Format::F16 };
        bytes.clear();
        format.quantize(&weights, bytes);
    })
}

/// How much of an embedding is its successor's row, beside what is random.
const LEAN: f32 = 1.25;

/// A permutation of the vocabulary.
fn successor(token: usize) -> usize {
    (7 * token + 3) % VOCAB
}

/// Runs a test on each of these formats, as many at once as there are cores: most of the time goes to the
/// naive transformer.
fn each(formats: &[Format], test: impl Fn(Format) + Sync) {
    let next = AtomicUsize::new(0);
    let some = || {
        while let Some(&format) = formats.get(next.fetch_add(1, Ordering::Relaxed)) {
            test(format);
        }
    };
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        (0..cores).for_each(|_| drop(scope.spawn(some)));
    });
}

#[test]
fn every_format_agrees() {
    each(Format::ALL, |format| {
        let decided = check(format.name(), with_favourites(format), &text(64, VOCAB));
        assert!(decided >= 58, "{format}: a favourite at {decided} of 64 positions, fewer than 90 %");
    });
}

/// The wide bound of a format with int8 activations hides a small mistake. In one layer there are few
/// enough decisions for some positions to meet the narrow one; a faulty graph meets at most one of 12.
#[test]
fn integer_formats_agree_sharply() {
    let tokens = text(12, VOCAB);
    let formats: Vec<Format> = Format::ALL.iter().copied().filter(|format| format.is_integer()).collect();
    each(&formats, |format| {
        let gguf = synthetic(format, tiny(1));
        let answers = Naive::load(&gguf).sharp_answers(&ids(&tokens));
        for run in runs(&Model::from_gguf(gguf).unwrap(), &tokens) {
            if run.activations(format) != Activations::Int8 {
                continue;
            }
            let meets = |(logits, answer): &(&[f32], &Answer)| {
                violation(logits, &answer.expected, &answer.bound).is_none()
            };
            let met = run.logits.chunks(VOCAB).zip(&answers).filter(meets).count();
            eprintln!("{format}, {}: {met} of 12 positions are sharp", run.what);
            assert!(met >= 3, "{format}, {}: {met} of 12 positions are within the narrow bound", run.what);
        }
    });
}

#[test]
fn a_trained_model_agrees() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/models/stories260K.gguf"));
    if !path.exists() {
        return eprintln!("skipped: no {}", path.display());
    }
    check("stories260K", Gguf::read(path).unwrap(), &text(64, 512));
}

#[test]
fn every_sharing_of_heads_agrees() {
    for (heads, kv_heads) in [(8, 8), (8, 1), (16, 4), (2, 2)] {
        let gguf = synthetic(Format::F32, Shape { heads, kv_heads, ..tiny(2) });
        check(&format!("{heads} heads share {kv_heads}"), gguf, &text(16, VOCAB));
    }
}

/// The same file with some keys set anew, and its tensors as `change` leaves them.
fn rewritten(
    gguf: &Gguf,
    keys: &[(&str, Value<'_>)],
    change: impl Fn(&mut Vec<(String, Vec<usize>, Format, Vec<u8>)>),
) -> Gguf {
    let mut header = Writer::new();
    gguf.metadata().chain(keys.iter().cloned()).for_each(|(key, value)| header.set(key, value));
    let copy = |t: &llama_core::gguf::TensorInfo| {
        (t.name().to_owned(), t.dims().to_vec(), t.format(), t.data().to_vec())
    };
    let mut tensors = gguf.tensors().iter().map(copy).collect();
    change(&mut tensors);
    tensors.iter().for_each(|(name, dims, format, _)| header.tensor(name, dims, *format).unwrap());
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut data = header.begin(file.as_file()).unwrap();
    tensors.iter().for_each(|(_, _, _, bytes)| data.write_all(bytes).unwrap());
    data.finish().unwrap();
    Gguf::read(file.path()).unwrap()
}

#[test]
fn every_variant_of_the_graph_agrees() {
    let gguf = synthetic(Format::F32, tiny(1));
    let tokens = text(16, VOCAB);
    let with = |what: &str, keys: &[(&str, Value<'_>)]| check(what, rewritten(&gguf, keys, |_| ()), &tokens);
    with("half of each head rotates", &[("llama.rope.dimension_count", 16u32.into())]);
    with("another base", &[("llama.rope.freq_base", 1e6f32.into())]);
    with("a larger epsilon", &[("llama.attention.layer_norm_rms_epsilon", 0.5f32.into())]);
    let scaled = |kind| {
        [("llama.rope.scaling.type", Value::from(kind)), ("llama.rope.scaling.factor", Value::from(4f32))]
    };
    with("linear scaling", &scaled("linear"));
    with("no scaling", &scaled("none"));
    // Of 16 pairs, three are left alone, eight are scaled in part.
    let original = ("llama.rope.scaling.original_context_length", Value::from(512u32));
    with("YaRN", &[&scaled("yarn")[..], std::slice::from_ref(&original)].concat());
    let magnitude = ("llama.rope.scaling.attn_factor", Value::from(0.8f32));
    with("YaRN, less magnified", &[&scaled("yarn")[..], &[original, magnitude]].concat());
    // The same matrices, cut into heads of another width.
    let width = 64u32;
    with(
        "wider heads",
        &[
            ("llama.attention.head_count", 4u32.into()),
            ("llama.attention.head_count_kv", 1u32.into()),
            ("llama.attention.key_length", width.into()),
            ("llama.attention.value_length", width.into()),
            ("llama.rope.dimension_count", width.into()),
        ],
    );
    let tied = rewritten(&gguf, &[], |tensors| tensors.retain(|(name, ..)| name != "output.weight"));
    check("tied output", tied, &tokens);
    let scaled = rewritten(&gguf, &[], |tensors| {
        let divisors: Vec<u8> = (0..16).flat_map(|i| (1.0 + i as f32 / 4.0).to_le_bytes()).collect();
        tensors.push(("rope_freqs.weight".into(), vec![16], Format::F32, divisors));
    });
    check("scaled frequencies", scaled, &tokens);
}
