//! The demo model inside the program: what those see who have named none.

use crate::fixture::{Fixture, llama, output, stderr, stdout};
use llama_core::gguf::Gguf;
use llama_core::{Model, Token};
use llama_kernels::Format;
use std::fs;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/demo.gguf");

#[test]
fn it_is_a_small_llama_in_q8_0_with_a_sentencepiece_vocabulary() {
    assert!(fs::metadata(FILE).unwrap().len() < 2_000_000);
    let gguf = Gguf::read(FILE).unwrap();
    assert_eq!(gguf.str("general.architecture").unwrap(), "llama");
    assert_eq!(gguf.str("tokenizer.ggml.model").unwrap(), "llama");
    let heads = |key| gguf.u32(key).unwrap();
    assert!(heads("llama.attention.head_count_kv") < heads("llama.attention.head_count"));
    for tensor in gguf.tensors() {
        let expected = if tensor.dims().len() == 2 { Format::Q8_0 } else { Format::F32 };
        assert_eq!(tensor.format(), expected, "{}", tensor.name());
    }
    let model = Model::from_gguf(gguf).unwrap();
    // What no piece spells is spelled in bytes.
    for text in ["Once upon a time, there was", "Zoë's 日本語\n\t\u{1F999}"] {
        let tokens: Vec<Token> = model.tokenizer().encode_text(text);
        assert_eq!(model.tokenizer().decode(&tokens).trim_start(), text);
    }
}

#[test]
fn it_tells_a_story_where_nothing_names_a_model() {
    let args = ["run", "-p", "Once upon a time", "--temp", "0", "-n", "24", "--echo"];
    let first = output(&args);
    let message = stderr(&first);
    assert!(first.status.success(), "{message}");
    assert_eq!(message.lines().filter(|line| line.contains("demo")).count(), 1, "{message}");
    let text = String::from_utf8(first.stdout).unwrap();
    assert!(text.starts_with(START), "{text}");
    assert_eq!(stdout(&[&args[..], &["-m", FILE]].concat()), text);
}

#[test]
fn a_story_ends_by_itself() {
    let text = stderr(&output(&["run", "-p", "Once upon a time", "--temp", "0"]));
    let count =
        text.lines().find_map(|line| line.strip_prefix("generation: ")?.split(' ').next()?.parse().ok());
    assert!(count.is_some_and(|count: usize| count < 500), "{text}");
}

#[test]
fn the_other_commands_use_it_and_say_so() {
    for args in [&["tokenize", "-p", "a"][..], &["inspect"], &["bench", "-p", "4", "-n", "1", "-r", "1"]] {
        let output = output(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        assert_eq!(stderr(&output).lines().filter(|line| line.contains("demo")).count(), 1, "{args:?}");
    }
    assert_eq!(stdout(&["inspect"]), stdout(&["inspect", FILE]));
}

#[test]
fn a_model_that_is_named_is_used_instead() {
    let fixture = Fixture::new();
    for args in [&["tokenize", "-p", "a"][..], &["run", "-n", "1"]] {
        let output = llama(args).env("LLAMA_ARG_MODEL", &fixture.model).output().unwrap();
        assert!(output.status.success() && !stderr(&output).contains("demo"), "{}", stderr(&output));
    }
}

#[test]
fn chat_and_infill_say_which_models_they_need() {
    let fixture = Fixture::new();
    let file = fixture.file("gap.txt", b"<FILL_ME>");
    for (args, kind) in [(&["chat"][..], "a chat model"), (&["infill", "-f", &file], "Code Llama")] {
        let output = llama(args).write_stdin("").output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(kind), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}

/// What the likeliest tokens spell.
const START: &str = "Once upon a time, there was";
