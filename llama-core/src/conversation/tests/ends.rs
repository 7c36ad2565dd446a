//! Answers end where the format begins the next turn.

use super::super::stop::Stop;
use super::*;

/// A format that puts `between` before every question but the first, so that the first answer does not depend on it.
fn plain(model: &Model, between: &str) -> ChatFormat {
    let between = between.replace('\n', "\\n");
    let source = format!(
        "{{% for m in messages %}}{{% if m.role == 'user' and not loop.first %}}{{{{ '{between}' }}}}{{% endif %}}\
         {{{{ m.content }}}}{{{{ '\\nAnswer:' if m.role == 'user' }}}}{{% endfor %}}"
    );
    template(model, &source)
}

fn asked(model: &Model, format: ChatFormat) -> Conversation {
    let mut chat = conversation(model, Options::default().context(256), format);
    chat.user("Why?").unwrap();
    chat
}

fn sampler() -> Sampler {
    Sampler::new(3).temperature(1.0)
}

/// What the model says if nothing ends it, of so many tokens.
fn said(model: &Model, tokens: usize) -> String {
    let mut chat = asked(model, plain(model, ""));
    chat.reply(&mut sampler()).take(tokens).map(Result::unwrap).collect()
}

/// The texts of this length that occur in an answer and are as good as a template's, with where they first do.
fn stops(text: &str, len: usize) -> impl Iterator<Item = (usize, &str)> {
    let whole = text.char_indices().filter_map(move |(at, _)| text.get(at..at + len));
    let apt = |stop: &&str| stop.chars().all(|c| c.is_ascii_alphanumeric());
    whole.filter(apt).map(|stop| (text.find(stop).unwrap(), stop))
}

#[test]
fn an_answer_stops_where_the_format_would_begin_the_next_turn() {
    let model = model();
    let tokenizer = model.tokenizer();
    let text = said(&model, 60);
    let mut checked = 0;
    for (at, stop) in [4, 7, 13].into_iter().flat_map(|len| stops(&text, len).step_by(17).collect::<Vec<_>>())
    {
        let mut chat = asked(&model, plain(&model, stop));
        let question = chat.session().tokens().to_vec();
        let expected = text[..at].trim_end();
        let mut sampler = sampler();
        let mut shown = String::new();
        for piece in chat.reply(&mut sampler).map(Result::unwrap) {
            shown += &piece;
            assert!(expected.starts_with(&shown), "{stop}: {shown}");
        }
        assert_eq!(shown, expected, "{stop}");
        assert_eq!(chat.session().stopped(), Some(StopReason::Turn));
        assert_eq!(chat.messages()[1].text, expected);
        // Nothing of the stop text stays, not even of the token in which it begins.
        let tokens = chat.session().tokens().to_vec();
        assert_eq!(tokenizer.decode(&tokens), tokenizer.decode(&question) + &text_of_answer(&chat));
        assert_eq!(text_of_answer(&chat).trim_start(), expected);
        assert_eq!(answer(&mut chat, 5), "", "it has ended");
        // The next question follows as if the model had stopped by itself.
        chat.user("How?").unwrap();
        let again = tokenizer.decode(chat.session().tokens());
        assert_eq!(again, tokenizer.decode(&tokens) + stop + "How?\nAnswer:");
        assert!(chat.session().tokens().starts_with(&tokens));
        checked += 1;
    }
    assert!(checked > 10, "{checked}");
}

