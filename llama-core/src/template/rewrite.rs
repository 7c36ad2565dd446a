//! A template's source with the filters of [`limits`](super::limits) in it.
//!
//! What follows is not a parser: it knows where an operand ends, which is all that it takes to put a filter behind
//! it. What it cannot cut into tags and tokens it refuses, as nothing would limit that.
//!
//! Two tags of Hugging Face's that mark the model's answers, `{% generation %}` and its end, become blocks that are
//! always entered.

use super::limits::{FACTOR, OPERAND, PART};

/// A source to compile.
pub(super) struct Rewritten {
    pub(super) source: String,
    /// Bytes of the longest text between two tags.
    pub(super) longest: usize,
}

/// Brackets within each other.
const DEPTH: usize = 100;

/// Puts the filters in; lines keep their numbers. An error is the place of a tag that does not end, or is too deep.
pub(super) fn rewrite(source: &str) -> Result<Rewritten, usize> {
    let (mut out, mut rest, mut longest) = (String::new(), source, 0);
    while let Some(at) = rest.match_indices('{').map(|(at, _)| at).find(|&at| {
        let after = &rest[at + 1..];
        after.starts_with(['{', '%', '#'])
    }) {
        longest = longest.max(at);
        out += &rest[..at];
        rest = &rest[at..];
        let end = if rest.starts_with("{#") {
            let end = rest.find("#}").map_or(rest.len(), |end| end + 2);
            out += &rest[..end];
            end
        } else {
            tag(rest, &mut out).ok_or(source.len() - rest.len())?
        };
        rest = &rest[end..];
    }
    longest = longest.max(rest.len());
    out += rest;
    Ok(Rewritten { source: out, longest })
}

/// A token with the white space before it.
struct Token<'a> {
    space: &'a str,
    text: &'a str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Name,
    Literal,
    Sign,
}

/// Words that are no operands.
const KEYWORDS: [&str; 24] = [
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "else",
    "elif",
    "for",
    "set",
    "recursive",
    "endfor",
    "endif",
    "endset",
    "macro",
    "endmacro",
    "call",
    "endcall",
    "filter",
    "endfilter",
    "do",
    "break",
    "continue",
    "with",
];

/// Rewrites the tag that `rest` begins with and returns its length; `None` if it does not end, or is too deep.
fn tag(rest: &str, out: &mut String) -> Option<usize> {
    let close = if rest.starts_with("{{") { "}}" } else { "%}" };
    let (tokens, end) = tokens(rest, close)?;
    let inner = match &tokens[..] {
        // What the engine takes as it is.
        [name] if name.text == "raw" => {
            let length = end + raw_end(&rest[end..])?;
            *out += &rest[..length];
            return Some(length);
        }
        [name] if close == "%}" && name.text == "generation" => " if true".into(),
        [name] if close == "%}" && name.text == "endgeneration" => " endif".into(),
        _ => {
            let mut writer = Writer { tokens: &tokens, at: 0, depth: 0, deepest: 0, out: String::new() };
            writer.all(close == "%}");
            if writer.deepest > DEPTH {
                return None;
            }
            writer.out
        }
    };
    let (open, body) = rest[..end].split_at(2);
    let body = &body[..body.len() - 2];
    let control = |c: char| matches!(c, '-' | '+');
    let head = if body.starts_with(control) { &body[..1] } else { "" };
    let tail = if body.len() > 1 && body.ends_with(control) { &body[body.len() - 1..] } else { "" };
    let space = &body[..body.len() - tail.len()];
    let space = &space[space.trim_end().len()..];
    for part in [open, head, &inner, space, tail, close] {
        out.push_str(part);
    }
    Some(end)
}

/// Where a raw block ends that began before.
fn raw_end(rest: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + rest[from..].find("{%")?;
        let end = at + rest[at..].find("%}")? + 2;
        if rest[at + 2..end - 2].trim_matches(['-', '+']).trim() == "endraw" {
            return Some(end);
        }
        from = at + 2;
    }
}

/// The tokens of a tag, and its length.
fn tokens<'a>(rest: &'a str, close: &str) -> Option<(Vec<Token<'a>>, usize)> {
    let mut at = 2 + usize::from(rest[2..].starts_with(['-', '+']));
    let (mut out, mut braces) = (Vec::new(), 0usize);
    loop {
        let start = at;
        at += rest[at..].len() - rest[at..].trim_start().len();
        let (space, here) = (&rest[start..at], &rest[at..]);
        let trimmed = here.strip_prefix(['-', '+']).unwrap_or(here);
        if (close == "%}" || braces == 0) && (here.starts_with(close) || trimmed.starts_with(close)) {
            let control = here.len() - if here.starts_with(close) { here.len() } else { trimmed.len() };
            return Some((out, at + control + close.len()));
        }
        let first = here.chars().next()?;
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let (len, kind) = match first {
            '\'' | '"' => {
                let mut escaped = false;
                let end = here[1..].char_indices().find(|&(_, c)| {
                    let ends = c == first && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                })?;
                (end.0 + 2, Kind::Literal)
            }
            c if c.is_ascii_digit() => {
                let digits = |text: &str| text.find(|c| !word(c)).unwrap_or(text.len());
                let whole = digits(here);
                let fraction = here[whole..]
                    .strip_prefix('.')
                    .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
                (whole + fraction.map_or(0, |rest| 1 + digits(rest)), Kind::Literal)
            }
            c if word(c) => (here.find(|c| !word(c)).unwrap_or(here.len()), Kind::Name),
            _ => {
                braces = match first {
                    '{' => braces + 1,
                    '}' => braces.saturating_sub(1),
                    _ => braces,
                };
                let two = ["**", "//", "==", "!=", "<=", ">="].iter().any(|sign| here.starts_with(sign));
                (if two { 2 } else { first.len_utf8() }, Kind::Sign)
            }
        };
        out.push(Token { space, text: &here[..len], kind });
        at += len;
    }
}

