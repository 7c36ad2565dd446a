use super::parts::without_end;
use super::*;
use crate::gguf::Gguf;
use crate::synth::{Shape, Spec, Synth};
use crate::tokenizer::Token;
use crate::{Error, Model, Options, StopReason};
use llama_kernels::{Format, KvType};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

mod ends;
mod eviction;

/// A model of one small layer.
fn model_of(seed: u64) -> Model {
    let file = tempfile::NamedTempFile::new().unwrap();
    let shape = Shape { layers: 1, d_model: 64, d_ff: 96, ..Shape::from_name("tiny").unwrap() };
    let spec = Spec { shape, format: Format::F32.into(), seed };
    Synth::new(&spec).unwrap().write(file.as_file(), |_| ()).unwrap();
    Model::from_gguf(Gguf::read(file.path()).unwrap()).unwrap()
}

fn model() -> Model {
    model_of(7)
}

fn conversation(model: &Model, options: Options, format: ChatFormat) -> Conversation {
    Conversation::new(model.session(options).unwrap(), format).unwrap()
}

fn native(model: &Model, context: usize) -> Conversation {
    conversation(model, Options::default().context(context), ChatFormat::Llama2)
}

fn template(model: &Model, source: &str) -> ChatFormat {
    ChatFormat::Template(Box::new(Template::new(source, model.tokenizer()).unwrap()))
}

const CHATML: &str = "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ eos_token }}\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// An answer of so many tokens at most.
fn answer(chat: &mut Conversation, n: usize) -> String {
    chat.reply(&mut Sampler::greedy()).take(n).map(Result::unwrap).collect()
}

fn evaluated(chat: &Conversation) -> usize {
    let stats = chat.session().stats();
    stats.prompt_tokens + stats.generation_steps
}

#[test]
fn three_turns_evaluate_each_token_once() {
    let model = model();
    for format in [ChatFormat::Llama2, template(&model, CHATML)] {
        let mut chat = conversation(&model, Options::default().context(512), format);
        chat.set_system(Some("Be brief.".into()));
        let mut said = Vec::new();
        for question in ["Why is the sky blue?", "And at night? </s>", "  Thank you  "] {
            let before = chat.session().tokens().to_vec();
            chat.user(question).unwrap();
            assert_eq!(&chat.session().tokens()[..before.len()], before, "what was said stays as it was");
            said.push(answer(&mut chat, 12));
            // The last token was chosen, but nobody has asked what comes after it.
            assert_eq!(evaluated(&chat), chat.session().tokens().len() - 1);
        }
        let texts: Vec<String> = chat.messages().into_iter().map(|message| message.text).collect();
        let expected = [
            "Be brief.",
            "Why is the sky blue?",
            &said[0],
            "And at night? </s>",
            &said[1],
            "  Thank you  ",
            &said[2],
        ];
        assert_eq!(texts, expected);
        let bos = model.tokenizer().bos().unwrap();
        let count = chat.session().tokens().iter().filter(|&&token| token == bos).count();
        assert_eq!(count, if matches!(chat.format(), ChatFormat::Llama2) { 3 } else { 1 });
    }
}

#[test]
fn an_answer_is_closed_as_the_format_closes_it() {
    let model = model();
    let tokenizer = model.tokenizer();
    let (bos, eos) = (tokenizer.bos().unwrap(), tokenizer.eos().unwrap());
    let mut chat = native(&model, 256);
    chat.user("Hi").unwrap();
    let first = [&[bos][..], &tokenizer.encode_text("[INST] Hi [/INST]")].concat();
    assert_eq!(chat.session().tokens(), first);
    answer(&mut chat, 4);
    let sampled = chat.session().tokens()[first.len()..].to_vec();
    assert_eq!(sampled.len(), 4);
    chat.user("Bye").unwrap();
    let space = tokenizer.encode(&Prompt::new().continuation(" "));
    let second = [&space[..], &[eos, bos], &tokenizer.encode_text("[INST] Bye [/INST]")].concat();
    assert_eq!(chat.session().tokens(), [&first[..], &sampled, &second].concat());

    // An answer that the model has ended is not ended again.
    let prompt = Prompt::new().continuation(" ").special(eos).special(bos).text("x");
    let ends = |token| tokenizer.ends(token);
    assert_eq!(without_end(prompt, ends), Prompt::new().special(bos).text("x"));
    let prompt = Prompt::new().special(eos).text("\n").special(bos);
    assert_eq!(without_end(prompt, ends), Prompt::new().text("\n").special(bos));
    let prompt = Prompt::new().continuation("x").special(eos);
    assert_eq!(without_end(prompt.clone(), ends), prompt);
}

