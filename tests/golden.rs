//! Promise 1: real weights tell the reference's story, to the letter, however they are run.

use llama_core::{Model, Options, Sampler};
use llama_kernels::{Cpu, CpuOptions, KvType};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of the shared test data, which may be absent.
fn data(file: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/models")).join(file);
    let found = path.exists();
    if !found {
        eprintln!("skipped: no {}", path.display());
    }
    found.then_some(path)
}

/// 200 greedy steps from the beginning-of-text token alone.
fn story(model: &Model, options: Options) -> String {
    let mut session = model.session(options).unwrap();
    let mut sampler = Sampler::greedy();
    session.generate(&mut sampler).take(200).collect::<Result<_, _>>().unwrap()
}

/// The shortest test of this promise, for CPUs that are emulated.
#[test]
fn every_instruction_set_tells_the_story() {
    let (Some(expected), Some(path)) =
        (data("stories260K.expected_greedy_200.txt"), data("stories260K.gguf"))
    else {
        return;
    };
    let (expected, model) = (std::fs::read_to_string(expected).unwrap(), Model::read(path).unwrap());
    for isa in llama_kernels::available() {
        let options = CpuOptions { threads: Some(2), isa: Some(isa.to_owned()), ..CpuOptions::default() };
        let cpu = Arc::new(Cpu::new(&options).unwrap());
        assert_eq!(story(&model, Options::default().cpu(cpu)), expected, "{isa}");
    }
}

#[test]
fn stories260k_tells_its_story() {
    let Some(expected) = data("stories260K.expected_greedy_200.txt") else { return };
    let expected = std::fs::read_to_string(expected).unwrap();
    let mut models = Vec::new();
    for file in ["stories260K.gguf", "stories260K-gguf-v1.gguf"] {
        let Some(path) = data(file) else { return };
        // SAFETY: nothing writes to the test data.
        let mapped = unsafe { Model::map(&path) }.unwrap();
        models.push((format!("{file}, mapped"), mapped));
        models.push((format!("{file}, read"), Model::read(&path).unwrap()));
    }
    for isa in llama_kernels::available() {
        for threads in [1, 2, 3] {
            let options =
                CpuOptions { threads: Some(threads), isa: Some(isa.to_owned()), ..CpuOptions::default() };
            let cpu = Arc::new(Cpu::new(&options).unwrap());
            for (name, model) in &models {
                for deterministic in [false, true] {
                    let options = Options::default().cpu(cpu.clone()).deterministic(deterministic);
                    let what = format!("{name}, {isa}, {threads} threads, deterministic: {deterministic}");
                    assert_eq!(story(model, options), expected, "{what}");
                }
            }
        }
    }
}

/// The cache's floats make no difference to this text, and its types reach the kernels: of the
/// quantized ones, which are no reference's, four bits tell another story.
#[test]
fn float_caches_tell_the_same_story() {
    let (Some(expected), Some(path)) =
        (data("stories260K.expected_greedy_200.txt"), data("stories260K.gguf"))
    else {
        return;
    };
    let (expected, model) = (std::fs::read_to_string(expected).unwrap(), Model::read(path).unwrap());
    for isa in llama_kernels::available() {
        let options = CpuOptions { threads: Some(2), isa: Some(isa.to_owned()), ..CpuOptions::default() };
        let cpu = Arc::new(Cpu::new(&options).unwrap());
        for k in KvType::ALL {
            for v in KvType::ALL {
                let options = Options::default().cpu(cpu.clone()).cache_type_k(k).cache_type_v(v);
                let same = story(&model, options) == expected;
                eprintln!("{isa}, {k} and {v}: the same story: {same}");
                let is_float = |kind: KvType| kind.format().block_len() == 1;
                assert!(same || !is_float(k) || !is_float(v), "{isa}, {k} and {v}");
                assert!(!same || k != KvType::Q4_0 || v != KvType::Q4_0, "{isa}, {k} and {v}");
            }
        }
    }
}
