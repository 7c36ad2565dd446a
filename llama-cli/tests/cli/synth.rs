//! `llama synth`: a whole file or none.

use crate::fixture::{assert_refused, llama, names, stderr, stdout};
use std::fs;
use std::process::{Command, Output};

fn synth(directory: &tempfile::TempDir, more: &[&str]) -> Output {
    let args = ["synth", "--shape", "tiny", "--layers", "1", "--type", "q4_0"];
    llama(&args).args(more).current_dir(directory).output().unwrap()
}

#[test]
fn the_model_is_deterministic_complete_and_runs() {
    let directory = tempfile::tempdir().unwrap();
    for (name, seed) in [("a.gguf", "1"), ("b.gguf", "1"), ("c.gguf", "2")] {
        let output = synth(&directory, &["-o", name, "--seed", seed]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    assert_eq!(names(directory.path()), ["a.gguf", "b.gguf", "c.gguf"]);
    let read = |name| fs::read(directory.path().join(name)).unwrap();
    assert!(read("a.gguf") == read("b.gguf") && read("a.gguf") != read("c.gguf"));
    let path = directory.path().join("a.gguf");
    let path = path.to_str().unwrap();
    assert!(!stdout(&["run", "-m", path, "-p", "hello", "-n", "4", "-s", "1", "--ignore-eos"]).is_empty());
}

#[test]
fn every_architecture_runs() {
    let directory = tempfile::tempdir().unwrap();
    for (arch, name) in [("mistral", "llama"), ("mixtral", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")] {
        let output = synth(&directory, &["-o", "model.gguf", "--force", "--arch", arch]);
        assert!(output.status.success(), "{}", stderr(&output));
        let path = directory.path().join("model.gguf");
        let path = path.to_str().unwrap();
        let keys = stdout(&["inspect", path]);
        assert!(keys.contains(&format!("{name}.block_count")), "{keys}");
        assert_eq!(keys.contains("sliding_window"), arch == "mistral");
        let run = ["run", "-m", path, "-p", "hello", "-n", "4", "--temp", "0", "--ignore-eos", "-c", "64"];
        assert!(!stdout(&run).is_empty(), "{arch}");
    }
}

#[test]
fn an_existing_file_is_only_replaced_by_force() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("model.gguf"), "precious").unwrap();
    assert_refused(&synth(&directory, &["-o", "model.gguf"]), "--force");
    assert_eq!(fs::read(directory.path().join("model.gguf")).unwrap(), b"precious");
    assert!(synth(&directory, &["-o", "model.gguf", "--force"]).status.success());
    assert!(fs::read(directory.path().join("model.gguf")).unwrap().starts_with(b"GGUF"));
    assert_eq!(names(directory.path()), ["model.gguf"]);
}

#[test]
fn an_error_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    assert_refused(&synth(&directory, &["-o", "no/such/directory/model.gguf"]), "no/such/directory");
    fs::create_dir(directory.path().join("taken")).unwrap();
    assert_refused(&synth(&directory, &["-o", "taken", "--force"]), "taken");
    assert_eq!(names(directory.path()), ["taken"]);
}

#[test]
#[cfg(unix)]
fn ctrl_c_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    // Large enough not to be complete before the signal arrives, which is sent at the first sight
    // of the unfinished file.
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("llama"))
        .args(["synth", "--shape", "70b", "-o", "model.gguf"])
        .current_dir(&directory)
        .spawn()
        .unwrap();
    while names(directory.path()).is_empty() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(names(directory.path()).is_empty(), "{:?}", names(directory.path()));
}
