//! The methods of Python's strings, dictionaries and lists that templates call.

use super::limits;
use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Calls a method that the engine does not know.
pub(super) fn method(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let result = match (value.kind(), value.as_str()) {
        (_, Some(text)) => of_string(state, text, name, args)?,
        (ValueKind::Map, _) => of_map(value, name, args)?,
        (ValueKind::Seq | ValueKind::Iterable, _) => of_list(value, name, args)?,
        _ => None,
    };
    let result = result.ok_or_else(|| {
        let message = format!("{} has no method {name}", value.kind());
        Error::new(ErrorKind::UnknownMethod, message)
    })?;
    limits::checked(state, result)
}

/// Python's white space: Unicode's, and four of ASCII's separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// What a pair of ends is stripped of: some characters, or white space.
fn strip<'a>(text: &'a str, args: &[Value], (start, end): (bool, bool)) -> Result<&'a str, Error> {
    let (characters,): (Option<&str>,) = from_args(args)?;
    let taken = |c: char| characters.map_or_else(|| is_space(c), |characters| characters.contains(c));
    let text = if start { text.trim_start_matches(taken) } else { text };
    Ok(if end { text.trim_end_matches(taken) } else { text })
}

fn of_string(state: &State<'_, '_>, text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    let none = || from_args::<()>(args);
    let is = |test: bool| none().map(|()| Value::from(test));
    let cased = |other: fn(char) -> bool, own: fn(char) -> bool| !text.contains(other) && text.contains(own);
    let chars_before = |at: usize| text[..at].chars().count() as i64;
    Ok(Some(match name {
        "strip" => strip(text, args, (true, true))?.into(),
        "lstrip" => strip(text, args, (true, false))?.into(),
        "rstrip" => strip(text, args, (false, true))?.into(),
        "upper" => none().map(|()| text.to_uppercase().into())?,
        "lower" => none().map(|()| text.to_lowercase().into())?,
        "title" => none().map(|()| title(text).into())?,
        "capitalize" => {
            none()?;
            let mut chars = text.chars();
            let first = chars.next().map(|c| c.to_uppercase().to_string());
            (first.unwrap_or_default() + &chars.as_str().to_lowercase()).into()
        }
        "startswith" => affix(args, |affix| text.starts_with(affix))?,
        "endswith" => affix(args, |affix| text.ends_with(affix))?,
        "removeprefix" => {
            let (affix,): (&str,) = from_args(args)?;
            text.strip_prefix(affix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (affix,): (&str,) = from_args(args)?;
            text.strip_suffix(affix).unwrap_or(text).into()
        }
        "split" => split(text, args, false)?,
        "rsplit" => split(text, args, true)?,
        "splitlines" => {
            none()?;
            text.lines().map(Value::from).collect::<Vec<_>>().into()
        }
        "replace" => {
            let (from, to, count): (&str, &str, Option<usize>) = from_args(args)?;
            limits::charge(state, text.len() + text.matches(from).count().saturating_mul(to.len()))?;
            text.replacen(from, to, count.unwrap_or(usize::MAX)).into()
        }
        "join" => {
            let (values,): (Value,) = from_args(args)?;
            let mut out = String::new();
            for (i, part) in values.try_iter()?.enumerate() {
                let part = part
                    .as_str()
                    .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "join: expected texts"))?;
                limits::charge(state, text.len() + part.len())?;
                out += if i > 0 { text } else { "" };
                out += part;
            }
            out.into()
        }
        "find" => {
            let (part,): (&str,) = from_args(args)?;
            text.find(part).map_or(-1, chars_before).into()
        }
        "rfind" => {
            let (part,): (&str,) = from_args(args)?;
            text.rfind(part).map_or(-1, chars_before).into()
        }
        "count" => {
            let (part,): (&str,) = from_args(args)?;
            text.matches(part).count().into()
        }
        "isdigit" | "isnumeric" | "isdecimal" => is(all(char::is_numeric))?,
        "isalpha" => is(all(char::is_alphabetic))?,
        "isalnum" => is(all(char::is_alphanumeric))?,
        "isspace" => is(all(is_space))?,
        "isupper" => is(cased(char::is_lowercase, char::is_uppercase))?,
        "islower" => is(cased(char::is_uppercase, char::is_lowercase))?,
        _ => return Ok(None),
    }))
}

/// Whether one text, or any of several, is an end.
fn affix(args: &[Value], test: impl Fn(&str) -> bool) -> Result<Value, Error> {
    let (affixes,): (Value,) = from_args(args)?;
    let any = match affixes.as_str() {
        Some(affix) => test(affix),
        None => affixes.try_iter()?.any(|affix| affix.as_str().is_some_and(&test)),
    };
    Ok(any.into())
}

