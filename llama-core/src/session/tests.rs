use super::*;
use crate::gguf::{Gguf, Writer};
use crate::synth::{Shape, Spec, Synth};
use llama_kernels::Format;
use std::io::Write;
use std::sync::atomic::Ordering;

const PROMPT: &str = "Once upon a time there was a prompt";

/// A model of one small layer.
fn model() -> Model {
    let file = tempfile::NamedTempFile::new().unwrap();
    let shape = Shape { layers: 1, d_model: 64, d_ff: 96, ..Shape::from_name("tiny").unwrap() };
    let spec = Spec { shape, format: Format::F32.into(), seed: 7 };
    Synth::new(&spec).unwrap().write(file.as_file(), |_| ()).unwrap();
    Model::from_gguf(Gguf::read(file.path()).unwrap()).unwrap()
}

/// The same model in a file that names this token as the end of a turn.
fn ending_at(model: &Model, token: Token) -> Model {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut header = Writer::new();
    for (key, value) in model.gguf().metadata() {
        header.set(key, value);
    }
    header.set("tokenizer.ggml.eot_token_id", token.0);
    for tensor in model.gguf().tensors() {
        header.tensor(tensor.name(), tensor.dims(), tensor.format()).unwrap();
    }
    let mut data = header.begin(file.as_file()).unwrap();
    for tensor in model.gguf().tensors() {
        data.write_all(tensor.data().as_ref()).unwrap();
    }
    data.finish().unwrap();
    Model::from_gguf(Gguf::read(file.path()).unwrap()).unwrap()
}

fn session(model: &Model, context: usize) -> Session {
    model.session(Options::default().context(context).deterministic(true)).unwrap()
}

fn greedy(session: &mut Session, n: usize) -> Vec<String> {
    session.generate(&mut Sampler::greedy()).take(n).map(Result::unwrap).collect()
}

#[test]
fn sessions_and_models_may_cross_threads() {
    fn check<T: Send + 'static>() {}
    fn check_shared<T: Send + Sync + Clone + 'static>() {}
    check::<Session>();
    check_shared::<Model>();
}

#[test]
fn bos_comes_once_and_only_at_the_start() {
    let model = model();
    let bos = model.tokenizer().bos().unwrap();
    let count = |session: &Session| session.tokens().iter().filter(|&&token| token == bos).count();
    let mut session = session(&model, 64);
    session.push("a").unwrap();
    session.push("b").unwrap();
    assert_eq!((session.tokens()[0], count(&session)), (bos, 1));
    session.clear();
    session.push(Prompt::new().special(bos).text("a")).unwrap();
    assert_eq!(count(&session), 1);
    session.clear();
    session.push("").unwrap();
    assert_eq!(session.tokens(), [bos]);
}

#[test]
fn an_empty_session_starts_from_bos_alone() {
    let model = model();
    let mut pushed = session(&model, 64);
    pushed.push("").unwrap();
    let mut empty = session(&model, 64);
    assert_eq!(greedy(&mut empty, 5), greedy(&mut pushed, 5));
    assert_eq!(empty.tokens().len(), 6);
}

#[test]
fn one_item_is_one_token_and_none_is_lost_between_generations() {
    let model = model();
    let mut whole = session(&model, 64);
    whole.push(PROMPT).unwrap();
    let start = whole.tokens().len();
    let expected = greedy(&mut whole, 12);
    assert_eq!((expected.len(), whole.tokens().len()), (12, start + 12));

    let mut parts = session(&model, 64);
    parts.push(PROMPT).unwrap();
    let mut text = Vec::new();
    for n in [1, 0, 4, 7] {
        text.extend(greedy(&mut parts, n));
    }
    assert_eq!((text, parts.tokens()), (expected, whole.tokens()));
    assert_eq!(parts.stopped(), None);
}

#[test]
fn a_full_context_ends_the_generation() {
    let model = model();
    let mut session = session(&model, 8);
    let mut sampler = Sampler::greedy();
    let pieces = session.generate(&mut sampler).ignore_eos().count();
    assert_eq!((pieces, session.tokens().len()), (7, 8));
    assert_eq!(session.stopped(), Some(StopReason::Context));
    assert_eq!(greedy(&mut session, 5).len(), 0);
}

#[test]
fn every_token_that_ends_a_text_ends_the_generation() {
    let model = model();
    let start = [Token(1), Token(300)];
    let mut unended = session(&model, 64);
    unended.forward(&start).unwrap();
    greedy(&mut unended, 6);
    let generated = &unended.tokens()[2..];
    // The last that did not occur before.
    let at = (1..6).rev().find(|&at| !generated[..at].contains(&generated[at])).unwrap();
    let model = ending_at(&model, generated[at]);

    let mut ended = session(&model, 64);
    ended.forward(&start).unwrap();
    assert_eq!(greedy(&mut ended, 6).len(), at);
    assert_eq!((ended.stopped(), &ended.tokens()[2..]), (Some(StopReason::Eos), &generated[..=at]));

    let mut ignored = session(&model, 64);
    ignored.forward(&start).unwrap();
    let mut sampler = Sampler::greedy();
    assert_eq!(ignored.generate(&mut sampler).ignore_eos().count(), 62);
    let ends: Vec<Token> = model.tokenizer().end_tokens().collect();
    assert_eq!(ends.len(), 2);
    assert!(ignored.tokens().iter().all(|token| !ends.contains(token)));
}

