//! GGUF files: metadata and tensors, read where they lie and written as a stream.
//!
//! Layout: magic, version, two counts; the metadata (key, type, value); a description of each
//! tensor; padding; the tensors' data. Versions 1 (32-bit lengths), 2 and 3, little-endian.
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod cursor;
mod map;
mod read;
#[cfg(test)]
pub(crate) mod tests;
mod value;
mod write;

pub use map::Mapped;
pub use value::{Array, ArrayBuf, Element, Elements, Kind, Value};
pub use write::{Data, Writer};

use crate::{Error, Result};
use cursor::Cursor;
use llama_kernels::Format;
use map::Map;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMS: usize = 4;

/// An opened GGUF file: its header is parsed and valid, and every tensor's data are there.
///
/// Keys and tensor names are UTF-8, at most 256 bytes, without control characters, and unique.
/// String values are bytes; the getters of text check them.
///
/// ```no_run
/// use llama_core::gguf::Gguf;
///
/// let gguf = Gguf::read("model.gguf")?;
/// for (key, value) in gguf.metadata() {
///     println!("{key} = {value}");
/// }
/// println!("{} layers", gguf.u32("llama.block_count")?);
/// # Ok::<(), llama_core::Error>(())
/// ```
pub struct Gguf {
    version: u32,
    /// One, or all parts of a split file in order.
    parts: Vec<Part>,
    /// In file order; of the first part.
    metadata: Vec<Entry>,
    /// Positions in `metadata`, in the order of the keys.
    keys: Vec<u32>,
    /// In file order.
    tensors: Vec<TensorInfo>,
    /// Positions in `tensors`, in the order of the names.
    names: Vec<u32>,
}

/// One file.
struct Part {
    path: PathBuf,
    map: Arc<Map>,
}

/// A metadata key and where its value lies.
struct Entry {
    key: String,
    kind: Kind,
    /// Holds a valid value of this kind.
    value: Range<usize>,
}

/// A tensor of a file: its description, and its data where they lie.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    name: String,
    /// Where the description begins.
    header: usize,
    dims: Vec<usize>,
    format: Format,
    part: usize,
    data: Mapped,
}

/// The elements of an array value, as one Rust type.
#[derive(Clone, Debug)]
pub struct Items<'a, T> {
    elements: Elements<'a>,
    /// Succeeds for every element.
    convert: fn(Value<'a>) -> Option<T>,
}

impl Gguf {
    /// Reads a file, or all parts of a split one given by its first, into memory.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Gguf`], [`Error::Key`] or
    /// [`Error::Tensor`] if its header is not valid, a part is not what the first announced,
    /// or a tensor's format is none of [`Format::ALL`].
    pub fn read(path: impl AsRef<Path>) -> Result<Gguf> {
        read::open(path.as_ref(), Map::read_file)
    }

    /// The same for a file that is part of the program (`include_bytes!`): nothing is read or copied. `name` stands
    /// for its path, in errors too.
    ///
    /// # Errors
    /// Those of [`read`](Self::read); a split file cannot be read so.
    pub fn from_static(name: impl AsRef<Path>, bytes: &'static [u8]) -> Result<Gguf> {
        read::open(name.as_ref(), |_| Ok(Map::Static(bytes)))
    }

    /// The file that was opened.
    pub fn path(&self) -> &Path {
        &self.parts[0].path
    }

    /// All files: one, or the parts of a split file.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// Every byte of each file, in the order of [`parts`](Self::parts).
    pub fn contents(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.parts.iter().map(|part| &**part.map)
    }

    /// The sum of all files' lengths.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.map.len() as u64).sum()
    }

    /// The format's version: 1, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All metadata in file order.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, Value<'_>)> {
        self.metadata.iter().map(|entry| (entry.key.as_str(), self.value(entry)))
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let tensor = |i: &u32| &self.tensors[*i as usize];
        let at = self.names.binary_search_by(|i| tensor(i).name().cmp(name)).ok()?;
        Some(tensor(&self.names[at]))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.entry(key).map(|entry| self.value(entry))
    }

    /// An error about a key: its offset and what was found are those of the file.
    pub(crate) fn key_error(&self, key: &str, expected: impl Into<String>) -> Error {
        let entry = self.entry(key);
        let found = entry.map_or("no such key".into(), |entry| match self.value(entry) {
            Value::Array(array) => format!("array of {} {}", array.kind(), Value::Array(array)),
            value => format!("{} {value}", entry.kind),
        });
        let offset = entry.map(|entry| entry.value.start as u64);
        Error::Key { key: key.to_owned(), offset, expected: expected.into(), found }
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        let entry = |i: &u32| &self.metadata[*i as usize];
        let at = self.keys.binary_search_by(|i| entry(i).key.as_str().cmp(key)).ok()?;
        Some(entry(&self.keys[at]))
    }

    fn value(&self, entry: &Entry) -> Value<'_> {
        let mut cursor = Cursor::new(&self.parts[0].map[entry.value.clone()], self.version > 1);
        Value::read(&mut cursor, entry.kind, 0).expect("the value was read when the file was opened")
    }

    fn convert<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.key_error(key, expected))
    }
}

