//! Reading a header: a cursor that cannot leave the file, and one function that turns a tensor's
//! description into a byte range.
//!
//! A file is hostile until it is parsed. Every count is capped before anything is allocated by it,
//! nothing is allocated that is not proportional to bytes that are there, and arrays stay in the
//! file; so refusing a file costs little memory and time, however large the numbers in it.

use super::cursor::{Cursor, Fault};
use super::map::{Map, Mapped};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, Entry, Gguf, MAX_DIMS, Part, TensorInfo, Value};
use crate::Error;
use llama_kernels::Format;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Metadata keys of a file. Real ones have fewer than a hundred.
const MAX_KEYS: u64 = 1 << 14;

/// Tensors of a file, all parts together. Llama 2 70B has 723.
const MAX_TENSORS: u64 = 1 << 16;

/// Opens a file, and the other parts if it is the first of a split one.
pub(super) fn open(path: &Path, map: impl Fn(&Path) -> Result<Map, Error>) -> Result<Gguf, Error> {
    let mut gguf = header(path, map(path)?)?;
    let count = gguf.opt_u32("split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(gguf);
    }
    let part_path = PartPath::new(&gguf, count)?;
    for index in 1..count {
        let path = part_path.of(index);
        let part = header(&path, map(&path)?)?;
        part.expect("split.no", index)?;
        part.expect("split.count", count)?;
        gguf.append(part);
        if gguf.tensors.len() as u64 > MAX_TENSORS {
            let expected = format!("at most {MAX_TENSORS} tensors in all parts");
            // Every version has this count at byte 8.
            return Err(Fault::new(8, expected, gguf.tensors.len()).of(&path, "tensor count"));
        }
    }
    gguf.names = index(&gguf.tensors, TensorInfo::name).map_err(|i| duplicate_tensor(&gguf.tensors[i]))?;
    if gguf.get("split.tensors.count").is_some() {
        gguf.expect("split.tensors.count", gguf.tensors.len() as u32)?;
    }
    Ok(gguf)
}

/// The positions of `items` in the order of their names; `Err` is the second of two equal ones.
fn index<T>(items: &[T], name: impl Fn(&T) -> &str) -> Result<Vec<u32>, usize> {
    let name = |&i: &u32| name(&items[i as usize]);
    let mut order: Vec<u32> = (0..items.len() as u32).collect();
    order.sort_by(|a, b| name(a).cmp(name(b)));
    match order.windows(2).find(|pair| name(&pair[0]) == name(&pair[1])) {
        Some(pair) => Err(pair[1] as usize),
        None => Ok(order),
    }
}

/// Reads the header of one file.
fn header(path: &Path, map: Map) -> Result<Gguf, Error> {
    let map = Arc::new(map);
    let magic = &map[..map.len().min(4)];
    if magic != b"GGUF" {
        let found = if magic.is_empty() { "an empty file".into() } else { Value::String(magic).to_string() };
        return Err(Fault::new(0, "\"GGUF\"", found).of(path, "magic"));
    }
    let (version, mut cursor) = version(&map).map_err(|fault| fault.of(path, "version"))?;
    let tensor_count = cursor.count(MAX_TENSORS).map_err(|fault| fault.of(path, "tensor count"))?;
    let key_count = cursor.count(MAX_KEYS).map_err(|fault| fault.of(path, "metadata count"))?;

    let mut metadata = Vec::new();
    for i in 0..key_count {
        metadata.push(entry(&mut cursor, path, i)?);
    }
    let keys = index(&metadata, |entry| &entry.key).map_err(|i| Error::Key {
        key: metadata[i].key.clone(),
        offset: Some(metadata[i].value.start as u64),
        expected: "one value".into(),
        found: "the key a second time".into(),
    })?;
    let part = Part { path: path.to_owned(), map: Arc::clone(&map) };
    let mut gguf =
        Gguf { version, parts: vec![part], metadata, keys, tensors: Vec::new(), names: Vec::new() };

    let mut descriptions = Vec::new();
    for i in 0..tensor_count {
        descriptions.push(Description::read(&mut cursor, path, i)?);
    }
    let alignment = gguf.alignment()?;
    let data = Data { map: &map, start: (cursor.at() as u64).next_multiple_of(alignment), alignment };
    gguf.tensors =
        descriptions.into_iter().map(|tensor| data.tensor(tensor)).collect::<Result<_, Error>>()?;
    gguf.names = index(&gguf.tensors, TensorInfo::name).map_err(|i| duplicate_tensor(&gguf.tensors[i]))?;
    refuse_overlaps(&gguf.tensors)?;
    Ok(gguf)
}