#[test]
fn a_format_that_rewrites_the_past_is_evaluated_as_it_says() {
    let model = model();
    let source = "{% for m in messages %}{{ loop.revindex }} {{ m.role }}: {{ m.content }}\n{% endfor %}";
    let mut chat = conversation(&model, Options::default().context(512), template(&model, source));
    for question in ["one", "two", "three"] {
        chat.user(question).unwrap();
        let expected = model.tokenizer().encode_start(&chat.view(chat.turns.len(), false).unwrap());
        assert_eq!(chat.session().tokens(), expected);
        assert!(!answer(&mut chat, 6).is_empty());
    }
    // One that cuts answers, too.
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content[:3] }}{% endfor %}";
    let mut chat = conversation(&model, Options::default().context(512), template(&model, source));
    chat.user("one").unwrap();
    let long = answer(&mut chat, 12);
    assert!(long.chars().count() > 3);
    chat.user("two").unwrap();
    let short: String = long.chars().take(3).collect();
    let expected = model.tokenizer().encode_start(&format!("<user>one<assistant>{short}<user>two").into());
    assert_eq!(chat.session().tokens(), expected);
}

#[test]
fn undone_and_retracted_turns_leave_no_trace() {
    let model = model();
    let mut chat = native(&model, 512);
    chat.user("one").unwrap();
    let first = answer(&mut chat, 8);
    let after_first = chat.session().tokens().to_vec();
    chat.user("two").unwrap();
    let second = answer(&mut chat, 8);
    let after_second = chat.session().tokens().to_vec();
    assert!(chat.retract_answer().unwrap());
    assert_eq!(answer(&mut chat, 8), second);
    assert_eq!(chat.session().tokens(), after_second);
    assert_eq!(chat.undo().as_deref(), Some("two"));
    assert_eq!(chat.session().tokens(), after_first);
    chat.user("two").unwrap();
    assert_eq!(answer(&mut chat, 8), second);
    assert_eq!((chat.undo(), chat.undo(), chat.undo()), (Some("two".into()), Some("one".into()), None));
    assert!(chat.session().tokens().is_empty() && !chat.retract_answer().unwrap());
    assert_eq!(answer(&mut chat, 8), "");
    chat.user("one").unwrap();
    assert_eq!(answer(&mut chat, 8), first);
    // A question that was not answered goes on.
    let mut chat = native(&model, 512);
    chat.user("one").unwrap();
    chat.user("two").unwrap();
    assert_eq!(chat.messages(), [Message::new(Role::User, "one\ntwo")]);
}

#[test]
fn another_system_message_is_evaluated_with_the_answers_as_they_were() {
    let model = model();
    let mut chat = native(&model, 512);
    chat.user("one").unwrap();
    answer(&mut chat, 8);
    let sampled = chat.turns[0].answer.clone().unwrap().tokens;
    chat.set_system(Some("Be brief.".into()));
    chat.user("two").unwrap();
    let tokens = chat.session().tokens();
    assert!(tokens.windows(8).any(|window| window == sampled));
    let mut expected = native(&model, 512);
    expected.set_system(Some("Be brief.".into()));
    expected.user("one").unwrap();
    assert!(tokens.starts_with(expected.session().tokens()));
}

