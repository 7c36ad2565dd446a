//! One line of the results, and the names that its values have in files.

use super::ceiling::{Ceiling, Work};
use super::figures;
use super::roofline::Recorded;
use super::run::{Sample, Test};
use crate::args::Placement;
use llama_kernels::{KvType, Processors};
use serde_json::{Value, json};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A model that is measured.
#[derive(Debug)]
pub(super) struct Subject {
    /// Its own name, or its file's, and the format of its matrices.
    pub(super) name: String,
    pub(super) file: String,
    /// Bytes of all tensors.
    pub(super) size: u64,
    pub(super) params: u64,
    /// Seconds from the path to the model.
    pub(super) load: f64,
}

/// How it is measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Setting {
    pub(super) batch: u32,
    pub(super) ubatch: u32,
    pub(super) type_k: KvType,
    pub(super) type_v: KvType,
    pub(super) isa: &'static str,
    pub(super) threads: usize,
    pub(super) placement: Placement,
}

/// What came out.
pub(super) struct Row {
    pub(super) subject: Rc<Subject>,
    pub(super) setting: Setting,
    pub(super) test: Test,
    pub(super) samples: Vec<Sample>,
    /// Of one repetition.
    pub(super) work: Work,
    pub(super) ceiling: Ceiling,
    /// Whether the last-level cache is larger than the weights.
    pub(super) resident: bool,
    /// How much the clock and the memory's speed changed between the repetitions.
    pub(super) spreads: [f64; 2],
    /// The most memory that the process held with this model, in bytes; the file's pages count.
    pub(super) peak_memory: Option<u64>,
    /// When the test began, in seconds since 1970.
    pub(super) began: u64,
    /// The speed in relation to that of an earlier run.
    pub(super) ratio: Option<f64>,
    pub(super) recorded: Option<Recorded>,
}

impl Row {
    /// Tokens per second of each repetition.
    pub(super) fn speeds(&self) -> Vec<f64> {
        self.samples.iter().map(|sample| f64::from(self.test.tokens()) / sample.total).collect()
    }

    /// The median of the repetitions, in seconds.
    fn seconds(&self) -> f64 {
        figures::median(&self.samples.iter().map(|sample| sample.total).collect::<Vec<_>>())
    }

    /// Seconds until there were logits to choose a first token from, the median.
    pub(super) fn first(&self) -> f64 {
        figures::median(&self.samples.iter().map(|sample| sample.first).collect::<Vec<_>>())
    }

    /// What 95 % of the generated tokens do not exceed, in seconds.
    pub(super) fn slow_token(&self) -> Option<f64> {
        let tokens: Vec<f64> = self.samples.iter().flat_map(|sample| &sample.tokens).copied().collect();
        (!tokens.is_empty()).then(|| figures::percentile(&tokens, 95))
    }

    pub(super) fn mbu(&self) -> Option<f64> {
        self.ceiling.mbu(&self.work, self.seconds())
    }

    pub(super) fn mfu(&self) -> Option<f64> {
        self.ceiling.mfu(&self.work, self.seconds())
    }

    /// All fields, with the single repetitions and the operations, which have no place in a table.
    pub(super) fn json(&self) -> Value {
        let mut object = serde_json::Map::new();
        for field in FIELDS {
            object.insert(field.name.into(), (field.value)(self));
        }
        let nanoseconds: Vec<u64> = self.samples.iter().map(|sample| ns(sample.total)).collect();
        object.insert("samples_ns".into(), json!(nanoseconds));
        object.insert("samples_ts".into(), json!(self.speeds()));
        if let Some(recorded) = &self.recorded {
            object.insert("roofline".into(), recorded.json(&self.ceiling));
        }
        Value::Object(object)
    }
}

/// A value of a row as files have it.
pub(super) struct Field {
    pub(super) name: &'static str,
    /// SQL's type.
    pub(super) kind: &'static str,
    pub(super) value: fn(&Row) -> Value,
}

macro_rules! fields {
    ($($name:literal $kind:ident $value:expr;)*) => {
        /// Where llama-bench has the same, its name is used. Times ending in `_ns` are nanoseconds, speeds
        /// ending in `_ts` tokens per second.
        pub(super) const FIELDS: &[Field] =
            &[$(Field { name: $name, kind: stringify!($kind), value: $value }),*];
    };
}

