//! What each operation of a test costs, beside what the machine could do.

use super::ceiling::{Ceiling, Class};
use llama_kernels::profile::{Operation, Profile, Record};
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

/// One repetition whose operations were recorded.
pub(super) struct Recorded {
    /// Seconds of all of it.
    pub(super) seconds: f64,
    pub(super) profile: Profile,
}

/// The peak of an operation's arithmetic, if it has any to speak of.
pub(super) fn peak(operation: &Operation, ceiling: &Ceiling) -> Option<f64> {
    match operation.product() {
        Some(product) => {
            let mut classes = product.formats.iter().map(|&format| Class::of(format));
            let first = classes.next()?;
            // Formats of several classes in one product have no common peak.
            classes.all(|next| next == first).then(|| ceiling.of_product(first, product.gemv))?
        }
        None => matches!(operation, Operation::Attention).then_some(ceiling.floats)?,
    }
}

/// Units per second, and their share of a ceiling.
struct Rate {
    per_second: f64,
    share: Option<f64>,
}

impl Rate {
    fn new(amount: f64, record: &Record, ceiling: Option<f64>) -> Option<Rate> {
        let per_second = amount / record.time.as_secs_f64().max(1e-9);
        (amount > 0.0).then(|| Rate { per_second, share: ceiling.map(|ceiling| per_second / ceiling) })
    }
}

fn bytes(record: &Record, ceiling: &Ceiling) -> Option<Rate> {
    Rate::new(record.bytes as f64, record, Some(ceiling.bandwidth).filter(|bandwidth| *bandwidth > 0.0))
}

fn operations(record: &Record, ceiling: &Ceiling) -> Option<Rate> {
    Rate::new(2.0 * record.macs as f64, record, peak(&record.operation, ceiling))
}

impl Recorded {
    /// The records, the longest first.
    fn records(&self) -> Vec<&Record> {
        let mut records: Vec<&Record> = self.profile.records.iter().collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.time));
        records
    }

    fn sum(&self, time: fn(&Record) -> Duration) -> f64 {
        self.profile.records.iter().map(time).sum::<Duration>().as_secs_f64()
    }

    /// What passes outside of all operations: the caller's part, and the beginnings of the regions.
    fn rest(&self) -> f64 {
        (self.seconds - self.sum(|record| record.time)).max(0.0)
    }

    /// A Markdown table under a line that says what the machine could do.
    pub(super) fn table(&self, title: &str, ceiling: &Ceiling) -> String {
        let giga = |rate: Option<f64>| rate.map_or("unknown".into(), |rate| format!("{:.1}", rate / 1e9));
        let mut out = format!(
            "\n{title}: memory {} GB/s, integers {} GOP/s, ",
            giga(Some(ceiling.bandwidth)),
            giga(ceiling.integers)
        );
        // Writing to a string cannot fail.
        if ceiling.tiles.is_some() {
            let _ = write!(out, "tiles {} GOP/s, ", giga(ceiling.tiles));
        }
        if ceiling.pairs.is_some() {
            let _ = write!(out, "bfloat16 {} GOP/s, ", giga(ceiling.pairs));
        }
        if ceiling.fixed.is_some() {
            let _ = write!(out, "fixed point {} GOP/s, ", giga(ceiling.fixed));
        }
        let _ = writeln!(out, "floats {} GOP/s\n", giga(ceiling.floats));
        let width = self
            .profile
            .records
            .iter()
            .map(|record| record.operation.to_string().len())
            .max()
            .unwrap_or(0)
            .max(22);
        let _ = writeln!(
            out,
            "| {:width$} |   calls |         ms |   share |    wait |     GB/s | of memory |    GOP/s |  of peak |",
            "operation"
        );
        let _ = writeln!(
            out,
            "| {} | ------: | ---------: | ------: | ------: | -------: | --------: | -------: | -------: |",
            "-".repeat(width)
        );
        let percent =
            |share: Option<f64>| share.map_or("-".into(), |share| format!("{:.1} %", 100.0 * share));
        let mut line = |name: &str, calls: String, seconds: f64, wait: f64, rates: [Option<Rate>; 2]| {
            let [memory, arithmetic] = rates;
            let amount = |rate: &Option<Rate>| {
                rate.as_ref().map_or("-".into(), |rate| format!("{:.2}", rate.per_second / 1e9))
            };
            let share = |rate: Option<Rate>| percent(rate.and_then(|rate| rate.share));
            let _ = writeln!(
                out,
                "| {name:width$} | {calls:>7} | {:>10.3} | {:>7} | {:>7} | {:>8} | {:>9} | {:>8} | {:>8} |",
                1e3 * seconds,
                percent(Some(seconds / self.seconds)),
                percent(Some(wait / self.seconds)),
                amount(&memory),
                share(memory),
                amount(&arithmetic),
                share(arithmetic),
            );
        };
        for record in self.records() {
            line(
                &record.operation.to_string(),
                record.calls.to_string(),
                record.time.as_secs_f64(),
                record.wait.as_secs_f64(),
                [bytes(record, ceiling), operations(record, ceiling)],
            );
        }
        line("between the operations", "-".into(), self.rest(), 0.0, [None, None]);
        line("all", "-".into(), self.seconds, self.sum(|record| record.wait), [None, None]);
        out
    }

    pub(super) fn json(&self, ceiling: &Ceiling) -> Value {
        let ns = |time: Duration| time.as_nanos() as u64;
        let operations = self.records().into_iter().map(|record| {
            let (memory, arithmetic) = (bytes(record, ceiling), operations(record, ceiling));
            json!({
                "operation": record.operation.to_string(),
                "calls": record.calls,
                "time_ns": ns(record.time),
                "wait_ns": ns(record.wait),
                "bytes": record.bytes,
                "macs": record.macs,
                "bandwidth_share": memory.and_then(|rate| rate.share),
                "peak_share": arithmetic.and_then(|rate| rate.share),
            })
        });
        json!({
            "time_ns": ns(Duration::from_secs_f64(self.seconds)),
            "rest_ns": ns(Duration::from_secs_f64(self.rest())),
            "wait_ns": ns(Duration::from_secs_f64(self.sum(|record| record.wait))),
            "operations": operations.collect::<Vec<_>>(),
        })
    }
}
