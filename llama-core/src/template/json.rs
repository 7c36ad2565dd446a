//! Values as Python writes them.

use minijinja::Value;
use minijinja::value::ValueKind;
use std::fmt::Write;

/// `json.dumps(value, ensure_ascii=False)`, with `indent` spaces a level in lines of their own. The value is not
/// deeper than [`limits`](super::limits) allow.
pub(super) fn text(value: &Value, indent: Option<usize>) -> String {
    let mut out = String::new();
    write(value, indent, 0, &mut out);
    out
}

fn write(value: &Value, indent: Option<usize>, level: usize, out: &mut String) {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => {
            let _ = write!(out, "{value}");
        }
        ValueKind::Map => {
            let keys: Vec<Value> = value.try_iter().map(Iterator::collect).unwrap_or_default();
            items(('{', '}'), keys.len(), indent, level, out, |i, out| {
                quoted(&keys[i].to_string(), out);
                out.push_str(": ");
                write(&value.get_item(&keys[i]).unwrap_or_default(), indent, level + 1, out);
            });
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let values: Vec<Value> = value.try_iter().map(Iterator::collect).unwrap_or_default();
            items(('[', ']'), values.len(), indent, level, out, |i, out| {
                write(&values[i], indent, level + 1, out);
            });
        }
        _ => quoted(value.as_str().unwrap_or_default(), out),
    }
}

/// What stands between two brackets.
fn items(
    (open, close): (char, char),
    len: usize,
    indent: Option<usize>,
    level: usize,
    out: &mut String,
    item: impl Fn(usize, &mut String),
) {
    let line = |level: usize, out: &mut String| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * level));
        }
    };
    out.push(open);
    for i in 0..len {
        match (i, indent) {
            (0, _) => {}
            (_, Some(_)) => out.push(','),
            (_, None) => out.push_str(", "),
        }
        line(level + 1, out);
        item(i, out);
    }
    if len > 0 {
        line(level, out);
    }
    out.push(close);
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// What `str(value)` is: the text of `{{ value }}`.
pub(super) fn printed(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => repr(value),
        _ => value.to_string(),
    }
}

/// `repr(value)`, near enough: strings in single quotes.
fn repr(value: &Value) -> String {
    let list = |values: Vec<String>| values.join(", ");
    match value.kind() {
        ValueKind::String => {
            format!("'{}'", value.to_string().replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n"))
        }
        ValueKind::Map => {
            let pair =
                |key: Value| format!("{}: {}", repr(&key), repr(&value.get_item(&key).unwrap_or_default()));
            format!("{{{}}}", list(value.try_iter().map(|keys| keys.map(pair).collect()).unwrap_or_default()))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let values = value.try_iter().map(|values| values.map(|value| repr(&value)).collect());
            format!("[{}]", list(values.unwrap_or_default()))
        }
        _ => printed(value),
    }
}
