//! What a template may spend.
//!
//! *Time* is the engine's fuel, about an instruction each. *Memory* is a budget of bytes that values cost when they
//! are made or printed: the engine has no such notion, so the source is changed ([`rewrite`](super::rewrite)) to pass
//! the operands of `+`, `~` and `*`, slices and what namespaces are set to through filters of this module, filters
//! are wrapped, and so is printing. Each operand is charged, so no chain of them outgrows the sum of what was
//! charged. Text between the tags cannot be charged; its longest piece decides over the fuel. *Depth* is limited
//! where values are put into each other, and lazy sequences are made at once: to walk them takes stack.

use super::json;
use minijinja::value::{Kwargs, Object, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Instructions. A message takes about fifty.
const FUEL: usize = 1_000_000;

/// Bytes that values may cost.
const BUDGET: usize = 64 << 20;

/// Bytes that the text between tags may come to.
const RAW: usize = 128 << 20;

/// Values within each other.
const DEPTH: usize = 32;

/// What an element of a sequence costs.
const ELEMENT: usize = 24;

/// Charges an operand.
pub(super) const OPERAND: &str = "_operand";
/// Charges an operand of a multiplication, which may repeat the other.
pub(super) const FACTOR: &str = "_factor";
/// Charges what becomes a part of a namespace.
pub(super) const PART: &str = "_part";

/// Filters of the engine that no template needs, and that would be one more thing to limit.
const REMOVED_FILTERS: [&str; 8] = ["batch", "chain", "format", "groupby", "pprint", "slice", "split", "zip"];

/// What is left of the budget of a render.
#[derive(Debug)]
struct Budget(AtomicUsize);

impl Object for Budget {}

/// Applies the limits to an environment, for a template whose longest text between tags has so many bytes.
pub(super) fn apply(environment: &mut Environment<'static>, longest: usize) {
    // An iteration takes three instructions, one of them for the text.
    environment.set_fuel(Some(FUEL.min(3 * RAW / longest.max(1)) as u64));
    environment.set_recursion_limit(100);
    environment.set_formatter(|out, state, value| {
        if let Some(text) = value.as_str() {
            charge(state, text.len())?;
            return out.write_str(text).map_err(Error::from);
        }
        charge_deep(state, value)?;
        let text = json::printed(value);
        charge(state, text.len())?;
        out.write_str(&text).map_err(Error::from)
    });
    environment.add_filter(OPERAND, |state: &State<'_, '_>, value: Value| checked(state, value));
    environment.add_filter(FACTOR, factor);
    environment.add_filter(PART, |state: &State<'_, '_>, value: Value| {
        charge_deep(state, &value)?;
        checked(state, value)
    });
    environment.add_function("namespace", |state: &State<'_, '_>, parts: Kwargs| {
        let parts = Value::from(parts);
        charge_deep(state, &parts)?;
        let parts: Vec<(Value, Value)> = parts
            .try_iter()?
            .map(|key| parts.get_item(&key).map(|value| (key, value)))
            .collect::<Result<_, _>>()?;
        let marked = parts.into_iter().chain([(Value::from(MARK), Value::from(true))]);
        minijinja::functions::namespace(Some(marked.collect::<Value>()))
    });
    environment.remove_global("debug");
    for name in REMOVED_FILTERS {
        environment.remove_filter(name);
    }
    use minijinja::filters as f;
    macro_rules! wrapped {
        ($($name:literal => $filter:expr),* $(,)?) => {
            $(wrap(environment, $name, Value::from_function($filter));)*
        };
    }
    wrapped! {
        "abs" => f::abs, "attr" => f::attr, "bool" => f::bool, "capitalize" => f::capitalize, "count" => f::length,
        "d" => f::default, "default" => f::default, "dictsort" => f::dictsort, "first" => f::first,
        "float" => f::float, "indent" => f::indent, "int" => f::int, "items" => f::items, "join" => f::join,
        "last" => f::last, "length" => f::length, "list" => f::list, "lower" => f::lower, "map" => f::map,
        "max" => f::max, "min" => f::min, "reject" => f::reject, "rejectattr" => f::rejectattr,
        "replace" => f::replace, "reverse" => f::reverse, "round" => f::round, "select" => f::select,
        "selectattr" => f::selectattr, "sort" => f::sort, "string" => f::string, "sum" => f::sum,
        "title" => f::title, "trim" => f::trim, "unique" => f::unique, "upper" => f::upper,
    }
}

/// A key that only namespaces have.
const MARK: &str = "\0namespace";

/// Charges a filter's operands and its result. The engine's own filter is registered under no name: by any a template
/// could have it uncharged, if need be through `map`.
fn wrap(environment: &mut Environment<'static>, name: &'static str, original: Value) {
    environment.add_filter(name, move |state: &State<'_, '_>, args: Rest<Value>| {
        let texts: Vec<&str> = args.iter().filter_map(Value::as_str).collect();
        for value in args.iter().filter(|value| !value.is_kwargs()) {
            charge_deep(state, value)?;
        }
        match (name, &texts[..]) {
            ("replace", [text, from, to]) => {
                charge(state, text.matches(from).count().saturating_mul(to.len()))?
            }
            ("indent", [text, ..]) => {
                let width = args.get(1).and_then(Value::as_usize).unwrap_or(4);
                charge(state, text.lines().count().saturating_mul(width))?;
            }
            ("join", [separator]) => {
                let parts = args.first().and_then(Value::len).unwrap_or(0);
                charge(state, parts.saturating_mul(separator.len()))?;
            }
            _ => {}
        }
        checked(state, original.call(state, &args)?)
    });
}

/// Takes bytes off the budget.
pub(super) fn charge(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    let budget = state.get_or_set_temp_object("budget", || Budget(AtomicUsize::new(BUDGET)));
    let left = budget.0.load(Ordering::Relaxed).checked_sub(bytes);
    let left = left.ok_or_else(|| {
        invalid(format!("expected a template that makes at most {BUDGET} bytes, found more"))
    })?;
    budget.0.store(left, Ordering::Relaxed);
    Ok(())
}

/// Charges a value, but not what is in it, and makes it if it is lazy.
pub(super) fn checked(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Iterable => {
            let mut values = Vec::new();
            for value in value.try_iter()? {
                charge(state, ELEMENT)?;
                values.push(value);
            }
            Ok(Value::from(values))
        }
        _ => {
            let elements = || value.len().unwrap_or(0).saturating_mul(ELEMENT);
            charge(state, value.as_str().map_or_else(elements, str::len))?;
            Ok(value)
        }
    }
}

