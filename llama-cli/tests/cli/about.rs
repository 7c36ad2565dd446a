//! What the command says about itself.

use crate::fixture::{Fixture, llama, output, stderr, stdout};

#[test]
fn the_bare_command_names_the_next_ones() {
    let text = stdout(&[]);
    assert!(text.lines().count() <= 12 && text.lines().all(|line| line.len() < 80), "{text}");
    for command in ["llama doctor", "llama bench", "llama run "] {
        assert!(text.contains(command), "{text}");
    }
}

#[test]
fn the_version_names_the_build_and_the_instruction_sets() {
    let text = stdout(&["--version"]);
    assert!(text.starts_with(concat!("llama ", env!("CARGO_PKG_VERSION"))), "{text}");
    assert!(llama_kernels::isas().iter().all(|isa| text.contains(isa.name)), "{text}");
    assert!(text.contains(&format!("{} is chosen", llama_kernels::default_isa())), "{text}");
    assert!(text.lines().all(|line| line.len() < 80), "{text}");
}

#[test]
fn help_documents_exit_codes_and_the_environment() {
    let text = stdout(&["--help"]);
    for what in ["Exit codes:", "130", "HF_TOKEN", "LLAMA_CACHE", "NO_COLOR", "models", "rm", "completions"] {
        assert!(text.contains(what), "{what}: {text}");
    }
    let run = stdout(&["run", "--help"]);
    for name in ["MODEL", "HF_REPO", "THREADS", "CTX_SIZE", "N_PREDICT", "BATCH", "UBATCH", "CACHE_TYPE_K"] {
        assert!(run.contains(&format!("[env: LLAMA_ARG_{name}")), "{name}: {run}");
    }
}

#[test]
fn the_environment_stands_for_flags_and_flags_outweigh_it() {
    let fixture = Fixture::new();
    let run = |more: &[&str]| {
        let args = [&["run", "-m", &fixture.model, "--ignore-eos", "-s", "1"], more].concat();
        stderr(
            &llama(&args).env("LLAMA_ARG_N_PREDICT", "3").env("LLAMA_ARG_CTX_SIZE", "64").output().unwrap(),
        )
    };
    assert!(run(&[]).contains("generation: 3 tokens"), "{}", run(&[]));
    assert!(run(&["-n", "5"]).contains("generation: 5 tokens"));
    assert!(run(&["-n", "-1"]).contains("generation: 63 tokens"));
    let wrong = llama(&["run", "-m", &fixture.model]).env("LLAMA_ARG_N_PREDICT", "many").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn completions_and_the_manual_are_printed() {
    for (shell, mark) in [("bash", "complete "), ("zsh", "#compdef llama"), ("fish", "complete -c llama")] {
        let text = stdout(&["completions", shell]);
        assert!(text.contains(mark) && text.contains("tokenize") && text.contains("hf-repo"), "{shell}");
    }
    assert_eq!(output(&["completions", "cmd"]).status.code(), Some(2));
    let man = stdout(&["man"]);
    for page in [".TH llama 1", ".TH llama-run 1", ".TH llama-doctor 1"] {
        assert!(man.contains(page), "{page}");
    }
    assert!(!man.contains("this CPU has"));
}