#[test]
fn a_template_without_a_place_for_the_system_message_gets_it_with_the_question() {
    let model = model();
    let dropping = "{% for m in messages %}{% if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}";
    let refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}\
        {% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    for source in [dropping, refusing] {
        let mut chat = conversation(&model, Options::default().context(256), template(&model, source));
        chat.set_system(Some("Be brief.".into()));
        chat.user("Hi").unwrap();
        let expected = model.tokenizer().encode_start(&"user: Be brief.\n\nHi\n".into());
        assert_eq!(chat.session().tokens(), expected);
    }
}

#[test]
fn the_system_message_in_every_turn_costs_its_tokens_in_every_turn() {
    let model = model();
    for format in [ChatFormat::Llama2, template(&model, CHATML)] {
        let native = matches!(format, ChatFormat::Llama2);
        let mut chat = conversation(&model, Options::default().context(512), format);
        chat.set_system(Some("Be brief.".into()));
        chat.system_every_turn(true);
        for question in ["one", "two", "three"] {
            chat.user(question).unwrap();
            answer(&mut chat, 3);
        }
        let text = model.tokenizer().decode(chat.session().tokens());
        assert_eq!(text.matches("Be brief.").count(), 3, "{text}");
        assert_eq!(text.matches("<<SYS>>").count(), if native { 3 } else { 0 }, "{text}");
        assert_eq!(evaluated(&chat), chat.session().tokens().len() - 1);
    }
}

#[test]
fn a_full_context_forgets_turns_but_not_the_system_message() {
    let model = model();
    for format in [ChatFormat::Llama2, template(&model, CHATML)] {
        let mut chat = conversation(&model, Options::default().context(96).context_shift(0), format);
        chat.set_system(Some("Be brief.".into()));
        chat.user("one").unwrap();
        let tokens = chat.session().tokens().to_vec();
        let system = chat.first_tokens(&tokens).unwrap();
        let kept = tokens[..system].to_vec();
        assert!(model.tokenizer().decode(&kept).contains("Be brief."), "{}", model.tokenizer().decode(&kept));
        for _ in 0..12 {
            answer(&mut chat, 12);
            chat.user("more").unwrap();
            assert!(chat.session().tokens().starts_with(&kept));
        }
        assert!(chat.session().stats().forgotten_tokens > 100);
        // What is forgotten cannot be gone back to, but can be evaluated anew.
        for _ in 0..11 {
            chat.undo().unwrap();
        }
        chat.user("again").unwrap();
        assert!(chat.session().tokens().starts_with(&kept));
        assert!(!answer(&mut chat, 3).is_empty());
    }
}

#[test]
fn without_room_a_question_is_refused_and_nothing_has_changed() {
    let model = model();
    let mut chat = native(&model, 48);
    chat.user("one").unwrap();
    assert!(chat.reply(&mut Sampler::greedy()).map(Result::unwrap).count() > 10);
    assert_eq!(chat.session().stopped(), Some(StopReason::Context));
    let (tokens, messages) = (chat.session().tokens().to_vec(), chat.messages());
    let error = chat.user("two").unwrap_err();
    assert!(matches!(error, Error::Context { context: 48, .. }), "{error}");
    assert_eq!((chat.session().tokens(), chat.messages()), (&tokens[..], messages));
}

