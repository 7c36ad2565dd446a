//! `llama inspect`: what a GGUF file holds.

use crate::args::Inspect;
use crate::failure::Failure;
use crate::load;
use crate::output::print;
use llama_core::gguf::{Gguf, TensorInfo, Value};
use serde_json::{Value as Json, json};
use std::fmt::Write;

pub(crate) fn inspect(args: &Inspect) -> Result<(), Failure> {
    let gguf = match &args.file {
        Some(path) => load::map(path)?,
        None => load::gguf(&args.source)?,
    };
    if args.json { print(format_args!("{:#}\n", json(&gguf))) } else { print(table(&gguf)) }
}

/// Three blocks: the file, its metadata, its tensors.
fn table(gguf: &Gguf) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "GGUF version {}, {} bytes", gguf.version(), gguf.file_bytes());

    let _ = writeln!(out, "\nmetadata: {} keys", gguf.metadata().len());
    let width = gguf.metadata().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
    for (key, value) in gguf.metadata() {
        let _ = writeln!(out, "  {key:width$}  {:6}  {value}", value.kind());
    }

    let tensors = gguf.tensors();
    let _ = writeln!(out, "\ntensors: {}", tensors.len());
    let width = tensors.iter().map(|t| t.name().chars().count()).max().unwrap_or(0).max("name".len());
    if !tensors.is_empty() {
        let _ = writeln!(
            out,
            "  {:width$}  {:>16}  {:6}  {:>12}  {:>12}",
            "name", "shape", "type", "bytes", "offset"
        );
    }
    for t in tensors {
        let _ = writeln!(
            out,
            "  {:width$}  {:>16}  {:6}  {:>12}  {:>12}",
            t.name(),
            shape(t),
            t.format(),
            t.size(),
            t.offset()
        );
    }
    let (elements, bytes) = totals(gguf);
    let _ = writeln!(out, "\ntotal: {elements} weights in {bytes} bytes");
    out
}

fn json(gguf: &Gguf) -> Json {
    let metadata = gguf.metadata().map(|(key, value)| (key.to_owned(), plain(&value))).collect();
    let tensors = gguf.tensors().iter().map(|t| {
        json!({
            "name": t.name(),
            "shape": t.dims(),
            "type": t.format().name(),
            "size": t.size(),
            "offset": t.offset(),
        })
    });
    let (elements, bytes) = totals(gguf);
    json!({
        "version": gguf.version(),
        "file_bytes": gguf.file_bytes(),
        "metadata": Json::Object(metadata),
        "tensors": tensors.collect::<Vec<_>>(),
        "weights": elements,
        "weight_bytes": bytes,
    })
}

/// A value as JSON has it: bytes that are no text become U+FFFD, numbers that are none `null`.
fn plain(value: &Value<'_>) -> Json {
    match *value {
        Value::Bool(v) => v.into(),
        Value::U8(v) => v.into(),
        Value::I8(v) => v.into(),
        Value::U16(v) => v.into(),
        Value::I16(v) => v.into(),
        Value::U32(v) => v.into(),
        Value::I32(v) => v.into(),
        Value::U64(v) => v.into(),
        Value::I64(v) => v.into(),
        // By way of its digits: 1e-5 is to be 0.00001, not the f64 nearest to the f32.
        Value::F32(v) => v.to_string().parse::<f64>().map_or(Json::Null, Json::from),
        Value::F64(v) => v.into(),
        Value::String(bytes) => String::from_utf8_lossy(bytes).into(),
        Value::Array(array) => array.iter().map(|element| plain(&element)).collect(),
    }
}

/// `4096x11008`: dimensions in ggml's order, the length of a row first.
fn shape(tensor: &TensorInfo) -> String {
    tensor.dims().iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// Weights and bytes of all tensors.
fn totals(gguf: &Gguf) -> (u64, u64) {
    gguf.tensors().iter().fold((0, 0), |(weights, bytes), t| {
        let product = t.dims().iter().fold(1u64, |product, &dim| product.saturating_mul(dim as u64));
        (product.saturating_add(weights), bytes + t.size() as u64)
    })
}
