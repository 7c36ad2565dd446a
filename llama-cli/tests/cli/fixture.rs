//! The command, real data and a small model to run it on.

use assert_cmd::Command;
use llama_core::gguf::{ArrayBuf, Gguf, Writer};
use llama_core::synth::{Shape, Spec, Synth};
use llama_kernels::Format;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

/// The built command with these arguments.
pub(crate) fn llama(args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llama"));
    command.args(args);
    command
}

/// What the command answers.
pub(crate) fn output(args: &[&str]) -> Output {
    llama(args).output().unwrap()
}

/// Standard output of a run that must succeed.
pub(crate) fn stdout(args: &[&str]) -> String {
    let output = output(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The run failed with this exit code, and said why in one line that contains `what`.
#[track_caller]
pub(crate) fn assert_refused(output: &Output, what: &str) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with("error: ") && message.contains(what), "{message:?} lacks {what:?}");
    assert_eq!(message.trim_end_matches('\n').lines().count(), 1, "{message:?}");
    assert!(output.stdout.is_empty());
}

/// A file of the shared test data; `None`, with a message, where they are missing.
pub(crate) fn shared(name: &str) -> Option<String> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")).join(name);
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return None;
    }
    Some(path.to_str().unwrap().to_owned())
}

/// A directory with a synthetic model of two small layers in it.
pub(crate) struct Fixture {
    pub(crate) directory: TempDir,
    pub(crate) model: String,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        Fixture::with_vocabulary(1024)
    }

    /// The same with as many pieces.
    pub(crate) fn with_vocabulary(vocab: usize) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let model = directory.path().join("model.gguf");
        let shape = Shape { layers: 2, d_model: 64, d_ff: 96, vocab, ..Shape::from_name("tiny").unwrap() };
        let spec = Spec { shape, format: Format::Q8_0.into(), seed: 3 };
        Synth::new(&spec).unwrap().write(fs::File::create(&model).unwrap(), |_| ()).unwrap();
        Fixture { model: model.to_str().unwrap().to_owned(), directory }
    }

    /// A copy of the model with a byte-level vocabulary that names this pre-tokenizer: all bytes, whose ids are their
    /// values, ` a`, ` ab`, unused pieces, and a BOS at the end.
    pub(crate) fn byte_level(&self, pre: &str) -> String {
        let itself = |byte: &u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let letter =
            |byte| if itself(&byte) { byte } else { 0x100 + (0..byte).filter(|b| !itself(b)).count() as u32 };
        let bytes = (0..256).map(|byte| char::from_u32(letter(byte)).unwrap().to_string());
        let merged = ["Ġa", "Ġab"].map(String::from);
        let unused = (258..1023).map(|id| format!("[PAD{id}]"));
        let pieces: Vec<String> = bytes.chain(merged).chain(unused).chain(["<|begin|>".into()]).collect();
        let types: ArrayBuf = (0..1024)
            .map(|id| {
                if id < 258 {
                    1
                } else if id < 1023 {
                    5
                } else {
                    3i32
                }
            })
            .collect();

        let kept = |key: &str| !key.starts_with("tokenizer.");
        rewritten(&self.model, self.path("byte-level.gguf"), kept, |header| {
            header.set("tokenizer.ggml.model", "gpt2");
            header.set("tokenizer.ggml.pre", pre);
            header.set("tokenizer.ggml.tokens", &pieces.iter().map(String::as_str).collect::<ArrayBuf>());
            header.set("tokenizer.ggml.token_type", &types);
            header.set("tokenizer.ggml.merges", &["Ġ a", "Ġa b"].into_iter().collect::<ArrayBuf>());
            header.set("tokenizer.ggml.bos_token_id", 1023u32);
        })
    }

    /// A file beside the model, with this content.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A copy of the model whose bytes were changed.
    pub(crate) fn changed(&self, change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = fs::read(&self.model).unwrap();
        change(&mut bytes);
        self.file("changed.gguf", &bytes)
    }
}

/// Writes a model's tensors to another file, with some of its metadata and more, and returns its path.
pub(crate) fn rewritten(
    model: &str,
    path: PathBuf,
    kept: impl Fn(&str) -> bool,
    more: impl FnOnce(&mut Writer),
) -> String {
    let gguf = Gguf::read(model).unwrap();
    let mut header = Writer::new();
    for (key, value) in gguf.metadata().filter(|(key, _)| kept(key)) {
        header.set(key, value);
    }
    more(&mut header);
    for tensor in gguf.tensors() {
        header.tensor(tensor.name(), tensor.dims(), tensor.format()).unwrap();
    }
    let mut data = header.begin(fs::File::create(&path).unwrap()).unwrap();
    for tensor in gguf.tensors() {
        data.write_all(tensor.data().as_ref()).unwrap();
    }
    data.finish().unwrap();
    path.to_str().unwrap().to_owned()
}

/// The names in a directory.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