/// The version after the magic, and a cursor behind it.
fn version(bytes: &[u8]) -> Result<(u32, Cursor<'_>), Fault> {
    let mut cursor = Cursor::new(bytes, true);
    cursor.take(4)?;
    let at = cursor.at();
    match cursor.u32()? {
        version @ 1..=3 => Ok((version, cursor.widen(version > 1))),
        other if (1..=3).contains(&other.swap_bytes()) => {
            let found = format!("a big-endian file of version {}", other.swap_bytes());
            Err(Fault::new(at, "a little-endian file", found))
        }
        other => Err(Fault::new(at, "1, 2 or 3", other)),
    }
}

/// The metadata entry at the cursor.
fn entry(cursor: &mut Cursor<'_>, path: &Path, i: u64) -> Result<Entry, Error> {
    let key = cursor.name().map_err(|fault| fault.of(path, format_args!("metadata key {i}")))?;
    let in_key = |fault: Fault| fault.of(path, format_args!("key \"{key}\""));
    let kind = cursor.kind().map_err(in_key)?;
    let start = cursor.at();
    Value::read(cursor, kind, 0).map_err(in_key)?;
    Ok(Entry { key: key.to_owned(), kind, value: start..cursor.at() })
}

/// A tensor as the header describes it, its data not yet located.
struct Description {
    name: String,
    header: usize,
    dims: Vec<usize>,
    format: Format,
    /// From the start of the data.
    offset: u64,
}

impl Description {
    fn read(cursor: &mut Cursor<'_>, path: &Path, i: u64) -> Result<Description, Error> {
        let header = cursor.at();
        let name = cursor.name().map_err(|fault| fault.of(path, format_args!("name of tensor {i}")))?;
        let in_tensor = |fault: Fault| fault.of(path, format_args!("tensor \"{name}\""));
        let at = cursor.at();
        let n_dims = cursor.u32().map_err(in_tensor)? as usize;
        if n_dims > MAX_DIMS {
            return Err(in_tensor(Fault::new(at, format!("at most {MAX_DIMS} dimensions"), n_dims)));
        }
        let mut dims = Vec::with_capacity(n_dims);
        for _ in 0..n_dims {
            // What this machine cannot count is larger than any file.
            dims.push(cursor.length().map_err(in_tensor)?.try_into().unwrap_or(usize::MAX));
        }
        let at = cursor.at();
        let id = cursor.u32().map_err(in_tensor)?;
        let format = Format::from_id(id).ok_or_else(|| {
            let known: Vec<_> =
                Format::ALL.iter().map(|format| format!("{} ({format})", format.id())).collect();
            tensor_error(name, at, format!("a type id among {}", known.join(", ")), format!("type id {id}"))
        })?;
        let offset = cursor.u64().map_err(in_tensor)?;
        Ok(Description { name: name.to_owned(), header, dims, format, offset })
    }
}

/// The data section of a file.
struct Data<'a> {
    map: &'a Arc<Map>,
    start: u64,
    alignment: u64,
}

impl Data<'_> {
    /// Locates a tensor: the one place where a description becomes a byte range.
    fn tensor(&self, tensor: Description) -> Result<TensorInfo, Error> {
        let Description { name, header, dims, format, offset } = tensor;
        let error = |expected: String, found: String| Err(tensor_error(&name, header, expected, found));
        let Some(size) = super::tensor_bytes(&dims, format) else {
            let expected =
                format!("rows of whole {format} blocks ({} weights), below 2^64 bytes", format.block_len());
            return error(expected, super::shape(&dims));
        };
        if !offset.is_multiple_of(self.alignment) {
            return error(format!("an offset that is a multiple of {}", self.alignment), offset.to_string());
        }
        let start = self.start.checked_add(offset);
        let data = start.and_then(|start| {
            let end = start.checked_add(size)?;
            Mapped::new(self.map, usize::try_from(start).ok()?..usize::try_from(end).ok()?)
        });
        let Some(data) = data else {
            let found = format!(
                "{size} bytes from {}",
                start.map_or("beyond 2^64".into(), |start| start.to_string())
            );
            return error(format!("data within the file's {} bytes", self.map.len()), found);
        };
        Ok(TensorInfo { name, header, dims, format, part: 0, data })
    }
}