#[test]
fn a_cancelled_question_is_gone_and_a_cancelled_answer_stays() {
    let model = model();
    let flag = Arc::new(AtomicBool::new(false));
    let mut chat =
        conversation(&model, Options::default().context(256).cancel(flag.clone()), ChatFormat::Llama2);
    chat.user("one").unwrap();
    let mut sampler = Sampler::greedy();
    for (at, piece) in chat.reply(&mut sampler).enumerate() {
        piece.unwrap();
        flag.store(at == 3, Ordering::Relaxed);
    }
    assert_eq!(chat.session().stopped(), Some(StopReason::Cancelled));
    let tokens = chat.session().tokens().to_vec();
    assert_eq!(chat.turns[0].answer.as_ref().unwrap().tokens.len(), 4);
    assert!(matches!(chat.user("two"), Err(Error::Cancelled)));
    assert_eq!((chat.session().tokens(), chat.messages().len()), (&tokens[..], 2));
    flag.store(false, Ordering::Relaxed);
    assert!(!answer(&mut chat, 3).is_empty(), "an answer goes on");
    chat.user("two").unwrap();
    assert_eq!(chat.messages().len(), 3);
}

/// A conversation that samples, in which two turns were said.
fn said(options: Options, model: &Model, sampler: &mut Sampler) -> Conversation {
    let mut chat = conversation(model, options, ChatFormat::Llama2);
    chat.set_system(Some("Be brief.".into()));
    for question in ["Why is the sky blue?", "And at night?"] {
        chat.user(question).unwrap();
        chat.reply(sampler).take(20).for_each(|piece| drop(piece.unwrap()));
    }
    chat
}

fn continued(chat: &mut Conversation, sampler: &mut Sampler) -> (String, Vec<Token>) {
    let mut text: String = chat.reply(sampler).take(5).map(Result::unwrap).collect();
    chat.user("Go on").unwrap();
    text.extend(chat.reply(sampler).take(20).map(Result::unwrap));
    (text, chat.session().tokens().to_vec())
}

