//! `llama inspect`: metadata and tensors.

use crate::fixture::{Fixture, shared, stdout};
use serde_json::Value;

#[test]
fn the_tables_name_every_key_and_tensor() {
    let fixture = Fixture::new();
    let table = stdout(&["inspect", "-m", &fixture.model]);
    assert_eq!(table, stdout(&["inspect", &fixture.model]));
    let line = |what: &str| table.lines().find(|line| line.split_whitespace().next() == Some(what)).unwrap();
    assert!(line("llama.block_count").ends_with(" 2"));
    let gate: Vec<&str> = line("blk.1.ffn_gate.weight").split_whitespace().collect();
    // 96 rows of two blocks of 34 bytes.
    assert_eq!(gate[1..4], ["64x96", "Q8_0", "6528"]);
}

#[test]
fn json_holds_the_same_and_arrays_in_full() {
    let fixture = Fixture::new();
    let json: Value = serde_json::from_str(&stdout(&["inspect", "-m", &fixture.model, "--json"])).unwrap();
    let file = std::fs::read(&fixture.model).unwrap();
    assert_eq!(json["file_bytes"], file.len());
    assert_eq!(json["metadata"]["llama.attention.layer_norm_rms_epsilon"], 1e-5);
    assert_eq!(json["metadata"]["tokenizer.ggml.tokens"].as_array().unwrap().len(), 1024);
    let tensors = json["tensors"].as_array().unwrap();
    let last = tensors.iter().max_by_key(|t| t["offset"].as_u64()).unwrap();
    let end = last["offset"].as_u64().unwrap() + last["size"].as_u64().unwrap();
    assert!(end as usize <= file.len() && end as usize + 32 > file.len(), "the last tensor ends the file");
    let sum: u64 = tensors.iter().map(|t| t["size"].as_u64().unwrap()).sum();
    assert_eq!(json["weight_bytes"], sum);
}

#[test]
fn a_vocabulary_alone_has_no_tensors() {
    let Some(vocab) = shared("vocab/ggml-vocab-llama-spm.gguf") else { return };
    assert!(stdout(&["inspect", "-m", &vocab]).contains("tensors: 0"));
}