/// Charges a value and all that is in it; refuses one that is too deep, and namespaces within it.
pub(super) fn charge_deep(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    walk(state, value, 0)
}

fn walk(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(invalid(format!("expected at most {DEPTH} values within each other, found more")));
    }
    match value.kind() {
        ValueKind::Map => {
            if value.get_attr(MARK).is_ok_and(|mark| mark.is_true()) {
                return Err(invalid("expected a namespace by itself, found it within a value".into()));
            }
            for key in value.try_iter()? {
                charge(state, ELEMENT)?;
                walk(state, &value.get_item(&key)?, depth + 1)?;
            }
        }
        ValueKind::Seq | ValueKind::Iterable => {
            for value in value.try_iter()? {
                charge(state, ELEMENT)?;
                walk(state, &value, depth + 1)?;
            }
        }
        _ => charge(state, value.as_str().map_or(0, str::len))?,
    }
    Ok(())
}

/// A number is charged as if it repeated the longest text that may be repeated.
fn factor(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    const LONGEST: usize = 64;
    let value = checked(state, value)?;
    if let Some(count) = value.as_usize() {
        charge(state, count.saturating_mul(LONGEST))?;
    } else if let Some(len) = value.as_str().map(str::len).or(value.len()).filter(|&len| len > LONGEST) {
        return Err(invalid(format!(
            "expected at most {LONGEST} characters or elements to repeat, found {len}"
        )));
    }
    Ok(value)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
