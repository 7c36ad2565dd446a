//! Metadata values: GGUF's thirteen types, read where they lie.
//!
//! A [`Value`] is a scalar or a view of the file's bytes, so a vocabulary of 32,000 strings costs
//! nothing until it is iterated, and a hostile length can make nobody allocate. What a program
//! composes itself (for the [`Writer`](super::Writer)) is collected into an [`ArrayBuf`].

use super::cursor::{Cursor, Fault};
use std::fmt;

/// Arrays of arrays of … end here. No known file nests at all, and recursion needs a floor.
const MAX_DEPTH: u32 = 4;

/// Bytes of a string that [`Display`](fmt::Display) shows.
const SHOWN_BYTES: usize = 64;

/// Elements of an array that [`Display`](fmt::Display) shows.
const SHOWN_ELEMENTS: usize = 4;

/// The table of numeric types: GGUF's id, our name, Rust's type.
macro_rules! values {
    ($($id:literal $name:ident $type:ident),* $(,)?) => {
        /// The type of a metadata value, numbered as in GGUF.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        pub enum Kind {
            /// One byte, 0 or 1.
            Bool = 7,
            /// A length and that many bytes, UTF-8 by convention.
            String = 8,
            /// A type, a length and that many elements.
            Array = 9,
            $(#[doc = concat!("A little-endian `", stringify!($type), "`.")] $name = $id,)*
        }

        impl Kind {
            const ALL: &'static [Kind] = &[Kind::Bool, Kind::String, Kind::Array, $(Kind::$name),*];

            /// The type's name: `u8`, `string`, `array`, …
            pub fn name(self) -> &'static str {
                match self {
                    Kind::Bool => "bool",
                    Kind::String => "string",
                    Kind::Array => "array",
                    $(Kind::$name => stringify!($type),)*
                }
            }

            /// Bytes of a value; `None` if they vary.
            fn size(self) -> Option<usize> {
                match self {
                    Kind::Bool => Some(1),
                    Kind::String | Kind::Array => None,
                    $(Kind::$name => Some(size_of::<$type>()),)*
                }
            }
        }

        /// A metadata value; strings and arrays are views.
        #[derive(Clone, Copy, PartialEq, Debug)]
        pub enum Value<'a> {
            /// A truth value.
            Bool(bool),
            /// Text. The format asks for UTF-8, but vocabularies in the wild hold pieces that are
            /// not, so these are the bytes; [`Gguf::str`](super::Gguf::str) checks.
            String(&'a [u8]),
            /// Values of one type.
            Array(Array<'a>),
            $(#[doc = concat!("An `", stringify!($type), "`.")] $name($type),)*
        }

        impl<'a> Value<'a> {
            /// The value's type.
            pub fn kind(&self) -> Kind {
                match self {
                    Value::Bool(_) => Kind::Bool,
                    Value::String(_) => Kind::String,
                    Value::Array(_) => Kind::Array,
                    $(Value::$name(_) => Kind::$name,)*
                }
            }

            /// Reads and validates the value of type `kind` at the cursor, inside `depth` arrays.
            pub(super) fn read(cursor: &mut Cursor<'a>, kind: Kind, depth: u32) -> Result<Value<'a>, Fault> {
                Ok(match kind {
                    Kind::Bool => Value::Bool(cursor.bool()?),
                    Kind::String => Value::String(cursor.string()?),
                    Kind::Array => Value::Array(Array::read(cursor, depth)?),
                    $(Kind::$name => Value::$name($type::from_le_bytes(cursor.array()?)),)*
                })
            }

            /// Appends the value as versions 2 and 3 store it.
            pub(super) fn write(&self, out: &mut Vec<u8>) {
                match *self {
                    Value::Bool(value) => out.push(value.into()),
                    Value::String(bytes) => write_string(bytes, out),
                    Value::Array(array) => {
                        out.extend((array.kind as u32).to_le_bytes());
                        out.extend((array.len as u64).to_le_bytes());
                        array.iter().for_each(|value| value.write(out));
                    }
                    $(Value::$name(value) => out.extend(value.to_le_bytes()),)*
                }
            }
        }

        $(
            impl From<$type> for Value<'_> {
                fn from(value: $type) -> Self {
                    Value::$name(value)
                }
            }

            impl Element for $type {
                const KIND: Kind = Kind::$name;
            }
        )*
    };
}

values! {
    0 U8 u8,
    1 I8 i8,
    2 U16 u16,
    3 I16 i16,
    4 U32 u32,
    5 I32 i32,
    6 F32 f32,
    10 U64 u64,
    11 I64 i64,
    12 F64 f64,
}

/// Rust types that correspond to one type of value.
pub trait Element {
    /// Their GGUF type.
    const KIND: Kind;
}

/// Values of one type: a view of a file or of an [`ArrayBuf`], validated when it was made.
#[derive(Clone, Copy)]
pub struct Array<'a> {
    kind: Kind,
    len: usize,
    bytes: &'a [u8],
    /// Lengths are 64 bits wide (all versions but the first).
    wide: bool,
}

