//! `llama doctor`: what it says, not what this machine is.

use crate::fixture::stdout;
use serde_json::Value;
use std::time::{Duration, Instant};

fn json(more: &[&str]) -> Value {
    serde_json::from_str(&stdout(&[&["doctor", "--json"], more].concat())).unwrap()
}

#[test]
fn it_tells_what_there_is_what_is_chosen_and_what_to_expect() {
    let text = stdout(&["doctor"]);
    for section in ["machine\n", "instruction sets", "memory, read", "what to expect of Llama 2", "advice\n"]
    {
        assert!(text.contains(section), "{section}: {text}");
    }
    for isa in llama_kernels::isas() {
        assert!(text.lines().any(|line| line.starts_with(&format!("  {} ", isa.name))), "{text}");
    }
    for model in ["7b     Q4_0", "13b    Q4_K_M", "34b    Q8_0", "70b    Q4_0"] {
        assert!(text.contains(model), "{model}: {text}");
    }
}

#[test]
fn json_says_the_same_within_seconds() {
    let clock = Instant::now();
    let report = json(&[]);
    // Three by design; others may use this machine.
    assert!(clock.elapsed() < Duration::from_secs(30), "{:?}", clock.elapsed());
    let isas = report["isas"].as_array().unwrap();
    assert_eq!(isas.len(), llama_kernels::isas().len());
    for isa in isas {
        let available = isa["available"].as_bool().unwrap();
        assert_eq!(available, isa["missing"].as_array().unwrap().is_empty(), "{isa}");
        assert_eq!(available, isa["integer_peak"].as_f64().is_some_and(|peak| peak > 0.0), "{isa}");
        assert_eq!(isa["chosen"], isa["preferred"], "{isa}");
    }
    assert_eq!(isas.iter().filter(|isa| isa["chosen"] == true).count(), 1);
    assert_eq!(report["threads"], llama_kernels::default_threads());
    assert!(report["bandwidth"].as_f64().unwrap() > 0.0);
    assert_eq!(report["models"].as_array().unwrap().len(), 12);
    assert!(report["models"][0]["tokens_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_is_asked_for_is_judged() {
    let report = json(&["-t", "1000", "--isa", "scalar"]);
    let advice: Vec<&str> = report["advice"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(advice.iter().any(|line| line.starts_with("1000 threads on ")), "{advice:?}");
    assert_eq!(report["isas"][0]["chosen"], true);
}