fn split(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most =
        most.and_then(|most| usize::try_from(most).ok()).map_or(usize::MAX, |most| most.saturating_add(1));
    let mut parts: Vec<&str> = match (separator, from_right) {
        (Some(""), _) => return Err(Error::new(ErrorKind::InvalidOperation, "split: expected a separator")),
        (Some(separator), false) => text.splitn(most, separator).collect(),
        (Some(separator), true) => text.rsplitn(most, separator).collect(),
        (None, _) => words(text, most, from_right),
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect::<Vec<_>>().into())
}

/// Words between white space, the last of them with the rest of the text; from the right they come in that order.
fn words(text: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_matches(is_space);
    while !rest.is_empty() {
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        match cut.filter(|_| parts.len() + 1 < most) {
            Some(at) if from_right => {
                parts.push(rest[at..].trim_start_matches(is_space));
                rest = rest[..at].trim_end_matches(is_space);
            }
            Some(at) => {
                parts.push(&rest[..at]);
                rest = rest[at..].trim_start_matches(is_space);
            }
            None => {
                parts.push(rest);
                break;
            }
        }
    }
    parts
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        in_word = c.is_alphabetic();
    }
    out
}

fn of_map(map: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let keys = || map.try_iter();
    Ok(Some(match name {
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            match map.get_item(&key)? {
                value if value.is_undefined() => default.unwrap_or(Value::from(())),
                value => value,
            }
        }
        "keys" => from_args::<()>(args).and_then(|()| Ok(keys()?.collect::<Vec<_>>().into()))?,
        "values" => {
            from_args::<()>(args)?;
            keys()?.map(|key| map.get_item(&key)).collect::<Result<Vec<_>, _>>()?.into()
        }
        "items" => {
            from_args::<()>(args)?;
            let pair = |key: Value| Ok(Value::from(vec![key.clone(), map.get_item(&key)?]));
            keys()?.map(pair).collect::<Result<Vec<_>, Error>>()?.into()
        }
        _ => return Ok(None),
    }))
}

fn of_list(list: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "count" => {
            let (wanted,): (Value,) = from_args(args)?;
            list.try_iter()?.filter(|value| *value == wanted).count().into()
        }
        "index" => {
            let (wanted,): (Value,) = from_args(args)?;
            let at = list.try_iter()?.position(|value| value == wanted);
            at.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "index: not in the list"))?.into()
        }
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;

    /// What an expression comes to, and what Python says.
    #[test]
    fn methods_answer_as_in_python() {
        let mut environment = Environment::new();
        environment.set_unknown_method_callback(super::method);
        let found = |expression: &str| {
            let value = environment.compile_expression(expression).unwrap().eval(()).unwrap();
            super::super::json::text(&value, None)
        };
        for (expression, expected) in [
            ("' \\t\\x1fa b\\n '.strip()", r#""a b""#),
            ("'xxaxx'.strip('x') ~ 'xxa'.lstrip('x') ~ 'axx'.rstrip('x')", r#""aaa""#),
            ("'a,b,,c'.split(',')", r#"["a", "b", "", "c"]"#),
            ("'a,b,c'.split(',', 1)", r#"["a", "b,c"]"#),
            ("'a,b,c'.rsplit(',', 1)", r#"["a,b", "c"]"#),
            ("'  a  b c '.split()", r#"["a", "b", "c"]"#),
            ("'a  b c'.split(none, 1)", r#"["a", "b c"]"#),
            ("'a b  c'.rsplit(none, 1)", r#"["a b", "c"]"#),
            ("''.split()", "[]"),
            ("''.split(',')", r#"[""]"#),
            ("'the end'.title()", r#""The End""#),
            ("'hELLO'.capitalize()", r#""Hello""#),
            ("'ab'.startswith('a') and 'ab'.endswith(['x', 'b'])", "true"),
            ("'aXbX'.replace('X', '--')", r#""a--b--""#),
            ("'aXbX'.replace('X', '', 1)", r#""abX""#),
            ("', '.join(['a', 'b'])", r#""a, b""#),
            ("['ab'.find('b'), 'éb'.rfind('b'), 'ab'.find('x'), 'aa'.count('a')]", "[1, 1, -1, 2]"),
            ("['12'.isdigit(), ''.isdigit(), 'aB'.isupper(), 'AB'.isupper()]", "[true, false, false, true]"),
            ("{'a': 1}.get('a') + {'a': 1}.get('b', 2)", "3"),
            ("{'a': 1}.get('b')", "null"),
            ("{'b': 1, 'a': 2}.items()", r#"[["b", 1], ["a", 2]]"#),
            ("{'b': 1, 'a': 2}.keys() ~ ''", r#""["#),
            ("['a', 'b'].index('b')", "1"),
        ] {
            assert!(found(expression).starts_with(expected), "{expression}: {}", found(expression));
        }
        for bad in ["'a'.nothing()", "'a'.split('')", "'a'.strip(1, 2)", "[1].index(2)", "1.strip()"] {
            let value = environment.compile_expression(bad).and_then(|expression| expression.eval(()));
            assert!(value.is_err(), "{bad}");
        }
    }
}
