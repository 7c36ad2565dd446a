//! `llama bench`: its rows, not its speed.

use crate::fixture::{Fixture, output, stderr, stdout};
use serde_json::Value;

#[test]
fn a_row_for_prompts_and_one_for_generation() {
    let fixture = Fixture::new();
    let args = ["bench", "-m", &fixture.model, "-p", "24", "-n", "3", "-r", "3", "-t", "1"];
    let table = stdout(&args);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[2].contains("pp24") && lines[3].contains("tg3"), "{table}");
    assert!(lines.iter().all(|line| line.matches('|').count() == 8), "{table}");

    let rows: Value = serde_json::from_str(&stdout(&[&args[..], &["-o", "json"]].concat())).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap();
        assert_eq!(row["samples"].as_array().unwrap().len(), 3);
        assert!(
            0.0 < number("min") && number("min") <= number("median") && number("median") <= number("max")
        );
        assert_eq!(row["threads"], 1);
    }
}

#[test]
fn a_test_of_no_tokens_is_skipped() {
    let fixture = Fixture::new();
    let table = stdout(&["bench", "-m", &fixture.model, "-p", "0", "-n", "2", "-r", "1"]);
    assert!(!table.contains("pp0") && table.contains("tg2"), "{table}");
    assert_eq!(table.lines().count(), 3);
}

#[test]
fn without_a_model_a_tiny_one_is_made_announced_and_removed() {
    let output = output(&["bench", "-p", "4", "-n", "1", "-r", "1"]);
    let message = stderr(&output);
    assert!(output.status.success(), "{message}");
    assert!(message.contains("tiny synthetic"), "{message}");
    let path = message.trim_end().rsplit(' ').next().unwrap();
    assert!(path.ends_with(".gguf") && !std::path::Path::new(path).exists(), "{path}");
}