/// An array made by the program: `[1.0f32, 2.0].into_iter().collect::<ArrayBuf>()`.
#[derive(Clone, Debug)]
pub struct ArrayBuf {
    kind: Kind,
    len: usize,
    bytes: Vec<u8>,
}

/// The elements of an [`Array`] in order.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    cursor: Cursor<'a>,
    kind: Kind,
    left: usize,
}

impl Kind {
    pub(super) fn from_id(id: u32) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|&kind| kind as u32 == id)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Value<'_> {
    /// The value of any of the integer types.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }
}

impl<'a> Array<'a> {
    /// The type of every element.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order.
    pub fn iter(&self) -> Elements<'a> {
        Elements { cursor: Cursor::new(self.bytes, self.wide), kind: self.kind, left: self.len }
    }

    /// Reads an array; elements of fixed size are checked as one range, the others are walked.
    fn read(cursor: &mut Cursor<'a>, depth: u32) -> Result<Array<'a>, Fault> {
        if depth == MAX_DEPTH {
            return Err(cursor.fault(format!("at most {MAX_DEPTH} arrays within each other"), "more"));
        }
        let kind = cursor.kind()?;
        let at = cursor.at();
        let len = cursor.length()?;
        let start = cursor.at();
        match kind.size() {
            Some(size) => {
                let bytes = len.checked_mul(size as u64).filter(|&bytes| bytes <= cursor.left());
                let bytes = bytes.ok_or_else(|| too_long(at, len, kind, cursor.left()))?;
                let bytes = cursor.take(bytes)?;
                if kind == Kind::Bool
                    && let Some(i) = bytes.iter().position(|&byte| byte > 1)
                {
                    return Err(Fault::new(start + i, "a bool, 0 or 1", bytes[i]));
                }
            }
            None => {
                // Even an empty string has its length: refuses an absurd count before the walk.
                if len.checked_mul(cursor.length_size()).is_none_or(|bytes| bytes > cursor.left()) {
                    return Err(too_long(at, len, kind, cursor.left()));
                }
                cursor.spend(at, len)?;
                for _ in 0..len {
                    Value::read(cursor, kind, depth + 1)?;
                }
            }
        }
        // No element is smaller than a byte, so `len` is at most the length of a slice.
        Ok(Array { kind, len: len as usize, bytes: cursor.since(start), wide: cursor.wide() })
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Array<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.iter().eq(other.iter())
    }
}

impl<'a> IntoIterator for Array<'a> {
    type Item = Value<'a>;
    type IntoIter = Elements<'a>;

    fn into_iter(self) -> Elements<'a> {
        self.iter()
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        Value::read(&mut self.cursor, self.kind, 0).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Elements<'_> {}

impl ArrayBuf {
    /// The array's elements.
    pub fn as_array(&self) -> Array<'_> {
        Array { kind: self.kind, len: self.len, bytes: &self.bytes, wide: true }
    }
}

impl<'a, T: Element + Into<Value<'a>>> FromIterator<T> for ArrayBuf {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> ArrayBuf {
        let mut array = ArrayBuf { kind: T::KIND, len: 0, bytes: Vec::new() };
        for value in values {
            value.into().write(&mut array.bytes);
            array.len += 1;
        }
        array
    }
}

