//! Tokens per second of a model of TinyLlama's size, one at a time: generation without sampling.

use llama_benches::{Figure, PROBE, cold_memory, cpus, criterion, label, measure};
use llama_core::synth::{Shape, Spec, Synth};
use llama_core::{Model, Options, Token};
use llama_kernels::limits::stream;
use llama_kernels::{Cpu, Format, default_isa};
use llama_tests::close::Answer;
use llama_tests::naive::Naive;
use std::cell::LazyCell;
use std::fs::File;
use std::sync::Arc;
use tempfile::TempDir;

/// What the small model is asked: it is small enough for the naive transformer.
const PROMPT: [u32; 3] = [1, 300, 4000];

fn main() {
    let mut c = criterion();
    let memory = LazyCell::new(cold_memory);
    for format in [Format::Q4_0, Format::Q8_0] {
        let small = LazyCell::new(|| {
            let subject = Subject::new("tiny", format);
            let answers = Naive::load(subject.model.gguf()).answers(&PROMPT);
            (subject, answers)
        });
        let large = LazyCell::new(|| Subject::new("1.1b", format));
        // The benchmark gemv compares the instruction sets.
        let best = default_isa();
        for cpu in cpus().filter(|cpu| cpu.isa() == best).map(Arc::new) {
            measure(&mut c, format!("decode/1.1b {format}/{}", label(&cpu)), || {
                let (subject, answers) = &*small;
                check(&subject.model, answers, &cpu);

                let model = &large.model;
                let ceiling =
                    stream(&memory, cpu.threads(), PROBE) / model.weights().bytes_per_token() as f64;
                let limit = "reading the weights from memory";
                let figure = Figure { amount: 1.0, unit: "tokens/s", ceiling: Some(ceiling), limit };
                let options = Options::default().context(1024).cpu(cpu.clone());
                let mut session = model.session(options).expect("a session");
                let work = move |n| {
                    for i in 0..n {
                        if session.tokens().len() == session.context() {
                            session.clear();
                        }
                        let token = Token((i * 7919 % 32_000) as u32);
                        session.forward(&[token]).expect("a token's logits");
                    }
                };
                (figure, work)
            });
        }
    }
    c.final_summary();
}

/// A synthetic model and the directory that it lies in.
struct Subject {
    model: Model,
    _directory: TempDir,
}

impl Subject {
    fn new(shape: &str, format: Format) -> Subject {
        let shape = Shape::from_name(shape).expect("a shape of the list");
        let synth = Synth::new(&Spec { shape, format: format.into(), seed: 1 }).expect("a valid shape");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("model.gguf");
        let file = File::create(&path).and_then(|file| synth.write(file, |_| ()));
        file.expect("room for the model in the temporary directory");
        // SAFETY: nobody else knows the temporary file.
        let model = unsafe { Model::map(&path) }.expect("a model that was just written");
        Subject { model, _directory: directory }
    }
}

/// Panics unless the model's logits are within the bound of the naive transformer.
fn check(model: &Model, answers: &[Answer], cpu: &Arc<Cpu>) {
    let mut session = model.session(Options::default().context(16).cpu(cpu.clone())).expect("a session");
    for (token, answer) in PROMPT.into_iter().zip(answers) {
        answer.check(session.forward(&[Token(token)]).expect("a token's logits"), "logits");
    }
}
