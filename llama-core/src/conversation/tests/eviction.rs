//! A full context forgets whole turns.

use super::*;

/// A format in plain text.
const PLAIN: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n{% else %}\
    {{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

/// What can be seen of a text: formats strip answers, and some end in the middle of a character.
fn visible(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).collect()
}

/// The first question that the session still holds, if its tokens are those of the conversation from there on, with
/// all that a format says before the first one.
fn begins_with(chat: &Conversation) -> Option<usize> {
    let model = chat.session().model();
    let found = chat.session().tokens();
    let text = visible(&model.tokenizer().decode(found));
    let count = |tokens: &[Token], special| tokens.iter().filter(|&&token| Some(token) == special).count();
    (0..chat.turns.len()).rev().find(|&first| {
        let last = chat.turns.len() - 1;
        let said = (first..=last).map(|at| {
            let turn = &chat.turns[at];
            let answer = turn.answer.as_ref().map(|answer| answer.text.clone());
            (turn.user.clone(), answer.filter(|answer| at < last || !answer.is_empty()))
        });
        let Ok(prompt) = chat.render(said) else { return false };
        let expected = model.tokenizer().encode_start(&prompt);
        let mut special = [model.tokenizer().bos(), model.tokenizer().eos()].into_iter();
        // Of an answer that is not over, the format has the end already.
        visible(&model.tokenizer().decode(&expected)).starts_with(&text)
            && special.all(|special| {
                matches!(count(&expected, special).checked_sub(count(found, special)), Some(0 | 1))
            })
    })
}

#[test]
fn thirty_turns_go_on_in_a_tiny_context_of_whole_turns() {
    let model = model();
    let systems = [None, Some("Be brief.".to_owned())];
    for (system, name) in
        systems.iter().flat_map(|system| ["native", CHATML, PLAIN].map(|name| (system, name)))
    {
        let format = if name == "native" { ChatFormat::Llama2 } else { template(&model, name) };
        let mut chat = conversation(&model, Options::default().context(160).context_shift(0), format);
        chat.set_system(system.clone());
        let mut sampler = Sampler::new(5).temperature(1.0);
        let (mut before, mut shifts, mut forgotten) = (0, 0, 0);
        for turn in 0..30 {
            chat.user(format!("Q{turn}?")).unwrap();
            for piece in 0..=16 {
                if piece > 0 && chat.reply(&mut sampler).next().is_none() {
                    break;
                }
                if piece > 0 && chat.session().stats().forgotten_tokens == forgotten {
                    continue;
                }
                forgotten = chat.session().stats().forgotten_tokens;
                let first = begins_with(&chat).unwrap_or_else(|| {
                    panic!("{name}, turn {turn}: {}", model.tokenizer().decode(chat.session().tokens()))
                });
                assert!(before <= first && first <= turn);
                shifts += usize::from(first != before);
                before = first;
            }
            assert_ne!(chat.session().stopped(), Some(StopReason::Context));
        }
        assert!(shifts >= 4, "{name}: {shifts}");
        assert_eq!(chat.messages().len(), 60 + usize::from(system.is_some()));
        // What comes back from a file knows where turns begin, too.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("chat.session");
        chat.save(&path, &sampler).unwrap();
        let (turns, forgotten) =
            (chat.session.evaluation.turns.clone(), chat.session().stats().forgotten_tokens);
        chat.clear();
        chat.load(&path, &mut sampler).unwrap();
        assert_eq!(
            (&chat.session.evaluation.turns, chat.session().stats().forgotten_tokens),
            (&turns, forgotten)
        );
    }
}

#[test]
fn a_question_that_needs_all_the_room_gets_it() {
    let model = model();
    for name in ["native", CHATML, PLAIN] {
        let format = if name == "native" { ChatFormat::Llama2 } else { template(&model, name) };
        let mut chat = conversation(&model, Options::default().context(128).context_shift(0), format);
        chat.set_system(Some("Be brief.".into()));
        chat.user("Q0?").unwrap();
        while chat.session().tokens().len() < 110 {
            answer(&mut chat, 4);
        }
        let long = format!("Q1 {}", "xyz ".repeat(8));
        chat.user(&long).unwrap();
        assert_eq!(begins_with(&chat), Some(1), "{name}");
        let len = chat.session().tokens().len();
        assert_eq!(chat.session().stats().forgotten_tokens + len, chat.turns[1].end);
        assert!(!answer(&mut chat, 4).is_empty());
        // Both can be taken back, and said again.
        assert_eq!(chat.undo().as_deref(), Some(&*long));
        chat.user("Q2").unwrap();
        answer(&mut chat, 2);
        assert!(begins_with(&chat).is_some(), "{name}");
        // One for which there is no room at all leaves everything as it was.
        let before = chat.messages();
        let error = chat.user("xyz ".repeat(60)).unwrap_err();
        assert!(matches!(error, Error::Context { context: 128, .. }), "{error}");
        assert_eq!(chat.messages(), before);
        chat.user("Q3").unwrap();
        assert!(begins_with(&chat).is_some(), "{name}");
    }
}

#[test]
fn a_turn_that_outgrows_the_context_by_itself_loses_half() {
    let model = model();
    let mut chat = conversation(&model, Options::default().context(96).context_shift(0), ChatFormat::Llama2);
    chat.set_system(Some("Be brief.".into()));
    chat.user("Q0?").unwrap();
    let mut sampler = Sampler::new(5).temperature(1.0);
    assert_eq!(chat.reply(&mut sampler).take(200).count(), 200);
    assert_eq!(begins_with(&chat), None);
    assert!(chat.session().stats().forgotten_tokens > 100);
    // And the next whole turns are whole again.
    for turn in 1..8 {
        chat.user(format!("Q{turn}?")).unwrap();
        chat.reply(&mut sampler).take(12).for_each(drop);
    }
    assert!(begins_with(&chat).is_some_and(|first| first > 0));
}

#[test]
fn what_leaves_is_as_near_to_half_as_whole_turns_allow() {
    use crate::evaluation::nearest;
    assert_eq!(nearest([10, 40, 70].into_iter(), 1, 100, 50), Some(40));
    assert_eq!(nearest([10, 40, 70].into_iter(), 41, 100, 50), Some(70));
    assert_eq!(nearest([0, 40, 70].into_iter(), 1, 39, 5), None);
}