fields! {
    "build_version" TEXT |_| json!(env!("CARGO_PKG_VERSION"));
    "cpu_info" TEXT |_| json!(crate::machine::cpu_name());
    "backends" TEXT |row| json!(row.setting.isa);
    "model_filename" TEXT |row| json!(row.subject.file);
    "model_type" TEXT |row| json!(row.subject.name);
    "model_size" INTEGER |row| json!(row.subject.size);
    "model_n_params" INTEGER |row| json!(row.subject.params);
    "n_batch" INTEGER |row| json!(row.setting.batch);
    "n_ubatch" INTEGER |row| json!(row.setting.ubatch);
    "n_threads" INTEGER |row| json!(row.setting.threads);
    "cpu_mask" TEXT |row| json!(mask(row.setting.placement.processors()));
    "cpu_strict" INTEGER |row| json!(row.setting.placement.cpu_strict);
    "prio" INTEGER |row| json!(row.setting.placement.prio as i8);
    "type_k" TEXT |row| json!(row.setting.type_k.name());
    "type_v" TEXT |row| json!(row.setting.type_v.name());
    "n_prompt" INTEGER |row| json!(row.test.prompt);
    "n_gen" INTEGER |row| json!(row.test.generated);
    "n_depth" INTEGER |row| json!(row.test.depth);
    "test" TEXT |row| json!(row.test.to_string());
    "test_time" TEXT |row| json!(rfc3339(row.began));
    "avg_ns" INTEGER |row| json!(ns(figures::mean(&totals(row))));
    "stddev_ns" INTEGER |row| json!(ns(figures::deviation(&totals(row))));
    "avg_ts" REAL |row| json!(figures::mean(&row.speeds()));
    "stddev_ts" REAL |row| json!(figures::deviation(&row.speeds()));
    "min_ts" REAL |row| json!(figures::min(&row.speeds()));
    "median_ts" REAL |row| json!(figures::median(&row.speeds()));
    "p95_ts" REAL |row| json!(figures::percentile(&row.speeds(), 95));
    "max_ts" REAL |row| json!(figures::max(&row.speeds()));
    "ttft_ns" INTEGER |row| json!(ns(row.first()));
    "token_p95_ns" INTEGER |row| json!(row.slow_token().map(ns));
    "load_ns" INTEGER |row| json!(ns(row.subject.load));
    "peak_rss" INTEGER |row| json!(row.peak_memory);
    "bandwidth" REAL |row| json!(row.ceiling.bandwidth);
    "integer_peak" REAL |row| json!(row.ceiling.integers);
    "tile_peak" REAL |row| json!(row.ceiling.tiles);
    "bf16_peak" REAL |row| json!(row.ceiling.pairs);
    "fixed_peak" REAL |row| json!(row.ceiling.fixed);
    "float_peak" REAL |row| json!(row.ceiling.floats);
    "bytes" INTEGER |row| json!(row.work.bytes);
    "mbu" REAL |row| json!(row.mbu());
    "mfu" REAL |row| json!(row.mfu());
    "cache_resident" INTEGER |row| json!(u8::from(row.resident));
    "clock_spread" REAL |row| json!(row.spreads[0]);
    "memory_spread" REAL |row| json!(row.spreads[1]);
    "ratio" REAL |row| json!(row.ratio);
}

fn totals(row: &Row) -> Vec<f64> {
    row.samples.iter().map(|sample| sample.total).collect()
}

/// The bits of a hexadecimal number, as llama-bench writes them; `0x0` for none.
fn mask(processors: Option<&Processors>) -> String {
    let numbers = processors.map_or(&[][..], Processors::numbers);
    let digits = numbers.last().map_or(0, |last| last / 4) + 1;
    let digit = |i: usize| numbers.iter().filter(|&n| n / 4 == i).map(|n| 1 << (n % 4)).sum::<u32>();
    let digits = (0..digits).rev().filter_map(|i| char::from_digit(digit(i), 16));
    format!("0x{}", digits.collect::<String>())
}

fn ns(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `2024-02-29T23:59:59Z`, of seconds since 1970.
fn rfc3339(seconds: u64) -> String {
    let (mut day, second) = (seconds / 86400, seconds % 86400);
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(rfc3339(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(rfc3339(4_102_444_800), "2100-01-01T00:00:00Z");
    }

    #[test]
    fn masks() {
        let of = |numbers: &[usize]| mask(Processors::new(numbers.iter().copied()).as_ref());
        assert_eq!((of(&[]).as_str(), of(&[0]).as_str()), ("0x0", "0x1"));
        assert_eq!((of(&[0, 2, 4]).as_str(), of(&[3, 67]).as_str()), ("0x15", "0x80000000000000008"));
    }

    #[test]
    fn no_name_occurs_twice() {
        for (i, field) in FIELDS.iter().enumerate() {
            assert!(FIELDS[..i].iter().all(|earlier| earlier.name != field.name), "{}", field.name);
        }
    }
}
