//! `llama chat`: questions of a pipe in, answers out.

use crate::fixture::{Fixture, assert_refused, llama, output, rewritten, shared, stderr};
use llama_core::{ChatFormat, Conversation, Model, Options, Sampler};
use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};

fn chat(model: &str, flags: &[&str], lines: &str) -> Output {
    let output = llama(&["chat", "-m", model, "--temp", "0", "-n", "8", "-c", "512"])
        .args(flags)
        .write_stdin(lines)
        .output()
        .unwrap();
    assert!(output.status.success(), "{lines:?}: {}", stderr(&output));
    assert!(!output.stdout.contains(&0x1B) && !output.stderr.contains(&0x1B), "no escape codes");
    output
}

fn answers(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What the library answers.
fn expected(model: &str, system: Option<&str>, every_turn: bool, questions: &[&str]) -> String {
    let model = Model::read(model).unwrap();
    let session = model.session(Options::default().context(512)).unwrap();
    let mut chat = Conversation::new(session, ChatFormat::Llama2).unwrap();
    chat.set_system(system.map(String::from));
    chat.system_every_turn(every_turn);
    let mut text = String::new();
    for question in questions {
        chat.user(*question).unwrap();
        text.extend(chat.reply(&mut Sampler::greedy()).take(8).map(Result::unwrap));
        text.push('\n');
    }
    text
}

#[test]
fn each_line_is_a_question_and_standard_output_carries_the_answers() {
    let fixture = Fixture::new();
    let model = &fixture.model;
    let run = chat(model, &[], "hi\n\nhow are you?\r\n/exit\nnot read\n");
    assert_eq!(answers(&run), expected(model, None, false, &["hi", "how are you?"]));
    // The end of standard input ends the chat, a line without an end is one, and a backslash joins two.
    assert_eq!(answers(&chat(model, &[], "hi\\\nthere")), expected(model, None, false, &["hi\nthere"]));
    assert_eq!(answers(&chat(model, &[], "//exit\n")), expected(model, None, false, &["/exit"]));
    assert_eq!(answers(&chat(model, &[], "")), "");
    let file = fixture.file("system.txt", b"Be brief.\n");
    let by_flag = chat(model, &["--system", "Be brief."], "a\nb\n");
    assert_eq!(answers(&by_flag), expected(model, Some("Be brief."), false, &["a", "b"]));
    assert_eq!(answers(&chat(model, &["--system-file", &file], "a\nb\n")), answers(&by_flag));
    let every = answers(&chat(model, &["--system", "Be brief.", "--system-every-turn"], "a\nb\n"));
    assert_eq!(every, expected(model, Some("Be brief."), true, &["a", "b"]));
    assert_ne!(every, answers(&by_flag));
}

#[test]
fn commands_change_the_conversation() {
    let fixture = Fixture::new();
    let model = &fixture.model;
    let one = expected(model, None, false, &["one"]);
    let run = |lines: &str| chat(model, &[], lines);
    assert_eq!(answers(&run("one\n/regen\n")), one.repeat(2));
    assert_eq!(answers(&run("one\n/undo\none\n")), one.repeat(2));
    assert_eq!(answers(&run("one\n/clear\none\n")), one.repeat(2));
    assert_eq!(
        answers(&run("/system Be brief.\none\n")),
        expected(model, Some("Be brief."), false, &["one"])
    );
    assert_eq!(answers(&run("/system a\n/system -\none\n")), one);
    assert_eq!(answers(&run("/set predict 0\none\n")), "\n");
    let says = |lines: &str, what: &str| {
        let run = run(lines);
        assert!(stderr(&run).contains(what), "{lines:?}: {}", stderr(&run));
    };
    says("/help\n", "/regen           take the last answer back");
    says("/nothing\none\n", "error: expected a command that /help shows, found /nothing");
    says("/tokens\n", "0 of 512 tokens");
    says("one\n/stats\n", "generation: 8 tokens");
    says("one\n", "the answer was cut at 8 tokens");
    says("/system Be brief.\n/system\n", "instructions: Be brief.");
    says("/regen\n/undo\n", "error: expected a question before /undo, found none");
    says("/save\n/undo now\n", "error: expected /undo alone, found /undo now");
    says("/set temp 5000\n/set nothing 1\n", "error: /set: invalid value '5000'");
    says("/set nothing 1\n", "error: /set: unexpected argument '--nothing'");
    says("/set temp\n", "error: expected /set KEY VALUE, found /set temp");
    says("/load no/such/file\n", "error: cannot open no/such/file");
    // With a temperature the seed decides.
    let sampled = |seed: &str| answers(&run(&format!("/set temp 1\n/set seed {seed}\none\ntwo\n")));
    assert_eq!(sampled("1"), sampled("1"));
    assert_ne!(sampled("1"), sampled("2"));
}

#[test]
fn a_saved_conversation_goes_on_in_another_process() {
    let fixture = Fixture::new();
    let path = fixture.path("chat.session");
    let path = path.to_str().unwrap();
    let whole = answers(&chat(&fixture.model, &["--system", "Be brief."], "one\ntwo\nthree\n"));
    let first =
        answers(&chat(&fixture.model, &["--system", "Be brief."], &format!("one\ntwo\n/save {path}\n")));
    let second = chat(&fixture.model, &[], &format!("/load {path}\nthree\n"));
    assert_eq!(first + &answers(&second), whole);
    assert!(stderr(&second).contains("loaded: 2 turns"), "{}", stderr(&second));
    // Another context, another model, damage: a line, and the chat goes on.
    let other = chat(&fixture.model, &["-ctk", "f32"], &format!("/load {path}\n/tokens\n"));
    assert!(
        stderr(&other).contains("cache types: expected f32 and f16, found f16 and f16\n0 of 512"),
        "{}",
        stderr(&other)
    );
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = fixture.file("damaged.session", &bytes);
    let run = chat(&fixture.model, &[], &format!("/load {damaged}\n/tokens\n"));
    assert!(stderr(&run).contains("damaged") && stderr(&run).contains("0 of 512"), "{}", stderr(&run));
}

#[test]
fn the_files_template_is_used_and_another_one_can_be() {
    let fixture = Fixture::new();
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let model = rewritten(
        &fixture.model,
        fixture.path("template.gguf"),
        |_| true,
        |header| {
            header.set("tokenizer.chat_template", source);
        },
    );
    let of_file = answers(&chat(&model, &[], "one\ntwo\n"));
    let native = answers(&chat(&model, &["--template", "native"], "one\ntwo\n"));
    assert_eq!(native, expected(&model, None, false, &["one", "two"]));
    assert_ne!(of_file, native);
    assert_eq!(answers(&chat(&model, &["--template", "file"], "one\ntwo\n")), of_file);
    let path = fixture.file("template.jinja", source.as_bytes());
    assert_eq!(answers(&chat(&fixture.model, &["--template", &path], "one\ntwo\n")), of_file);

    let refused = |model: &str, template: &str, what: &str| {
        assert_refused(&output(&["chat", "-m", model, "--template", template]), what);
    };
    refused(&fixture.model, "file", "expected the key \"tokenizer.chat_template\"");
    refused(&fixture.model, "no/such.jinja", "cannot read no/such.jinja");
    refused(&fixture.model, &fixture.file("bad.jinja", b"\n{% if %}"), "chat template, line 2");
    let refusing = fixture.file("refusing.jinja", b"{{ raise_exception('not today') }}");
    let run = chat(&fixture.model, &["--template", &refusing], "one\n/tokens\n");
    assert!(stderr(&run).contains("the template refuses: not today\n0 of 512"), "{}", stderr(&run));
}

#[test]
fn an_answer_ends_where_the_template_would_begin_the_next_turn() {
    let fixture = Fixture::new();
    let answer = |between: &str, n: &str| {
        let source = format!(
            "{{% for m in messages %}}{{{{ '{between}' if m.role == 'user' and not loop.first }}}}\
             {{{{ m.content }}}}{{% endfor %}}"
        );
        let file = fixture.file("template.jinja", source.as_bytes());
        let flags = ["chat", "-m", &fixture.model, "--temp", "0", "-n", n, "-c", "512", "--template", &file];
        answers(&llama(&flags).write_stdin("one\n").output().unwrap())
    };
    let all = answer("", "30");
    let mut words = all.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() > 6);
    let stop = &words.nth(1).expect("the model says two words")[3..];
    let end = all.find(stop).unwrap();
    assert_eq!(answer(stop, "30"), all[..end].trim_end().to_owned() + "\n");
    // What might have become a stop text is not lost where the answer is cut.
    for n in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        let cut = answer("", n);
        let last = cut.trim_end().rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap();
        assert_eq!(answer(&format!("{last}~"), n), cut);
    }
}