struct Writer<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    /// Brackets that are open, and the most that were.
    depth: usize,
    deepest: usize,
    out: String,
}

impl Writer<'_> {
    /// A whole tag.
    fn all(&mut self, statement: bool) {
        let texts: Vec<&str> = self.tokens.iter().map(|token| token.text).collect();
        // `set namespace.name = value`: all of the value is a part.
        let target = statement && texts.first() == Some(&"set") && texts.get(2) == Some(&".");
        if target && let Some(equals) = texts.iter().position(|&text| text == "=") {
            while self.at <= equals {
                self.push();
            }
            self.out.push('(');
            self.rest();
            self.out += ")|";
            self.out += PART;
        } else {
            self.rest();
        }
    }

    /// All that is left; closing brackets without an opening one included.
    fn rest(&mut self) {
        while self.at < self.tokens.len() {
            self.sequence();
            if self.at < self.tokens.len() {
                self.push();
            }
        }
    }

    /// Up to the bracket that closes; tells whether there was a colon.
    fn sequence(&mut self) -> bool {
        let mut colon = false;
        let mut before = "";
        while let Some(token) = self.tokens.get(self.at) {
            match (token.kind, token.text) {
                (Kind::Sign, ")" | "]" | "}") => break,
                (Kind::Sign, "(" | "[" | "{") | (Kind::Literal, _) => self.operand(before),
                (Kind::Name, word) if !KEYWORDS.contains(&word) => self.operand(before),
                (_, text) => {
                    colon |= text == ":";
                    self.push();
                }
            }
            before = self.tokens[self.at - 1].text;
        }
        colon
    }

    /// An operand with all that is attached to it, and the filters that its neighbours ask for.
    fn operand(&mut self, before: &str) {
        let mut sliced = false;
        match self.tokens[self.at].text {
            "(" | "[" | "{" if self.tokens[self.at].kind == Kind::Sign => drop(self.bracket()),
            _ => self.push(),
        }
        while let Some(token) = self.tokens.get(self.at).filter(|token| token.kind == Kind::Sign) {
            match token.text {
                "." | "|" => {
                    self.push();
                    if self.at < self.tokens.len() {
                        self.push();
                    }
                }
                "(" => drop(self.bracket()),
                "[" => sliced |= self.bracket(),
                _ => break,
            }
        }
        let after = self.tokens.get(self.at).map_or("", |token| token.text);
        let mut filter = |name: &str| {
            self.out.push('|');
            self.out += name;
        };
        if sliced || [before, after].iter().any(|sign| ["+", "~"].contains(sign)) {
            filter(OPERAND);
        }
        if [before, after].contains(&"*") {
            filter(FACTOR);
        }
    }

    /// Two brackets and what is between them; tells whether there was a colon.
    fn bracket(&mut self) -> bool {
        self.push();
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        // Deeper, the rest is not looked at: the tag is refused.
        let colon = self.depth <= DEPTH && self.sequence();
        self.depth -= 1;
        if self.at < self.tokens.len() {
            self.push();
        }
        colon
    }

    fn push(&mut self) {
        let token = &self.tokens[self.at];
        self.out += token.space;
        self.out += token.text;
        self.at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_follow_operands() {
        for (source, expected) in [
            ("a {{ b }} c", "a {{ b }} c"),
            ("{{- a ~ 'x}}' -}}", "{{- a|_operand ~ 'x}}'|_operand -}}"),
            (
                "{{ a.b[0].c(d + 1)|trim + e }}",
                "{{ a.b[0].c(d|_operand + 1|_operand)|trim|_operand + e|_operand }}",
            ),
            ("{{ (a + b) ~ [c] }}", "{{ (a|_operand + b|_operand)|_operand ~ [c]|_operand }}"),
            ("{% for m in messages[1:] %}", "{% for m in messages[1:]|_operand %}"),
            ("{% if not a[0] and b %}", "{% if not a[0] and b %}"),
            ("{%- set ns.x = ns.x + 'a' %}", "{%- set ns.x =( ns.x|_operand + 'a'|_operand)|_part %}"),
            ("{{ 'a' * 3 }}", "{{ 'a'|_factor * 3|_factor }}"),
            ("{% set x = a if b + c else d %}", "{% set x = a if b|_operand + c|_operand else d %}"),
            ("{{ {'a': {'b': c ~ d}} }}", "{{ {'a': {'b': c|_operand ~ d|_operand}} }}"),
            ("{# a ~ b #}{% raw %}{{ a ~ b }}{% endraw %}", "{# a ~ b #}{% raw %}{{ a ~ b }}{% endraw %}"),
            ("{%- generation -%}x{% endgeneration %}", "{%- if true -%}x{% endif %}"),
            ("{{ 'a\\'b' ~ 1.5 }}", "{{ 'a\\'b'|_operand ~ 1.5|_operand }}"),
            ("{{ a + b) }}", "{{ a|_operand + b|_operand) }}"),
            ("{ {", "{ {"),
        ] {
            assert_eq!(rewrite(source).unwrap().source, expected);
        }
        assert_eq!(rewrite("ab{{ x }}cde{% if y %}").unwrap().longest, 3);
        let deep = format!("x{{{{ {}1{} }}}}", "[".repeat(101), "]".repeat(101));
        for bad in ["x{{ a ~", "x{{ 'a }}", "x{% raw %}", &deep] {
            assert_eq!(rewrite(bad).err(), Some(1));
        }
    }
}
