//! `llama infill`: what it prints, where it ends and what it refuses.

use crate::fixture::{Fixture, assert_refused, llama, output, rewritten, stderr, stdout};
use llama_core::{Infill, Model, Options, Order, Sampler, Token};

/// A model with the vocabulary of Code Llama's size, for which its tokens of infill are taken.
fn fixture() -> Fixture {
    Fixture::with_vocabulary(32_016)
}

/// What the library puts into a gap, at most `n` tokens of it.
fn filled(model: &Model, gap: Infill, n: usize) -> (String, Vec<Token>) {
    let mut session = model.session(Options::default()).unwrap();
    session.push(&gap).unwrap();
    let prompt = session.tokens().len();
    let text = session.generate(&mut Sampler::greedy()).take(n).collect::<Result<String, _>>().unwrap();
    (text, session.tokens()[prompt..].to_vec())
}

#[test]
fn standard_output_carries_the_middle_alone() {
    let fixture = fixture();
    let model = Model::read(&fixture.model).unwrap();
    // Newlines at the ends are part of the texts.
    let (prefix, suffix) = ("def f(x):\n    return \n", "\nprint(f(3))\n");
    let (before, after) =
        (fixture.file("before.py", prefix.as_bytes()), fixture.file("after.py", suffix.as_bytes()));
    let args = ["infill", "-m", &fixture.model, "--prefix", &before, "--suffix", &after];
    let mut texts = Vec::new();
    for (flags, order) in [(&[][..], Order::PrefixFirst), (&["--spm"], Order::SuffixFirst)] {
        let gap = model.infill().unwrap().prefix(prefix).suffix(suffix).order(order);
        let expected = filled(&model, gap, 8).0;
        assert!(!expected.is_empty());
        let run = output(&[&args[..], &["-n", "8", "--temp", "0"], flags].concat());
        assert_eq!(String::from_utf8(run.stdout.clone()).unwrap(), expected, "{}", stderr(&run));
        assert!(stderr(&run).contains("generation: 8 tokens"), "{}", stderr(&run));
        texts.push(expected);
    }
    assert_ne!(texts[0], texts[1]);
    // One of the two is enough, and sampling is that of `run`.
    let one = |more: &[&str]| stdout(&[&args[..5], &["-n", "8"], more].concat());
    let expected = filled(&model, model.infill().unwrap().prefix(prefix), 8).0;
    assert_eq!(one(&["--temp", "0"]), expected);
    assert_eq!(one(&["-s", "1"]), one(&["-s", "1", "-t", "1"]));
    assert_ne!(one(&["-s", "1"]), one(&["-s", "2"]));
}

#[test]
fn gaps_of_a_file_are_filled_one_after_the_other() {
    let fixture = fixture();
    let model = Model::read(&fixture.model).unwrap();
    let gap = || model.infill().unwrap();
    let first = filled(&model, gap().prefix("a = ").suffix("\nb = \n"), 5).0;
    let second = filled(&model, gap().prefix(format!("a = {first}\nb = ")).suffix("\n"), 5).0;
    let expected = format!("a = {first}\nb = {second}\n");
    let text = "a = <FILL_ME>\nb = <FILL_ME>\n";
    let file = fixture.file("gaps.py", text.as_bytes());
    let args = ["infill", "-m", &fixture.model, "-n", "5", "--temp", "0", "-f"];
    assert_eq!(stdout(&[&args[..], &[&file]].concat()), expected);
    let piped = llama(&args).arg("-").write_stdin(text).output().unwrap();
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), expected);
}

#[test]
fn the_end_token_of_infill_ends_a_gap() {
    let fixture = fixture();
    let model = Model::read(&fixture.model).unwrap();
    let tokens = filled(&model, model.infill().unwrap().prefix("x = "), 6).1;
    // The last that did not occur before becomes the end.
    let at = (1..6).rev().find(|&at| !tokens[..at].contains(&tokens[at])).unwrap();
    let ending = rewritten(
        &fixture.model,
        fixture.path("ending.gguf"),
        |_| true,
        |header| {
            header.set("tokenizer.ggml.eot_token_id", tokens[at].0);
        },
    );
    let model = Model::read(&ending).unwrap();
    let (expected, ended) = filled(&model, model.infill().unwrap().prefix("x = "), at);
    assert_eq!(ended, tokens[..at]);
    let file = fixture.file("gap.py", b"x = <FILL_ME>");
    let run = output(&["infill", "-m", &ending, "--temp", "0", "-f", &file]);
    assert_eq!(String::from_utf8(run.stdout.clone()).unwrap(), format!("x = {expected}"), "{}", stderr(&run));
}

#[test]
fn what_cannot_be_filled_is_refused_in_a_line() {
    let fixture = fixture();
    let file = |content: &[u8]| fixture.file("gap.py", content);
    let fill = |more: &[&str]| output(&[&["infill", "-m", &fixture.model, "-n", "2"], more].concat());
    assert_refused(&fill(&["-f", &file(b"x = 1\n")]), "gap.py: expected <FILL_ME>");
    assert_refused(&fill(&["-f", &file(b"x = \xff<FILL_ME>")]), "offset 4");
    assert_refused(&fill(&["--suffix", "no/such/file.py"]), "no/such/file.py");
    let long = file(["word ".repeat(100).as_bytes(), b"<FILL_ME>"].concat().as_slice());
    assert_refused(&fill(&["-c", "16", "-f", &long]), "context of 16");
    let gap = file(b"x = <FILL_ME>");
    let other = Fixture::new();
    let refused = output(&["infill", "-m", &other.model, "-f", &gap]);
    assert_refused(&refused, "fim_pre_token_id\": expected the id of a token, for infill");
}
