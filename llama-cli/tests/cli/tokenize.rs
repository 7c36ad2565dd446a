//! `llama tokenize`: ids and pieces.

use crate::fixture::{Fixture, assert_refused, llama, output, shared, stdout};
use serde_json::{Value, json};

#[test]
fn llama_2s_vocabulary() {
    let Some(vocab) = shared("vocab/ggml-vocab-llama-spm.gguf") else { return };
    let expected = json!({ "ids": [1, 15043, 3186], "pieces": ["<s>", "▁Hello", "▁world"] });
    let args = ["tokenize", "-m", &vocab, "-p", "Hello world"];
    let found: Value = serde_json::from_str(&stdout(&[&args[..], &["--json"]].concat())).unwrap();
    assert_eq!(found, expected);
    assert_eq!(stdout(&args), "     1 <s>\n 15043 ▁Hello\n  3186 ▁world\n");
    assert_eq!(stdout(&[&args[..], &["--no-bos"]].concat()), " 15043 ▁Hello\n  3186 ▁world\n");
}

#[test]
fn the_text_is_taken_as_it_is_from_a_flag_a_file_or_standard_input() {
    let fixture = Fixture::new();
    let args = ["tokenize", "--json", "-m", &fixture.model];
    let expected = stdout(&[&args[..], &["-p", "a b\n"]].concat());
    let file = fixture.file("text.txt", b"a b\n");
    assert_eq!(stdout(&[&args[..], &["-f", &file]].concat()), expected);
    for stdin in [&["-f", "-"][..], &[]] {
        let output = llama(&args).args(stdin).write_stdin("a b\n").output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
    assert_ne!(stdout(&[&args[..], &["-p", "a b"]].concat()), expected);
}

#[test]
fn special_tokens_do_not_come_out_of_text() {
    let fixture = Fixture::new();
    let json = stdout(&["tokenize", "--json", "-m", &fixture.model, "-p", "<s></s>"]);
    let ids = serde_json::from_str::<Value>(&json).unwrap()["ids"].clone();
    let specials = ids.as_array().unwrap().iter().filter(|id| id.as_u64().unwrap() <= 2).count();
    assert_eq!(specials, 1, "BOS alone: {ids}");
}

#[test]
fn gpt_2s_vocabulary() {
    let Some(vocab) = shared("vocab/ggml-vocab-gpt-2.gguf") else { return };
    // This model's texts begin with no special token.
    let args = ["tokenize", "-m", &vocab, "-p", "Hello world<|endoftext|>"];
    let expected = " 15496 Hello\n   995 Ġworld\n    27 <\n    91 |\n   437 end\n  1659 of\n  5239 text\n    91 |\n    29 >\n";
    assert_eq!(stdout(&args), expected);
}

#[test]
fn a_byte_level_vocabulary() {
    let fixture = Fixture::new();
    let model = fixture.byte_level("llama-bpe");
    let expected = "  1023 <|begin|>\n   257 Ġab\n    97 a\n    10 Ċ\n";
    assert_eq!(stdout(&["tokenize", "-m", &model, "-p", " aba\n"]), expected);
}

#[test]
fn another_kind_of_vocabulary_is_refused() {
    let fixture = Fixture::new();
    let vocab = fixture.byte_level("gpt-2");
    let mut bytes = std::fs::read(&vocab).unwrap();
    let at = bytes.windows(5).position(|bytes| bytes == b"gpt-2").unwrap();
    bytes[at..at + 5].copy_from_slice(b"gpt-9");
    let vocab = fixture.file("changed.gguf", &bytes);
    assert_refused(&output(&["tokenize", "-m", &vocab, "-p", "a"]), "tokenizer.ggml.pre");
}