#[test]
fn a_full_context_is_said_and_can_be_gone_beyond() {
    let fixture = Fixture::new();
    let run = |more: &[&str]| {
        let flags = ["-c", "64", "--system", "Be brief."];
        let lines = "one\ntwo\nthree\n/tokens\n";
        let mut command = llama(&["chat", "-m", &fixture.model, "--temp", "0"]);
        stderr(&command.args(flags).args(more).write_stdin(lines).output().unwrap())
    };
    let full = run(&["-n", "-1"]);
    assert!(
        full.contains("the context of 64 tokens is full") && full.contains("error: prompt of "),
        "{full}"
    );
    let shifted = run(&["--context-shift", "-n", "30"]);
    assert!(!shifted.contains("error") && shifted.contains(" forgotten"), "{shifted}");
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_a_piped_chat_after_its_answer() {
    let fixture = Fixture::new();
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("llama"))
        .args(["chat", "-m", &fixture.model, "-c", "100000", "-s", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all("more\n".repeat(500).as_bytes()).unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(
        stderr(&output).contains("generation: ") && !stderr(&output).contains("error"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_story_goes_on() {
    let Some(model) = shared("models/stories260K.gguf") else { return };
    let run = chat(&model, &["--context-shift"], "Once upon a time\nThen the dog\n/tokens\n");
    assert!(answers(&run).lines().filter(|line| !line.is_empty()).count() >= 2, "{}", answers(&run));
}