/// The types of [`Element`] that are not numbers.
macro_rules! elements {
    ($($type:ty, $kind:ident, $value:ident => $convert:expr;)*) => {$(
        impl<'a> From<$type> for Value<'a> {
            fn from($value: $type) -> Self {
                Value::$kind($convert)
            }
        }

        impl<'a> Element for $type {
            const KIND: Kind = Kind::$kind;
        }
    )*};
}

elements! {
    bool, Bool, value => value;
    &'a str, String, value => value.as_bytes();
    &'a String, String, value => value.as_bytes();
    &'a [u8], String, value => value;
    Array<'a>, Array, value => value;
    &'a ArrayBuf, Array, value => value.as_array();
}

/// For a table and for errors: one line; long strings and arrays are abbreviated.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(v) => v.fmt(f),
            Value::U8(v) => v.fmt(f),
            Value::I8(v) => v.fmt(f),
            Value::U16(v) => v.fmt(f),
            Value::I16(v) => v.fmt(f),
            Value::U32(v) => v.fmt(f),
            Value::I32(v) => v.fmt(f),
            Value::F32(v) => v.fmt(f),
            Value::U64(v) => v.fmt(f),
            Value::I64(v) => v.fmt(f),
            Value::F64(v) => v.fmt(f),
            Value::String(bytes) => {
                let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
                write!(f, "\"")?;
                for chunk in shown.utf8_chunks() {
                    write!(f, "{}", chunk.valid().escape_debug())?;
                    // A character that the abbreviation cut is not shown as damage.
                    if !chunk.invalid().is_empty() && (bytes.len() == shown.len() || !is_cut(chunk, shown)) {
                        write!(f, "{}", char::REPLACEMENT_CHARACTER)?;
                    }
                }
                write!(f, "\"{}", if shown.len() < bytes.len() { "…" } else { "" })
            }
            Value::Array(array) => {
                write!(f, "[")?;
                for (i, value) in array.iter().take(SHOWN_ELEMENTS).enumerate() {
                    write!(f, "{}", if i == 0 { "" } else { ", " })?;
                    match value {
                        Value::Array(inner) => write!(f, "[{} of {}]", inner.len, inner.kind)?,
                        value => value.fmt(f)?,
                    }
                }
                if array.len > SHOWN_ELEMENTS {
                    write!(f, ", … ({} in all)", array.len)?;
                }
                write!(f, "]")
            }
        }
    }
}

/// Appends a string as versions 2 and 3 store it.
pub(super) fn write_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

fn too_long(at: usize, len: u64, kind: Kind, left: u64) -> Fault {
    Fault::new(at, format!("an array that fits in the {left} bytes that follow"), format!("{len} of {kind}"))
}

/// True if the chunk's invalid bytes are the last of `shown`.
fn is_cut(chunk: std::str::Utf8Chunk<'_>, shown: &[u8]) -> bool {
    chunk.invalid().as_ptr_range().end == shown.as_ptr_range().end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_short_line() {
        let long = "ä".repeat(40) + "\n";
        let pieces: ArrayBuf = ["<unk>", "\n", "a", "b", "c"].into_iter().collect();
        assert_eq!(Value::from("a\nb").to_string(), "\"a\\nb\"");
        assert_eq!(Value::from(&long).to_string(), format!("\"{}\"…", "ä".repeat(32)));
        assert_eq!(Value::from(&("x".to_owned() + &long)).to_string(), format!("\"x{}\"…", "ä".repeat(31)));
        assert_eq!(Value::from(&b"a\xffb"[..]).to_string(), "\"a\u{fffd}b\"");
        assert_eq!(Value::from(&pieces).to_string(), r#"["<unk>", "\n", "a", "b", … (5 in all)]"#);
        let nested: ArrayBuf = [&pieces].into_iter().collect();
        assert_eq!(Value::from(&nested).to_string(), "[[5 of string]]");
        assert_eq!(Value::F32(1e-5).to_string(), "0.00001");
    }

    #[test]
    fn arrays_know_their_type_even_when_empty() {
        let empty: ArrayBuf = std::iter::empty::<i16>().collect();
        let nested: ArrayBuf = [&empty, &empty].into_iter().collect();
        assert_eq!((empty.as_array().kind(), empty.as_array().len()), (Kind::I16, 0));
        assert_eq!(nested.as_array().iter().collect::<Vec<_>>(), [Value::from(&empty); 2]);
    }
}
