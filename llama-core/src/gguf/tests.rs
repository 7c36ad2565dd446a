//! Files made in memory: what the writer writes, the reader reads; split files; real files.

use super::*;
use std::collections::HashMap;
use std::io::Write;

/// A name and what it holds.
type File = (String, Vec<u8>);

/// Opens a file that exists in memory only.
pub(crate) fn from_bytes(bytes: Vec<u8>) -> Result<Gguf> {
    open_first(&[("model.gguf".into(), bytes)])
}

/// A complete file; the data count from 0 to 250 again and again, whatever tensor they are in.
pub(crate) fn complete(header: &Writer) -> Vec<u8> {
    let mut data = header.begin(Vec::new()).unwrap();
    let pattern: Vec<u8> = (0..=250).collect();
    let mut written = 0;
    while let Ok(n) = data.write(&pattern[written % pattern.len()..]) {
        written += n;
    }
    data.finish().unwrap()
}

/// Opens the first of some files in memory.
fn open_first(files: &[File]) -> Result<Gguf> {
    let by_name: HashMap<_, _> = files.iter().map(|(name, bytes)| (Path::new(name), bytes)).collect();
    read::open(Path::new(&files[0].0), |path| match by_name.get(path) {
        Some(bytes) => Ok(Map::Owned(bytes.to_vec())),
        None => {
            Err(Error::Io { action: "open", path: path.into(), source: std::io::ErrorKind::NotFound.into() })
        }
    })
}

