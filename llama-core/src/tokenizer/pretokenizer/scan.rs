//! The patterns, each a scanner that is written by hand: what it finds at the start of a text.
//!
//! A pattern is a regular expression in the definitions, and each scanner quotes the one that it is. Alternatives
//! are tried in order and repetitions are greedy, as in the engine that the definitions are written for; the end
//! of a piece is the end of the text. By hand, because the time is then linear by inspection: no scanner looks at a
//! character more than a constant number of times before the text moves on past it, look-ahead included. A
//! backtracking engine takes quadratic time where `\s+$` meets spaces that do not end the text.

use super::class::{self, letter, newline, number};

/// What a pattern finds where a text starts; lengths in bytes, not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A match.
    Piece(usize),
    /// No match begins in so many bytes.
    Gap(usize),
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
pub(super) fn gpt2(text: &str) -> Found {
    let word = || {
        let (space, rest) = after_space(text);
        let run = match first(rest)? {
            c if letter(c) => run(rest, letter),
            c if number(c) => run(rest, number),
            c if c.is_whitespace() => return None,
            _ => run(rest, |c| !letter(c) && !number(c) && !c.is_whitespace()),
        };
        Some(space + run)
    };
    found(text, contraction(text, false).or_else(word).or_else(|| whitespace(text)))
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
pub(super) fn llama3(text: &str) -> Found {
    words(text, letter, 3)
}

/// The same with `\p{N}` for `\p{N}{1,3}`.
pub(super) fn qwen2(text: &str) -> Found {
    words(text, letter, 1)
}

/// The same as Qwen2's with `[\p{L}\p{M}]+` for `\p{L}+` and `[^\s\p{L}\p{M}\p{N}]+` for `[^\s\p{L}\p{N}]+`.
pub(super) fn qwen35(text: &str) -> Found {
    words(text, class::letter_or_mark, 1)
}

fn words(text: &str, letters: fn(char) -> bool, digits: usize) -> Found {
    let piece = contraction(text, true)
        .or_else(|| {
            prefixed(text, |c| !newline(c) && !letter(c) && !number(c), |rest| nonzero(run(rest, letters)))
        })
        .or_else(|| numbers(text, digits))
        .or_else(|| others(text, |c| !c.is_whitespace() && !letters(c) && !number(c), newline))
        .or_else(|| newlines(text))
        .or_else(|| whitespace(text));
    found(text, piece)
}

/// `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|`
/// `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|`
/// `\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
pub(super) fn tekken(text: &str) -> Found {
    cased_words(text, false, 1)
}

/// The same with `(?i:'s|'t|'re|'ve|'m|'ll|'d)?` after either kind of word, and `\p{N}{1,3}` for `\p{N}`.
pub(super) fn gpt4o(text: &str) -> Found {
    cased_words(text, true, 3)
}

fn cased_words(text: &str, contractions: bool, digits: usize) -> Found {
    let word = cased_word(text).map(|len| {
        let suffix = if contractions { contraction(&text[len..], true) } else { None };
        len + suffix.unwrap_or(0)
    });
    let piece = word
        .or_else(|| numbers(text, digits))
        .or_else(|| {
            others(text, |c| !c.is_whitespace() && !letter(c) && !number(c), |c| newline(c) || c == '/')
        })
        .or_else(|| newlines(text))
        .or_else(|| whitespace(text));
    found(text, piece)
}

/// The two kinds of words of [`tekken`]'s pattern.
fn cased_word(text: &str) -> Option<usize> {
    let prefix = |c| !newline(c) && !letter(c) && !number(c);
    // The first kind ends in a tail. Where none follows the head, the head's last character that is of both
    // classes, a letter without case or a mark, is one; what follows that is of the head alone.
    let ends_low = |rest: &str| {
        let head = run(rest, class::head);
        let tail = run(&rest[head..], class::tail);
        let both = || rest[..head].char_indices().rfind(|&(_, c)| class::tail(c));
        nonzero(tail).map(|tail| head + tail).or_else(|| both().map(|(at, c)| at + c.len_utf8()))
    };
    let starts_high = |rest: &str| {
        let head = nonzero(run(rest, class::head))?;
        Some(head + run(&rest[head..], class::tail))
    };
    prefixed(text, prefix, ends_low).or_else(|| prefixed(text, prefix, starts_high))
}

/// ``[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|``
/// `` ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+``
pub(super) fn deepseek3(text: &str) -> Found {
    let other = |c| class::punctuation(c) || class::symbol(c);
    let piece = optional(text, |c| c.is_ascii_punctuation())
        .and_then(|(punctuation, rest)| {
            nonzero(run(rest, |c| c.is_ascii_alphabetic())).map(|letters| punctuation + letters)
        })
        .or_else(|| {
            let prefix = |c| !newline(c) && !letter(c) && !other(c);
            prefixed(text, prefix, |rest| nonzero(run(rest, class::letter_or_mark)))
        })
        .or_else(|| others(text, other, newline))
        .or_else(|| newlines(text))
        .or_else(|| whitespace(text));
    found(text, piece)
}

/// ` ?[^(\s|.,!?…。，、।۔،)]+`
pub(super) fn bloom(text: &str) -> Found {
    let (space, rest) = after_space(text);
    found(text, nonzero(run(rest, class::bloom_word)).map(|word| space + word))
}

/// `[\r\n]`
pub(super) fn each_newline(text: &str) -> Found {
    each(text, newline)
}

/// `\p{N}`
pub(super) fn each_number(text: &str) -> Found {
    each(text, number)
}

/// `\p{N}{1,3}`
pub(super) fn three_numbers(text: &str) -> Found {
    found(text, numbers(text, 3))
}

/// `\p{N}+`
pub(super) fn all_numbers(text: &str) -> Found {
    all(text, number)
}

/// `[0-9][0-9][0-9]`
pub(super) fn three_digits(text: &str) -> Found {
    let three = text.as_bytes().get(..3).is_some_and(|digits| digits.iter().all(u8::is_ascii_digit));
    found(text, three.then_some(3))
}

/// ``[\p{P}$+<=>^~|`]+``, which has all of ASCII's punctuation in it.
pub(super) fn all_punctuation(text: &str) -> Found {
    all(text, |c| c.is_ascii_punctuation() || class::punctuation(c))
}

/// The same but for `` ` ``.
pub(super) fn most_punctuation(text: &str) -> Found {
    all(text, |c| c != '`' && (c.is_ascii_punctuation() || class::punctuation(c)))
}

/// `\s?\p{L}+`
pub(super) fn spaced_letters(text: &str) -> Found {
    spaced(text, letter)
}

/// `\s?\p{P}+`
pub(super) fn spaced_punctuation(text: &str) -> Found {
    spaced(text, class::punctuation)
}

/// `\s?[A-Za-zµÀ-ÖØ-öø-ƺ…]+`
pub(super) fn deepseek_letters(text: &str) -> Found {
    spaced(text, class::deepseek_letter)
}

/// `\s?[!-/:-~！-／：-～‘-‟　-。]+`
pub(super) fn deepseek_punctuation(text: &str) -> Found {
    spaced(text, class::deepseek_punctuation)
}

/// `[一-龥ࠀ-一가-퟿]+`
pub(super) fn deepseek_east(text: &str) -> Found {
    all(text, class::deepseek_east)
}

/// `[一-龥぀-ゟ゠-ヿ]+`
pub(super) fn deepseek3_east(text: &str) -> Found {
    all(text, class::deepseek3_east)
}

/// `\s+$`, in a text whose newlines stand alone
pub(super) fn last_whitespace(text: &str) -> Found {
    match run(text, char::is_whitespace) {
        0 => found(text, None),
        len if len == text.len() => Found::Piece(len),
        len => Found::Gap(len),
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, or `(?i:…)`; of the letters outside ASCII only the long s folds to one of these.
fn contraction(text: &str, any_case: bool) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    let fold = |c: char| match c {
        '\u{17F}' if any_case => 's',
        c if any_case => c.to_ascii_lowercase(),
        c => c,
    };
    let mut chars = rest.chars();
    let one = chars.next()?;
    let len = match (fold(one), chars.next().map(fold)) {
        ('s' | 't' | 'm' | 'd', _) => one.len_utf8(),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => 2,
        _ => return None,
    };
    Some(1 + len)
}

/// `x?…`: the word that `rest` finds, after one character of a class if that leads to one, else without.
fn prefixed(text: &str, class: impl Fn(char) -> bool, rest: impl Fn(&str) -> Option<usize>) -> Option<usize> {
    let with = optional(text, class).and_then(|(prefix, after)| rest(after).map(|len| prefix + len));
    with.or_else(|| rest(text))
}

/// `\p{N}{1,most}`
fn numbers(text: &str, most: usize) -> Option<usize> {
    nonzero(text.chars().take(most).take_while(|&c| number(c)).map(char::len_utf8).sum())
}

/// ` ?[class]+[after]*`
fn others(text: &str, class: impl Fn(char) -> bool, after: impl Fn(char) -> bool) -> Option<usize> {
    let (space, rest) = after_space(text);
    let len = nonzero(run(rest, class))?;
    Some(space + len + run(&rest[len..], after))
}

/// `\s*[\r\n]+`
fn newlines(text: &str) -> Option<usize> {
    let space = &text[..run(text, char::is_whitespace)];
    space.rfind(newline).map(|last| last + 1)
}

/// `\s+(?!\S)|\s+`: whitespace, without its last character if that is not its only one and a word follows.
fn whitespace(text: &str) -> Option<usize> {
    let len = nonzero(run(text, char::is_whitespace))?;
    let last = text[..len].chars().next_back().map_or(0, char::len_utf8);
    Some(if len < text.len() && last < len { len - last } else { len })
}

/// `\s?[class]+`
fn spaced(text: &str, class: impl Fn(char) -> bool) -> Found {
    found(text, prefixed(text, char::is_whitespace, |rest| nonzero(run(rest, &class))))
}

/// `[class]`
fn each(text: &str, class: impl Fn(char) -> bool) -> Found {
    found(text, optional(text, class).map(|(len, _)| len))
}

/// `[class]+`
fn all(text: &str, class: impl Fn(char) -> bool) -> Found {
    found(text, nonzero(run(text, class)))
}

/// ` ?`
fn after_space(text: &str) -> (usize, &str) {
    optional(text, |c| c == ' ').unwrap_or((0, text))
}

/// The length of the first character, if it is of a class, and what follows it.
fn optional(text: &str, class: impl Fn(char) -> bool) -> Option<(usize, &str)> {
    let len = first(text).filter(|&c| class(c))?.len_utf8();
    Some((len, &text[len..]))
}

fn first(text: &str) -> Option<char> {
    text.chars().next()
}

/// The bytes of the first characters that are of a class.
fn run(text: &str, class: impl Fn(char) -> bool) -> usize {
    text.find(|c| !class(c)).unwrap_or(text.len())
}

fn nonzero(len: usize) -> Option<usize> {
    (len > 0).then_some(len)
}

/// The match, or that there is none at the first character.
fn found(text: &str, piece: Option<usize>) -> Found {
    piece.map_or_else(|| Found::Gap(first(text).map_or(1, char::len_utf8)), Found::Piece)
}