/// The table of typed getters: name, the variant for optional keys, type, what it is, conversion.
macro_rules! getters {
    ($($name:ident $opt:ident $type:ty, $what:literal, $convert:expr;)*) => {
        /// Typed access to metadata. Each getter has a twin, `opt_…`, for keys that may be absent.
        impl Gguf {$(
            #[doc = concat!("The value of a key, ", $what, ".")]
            ///
            /// # Errors
            /// [`Error::Key`] if the key is absent or its value is anything else.
            pub fn $name(&self, key: &str) -> Result<$type> {
                self.$opt(key)?.ok_or_else(|| self.key_error(key, $what))
            }

            #[doc = concat!("The value of a key, ", $what, ", if the file has the key.")]
            ///
            /// # Errors
            /// [`Error::Key`] if the value is anything else.
            pub fn $opt(&self, key: &str) -> Result<Option<$type>> {
                self.convert(key, $what, $convert)
            }
        )*}
    };
}

getters! {
    u32 opt_u32 u32, "an integer from 0 to 2^32 - 1, of any type", integer;
    usize opt_usize usize, "an integer from 0 up, of any type", integer;
    f32 opt_f32 f32, "a floating-point number", float;
    bool opt_bool bool, "a bool", |value| match value { Value::Bool(value) => Some(value), _ => None };
    str opt_str &str, "a UTF-8 string", text;
    strs opt_strs Items<'_, &str>, "an array of UTF-8 strings", |value| items(value, text);
    byte_strs opt_byte_strs Items<'_, &[u8]>, "an array of strings", |value| items(value, bytes);
    f32s opt_f32s Items<'_, f32>, "an array of floating-point numbers", |value| items(value, float);
    i32s opt_i32s Items<'_, i32>, "an array of integers from -2^31 to 2^31 - 1", |value| items(value, integer);
    usizes opt_usizes Items<'_, usize>, "an array of integers from 0 up", |value| items(value, integer);
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gguf")
            .field("path", &self.path())
            .field("version", &self.version)
            .field("keys", &self.metadata.len())
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

impl TensorInfo {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The dimensions in ggml's order, the length of a row first; at most four.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// How its weights are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Which file it is in, counted from 0 in [`Gguf::parts`].
    pub fn part(&self) -> usize {
        self.part
    }

    /// Where in its file the description begins.
    pub fn header_offset(&self) -> usize {
        self.header
    }

    /// Where in its file the data begin.
    pub fn offset(&self) -> usize {
        self.data.offset()
    }

    /// Bytes of data.
    pub fn size(&self) -> usize {
        self.data.len()
    }

    /// The data.
    pub fn data(&self) -> &Mapped {
        &self.data
    }
}

impl<T> Iterator for Items<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.elements.next().and_then(self.convert)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.elements.size_hint()
    }
}

impl<T> ExactSizeIterator for Items<'_, T> {}

fn items<'a, T>(value: Value<'a>, convert: fn(Value<'a>) -> Option<T>) -> Option<Items<'a, T>> {
    let Value::Array(array) = value else { return None };
    let valid = array.iter().all(|value| convert(value).is_some());
    valid.then(|| Items { elements: array.iter(), convert })
}

fn integer<T: TryFrom<i128>>(value: Value<'_>) -> Option<T> {
    value.integer()?.try_into().ok()
}

fn float(value: Value<'_>) -> Option<f32> {
    match value {
        Value::F32(value) => Some(value),
        Value::F64(value) => Some(value as f32),
        _ => None,
    }
}

fn text(value: Value<'_>) -> Option<&str> {
    bytes(value).and_then(|bytes| std::str::from_utf8(bytes).ok())
}

fn bytes(value: Value<'_>) -> Option<&[u8]> {
    match value {
        Value::String(bytes) => Some(bytes),
        _ => None,
    }
}

/// Powers of two from 8: the format asks for multiples of 8, ggml for powers of two.
fn is_alignment(value: u64) -> bool {
    value.is_power_of_two() && value >= 8
}

/// Bytes of a tensor, `dims[0]` being the length of a row; `None` if a row is no whole number of
/// blocks or the size overflows.
fn tensor_bytes(dims: &[usize], format: Format) -> Option<u64> {
    let row = format.row_bytes(dims.first().copied().unwrap_or(1))?;
    let size = dims.iter().skip(1).try_fold(row, |size, &dim| size.checked_mul(dim))?;
    u64::try_from(size).ok()
}

/// `4096x11008`: dimensions in ggml's order.
pub(crate) fn shape(dims: &[usize]) -> String {
    dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}