fn message(result: Result<Gguf>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read() {
    let strings: ArrayBuf = ["a", "", "ä\n"].into_iter().collect();
    let bytes: ArrayBuf = [&b"\xff"[..]].into_iter().collect();
    let numbers: ArrayBuf = [1.5f32, -0.0].into_iter().collect();
    let bools: ArrayBuf = [true, false].into_iter().collect();
    let nested: ArrayBuf = [&strings, &numbers].into_iter().collect();
    let deep: ArrayBuf = [&nested].into_iter().collect();
    let values = [
        Value::U8(255),
        Value::I8(-128),
        Value::U16(65535),
        Value::I16(-32768),
        Value::U32(u32::MAX),
        Value::I32(i32::MIN),
        Value::F32(1e-5),
        Value::Bool(true),
        Value::String(b"text"),
        Value::U64(u64::MAX),
        Value::I64(i64::MIN),
        Value::F64(-1e300),
        Value::from(&strings),
        Value::from(&bytes),
        Value::from(&numbers),
        Value::from(&bools),
        Value::from(&deep),
    ];
    let mut header = Writer::new();
    for (i, value) in values.into_iter().enumerate() {
        header.set(&format!("key.{i}"), value);
    }
    header.tensor("scalar", &[], Format::F32).unwrap();
    header.tensor("empty", &[32, 0], Format::Q8_0).unwrap();
    header.tensor("matrix", &[64, 3], Format::Q4_0).unwrap();
    header.tensor("four", &[2, 3, 4, 5], Format::F16).unwrap();
    let file = complete(&header);
    let gguf = from_bytes(file.clone()).unwrap();

    assert_eq!(gguf.version(), 3);
    assert_eq!(gguf.metadata().map(|(_, value)| value).collect::<Vec<_>>(), values);
    for (i, (key, value)) in gguf.metadata().enumerate() {
        assert_eq!((key, gguf.get(key)), (format!("key.{i}").as_str(), Some(value)));
    }
    let sizes: Vec<_> = gguf.tensors().iter().map(|tensor| (tensor.name(), tensor.size())).collect();
    assert_eq!(sizes, [("scalar", 4), ("empty", 0), ("matrix", 108), ("four", 240)]);
    let matrix = gguf.tensor("matrix").unwrap();
    assert_eq!((matrix.dims(), matrix.format(), matrix.part()), (&[64, 3][..], Format::Q4_0, 0));
    assert!(matrix.offset().is_multiple_of(32));
    assert_eq!(matrix.data()[..], file[matrix.offset()..][..108]);
    assert!(gguf.tensor("matri").is_none());

    // Version 2 differs from 3 in its number alone.
    let mut file = file;
    file[4] = 2;
    let second = from_bytes(file).unwrap();
    assert_eq!(second.version(), 2);
    assert!(second.metadata().eq(gguf.metadata()));
}

#[test]
fn getters_accept_what_fits_and_name_what_does_not() {
    let strings: ArrayBuf = [&b"a"[..], b"\xff"].into_iter().collect();
    let mut header = Writer::new();
    header.set("small", 7u8);
    header.set("negative", -7i64);
    header.set("double", 0.5f64);
    header.set("strings", &strings);
    header.set("integers", &[1u64, 1 << 31].into_iter().collect::<ArrayBuf>());
    let gguf = from_bytes(complete(&header)).unwrap();

    assert_eq!(gguf.u32("small").unwrap(), 7);
    assert_eq!(gguf.f32("double").unwrap(), 0.5);
    assert_eq!(gguf.byte_strs("strings").unwrap().collect::<Vec<_>>(), [&b"a"[..], b"\xff"]);
    assert_eq!(gguf.usizes("integers").unwrap().collect::<Vec<_>>(), [1, 1 << 31]);
    assert_eq!(gguf.opt_bool("absent").unwrap(), None);
    let expected = [
        (
            gguf.u32("absent").unwrap_err(),
            "key \"absent\": expected an integer from 0 to 2^32 - 1, of any type, found no such key",
        ),
        (
            gguf.usize("negative").unwrap_err(),
            "key \"negative\" (byte 62): expected an integer from 0 up, of any type, found i64 -7",
        ),
        (gguf.bool("small").unwrap_err(), "key \"small\" (byte 41): expected a bool, found u8 7"),
        (
            gguf.strs("strings").unwrap_err(),
            "key \"strings\" (byte 115): expected an array of UTF-8 strings, found array of string [\"a\", \"\u{fffd}\"]",
        ),
        (
            gguf.i32s("integers").unwrap_err(),
            "key \"integers\" (byte 165): expected an array of integers from -2^31 to 2^31 - 1, found array of u64 [1, 2147483648]",
        ),
    ];
    for (error, expected) in expected {
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn version_1_has_short_lengths() {
    let string = |s: &str| [&(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat();
    let numbers = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let mut file = [b"GGUF".to_vec(), numbers(&[1, 1, 2])].concat();
    file.extend([string("nested"), numbers(&[9, 9, 1, 8, 2]), string("a"), string("bc")].concat());
    file.extend([string("n"), numbers(&[4, 5])].concat());
    file.extend([string("t"), numbers(&[1, 3, 0, 0, 0])].concat());
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(numbers(&[1, 2, 3]));
    let gguf = from_bytes(file).unwrap();

    let strings: ArrayBuf = ["a", "bc"].into_iter().collect();
    assert_eq!(gguf.get("nested"), Some(Value::from(&[&strings].into_iter().collect::<ArrayBuf>())));
    assert_eq!(gguf.u32("n").unwrap(), 5);
    assert_eq!(gguf.tensor("t").unwrap().data()[..], numbers(&[1, 2, 3]));

    // Metadata of the first version may be copied to a new file.
    let mut copy = Writer::new();
    gguf.metadata().for_each(|(key, value)| copy.set(key, value));
    let copied = from_bytes(complete(&copy)).unwrap();
    assert!(gguf.metadata().eq(copied.metadata()));
}

/// Parts of a file, one tensor each.
fn parts(count: u16) -> Vec<File> {
    let part = |i: u16| {
        let mut header = Writer::new();
        header.set("split.no", i);
        header.set("split.count", count);
        header.set("split.tensors.count", i32::from(count));
        header.tensor(&format!("t{i}"), &[usize::from(i) + 1], Format::F32).unwrap();
        (format!("dir/m-{:05}-of-{count:05}.gguf", i + 1), complete(&header))
    };
    (0..count).map(part).collect()
}

#[test]
fn split_files_load_from_the_first_part() {
    let gguf = open_first(&parts(3)).unwrap();
    assert_eq!(gguf.parts().len(), 3);
    assert!(gguf.contents().eq(parts(3).iter().map(|(_, bytes)| &bytes[..])));
    assert_eq!(gguf.file_bytes(), parts(3).iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    for i in 0..3 {
        let tensor = gguf.tensor(&format!("t{i}")).unwrap();
        assert_eq!((tensor.part(), tensor.size()), (i, 4 * i + 4));
        assert_eq!(tensor.data()[..], parts(3)[i].1[tensor.offset()..][..4 * i + 4]);
    }
}

#[test]
fn broken_splits_say_what_is_wrong() {
    let open = |change: &dyn Fn(&mut Vec<File>)| {
        let mut files = parts(3);
        change(&mut files);
        message(open_first(&files))
    };
    let other = |i: usize| parts(4)[i].1.clone();
    let cases = [
        (
            open(&|files| files.swap(0, 1)),
            "m-00002-of-00003.gguf: key \"split.no\" at byte 44: expected the first part, m-00001-of-00003.gguf, found part 2 of 3",
        ),
        (open(&|files| drop(files.pop())), "cannot open dir/m-00003-of-00003.gguf: entity not found"),
        (
            open(&|files| files[0].0 = "x.gguf".into()),
            "x.gguf: key \"split.count\" at byte 69: expected a file name that ends in -00001-of-00003.gguf, found 3 parts and the name x.gguf",
        ),
        (
            open(&|files| files[1].1 = other(1)),
            "m-00002-of-00003.gguf: key \"split.count\" at byte 69: expected 3, found 4",
        ),
        (
            open(&|files| files[1].1 = files[2].1.clone()),
            "m-00002-of-00003.gguf: key \"split.no\" at byte 44: expected 1, found 2",
        ),
        (
            open(&|files| files[1].1 = complete(&Writer::new())),
            "m-00002-of-00003.gguf: key \"split.no\" at byte 0: expected 1, found no such key",
        ),
    ];
    for (found, expected) in cases {
        assert!(found.ends_with(expected), "{found}\nexpected {expected}");
    }
    let again = {
        let mut header = Writer::new();
        header.set("split.no", 1);
        header.set("split.count", 2);
        header.tensor("t0", &[1], Format::F32).unwrap();
        complete(&header)
    };
    let mut files = parts(2);
    files[1].1 = again;
    assert_eq!(
        message(open_first(&files)),
        "tensor \"t0\" (byte 75): expected one tensor of this name, found a second"
    );
}

#[test]
fn faults_of_a_header_name_the_place() {
    let mut header = Writer::new();
    header.set("key", true);
    header.tensor("tensor", &[32, 2], Format::Q8_0).unwrap();
    let file = complete(&header);
    // The tensor's description begins at byte 40: name, 4 bytes of count, 16 of dimensions.
    let with = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        message(from_bytes(file))
    };
    let known: Vec<_> = Format::ALL.iter().map(|format| format!("{} ({format})", format.id())).collect();
    let retired = format!(
        "tensor \"tensor\" (byte 74): expected a type id among {}, found type id 4",
        known.join(", ")
    );
    let cases = [
        (
            message(from_bytes(Vec::new())),
            "model.gguf: magic at byte 0: expected \"GGUF\", found an empty file",
        ),
        (with(0, b"Once"), "model.gguf: magic at byte 0: expected \"GGUF\", found \"Once\""),
        (with(4, &[4]), "model.gguf: version at byte 4: expected 1, 2 or 3, found 4"),
        (
            with(4, &[0, 0, 0, 3]),
            "model.gguf: version at byte 4: expected a little-endian file, found a big-endian file of version 3",
        ),
        (
            with(15, &[128]),
            "model.gguf: tensor count at byte 8: expected at most 65536, found 9223372036854775809",
        ),
        (
            with(35, &[13]),
            "model.gguf: key \"key\" at byte 35: expected the id of a value type, 0 to 12, found 13",
        ),
        (with(39, &[2]), "model.gguf: key \"key\" at byte 39: expected a bool, 0 or 1, found 2"),
        (
            with(32, b"k\n\""),
            "model.gguf: metadata key 0 at byte 24: expected a name, 1 to 256 bytes of UTF-8 without control characters, found 3 bytes \"k\\n\\\"\"",
        ),
        (with(54, &[5]), "model.gguf: tensor \"tensor\" at byte 54: expected at most 4 dimensions, found 5"),
        (
            with(58, &[33]),
            "tensor \"tensor\" (byte 40): expected rows of whole Q8_0 blocks (32 weights), below 2^64 bytes, found 33x2",
        ),
        (
            with(66, &[3]),
            "tensor \"tensor\" (byte 40): expected data within the file's 192 bytes, found 102 bytes from 96",
        ),
        (with(74, &[4]), &retired),
        (with(78, &[1]), "tensor \"tensor\" (byte 40): expected an offset that is a multiple of 32, found 1"),
        (
            with(85, &[255]),
            "tensor \"tensor\" (byte 40): expected data within the file's 192 bytes, found 68 bytes from 18374686479671623776",
        ),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
}

#[test]
fn type_ids_that_are_retired_or_unknown_are_named() {
    let mut header = Writer::new();
    header.tensor("tensor", &[256], Format::F32).unwrap();
    let file = complete(&header);
    // The tensor's description begins behind magic, version and two counts: name, count, one dimension.
    let at = 24 + 8 + "tensor".len() + 4 + 8;
    // 4, 5, 31 to 33 and 36 to 38 were formats once; 9 and 24 to 28 are no formats of weights.
    for id in (0..=300).chain([1 << 16, 1 << 31, u32::MAX]) {
        let mut file = file.clone();
        file[at..at + 4].copy_from_slice(&id.to_le_bytes());
        let read = from_bytes(file).map(|gguf| gguf.tensors()[0].format());
        match Format::from_id(id) {
            Some(format) => assert!(read.is_ok_and(|found| found == format), "{id} is {format}"),
            None => {
                let message = read.unwrap_err().to_string();
                assert!(
                    message.starts_with("tensor \"tensor\" (byte 50): expected a type id among "),
                    "{message}"
                );
                assert!(message.ends_with(&format!(", found type id {id}")), "{message}");
            }
        }
    }
    for retired in [4, 5, 31, 32, 33, 36, 37, 38] {
        assert_eq!(Format::from_id(retired), None);
    }
}

#[test]
fn tensors_do_not_share_bytes() {
    let mut header = Writer::new();
    header.tensor("a", &[8], Format::F32).unwrap();
    header.tensor("b", &[8], Format::F32).unwrap();
    let mut file = complete(&header);
    let at = file.windows(8).rposition(|bytes| bytes == 32u64.to_le_bytes()).unwrap();
    assert!(from_bytes(file.clone()).is_ok());
    file[at] = 0;
    assert_eq!(
        message(from_bytes(file)),
        "tensor \"b\" (byte 57): expected data of its own, found bytes of tensor \"a\" from 96"
    );
}

/// The folder of real files; tests of them pass without it.
fn data(file: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")).join(file);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn both_versions_of_a_real_model_hold_the_same_weights() {
    let (Some(v3), Some(v1)) = (data("models/stories260K.gguf"), data("models/stories260K-gguf-v1.gguf"))
    else {
        return;
    };
    let (v3, v1) = (Gguf::read(v3).unwrap(), Gguf::read(v1).unwrap());
    assert_eq!((v3.version(), v1.version()), (3, 1));
    assert_eq!((v3.tensors().len(), v1.tensors().len()), (48, 48));
    for a in v3.tensors() {
        let b = v1.tensor(a.name()).unwrap();
        assert_eq!((a.dims(), a.format()), (b.dims(), b.format()), "{}", a.name());
        assert!(a.data()[..] == b.data()[..], "{}", a.name());
    }
}

#[test]
fn a_real_vocabulary_is_read() {
    let Some(path) = data("vocab/ggml-vocab-llama-spm.gguf") else { return };
    let gguf = Gguf::read(path).unwrap();
    let pieces: Vec<_> = gguf.strs("tokenizer.ggml.tokens").unwrap().collect();
    assert_eq!((pieces.len(), pieces[1], pieces[29871]), (32000, "<s>", "▁"));
    assert_eq!(gguf.f32s("tokenizer.ggml.scores").unwrap().last(), Some(-31740.0));
    assert_eq!(gguf.i32s("tokenizer.ggml.token_type").unwrap().take(4).collect::<Vec<_>>(), [2, 3, 3, 6]);
}
