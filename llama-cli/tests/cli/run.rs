//! `llama run`: what goes to which stream, and the golden text.

use crate::fixture::{Fixture, assert_refused, llama, output, shared, stderr, stdout};
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

#[test]
fn the_golden_text() {
    let Some(expected) = shared("models/stories260K.expected_greedy_200.txt") else { return };
    let expected = fs::read_to_string(expected).unwrap();
    for model in ["models/stories260K.gguf", "models/stories260K-gguf-v1.gguf"] {
        let Some(model) = shared(model) else { return };
        for isa in llama_kernels::available() {
            for threads in ["1", "2"] {
                let args = ["run", "-m", &model, "--temp", "0", "-n", "200", "--isa", isa, "-t", threads];
                assert_eq!(stdout(&args), expected, "{args:?}");
            }
        }
    }
}

#[test]
fn the_golden_text_from_other_caches() {
    let Some(expected) = shared("models/stories260K.expected_greedy_200.txt") else { return };
    let Some(model) = shared("models/stories260K.gguf") else { return };
    let expected = fs::read_to_string(expected).unwrap();
    let text = |k, v| stdout(&["run", "-m", &model, "--temp", "0", "-n", "200", "-ctk", k, "-ctv", v]);
    assert_eq!(text("f32", "f16"), expected);
    assert_eq!(text("F16", "f32"), expected);
    // Four bits are too few for so small a model: another text, which shows that the flags arrive.
    assert_ne!(text("q4_0", "f16"), expected);
    assert_ne!(text("f16", "q4_0"), expected);
}

#[test]
fn the_same_seed_gives_the_same_text_at_any_thread_count() {
    let fixture = Fixture::new();
    let text = |seed, threads| {
        stdout(&[
            "run",
            "-m",
            &fixture.model,
            "-p",
            "a b c",
            "-n",
            "24",
            "-s",
            seed,
            "-t",
            threads,
            "--ignore-eos",
        ])
    };
    assert_eq!(text("42", "1"), text("42", "2"));
    assert_ne!(text("42", "1"), text("43", "1"));
}

#[test]
fn a_random_seed_is_printed_and_can_be_used_again() {
    let fixture = Fixture::new();
    let first = output(&["run", "-m", &fixture.model, "-n", "16"]);
    let message = stderr(&first);
    let seed = message.lines().find_map(|line| line.strip_prefix("seed: ")).expect("the seed");
    assert_eq!(stdout(&["run", "-m", &fixture.model, "-n", "16", "-s", seed]).as_bytes(), first.stdout);
}

#[test]
fn standard_output_carries_the_text_alone() {
    let fixture = Fixture::new();
    let args = |more: &[&'static str]| {
        let mut args = vec!["run", "-m", &fixture.model, "-p", " the prompt\n", "-n", "8", "--temp", "0"];
        args.extend(more);
        output(&args)
    };
    let plain = args(&[]);
    assert!(!plain.stdout.is_empty() && !plain.stdout.ends_with(b"\n\n"));
    assert_eq!(args(&["--no-echo"]).stdout, plain.stdout);
    assert_eq!(args(&["--echo"]).stdout, [b" the prompt\n", plain.stdout.as_slice()].concat());
    assert_eq!(args(&["--echo", "--no-echo"]).stdout, plain.stdout);
    let timings = stderr(&plain);
    for what in ["load: ", "prompt: ", "generation: 8 tokens", "tokens/s"] {
        assert!(timings.contains(what), "{timings:?} lacks {what:?}");
    }
}

