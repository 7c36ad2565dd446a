//! Parts of prompts in which [`MARKER`]s stand for messages.

use super::MARKER;
use crate::tokenizer::{Prompt, Segment, Token};

/// A segment's text; of a special token none.
pub(super) fn text_of(segment: &Segment) -> &str {
    match segment {
        Segment::Special(_) => "",
        Segment::Text(text) | Segment::Continuation(text) => text,
    }
}

/// What `now` has behind all that is in `before` and a marker; `None` if it does not begin with these. White space
/// around the place of the marker makes no difference: what stands there is what the model made of `before`.
pub(super) fn after(before: &Prompt, now: &Prompt) -> Option<Prompt> {
    let (before, now) = (before.segments(), now.segments());
    let (last, most) = before.split_last()?;
    let (same, rest) = now.split_at_checked(most.len())?;
    if same != most {
        return None;
    }
    let (text, rest) = match (last, rest) {
        (Segment::Text(end), [Segment::Text(text), rest @ ..]) => (text.strip_prefix(end.trim_end())?, rest),
        (last, [special, Segment::Text(text), rest @ ..]) if last == special => (text.as_str(), rest),
        _ => return None,
    };
    let text = text.trim_start().strip_prefix(MARKER)?;
    let prompt = if text.is_empty() { Prompt::new() } else { Prompt::new().continuation(text) };
    Some(rest.iter().cloned().fold(prompt, Prompt::with))
}

/// What stands before the first marker.
pub(super) fn up_to_marker(prompt: &Prompt) -> Prompt {
    let mut before = Prompt::new();
    for segment in prompt.segments() {
        match text_of(segment).split_once(MARKER) {
            Some(("", _)) => break,
            Some((text, _)) if matches!(segment, Segment::Continuation(_)) => {
                return before.continuation(text);
            }
            Some((text, _)) => return before.text(text),
            None => before = before.with(segment.clone()),
        }
    }
    before
}

/// The same without the token that ends the answer, and the white space before it: the model has chosen it itself.
pub(super) fn without_end(prompt: Prompt, ends: impl Fn(Token) -> bool) -> Prompt {
    let rest = match prompt.segments() {
        [Segment::Special(end), rest @ ..] if ends(*end) => rest,
        [Segment::Continuation(space), Segment::Special(end), rest @ ..]
            if ends(*end) && space.trim().is_empty() =>
        {
            rest
        }
        _ => return prompt,
    };
    rest.iter().cloned().fold(Prompt::new(), Prompt::with)
}
