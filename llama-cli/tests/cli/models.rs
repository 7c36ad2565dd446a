//! `llama models` and `llama rm`, on caches that are made by hand.

use crate::fixture::{Fixture, assert_refused, llama, stderr};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

/// A cache with two snapshots of a model: they share a blob, and the newer one has another.
struct Case {
    fixture: Fixture,
}

impl Case {
    fn new() -> Case {
        let case = Case { fixture: Fixture::new() };
        let repo = case.repo();
        for folder in ["blobs", "refs", "snapshots/1111111", "snapshots/2222222"] {
            fs::create_dir_all(repo.join(folder)).unwrap();
        }
        fs::copy(&case.fixture.model, repo.join("blobs/shared")).unwrap();
        fs::write(repo.join("blobs/own"), "no model").unwrap();
        fs::write(repo.join("refs/main"), "2222222").unwrap();
        case.link("shared", "1111111/m.Q8_0.gguf");
        case.link("shared", "2222222/m.Q8_0.gguf");
        case.link("shared", "2222222/other.gguf");
        case.link("own", "2222222/m.Q4_0.gguf");
        case
    }

    fn cache(&self) -> PathBuf {
        self.fixture.path("cache")
    }

    fn repo(&self) -> PathBuf {
        self.cache().join("models--user--model")
    }

    fn link(&self, blob: &str, at: &str) {
        let target = Path::new("../../blobs").join(blob);
        #[cfg(unix)]
        std::os::unix::fs::symlink(target, self.repo().join("snapshots").join(at)).unwrap();
        #[cfg(windows)]
        std::os::windows::fs::symlink_file(target, self.repo().join("snapshots").join(at)).unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        llama(args).env("LLAMA_CACHE", self.cache()).output().unwrap()
    }
}

#[test]
fn models_are_listed_with_size_architecture_and_type() {
    let case = Case::new();
    fs::write(case.repo().join("blobs/more.incomplete"), [0; 2048]).unwrap();
    let output = case.run(&["models"]);
    let table = String::from_utf8(output.stdout).unwrap();
    let line =
        |name: &str| table.lines().find(|line| line.ends_with(name)).unwrap_or_else(|| panic!("{table}"));
    let words: Vec<&str> = line("m.Q8_0.gguf").split_whitespace().collect();
    assert_eq!(&words[2..], ["llama", "Q8_0", "m.Q8_0.gguf"], "{table}");
    assert_eq!(table.lines().filter(|line| *line == "user/model").count(), 1, "{table}");
    assert!(line("m.Q4_0.gguf").contains(" - "), "{table}");
    assert!(line("  ?").contains("incomplete") && line("  ?").contains("2.00 KiB"), "{table}");
    // The file of both snapshots is one file.
    assert_eq!(table.matches("m.Q8_0.gguf").count(), 1);

    let json: Value = serde_json::from_slice(&case.run(&["models", "--json"]).stdout).unwrap();
    let rows = json.as_array().unwrap();
    assert_eq!(rows.len(), 4);
    let row = rows.iter().find(|row| row["name"] == "user/model/m.Q8_0.gguf").unwrap();
    assert_eq!((&row["type"], &row["architecture"]), (&Value::from("Q8_0"), &Value::from("llama")));
    assert_eq!(row["bytes"], fs::metadata(&case.fixture.model).unwrap().len());
}

#[test]
fn an_empty_cache_has_no_models() {
    let case = Case::new();
    fs::remove_dir_all(case.cache()).unwrap();
    let output = case.run(&["models"]);
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(stderr(&output).contains("no models in "), "{}", stderr(&output));
}

#[test]
fn a_blob_stays_as_long_as_something_leads_to_it() {
    let case = Case::new();
    let blob = |name: &str| case.repo().join("blobs").join(name).exists();
    assert!(case.run(&["rm", "-y", "user/model:q8_0"]).status.success());
    assert!(blob("shared") && blob("own"));
    assert!(!case.repo().join("snapshots/1111111/m.Q8_0.gguf").exists());
    assert!(case.run(&["rm", "-y", "user/model:Q4_0"]).status.success());
    assert!(blob("shared") && !blob("own"));
    assert!(case.run(&["rm", "-y", "user/model"]).status.success());
    assert!(!case.repo().exists());
    assert_refused(&case.run(&["rm", "-y", "user/model"]), "found none");
}

#[test]
fn nothing_is_removed_without_a_confirmation() {
    let case = Case::new();
    let output = case.run(&["rm", "user/model"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("nothing was removed"), "{}", stderr(&output));
    assert!(case.repo().join("snapshots/2222222/m.Q4_0.gguf").exists());
    let wrong = case.run(&["rm", "-y", "../model"]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
#[cfg(unix)]
fn nothing_outside_of_the_cache_is_removed() {
    use std::os::unix::fs::symlink;
    let case = Case::new();
    let outside = case.fixture.path("outside");
    fs::create_dir_all(&outside).unwrap();
    let file = outside.join("m.gguf");
    fs::write(&file, "mine").unwrap();
    // A link to a file elsewhere, a folder that is a link, and a repository that is one.
    symlink(&file, case.repo().join("snapshots/2222222/x.Q2_K.gguf")).unwrap();
    symlink(&outside, case.repo().join("snapshots/3333333")).unwrap();
    symlink(&outside, case.cache().join("models--user--linked")).unwrap();
    assert!(case.run(&["rm", "-y", "user/model:Q2_K"]).status.success());
    assert_refused(&case.run(&["rm", "-y", "user/linked"]), "found none");
    assert!(case.run(&["rm", "-y", "user/model"]).status.success());
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}