#[test]
fn what_is_loaded_goes_on_as_it_would_have_gone_on() {
    let (model, directory) = (model(), tempfile::tempdir().unwrap());
    let path = directory.path().join("chat.session");
    let types = KvType::ALL.into_iter().flat_map(|k| [(k, k), (k, KvType::F16)]);
    for ((k, v), context) in types.flat_map(|types| [(types, 256), (types, 72)]) {
        let options = || Options::default().context(context).context_shift(0).cache_type_k(k).cache_type_v(v);
        let mut sampler = Sampler::new(3).temperature(1.0);
        let mut chat = said(options(), &model, &mut sampler);
        assert_eq!(chat.session().stats().forgotten_tokens > 0, context == 72, "{k} {v}");
        chat.save(&path, &sampler).unwrap();
        let expected = continued(&mut chat, &mut sampler);

        let mut loaded = conversation(&model, options(), ChatFormat::Llama2);
        let mut sampler = Sampler::new(99).temperature(1.0);
        loaded.load(&path, &mut sampler).unwrap();
        assert_eq!(loaded.session().stats().prompt_tokens, 0, "nothing is evaluated again");
        assert_eq!(continued(&mut loaded, &mut sampler), expected, "{k} {v} {context}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn a_question_that_waits_for_its_answer_is_saved_with_its_logits() {
    let (model, directory) = (model(), tempfile::tempdir().unwrap());
    let path = directory.path().join("chat.session");
    let mut chat = native(&model, 256);
    chat.user("Why is the sky blue?").unwrap();
    chat.save(&path, &Sampler::greedy()).unwrap();
    let expected = answer(&mut chat, 20);
    let mut loaded = native(&model, 256);
    loaded.load(&path, &mut Sampler::greedy()).unwrap();
    assert_eq!(answer(&mut loaded, 20), expected);
    assert_eq!(loaded.session().stats().prompt_tokens, 0);
    // An empty one, too.
    native(&model, 256).save(&path, &Sampler::greedy()).unwrap();
    loaded.load(&path, &mut Sampler::greedy()).unwrap();
    assert!(loaded.messages().is_empty());
}

#[test]
fn what_does_not_fit_is_refused_in_one_error() {
    let (model, directory) = (model(), tempfile::tempdir().unwrap());
    let path = directory.path().join("chat.session");
    let mut sampler = Sampler::greedy();
    let mut chat = native(&model, 64);
    chat.user("Hi").unwrap();
    answer(&mut chat, 4);
    chat.save(&path, &sampler).unwrap();

    let mut refused = |mut chat: Conversation, path: &Path, what: &str| {
        let error = chat.load(path, &mut sampler).unwrap_err();
        assert!(matches!(error, Error::SavedChat { .. }), "{error}");
        assert!(error.to_string().contains(what) && !error.to_string().contains('\n'), "{error}");
        chat
    };
    refused(native(&model_of(8), 64), &path, "model: expected");
    refused(native(&model, 65), &path, "context: expected 65, found 64");
    let q8 = Options::default().context(64).cache_type_v(KvType::Q8_0);
    refused(
        conversation(&model, q8, ChatFormat::Llama2),
        &path,
        "cache types: expected f16 and q8_0, found f16 and f16",
    );
    let rope = crate::RopeOptions { factor: Some(2.0), ..Default::default() };
    refused(
        conversation(&model, Options::default().context(64).rope(rope), ChatFormat::Llama2),
        &path,
        "rotary embedding: expected",
    );
    let other = conversation(&model, Options::default().context(64), template(&model, CHATML));
    refused(other, &path, "chat format: expected");

    let bytes = fs::read(&path).unwrap();
    let damaged = directory.path().join("damaged");
    let mut chat = native(&model, 64);
    chat.user("stays").unwrap();
    for at in (0..bytes.len()).step_by(1 + bytes.len() / 3000).chain(0..200.min(bytes.len())) {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(&damaged, &changed).unwrap();
        let what = match at {
            0..8 => "magic: expected",
            8..12 => "version: expected 2",
            _ => "damaged",
        };
        chat = refused(chat, &damaged, what);
    }
    for len in (0..bytes.len()).step_by(1 + bytes.len() / 500) {
        fs::write(&damaged, &bytes[..len]).unwrap();
        chat = refused(chat, &damaged, ": expected");
    }
    assert_eq!(chat.messages(), [Message::new(Role::User, "stays")]);
    assert!(!answer(&mut chat, 3).is_empty());
    assert!(matches!(
        chat.load(directory.path().join("missing"), &mut Sampler::greedy()),
        Err(Error::Io { .. })
    ));
    assert!(matches!(chat.save(directory.path().join("no/such"), &Sampler::greedy()), Err(Error::Io { .. })));
}

/// What the checksum cannot catch: it is for accidents.
#[test]
fn forged_files_do_not_panic() {
    let (model, directory) = (model(), tempfile::tempdir().unwrap());
    let path = directory.path().join("chat.session");
    let options = || Options::default().context(72).context_shift(0);
    said(options(), &model, &mut Sampler::new(3).temperature(1.0)).save(&path, &Sampler::greedy()).unwrap();
    let bytes = fs::read(&path).unwrap();
    // All up to the logits, and a part of these.
    let head = bytes.len().min(1600);
    let mut accepted = 0;
    for (at, change) in (12..head).zip([1u8, 0x80, 0xff].into_iter().cycle()) {
        let mut forged = bytes.clone();
        forged[at] ^= change;
        let end = forged.len() - 8;
        let sum = file::sum_of(&forged[..end]);
        forged[end..].copy_from_slice(&sum.to_le_bytes());
        fs::write(&path, &forged).unwrap();
        let mut chat = conversation(&model, options(), ChatFormat::Llama2);
        match chat.load(&path, &mut Sampler::greedy()) {
            Ok(()) => accepted += 1,
            Err(error) => assert!(matches!(error, Error::SavedChat { .. }), "{at}: {error}"),
        }
        // Errors are answers, too.
        let mut sampler = Sampler::greedy();
        chat.reply(&mut sampler).take(2).for_each(drop);
        let _ = chat.retract_answer();
        chat.undo();
        let _ = chat.user("a");
        chat.reply(&mut sampler).take(2).for_each(drop);
        let _ = chat.save(&path, &sampler);
    }
    assert!(accepted > 0);
}