/// Data that are used twice could be copied many times: a small file would become a large model.
fn refuse_overlaps(tensors: &[TensorInfo]) -> Result<(), Error> {
    let mut order: Vec<_> = tensors.iter().filter(|tensor| tensor.size() > 0).collect();
    order.sort_by_key(|tensor| tensor.offset());
    match order.windows(2).find(|pair| pair[0].offset() + pair[0].size() > pair[1].offset()) {
        None => Ok(()),
        Some(pair) => {
            let found = format!("bytes of tensor \"{}\" from {}", pair[0].name, pair[1].offset());
            Err(tensor_error(&pair[1].name, pair[1].header, "data of its own".into(), found))
        }
    }
}

impl Gguf {
    /// The alignment of tensors' data.
    fn alignment(&self) -> Result<u64, Error> {
        let value = self.opt_u32(ALIGNMENT_KEY)?.map_or(DEFAULT_ALIGNMENT, u64::from);
        if super::is_alignment(value) {
            return Ok(value);
        }
        Err(self.key_error(ALIGNMENT_KEY, "a power of two, at least 8"))
    }

    /// Refuses the file if an integer of its metadata is not the expected one.
    fn expect(&self, key: &str, expected: u32) -> Result<(), Error> {
        if self.get(key).and_then(|value| value.integer()) == Some(expected.into()) {
            return Ok(());
        }
        let offset = self.entry(key).map_or(0, |entry| entry.value.start);
        let found = self.get(key).map_or("no such key".into(), |value| value.to_string());
        Err(Fault::new(offset, expected.to_string(), found).of(self.path(), format_args!("key \"{key}\"")))
    }

    /// Takes over the tensors of another part.
    fn append(&mut self, part: Gguf) {
        let index = self.parts.len();
        self.parts.extend(part.parts);
        self.tensors.extend(part.tensors.into_iter().map(|tensor| TensorInfo { part: index, ..tensor }));
    }
}

/// How the parts of a split file are named: `NAME-00001-of-00003.gguf`.
struct PartPath {
    path: PathBuf,
    stem: String,
    count: u32,
}

impl PartPath {
    /// From the first part.
    fn new(first: &Gguf, count: u32) -> Result<PartPath, Error> {
        let path = first.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = |index| name.strip_suffix(&Self::suffix(index, count)).map(str::to_owned);
        let index = first.u32("split.no")?;
        let fault = |key: &str, expected: String, found: String| {
            let offset = first.entry(key).map_or(0, |entry| entry.value.start);
            Err(Fault::new(offset, expected, found).of(path, format_args!("key \"{key}\"")))
        };
        if index != 0 {
            let hint =
                stem(index).map_or(String::new(), |stem| format!(", {stem}{}", Self::suffix(0, count)));
            let found = format!("part {} of {count}", u64::from(index) + 1);
            return fault("split.no", format!("the first part{hint}"), found);
        }
        match stem(0) {
            Some(stem) => Ok(PartPath { path: path.to_owned(), stem, count }),
            None => {
                let expected = format!("a file name that ends in {}", Self::suffix(0, count));
                fault("split.count", expected, format!("{count} parts and the name {name}"))
            }
        }
    }

    fn of(&self, index: u32) -> PathBuf {
        self.path.with_file_name(self.stem.clone() + &Self::suffix(index, self.count))
    }

    fn suffix(index: u32, count: u32) -> String {
        format!("-{:05}-of-{count:05}.gguf", u64::from(index) + 1)
    }
}

fn duplicate_tensor(tensor: &TensorInfo) -> Error {
    tensor_error(&tensor.name, tensor.header, "one tensor of this name".into(), "a second".into())
}

fn tensor_error(name: &str, offset: usize, expected: String, found: String) -> Error {
    Error::Tensor { name: name.to_owned(), offset: Some(offset as u64), expected, found }
}