/// What the first answer's tokens spell.
fn text_of_answer(chat: &Conversation) -> String {
    let tokenizer = chat.session().model().tokenizer();
    let tokens = &chat.turns[0].answer.as_ref().unwrap().tokens;
    let bytes: Vec<u8> = tokens.iter().flat_map(|&token| tokenizer.bytes(token)).copied().collect();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn what_is_held_back_is_not_lost() {
    let model = model();
    let text = said(&model, 60);
    for (at, stop) in stops(&text, 9).step_by(20).take(3) {
        // One that the model begins and does not go through with.
        let other = format!("{}~", &stop[..8]);
        let mut chat = asked(&model, plain(&model, &other));
        let all: String = chat.reply(&mut sampler()).take(60).map(Result::unwrap).collect();
        let mut again = asked(&model, plain(&model, &other));
        assert!(text.starts_with(&all) && all.len() > at, "{other}");
        // With a reader that does not wait: in two parts, and what is held back between.
        for tokens in (1..24).step_by(4) {
            let mut sampler = sampler();
            let mut reply = again.reply(&mut sampler);
            let mut shown: String = reply.by_ref().take(tokens).map(Result::unwrap).collect();
            shown += &reply.rest();
            assert_eq!(reply.rest(), "");
            assert_eq!(shown, said(&model, tokens), "{other} {tokens}");
            assert_eq!(again.messages()[1].text, shown);
            let more: String = again.reply(&mut sampler).take(30).map(Result::unwrap).collect();
            assert!(text.starts_with(&(shown + &more)));
            again.retract_answer().unwrap();
        }
    }
}

#[test]
fn a_stop_text_that_was_shown_in_part_still_ends_the_answer() {
    let model = model();
    let text = said(&model, 60);
    let (at, stop) = stops(&text, 16).nth(4).unwrap();
    let mut chat = asked(&model, plain(&model, stop));
    let mut sampler = sampler();
    loop {
        let mut reply = chat.reply(&mut sampler);
        let Some(piece) = reply.next() else { break };
        piece.unwrap();
        reply.rest();
    }
    assert_eq!(chat.session().stopped(), Some(StopReason::Turn));
    assert_eq!(chat.messages()[1].text, text[..at].trim_end());
}

#[test]
fn an_ended_answer_is_ended_after_it_was_saved() {
    let (model, directory) = (model(), tempfile::tempdir().unwrap());
    let path = directory.path().join("chat.session");
    let text = said(&model, 60);
    let (_, stop) = stops(&text, 6).nth(12).unwrap();
    let mut chat = asked(&model, plain(&model, stop));
    chat.reply(&mut sampler()).for_each(drop);
    chat.save(&path, &sampler()).unwrap();
    let mut loaded = conversation(&model, Options::default().context(256), plain(&model, stop));
    loaded.load(&path, &mut sampler()).unwrap();
    assert_eq!((answer(&mut loaded, 5), loaded.messages()), (String::new(), chat.messages()));
    for chat in [&mut chat, &mut loaded] {
        chat.user("How?").unwrap();
    }
    assert_eq!(loaded.session().tokens(), chat.session().tokens());
}

/// What the formats of models come to whose vocabularies lack the tokens.
#[test]
fn known_formats_end_answers_where_they_should() {
    let model = model();
    let roles = |user: &str, assistant: &str, end: &str| {
        format!(
            "{{% for m in messages %}}{{{{ {user:?} if m.role == 'user' else {assistant:?} }}}}\
             {{{{ m.content }}}}{{{{ '' if m.role == 'user' else {end:?} }}}}{{% endfor %}}\
             {{{{ {assistant:?} if add_generation_prompt }}}}"
        )
    };
    let seventy = "{% for m in messages %}{{ 'Source: ' + m.role + '\n\n ' + m.content | trim + ' <step> ' }}\
        {% endfor %}{{ 'Source: assistant\nDestination: user\n\n ' }}";
    for (source, said, rest) in [
        (roles("### Instruction:\n", "\n\n### Response:\n", "\n\n"), "Yes.", "\n\n### Instruction:\nWhy?"),
        (roles("USER: ", " ASSISTANT: ", " "), "The/USER: x", "\nUSER: Why?"),
        (roles("User: ", "\nAssistant: ", "\n"), "A User: of", "\nUser: Why?"),
        (
            roles("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n"),
            "It",
            "<|im_end|>",
        ),
        (roles("<|user|>\n", "<eos>\n<|assistant|>\n", "<eos>\n"), "It", " <eos>"),
        (seventy.to_owned(), "It scatters.", " <step> Source: assistant"),
    ] {
        let chat = asked(&model, template(&model, &source));
        let (stop, text) = (chat.stop(), said.to_owned() + rest);
        assert_eq!(stop.token, None);
        let at = stop.find(&text, 0).unwrap_or_else(|| panic!("{source}: {stop:?}"));
        assert_eq!(text[..at].trim_end(), said, "{source}: {stop:?}");
        for len in 1..text.len() {
            assert!(stop.safe(&text[..len]) <= len.min(said.len()) || len > at, "{source}: {stop:?} {len}");
        }
    }
    // Those that end in a token of the vocabulary need no more than it.
    for source in [CHATML, &roles("User: ", "\nAssistant: ", "</s>")] {
        let chat = asked(&model, template(&model, source));
        assert_eq!(chat.stop().token, model.tokenizer().eos());
        assert_eq!(chat.stop().safe("User: \n"), 7);
    }
    assert_eq!(asked(&model, ChatFormat::Llama2).stop(), Stop::default());
}

/// The same model with a piece that is a control token.
fn with_control(model: &Model, token: Token) -> Model {
    let mut bytes = model.gguf().contents().next().unwrap().to_vec();
    let key = b"tokenizer.ggml.token_type";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len();
    // Behind the types of the value and its elements, and their count.
    let at = at + 4 + 4 + 8 + 4 * token.0 as usize;
    bytes[at..at + 4].copy_from_slice(&3i32.to_le_bytes());
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    Model::from_gguf(Gguf::read(file.path()).unwrap()).unwrap()
}

#[test]
fn a_token_that_begins_the_next_turn_ends_an_answer() {
    let model = model();
    let mut chat = asked(&model, plain(&model, ""));
    let start = chat.session().tokens().len();
    chat.reply(&mut sampler()).take(20).for_each(drop);
    let said = chat.session().tokens()[start..].to_vec();
    let fresh = |&at: &usize| {
        let piece = model.tokenizer().piece(said[at]).unwrap();
        !said[..at].contains(&said[at]) && piece.len() > 3 && piece.chars().all(|c| c.is_ascii_alphabetic())
    };
    let at = (3..said.len()).find(fresh).unwrap();
    let (end, piece) = (said[at], model.tokenizer().piece(said[at]).unwrap().to_owned());
    let model = with_control(&model, end);
    assert!(!model.tokenizer().ends(end));
    let mut chat = asked(&model, plain(&model, &piece));
    let text: String = chat.reply(&mut sampler()).map(Result::unwrap).collect();
    assert_eq!(chat.session().tokens()[start..], said[..=at]);
    assert_eq!(text, model.tokenizer().decode(&said[..at]).trim_start());
    assert_eq!(chat.session().stopped(), Some(StopReason::Eos));
    assert_eq!(answer(&mut chat, 5), "");
    // It begins the next turn already, and is not said again.
    chat.user("How?").unwrap();
    let rest = &chat.session().tokens()[start + at + 1..];
    assert_eq!(rest, model.tokenizer().encode(&Prompt::new().text("How?\nAnswer:")));
}
