//! Promise 4: a model file is hostile. Whatever its bytes are, it loads or is refused in one line
//! that says what and where, within one second and 64 MB.

use llama_core::gguf::{ArrayBuf, Gguf, Writer};
use llama_core::{Config, Weights};
use llama_kernels::Format;
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

const MAX_MEMORY: usize = 64 << 20;
const MAX_TIME: Duration = Duration::from_secs(1);

/// Counts what each thread has allocated; tests run on threads of their own.
struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.get().wrapping_add(layout.size());
        LIVE.set(live);
        PEAK.set(PEAK.get().max(live));
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // What another thread allocated would make this one negative.
        LIVE.set(LIVE.get().saturating_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Loads everything that a file has, and holds it to the promise; the message if it is refused.
fn load(path: &Path) -> Result<(), String> {
    let (start, live) = (Instant::now(), LIVE.get());
    PEAK.set(live);
    // SAFETY: every test writes to its own temporary file, and not while it is loaded.
    let outcome = unsafe { Gguf::map(path) }.and_then(|gguf| {
        let shown: usize = gguf.metadata().map(|(_, value)| value.to_string().len()).sum();
        assert!(shown <= gguf.metadata().len() * 2000, "{shown} bytes of abbreviated metadata");
        let config = Config::new(&gguf)?;
        let weights = Weights::load(&gguf, &config)?;
        assert_eq!(weights.layers.len(), config.n_layers);
        Ok(())
    });
    let message = outcome.map_err(|error| error.to_string());
    let (elapsed, memory) = (start.elapsed(), PEAK.get() - live);
    assert!(elapsed < MAX_TIME, "{elapsed:?} for {message:?}");
    assert!(memory < MAX_MEMORY, "{memory} bytes for {message:?}");
    if let Err(message) = &message {
        assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
        assert!(message.contains("expected ") && message.contains("found "), "{message:?}");
        assert!(message.len() < 2000, "{message:?}");
    }
    message
}

/// A file that is rewritten again and again.
struct Subject(tempfile::NamedTempFile);

impl Subject {
    fn new(bytes: &[u8]) -> Subject {
        let mut file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
        file.write_all(bytes).unwrap();
        Subject(file)
    }

    fn load(&self) -> Result<(), String> {
        load(self.0.path())
    }

    fn file(&mut self) -> &mut File {
        self.0.as_file_mut()
    }

    fn set(&mut self, at: usize, byte: u8) {
        self.file().seek(SeekFrom::Start(at as u64)).unwrap();
        self.file().write_all(&[byte]).unwrap();
    }
}

/// A model of one layer with every kind of metadata that is read.
fn small_model() -> Vec<u8> {
    let mut header = Writer::new();
    header.set("general.architecture", "llama");
    header.set("general.alignment", 8u32);
    let sizes = [
        ("block_count", 1u32),
        ("embedding_length", 32),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("context_length", 64),
        ("rope.dimension_count", 16),
    ];
    sizes.iter().for_each(|(key, value)| header.set(&format!("llama.{key}"), *value));
    header.set("llama.feed_forward_length", &[64u32].into_iter().collect::<ArrayBuf>());
    header.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    header.set("llama.rope.scaling.type", "linear");
    header.set("llama.rope.scaling.factor", 2f32);
    header.set("tokenizer.ggml.tokens", &["a", "bc", ""].into_iter().collect::<ArrayBuf>());
    header
        .set("nested", &[&[true, false].into_iter().collect::<ArrayBuf>()].into_iter().collect::<ArrayBuf>());
    header.set("tokenizer.ggml.add_bos_token", true);
    let tensors: [(&str, &[usize], Format); 11] = [
        ("token_embd.weight", &[32, 3], Format::Q8_0),
        ("output_norm.weight", &[32], Format::F32),
        ("blk.0.attn_norm.weight", &[32], Format::F32),
        ("blk.0.attn_q.weight", &[32, 32], Format::Q4_0),
        ("blk.0.attn_k.weight", &[32, 16], Format::Q4_0),
        ("blk.0.attn_v.weight", &[32, 16], Format::F16),
        ("blk.0.attn_output.weight", &[32, 32], Format::BF16),
        ("blk.0.ffn_norm.weight", &[32], Format::F32),
        ("blk.0.ffn_gate.weight", &[32, 64], Format::Q4_0),
        ("blk.0.ffn_up.weight", &[32, 64], Format::Q4_0),
        ("blk.0.ffn_down.weight", &[64, 32], Format::Q4_0),
    ];
    tensors.iter().for_each(|(name, dims, format)| header.tensor(name, dims, *format).unwrap());
    let mut data = header.begin(Vec::new()).unwrap();
    while data.write(&[1, 2, 3]).is_ok() {}
    data.finish().unwrap()
}

/// Small and real models, with the length of their headers; real ones if they are there.
fn models() -> Vec<(Vec<u8>, usize)> {
    let mut models = vec![small_model()];
    for name in ["stories260K.gguf", "stories260K-gguf-v1.gguf"] {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/models/").to_owned() + name;
        match std::fs::read(&path) {
            Ok(bytes) => models.push(bytes),
            Err(_) => eprintln!("skipped: {path} is not there"),
        }
    }
    let header = |bytes: &[u8]| {
        let gguf = Gguf::read(Subject::new(bytes).0.path()).unwrap();
        gguf.tensors().iter().map(|tensor| tensor.offset()).min().unwrap()
    };
    models.into_iter().map(|bytes| (header(&bytes), bytes)).map(|(header, bytes)| (bytes, header)).collect()
}

#[test]
fn a_truncated_file_is_refused() {
    for (bytes, header) in models() {
        let mut subject = Subject::new(&bytes);
        assert_eq!(subject.load(), Ok(()));
        let one_short = bytes.len() - 1;
        for len in [one_short, header + 1].into_iter().chain((0..=header).rev()) {
            subject.file().set_len(len as u64).unwrap();
            assert!(subject.load().is_err(), "{len} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn a_changed_byte_is_no_disaster() {
    let mut refused = 0;
    for (bytes, header) in models() {
        let mut subject = Subject::new(&bytes);
        for (at, &byte) in bytes[..header].iter().enumerate() {
            for other in [byte ^ 1, byte ^ 128, !byte] {
                subject.set(at, other);
                refused += usize::from(subject.load().is_err());
            }
            subject.set(at, byte);
        }
        assert_eq!(subject.load(), Ok(()), "the file is as it was");
    }
    assert!(refused > 1000, "only {refused} changes were noticed");
}

/// The bytes of a file, composed by hand to say what no writer would.
#[derive(Clone)]
struct Raw {
    bytes: Vec<u8>,
    wide: bool,
}

impl Raw {
    fn new(version: u32, tensors: u64, keys: u64) -> Raw {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(version.to_le_bytes());
        Raw { bytes, wide: version > 1 }.length(tensors).length(keys)
    }

    fn u32(mut self, value: u32) -> Raw {
        self.bytes.extend(value.to_le_bytes());
        self
    }

    fn length(mut self, value: u64) -> Raw {
        match self.wide {
            true => self.bytes.extend(value.to_le_bytes()),
            false => self.bytes.extend((value as u32).to_le_bytes()),
        }
        self
    }

    fn text(self, text: &str) -> Raw {
        let mut raw = self.length(text.len() as u64);
        raw.bytes.extend(text.as_bytes());
        raw
    }

    fn array(self, kind: u32, len: u64) -> Raw {
        self.u32(kind).length(len)
    }

    /// A tensor's description up to its format.
    fn tensor(self, name: &str, dims: &[u64], format: u32) -> Raw {
        let raw = self.text(name).u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, &dim| raw.length(dim)).u32(format)
    }

    fn zeros(mut self, n: usize) -> Raw {
        self.bytes.resize(self.bytes.len() + n, 0);
        self
    }

    fn refusal(self) -> String {
        Subject::new(&self.bytes).load().unwrap_err()
    }
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

#[test]
fn huge_numbers_are_refused_at_once() {
    let key = |kind| Raw::new(3, 0, 1).text("k").u32(kind);
    let nested = (0..1_000_000).fold(key(ARRAY), |raw, _| raw.array(ARRAY, 1));
    let cases = [
        (
            Raw::new(3, 1 << 63, 0),
            "tensor count at byte 8: expected at most 65536, found 9223372036854775808",
        ),
        (Raw::new(3, 0, 1 << 63), "metadata count at byte 16: expected at most 16384"),
        (Raw::new(1, u64::MAX, 0), "tensor count at byte 8: expected at most 65536, found 4294967295"),
        (Raw::new(3, 0, 1).length(u64::MAX), "metadata key 0 at byte 24"),
        (key(STRING).length(u64::MAX), "key \"k\" at byte 37: expected a string that fits in the 0 bytes"),
        (
            key(ARRAY).array(0, 1 << 60).zeros(64),
            "key \"k\" at byte 41: expected an array that fits in the 64 bytes",
        ),
        (key(ARRAY).array(12, 1 << 61).zeros(64), "found 2305843009213693952 of f64"),
        (key(ARRAY).array(12, u64::MAX).zeros(64), "found 18446744073709551615 of f64"),
        (key(ARRAY).array(STRING, 1 << 60).zeros(64), "found 1152921504606846976 of string"),
        (key(ARRAY).array(STRING, 1 << 61).zeros(64), "found 2305843009213693952 of string"),
        (key(ARRAY).array(ARRAY, 1 << 60).zeros(64), "found 1152921504606846976 of array"),
        (key(ARRAY).array(7, 9).zeros(8), "found 9 of bool"),
        (nested, "expected at most 4 arrays within each other, found more"),
        (
            Raw::new(3, 1, 0).tensor("t", &[1 << 62, 1 << 62], 0).length(0),
            "tensor \"t\" (byte 24): expected rows of whole F32",
        ),
        (
            Raw::new(3, 1, 0).tensor("t", &[1 << 40], 0).length(0),
            "tensor \"t\" (byte 24): expected data within",
        ),
        (
            Raw::new(3, 1, 0).tensor("t", &[8], 0).length(u64::MAX - 31).zeros(99),
            "found 32 bytes from beyond 2^64",
        ),
        (
            Raw::new(3, 1, 0).tensor("t", &[8], 0).length(1 << 62).zeros(99),
            "tensor \"t\" (byte 24): expected data within",
        ),
    ];
    for (raw, expected) in cases {
        let message = raw.refusal();
        assert!(message.contains(expected), "{message}\nexpected {expected}");
    }
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let alignment = |value: u32| Raw::new(3, 0, 1).text("general.alignment").u32(4).u32(value);
    let twice = Raw::new(3, 0, 2).text("k").u32(0).zeros(1).text("k").u32(0).zeros(1);
    let tensors = Raw::new(3, 2, 0).tensor("t", &[0], 0).length(0).tensor("t", &[0], 0).length(0).zeros(99);
    let cases = [
        (
            alignment(0),
            "key \"general.alignment\" (byte 53): expected a power of two, at least 8, found u32 0",
        ),
        (alignment(4), "found u32 4"),
        (alignment(96), "found u32 96"),
        (twice, "key \"k\" (byte 51): expected one value, found the key a second time"),
        (tensors, "tensor \"t\" (byte 57): expected one tensor of this name, found a second"),
        (Raw::new(3, 0, 1).text("").u32(0).zeros(1), "metadata key 0 at byte 24: expected a name"),
        (
            Raw::new(3, 0, 1).text(&"k".repeat(257)).u32(0).zeros(1),
            "metadata key 0 at byte 24: expected a name",
        ),
        (
            Raw::new(3, 1, 0).tensor("t\u{85}", &[1], 0).length(0),
            "name of tensor 0 at byte 24: expected a name",
        ),
        (Raw::new(3, 1, 0).tensor("t", &[1; 5], 0).length(0), "expected at most 4 dimensions, found 5"),
        (Raw::new(3, 1, 0).tensor("t", &[256], 9999).length(0), "found type id 9999"),
        (Raw::new(3 << 24, 0, 0), "found a big-endian file of version 3"),
    ];
    for (raw, expected) in cases {
        let message = raw.refusal();
        assert!(message.contains(expected), "{message}\nexpected {expected}");
    }
}

/// Files of megabytes whose every byte counts: what is allocated stays below the promise.
#[test]
fn many_small_things_take_little() {
    let name = |i: u64| format!("{i:0>256}");
    let keys = (0..1 << 14).fold(Raw::new(3, 0, 1 << 14), |raw, i| raw.text(&name(i)).u32(0).zeros(1));
    assert!(keys.refusal().starts_with("key \"general.architecture\": "));

    let tensors =
        (0..1 << 16).fold(Raw::new(3, 1 << 16, 0), |raw, i| raw.tensor(&name(i), &[0; 4], 0).length(0));
    assert!(tensors.zeros(32).refusal().starts_with("key \"general.architecture\": "));

    let strings = Raw::new(1, 0, 1).text("k").u32(ARRAY).array(STRING, 5_000_000).zeros(20_000_000);
    assert!(strings.refusal().contains("key \"k\" at byte 29: expected at most 4194304 strings"));

    let empty = Raw::new(1, 0, 1).text("k").u32(ARRAY).array(ARRAY, 2_000_000).zeros(16_000_000);
    assert!(empty.refusal().starts_with("key \"general.architecture\": "));
}

/// One block of weights, claimed by the vectors of thousands of layers, would be copied for each.
#[test]
fn shared_bytes_do_not_multiply() {
    let names: Vec<_> = (0..4096).map(|i| format!("blk.{i}.attn_norm.weight")).collect();
    let raw = Raw::new(3, names.len() as u64, 0);
    let raw = names.iter().fold(raw, |raw, name| raw.tensor(name, &[1 << 20], 0).length(0));
    assert!(raw.zeros(5 << 20).refusal().contains("expected data of its own"));
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("absent.gguf")] {
        let message = Gguf::read(&path).unwrap_err().to_string();
        assert!(message.starts_with(&format!("cannot open {}: ", path.display())), "{message}");
    }
}

/// Fields as they follow each other in headers, with mostly small numbers.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let small = (0u64..16).prop_map(|n| n.to_le_bytes().to_vec());
    let short = (0u32..16).prop_map(|n| n.to_le_bytes().to_vec());
    let name = "[a-z]{1,3}".prop_map(|name| [&(name.len() as u64).to_le_bytes(), name.as_bytes()].concat());
    let noise = proptest::collection::vec(any::<u8>(), 0..9);
    prop_oneof![3 => small, 3 => short, 2 => name, 1 => noise]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn noise_after_the_magic_is_no_disaster(
        version in 1u32..4,
        tensors in 0u64..4,
        keys in 0u64..4,
        fields in proptest::collection::vec(field(), 0..40),
    ) {
        let raw = Raw::new(version, tensors, keys);
        prop_assert!(Subject::new(&[raw.bytes, fields.concat()].concat()).load().is_err());
    }
}