#[test]
fn too_long_a_prompt_changes_nothing() {
    let model = model();
    let mut session = session(&model, 8);
    session.push("a").unwrap();
    let before = session.tokens().to_vec();
    let error = session.push("b".repeat(100)).unwrap_err();
    assert!(matches!(error, Error::Context { room, context: 8, .. } if room == 8 - before.len()), "{error}");
    let vocab = model.config().vocab;
    let error = session.forward(&[Token(vocab as u32)]).unwrap_err();
    assert!(matches!(error, Error::Token { .. }), "{error}");
    assert_eq!(session.tokens(), before);
    assert_eq!(session.stats().prompt_tokens, before.len());
}

#[test]
fn logits_do_not_depend_on_how_tokens_are_divided() {
    let model = model();
    let tokens: Vec<Token> = (0..20).map(|i| Token(1 + i * 37)).collect();
    let vocab = model.config().vocab;
    let mut whole = session(&model, 32);
    let all = whole.forward_all(&tokens).unwrap();
    assert_eq!(all.len(), 20 * vocab);

    let mut parts = session(&model, 32);
    let (first, rest) = tokens.split_at(7);
    assert_eq!(parts.forward(first).unwrap(), &all[6 * vocab..7 * vocab]);
    assert_eq!(parts.forward(rest).unwrap(), &all[19 * vocab..]);
    assert_eq!(parts.forward(&[]).unwrap(), &all[19 * vocab..]);
    assert_ne!(all[..vocab], all[vocab..2 * vocab], "the logits depend on the tokens");
    assert!(session(&model, 32).forward(&[]).is_err());
}

#[test]
fn micro_batches_cover_every_token() {
    let model = model();
    let tokens: Vec<Token> = (0..20).map(|i| Token(1 + i * 37)).collect();
    for ubatch in [1, 7, 20, 64] {
        let mut session = model.session(Options::default().context(32).ubatch(ubatch)).unwrap();
        assert_eq!(session.forward_all(&tokens).unwrap().len(), 20 * model.config().vocab);
        assert_eq!(session.stats().prompt_tokens, 20);
    }
}

#[test]
fn truncating_goes_back_in_time() {
    let model = model();
    let mut session = session(&model, 64);
    session.push(PROMPT).unwrap();
    let len = session.tokens().len();
    let first = greedy(&mut session, 6);
    session.truncate(len + 100);
    assert_eq!(session.tokens().len(), len + 6);
    session.truncate(len);
    assert_eq!(greedy(&mut session, 6), first);
    session.clear();
    assert!(session.tokens().is_empty());
}

#[test]
fn a_cancelled_prompt_is_continued_by_the_next_call() {
    let model = model();
    let flag = Arc::new(AtomicBool::new(true));
    let mut session = model.session(Options::default().context(64).cancel(flag.clone())).unwrap();
    assert!(matches!(session.push(PROMPT), Err(Error::Cancelled)));
    let len = session.tokens().len();
    assert!(greedy(&mut session, 3).is_empty());
    assert_eq!(session.stopped(), Some(StopReason::Cancelled));

    flag.store(false, Ordering::Relaxed);
    let mut expected = model.session(Options::default().context(64)).unwrap();
    expected.push(PROMPT).unwrap();
    assert_eq!(greedy(&mut session, 3), greedy(&mut expected, 3));
    assert_eq!(session.tokens().len(), len + 3);
}

#[test]
fn two_sessions_of_one_model_run_at_once() {
    let model = model();
    let mut expected = session(&model, 64);
    expected.push(PROMPT).unwrap();
    let expected = greedy(&mut expected, 8);
    std::thread::scope(|scope| {
        let text = || {
            let mut session = session(&model, 64);
            session.push(PROMPT).unwrap();
            greedy(&mut session, 8)
        };
        let threads = [scope.spawn(text), scope.spawn(text)];
        assert_eq!(threads.map(|thread| thread.join().unwrap()), [expected.clone(), expected]);
    });
}

#[test]
fn senseless_options_are_errors() {
    let model = model();
    for options in [Options::default().context(0), Options::default().ubatch(0)] {
        let error = model.session(options).map(drop).unwrap_err();
        assert!(matches!(error, Error::Option { .. }), "{error}");
    }
    let error = model.session(Options::default().context(usize::MAX / 2)).map(drop).unwrap_err();
    assert!(matches!(error, Error::Option { option: "context", .. }), "{error}");
    let (context, ubatch) = (1 << 31, usize::MAX);
    let error = model.session(Options::default().context(context).ubatch(ubatch)).map(drop).unwrap_err();
    assert!(matches!(error, Error::Option { .. }), "{error}");
}

#[test]
fn stats_count_prompt_and_generation_apart() {
    let model = model();
    let mut session = session(&model, 64);
    session.push(PROMPT).unwrap();
    let prompt = session.tokens().len();
    let mut sampler = Sampler::greedy();
    session.generate(&mut sampler).ignore_eos().take(5).for_each(drop);
    let stats = session.stats();
    assert_eq!((stats.prompt_tokens, stats.generated_tokens, stats.generation_steps), (prompt, 5, 4));
    assert!(stats.to_string().starts_with(&format!("prompt: {prompt} tokens in ")), "{stats}");
    assert_eq!(Stats::default().prompt_speed(), 0.0);
}
