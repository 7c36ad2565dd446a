//! An earlier run, to compare with.

use super::row::Row;
use super::run::Test;
use crate::failure::Failure;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// What `-o json` or `-o jsonl` wrote.
#[derive(Debug)]
pub(super) struct Earlier(Vec<Value>);

impl Earlier {
    pub(super) fn read(path: &Path) -> Result<Earlier, Failure> {
        let failed = |source| Failure::File { action: "read", path: path.to_owned(), source };
        let text = fs::read_to_string(path).map_err(failed)?;
        Earlier::parse(&text).map_err(|found| Failure::Earlier {
            path: path.to_owned(),
            expected: "the JSON of an earlier run, objects with model_type, backends, n_threads, n_prompt, \
                       n_gen, n_depth and avg_ts",
            found,
        })
    }

    /// The error is what was found instead.
    fn parse(text: &str) -> Result<Earlier, String> {
        let rows = match serde_json::from_str(text) {
            Ok(Value::Array(rows)) => rows,
            Ok(row @ Value::Object(_)) => vec![row],
            Ok(_) => return Err("another JSON value".into()),
            Err(whole) => {
                let lines = text.lines().filter(|line| !line.trim().is_empty());
                // What is no JSON in whole may be JSON line by line.
                lines.map(serde_json::from_str).collect::<Result<_, _>>().map_err(|_| whole.to_string())?
            }
        };
        for (i, row) in rows.iter().enumerate() {
            if key(row).is_none() || speed(row).is_none() {
                return Err(format!("another value as number {}", i + 1));
            }
        }
        Ok(Earlier(rows))
    }

    /// The speed of a row in relation to that of the same test then.
    pub(super) fn ratio(&self, row: &Row) -> Option<f64> {
        let now = row.json();
        let then = self.0.iter().find(|then| key(then) == key(&now) && same_setting(then, &now))?;
        Some(speed(&now)? / speed(then)?)
    }
}

/// Model, test, backend and threads.
fn key(row: &Value) -> Option<(&str, String, &str, u64)> {
    let number = |name: &str| u32::try_from(row.get(name)?.as_u64()?).ok();
    let test = Test { prompt: number("n_prompt")?, generated: number("n_gen")?, depth: number("n_depth")? };
    let text = |name: &str| row.get(name)?.as_str();
    Some((text("model_type")?, test.to_string(), text("backends")?, row.get("n_threads")?.as_u64()?))
}

/// Whether neither says that it was measured in another way.
fn same_setting(a: &Value, b: &Value) -> bool {
    ["n_batch", "n_ubatch", "type_k", "type_v"].iter().all(|name| match (a.get(name), b.get(name)) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    })
}

fn speed(row: &Value) -> Option<f64> {
    row.get("avg_ts")?.as_f64().filter(|speed| *speed > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(threads: u32) -> Value {
        json!({"model_type": "m", "backends": "avx2", "n_threads": threads, "n_prompt": 8, "n_gen": 0,
               "n_depth": 0, "avg_ts": 5.0})
    }

    #[test]
    fn arrays_single_objects_and_lines_are_read() {
        let rows = [row(1), row(2)];
        assert_eq!(Earlier::parse(&json!(rows).to_string()).unwrap().0.len(), 2);
        assert_eq!(Earlier::parse(&format!("{}\n{}\n", rows[0], rows[1])).unwrap().0.len(), 2);
        assert_eq!(Earlier::parse(&rows[0].to_string()).unwrap().0.len(), 1);
        assert_eq!(Earlier::parse("[]").unwrap().0.len(), 0);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["", "x", "3", "[3]", "[{}]", "{\"avg_ts\": 1}"] {
            // No lines are no rows: an empty file is one that somebody forgot to write.
            assert!(Earlier::parse(bad).is_err() || bad.is_empty(), "{bad:?}");
        }
        let mut zero = row(1);
        zero["avg_ts"] = json!(0.0);
        assert!(Earlier::parse(&json!([zero]).to_string()).is_err());
    }

    #[test]
    fn rows_belong_together_unless_they_say_otherwise() {
        assert_eq!(key(&row(1)), key(&row(1)));
        assert_ne!(key(&row(1)), key(&row(2)));
        let mut batch = row(1);
        batch["n_batch"] = json!(64);
        assert!(same_setting(&row(1), &batch));
        let mut other = batch.clone();
        other["n_batch"] = json!(32);
        assert!(!same_setting(&batch, &other));
    }
}
