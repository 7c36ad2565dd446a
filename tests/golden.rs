//! Promise 1: real weights tell the reference's story, to the letter, however they are run.

use llama_core::{Model, Options, Sampler};
use llama_kernels::{Cpu, CpuOptions};
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
            let options = CpuOptions { threads: Some(threads), isa: Some(isa.to_owned()) };
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