#[test]
fn a_prompt_comes_from_a_flag_a_file_or_standard_input() {
    let fixture = Fixture::new();
    let common = ["run", "-m", &fixture.model, "-n", "8", "--temp", "0", "--echo"];
    let run = |more: &[&str], stdin: &str| {
        let output = llama(&common).args(more).write_stdin(stdin).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let expected = run(&["-p", "Once upon"], "");
    // The newline with which a file ends is not part of the prompt; any other is.
    let file = fixture.file("prompt.txt", b"Once upon\n");
    assert_eq!(run(&["-f", &file], "not read"), expected);
    assert_eq!(run(&["-f", "-"], "Once upon"), expected);
    assert_eq!(run(&["-f", "-"], "Once upon\n"), expected);
    assert_ne!(run(&["-f", "-"], "Once upon\n\n"), expected);
    // Without a flag the prompt is empty, whatever standard input holds.
    assert_eq!(run(&[], "Once upon"), run(&["-p", ""], ""));
    assert!(!run(&[], "Once upon").starts_with("Once upon"));
}

#[test]
fn no_tokens_are_no_text() {
    let fixture = Fixture::new();
    assert_eq!(stdout(&["run", "-m", &fixture.model, "-p", "a", "-n", "0"]), "");
}

#[test]
fn generation_ends_where_the_context_does() {
    let fixture = Fixture::new();
    let run = output(&["run", "-m", &fixture.model, "-c", "16", "--ignore-eos", "-s", "1", "-ub", "4"]);
    assert!(run.status.success());
    // One position is for the token that begins the text.
    assert!(stderr(&run).contains("generation: 15 tokens"), "{}", stderr(&run));
}

#[test]
fn with_shift_generation_goes_on() {
    let fixture = Fixture::new();
    let run = |more: &[&str]| {
        let args =
            ["run", "-m", &fixture.model, "-p", "x", "-c", "16", "-n", "60", "--ignore-eos", "--temp", "0"];
        let output = output(&[&args[..], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    assert!(run(&["--context-shift"]).contains("generation: 60 tokens"));
    assert!(run(&["--context-shift", "--keep", "-1"]).contains("generation: 60 tokens"));
    assert!(!run(&[]).contains("generation: 60 tokens"));
    let args = ["run", "-m", &fixture.model, "-c", "16", "--context-shift", "--keep", "16"];
    assert_refused(&output(&args), "option keep: expected a number at least 3 below the context, found 16");
}

#[test]
fn the_rotation_can_be_changed() {
    let Some(model) = shared("models/stories260K.gguf") else { return };
    let text = |more: &[&str]| {
        let args = ["run", "-m", &model, "-p", "Once", "-n", "40", "--temp", "0"];
        stdout(&[&args[..], more].concat())
    };
    let plain = text(&[]);
    let yarn = ["--rope-scaling", "yarn", "--rope-scale", "8", "--yarn-orig-ctx", "16"];
    assert_ne!(text(&yarn), plain);
    assert_ne!(text(&["--rope-freq-base", "100"]), plain);
    assert_eq!(text(&["--rope-scale", "2"]), text(&["--rope-freq-scale", "0.5", "--rope-scaling", "linear"]));
    assert_eq!(text(&[&yarn[..], &["--yarn-ext-factor", "0"]].concat()), text(&["--rope-scale", "8"]));
    assert_eq!(text(&["--rope-scaling", "none", "--rope-scale", "2"]), plain);
}

#[test]
#[cfg(unix)]
fn a_closed_pipe_ends_the_run_quietly() {
    let fixture = Fixture::new();
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("llama"))
        // More text than a pipe holds, so that the end of the run cannot come first.
        .args(["run", "-m", &fixture.model, "-c", "100000", "--ignore-eos", "-s", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_exact(&mut [0]).unwrap();
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    assert!(stderr(&output).is_empty(), "{}", stderr(&output));
}

#[test]
#[cfg(target_os = "linux")]
fn streams_that_cannot_be_written_are_no_panic() {
    let fixture = Fixture::new();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let run = || {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llama"));
        command.args(["run", "-m", &fixture.model, "-n", "8", "--ignore-eos"]).stdin(Stdio::null());
        command
    };
    let deaf = run().stderr(full()).output().unwrap();
    assert!(deaf.status.success() && !deaf.stdout.is_empty());

    let mute = run().args(["--temp", "0"]).stdout(full()).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(mute.status.code(), Some(1));
    assert!(stderr(&mute).starts_with("error: cannot write to standard output"), "{}", stderr(&mute));

    let neither = run().stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(neither.code(), Some(1));
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_cleanly_and_prints_the_timings() {
    let fixture = Fixture::new();
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("llama"))
        .args(["run", "-m", &fixture.model, "-c", "100000", "--ignore-eos", "-s", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_exact(&mut [0]).unwrap();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    std::io::copy(&mut pipe, &mut std::io::sink()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(stderr(&output).contains("generation: "), "{}", stderr(&output));
    assert!(!stderr(&output).contains("error"), "{}", stderr(&output));
}

#[test]
fn a_byte_level_vocabulary_generates_text() {
    let fixture = Fixture::new();
    let model = fixture.byte_level("llama-bpe");
    let run = |prompt| stdout(&["run", "-m", &model, "-p", prompt, "-n", "32", "--temp", "0"]);
    // Whatever the weights make of it: text that continues one prompt, the same each time.
    assert_eq!(run(" ab"), run(" ab"));
    assert_ne!(run(" ab"), run("é"));
}
