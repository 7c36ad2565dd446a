//! Whatever is wrong: one clear line, the right exit code, no panic.

use crate::fixture::{Fixture, assert_refused, llama, output, stderr};

fn run(model: &str) -> std::process::Output {
    output(&["run", "-m", model, "-n", "1"])
}

/// Where a tensor's description goes on after its name.
fn after_name(bytes: &[u8], name: &str) -> usize {
    let at = bytes.windows(name.len()).position(|window| window == name.as_bytes());
    at.expect("the tensor is in the file") + name.len()
}

#[test]
fn files_that_are_no_models() {
    let fixture = Fixture::new();
    assert_refused(&run("no/such/file.gguf"), "no/such/file.gguf");
    assert_refused(&run(fixture.directory.path().to_str().unwrap()), "not a regular file");
    assert_refused(&run(&fixture.file("empty.gguf", b"")), "empty.gguf");
    assert_refused(&run(&fixture.file("text.gguf", b"Once upon a time there was no model.\n")), "text.gguf");
    for command in ["run", "inspect", "tokenize", "bench"] {
        assert_refused(&output(&[command, "-m", "no/such/file.gguf"]), "no/such/file.gguf");
    }
}

#[test]
fn truncated_files() {
    let fixture = Fixture::new();
    let len = std::fs::metadata(&fixture.model).unwrap().len() as usize;
    for keep in [3, 4, 12, 24, 100, len / 2, len - 1] {
        let path = fixture.changed(|bytes| bytes.truncate(keep));
        assert_refused(&run(&path), "expected");
    }
}

#[test]
fn tensors_that_are_not_what_the_model_needs() {
    let fixture = Fixture::new();
    let name = "blk.1.ffn_gate.weight";
    let missing = fixture.changed(|bytes| {
        let at = after_name(bytes, name);
        bytes[at - 1] = b'T';
    });
    assert_refused(&run(&missing), name);

    // After the name: the number of dimensions (u32), two of them (u64), the type (u32).
    let misshapen = fixture.changed(|bytes| {
        let at = after_name(bytes, name) + 4 + 8;
        bytes[at..at + 8].copy_from_slice(&95u64.to_le_bytes());
    });
    assert_refused(&run(&misshapen), name);
}

#[test]
fn tensors_of_formats_that_are_retired_or_unknown() {
    let fixture = Fixture::new();
    let name = "blk.1.ffn_gate.weight";
    for id in [4u32, 5, 31, 32, 33, 36, 37, 38, 9, 99, u32::MAX] {
        let path = fixture.changed(|bytes| {
            let at = after_name(bytes, name) + 4 + 16;
            bytes[at..at + 4].copy_from_slice(&id.to_le_bytes());
        });
        for command in [&["run", "-n", "1"][..], &["inspect"]] {
            let refused = output(&[command, &["-m", &path]].concat());
            assert_refused(&refused, &format!("tensor \"{name}\""));
            assert!(stderr(&refused).ends_with(&format!("found type id {id}\n")), "{}", stderr(&refused));
        }
    }
}

#[test]
fn a_prompt_longer_than_the_context() {
    let fixture = Fixture::new();
    let prompt = "word ".repeat(100);
    assert_refused(&output(&["run", "-m", &fixture.model, "-c", "16", "-p", &prompt]), "context of 16");
}

#[test]
fn texts_that_cannot_be_read() {
    let fixture = Fixture::new();
    let model = &fixture.model;
    assert_refused(&output(&["run", "-m", model, "-f", "no/such/prompt.txt"]), "no/such/prompt.txt");
    let binary = fixture.file("binary.txt", b"abc\xffdef");
    assert_refused(&output(&["run", "-m", model, "-f", &binary]), "offset 3");
    assert_refused(
        &llama(&["tokenize", "-m", model]).write_stdin(&b"\xff"[..]).output().unwrap(),
        "standard input",
    );
}

#[test]
fn machines_that_do_not_exist() {
    let fixture = Fixture::new();
    for command in [&["run", "-m", &fixture.model][..], &["bench", "-m", &fixture.model], &["doctor"]] {
        let refused = llama(command).args(["--isa", "z80"]).output().unwrap();
        assert_refused(&refused, "z80");
        assert!(stderr(&refused).contains("scalar"), "the message lists what there is");
    }
    assert_refused(&output(&["bench", "-m", &fixture.model, "--isa", "scalar,z80"]), "z80");
    assert_refused(&output(&["run", "-m", &fixture.model, "-c", "9999999999999999"]), "context");
}

#[test]
fn wrong_flags() {
    let fixture = Fixture::new();
    let model = fixture.model.as_str();
    let wrong: &[&[&str]] = &[
        &["fly"],
        &["chat"],
        &["run", "-m", model, "--fly"],
        &["run", "-m", model, "-t", "0"],
        &["run", "-m", model, "--threads", "100000"],
        &["run", "-m", model, "-n", "-2"],
        &["run", "-m", model, "--top-p", "2"],
        &["run", "-m", model, "-p", "a", "-f", "b"],
        &["run", "-m", model, "-ctk", "q5_0"],
        &["run", "-m", model, "--cache-type-v", "none"],
        &["infill", "-m", model],
        &["infill", "-f", "x"],
        &["infill", "-m", model, "-f", "x", "--suffix", "y"],
        &["bench", "-r", "0"],
        &["bench", "-p", "8-1"],
        &["bench", "-t", "1,0"],
        &["bench", "-pg", "16"],
        &["bench", "-ctk", "q9_9"],
        &["bench", "-o", "xml"],
        &["bench", "-ngl", "99"],
        &["bench", "--numa", "distribute"],
        &["doctor", "-t", "0"],
        &["doctor", "-m", model],
        &["synth", "--shape", "8b", "-o", "x.gguf"],
        &["synth", "--shape", "tiny", "--type", "Q9_9", "-o", "x.gguf"],
        &["synth", "--shape", "tiny"],
    ];
    for args in wrong {
        let output = llama(args).current_dir(&fixture.directory).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert!(!fixture.path("x.gguf").exists());
}

#[test]
fn a_wrong_cache_type_is_told_the_right_ones() {
    let fixture = Fixture::new();
    for flag in ["-ctk", "-ctv", "--cache-type-k", "--cache-type-v"] {
        let output = output(&["run", "-m", &fixture.model, flag, "iq4_nl"]);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("iq4_nl") && message.contains("f32, f16, bf16, q8_0, q4_0"), "{message}");
    }
}
