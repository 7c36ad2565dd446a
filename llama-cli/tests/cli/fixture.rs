//! The command, real data and a small model to run it on.

use assert_cmd::Command;
use llama_core::synth::{Shape, Spec, Synth};
use llama_kernels::Format;
use std::fs;
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
        let directory = tempfile::tempdir().unwrap();
        let model = directory.path().join("model.gguf");
        let shape =
            Shape { layers: 2, d_model: 64, d_ff: 96, vocab: 1024, ..Shape::from_name("tiny").unwrap() };
        let spec = Spec { shape, format: Format::Q8_0.into(), seed: 3 };
        Synth::new(&spec).unwrap().write(fs::File::create(&model).unwrap(), |_| ()).unwrap();
        Fixture { model: model.to_str().unwrap().to_owned(), directory }
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

/// The names in a directory.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
