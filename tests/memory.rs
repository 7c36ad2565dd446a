//! Promise 5: a model takes no more memory than its plan, which is made from the file's header before
//! anything is loaded. The figures are those of the whole process, so this file holds a single test.
#![cfg(target_os = "linux")]

use llama_core::gguf::Gguf;
use llama_core::synth::{Shape, Spec, Synth};
use llama_core::{Model, Options, Plan, Sampler, Token};
use llama_kernels::{Format, KvType};
use std::fs::File;
use std::path::Path;

/// What the plan leaves out: the vocabulary (32,000 pieces take 3 MB), the threads' stacks, and what
/// the allocator rounds up to huge pages.
const SLACK: u64 = 8 << 20;

const PROMPT: usize = 64;
const GENERATED: usize = 8;

/// A figure of the process, in bytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let figure = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    figure.unwrap().trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// The vocabulary of a 1.1B model, half its width and a quarter of its depth: 136 MiB.
fn synthetic(path: &Path) {
    let shape =
        Shape { layers: 6, d_model: 1024, d_ff: 2816, heads: 16, ..Shape::from_name("1.1b").unwrap() };
    let synth = Synth::new(&Spec { shape, format: Format::Q8_0.into(), seed: 1 }).unwrap();
    synth.write(File::create(path).unwrap(), |_| ()).unwrap();
}

#[test]
fn peak_memory_is_within_the_plan() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    synthetic(&path);
    let size = std::fs::metadata(&path).unwrap().len();
    let before = status("VmRSS");
    assert!(status("VmHWM") < size / 2, "the peak is not yet the writer's");

    // SAFETY: nobody else knows the file.
    let gguf = unsafe { Gguf::map(&path) }.unwrap();
    let options = Options::default().context(PROMPT + GENERATED);
    let plan = Plan::new(&gguf, &options).unwrap();
    assert_eq!((plan.mapped, plan.ubatch), (size, PROMPT + GENERATED));
    let quantized = options.clone().cache_type_k(KvType::Q8_0).cache_type_v(KvType::Q8_0);
    let quantized = Plan::new(&gguf, &quantized).unwrap();
    assert!(100 * quantized.kv < 54 * plan.kv && quantized.total() < plan.total(), "{quantized}");
    assert!(status("VmHWM") < size / 2, "nothing is loaded yet");

    let model = Model::from_gguf(gguf).unwrap();
    let mut session = model.session(options).unwrap();
    // Every page of the weights, so that nothing hides behind those that a short text does not need.
    let tensors = model.gguf().tensors().iter();
    let sum: u64 = tensors.map(|t| t.data().iter().step_by(512).map(|&b| u64::from(b)).sum::<u64>()).sum();
    assert!(sum > 0);
    session.forward(&[Token(300); PROMPT]).unwrap();
    let mut sampler = Sampler::greedy();
    let pieces = session.generate(&mut sampler).ignore_eos().take(GENERATED).map(Result::unwrap);
    assert_eq!(pieces.count(), GENERATED);

    let (peak, own) = (status("VmHWM") - before, status("RssAnon"));
    eprintln!("{plan}; {} KiB at the peak, {} KiB of the process before", peak >> 10, before >> 10);
    assert!(peak >= size, "{peak} bytes are not even the file's");
    assert!(peak <= plan.total() + SLACK, "{peak} bytes for {plan}");
    assert!(own <= before + plan.kv + plan.scratch + SLACK, "{own} bytes beside the file for {plan}");
}
