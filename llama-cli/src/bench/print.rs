//! The results as tables for people and for programs.

use super::figures;
use super::plot::Plot;
use super::row::{FIELDS, Row};
use crate::args::{Bench, Table};
use crate::failure::Failure;
use crate::list::List;
use crate::output::{complain, print};
use llama_kernels::KvType;
use serde_json::Value;

/// Standard output, and standard error if that is wanted; each row is printed when it is there.
pub(super) struct Report {
    out: Printer,
    err: Option<Printer>,
    rows: Vec<Row>,
    plot: Option<Plot>,
}

impl Report {
    pub(super) fn new(args: &Bench) -> Result<Report, Failure> {
        let printer = |table| Printer { table, columns: columns(args), operations: args.roofline };
        let plot = args.plot.as_deref().map(Plot::new).transpose()?;
        Ok(Report { out: printer(args.output), err: args.output_err.map(printer), rows: Vec::new(), plot })
    }

    pub(super) fn add(&mut self, row: Row) -> Result<(), Failure> {
        let first = self.rows.is_empty();
        let text = |printer: &Printer| match first {
            true => printer.begin() + &printer.row(&row, true),
            false => printer.row(&row, false),
        };
        if let Some(err) = &self.err {
            complain(text(err));
        }
        print(text(&self.out))?;
        self.rows.push(row);
        Ok(())
    }

    /// Completes what was begun; without a row, that is nothing or an empty table.
    pub(super) fn end(mut self, failed: bool) -> Result<(), Failure> {
        let text = |printer: &Printer| match (self.rows.is_empty(), failed) {
            (false, _) => printer.end(&self.rows),
            (true, false) => printer.begin() + &printer.end(&[]),
            (true, true) => String::new(),
        };
        if let Some(err) = &self.err {
            complain(text(err));
        }
        print(text(&self.out))?;
        // Of nothing there is no picture, and what an earlier run has drawn stays.
        match self.plot.take().filter(|_| !self.rows.is_empty()) {
            Some(plot) => plot.write(&self.rows),
            None => Ok(()),
        }
    }
}

/// One of the forms.
struct Printer {
    table: Table,
    /// Of the Markdown table.
    columns: Vec<Column>,
    /// Whether what each operation costs is printed too.
    operations: bool,
}

impl Printer {
    fn begin(&self) -> String {
        match self.table {
            Table::Csv => names() + "\n",
            Table::Json => "[\n".into(),
            Table::Jsonl => String::new(),
            Table::Md => {
                let names = line(&self.columns, |column| column.name.into());
                let dashes = self.columns.iter().map(|column| match column.left {
                    true => format!(" {} |", "-".repeat(column.width)),
                    false => format!(" {}: |", "-".repeat(column.width - 1)),
                });
                format!("{names}|{}\n", dashes.collect::<String>())
            }
            Table::Sql => {
                let fields = FIELDS.iter().map(|field| format!("  {} {}", field.name, field.kind));
                let fields = fields.collect::<Vec<_>>().join(",\n");
                format!("CREATE TABLE IF NOT EXISTS llama_bench (\n{fields}\n);\n\n")
            }
        }
    }

    fn row(&self, row: &Row, first: bool) -> String {
        let values = |form: fn(&Value) -> String| {
            FIELDS.iter().map(|field| form(&(field.value)(row))).collect::<Vec<_>>().join(",")
        };
        match self.table {
            Table::Csv => values(csv) + "\n",
            Table::Json => format!("{}{:#}", if first { "" } else { ",\n" }, row.json()),
            Table::Jsonl => format!("{}\n", row.json()),
            Table::Md => line(&self.columns, |column| (column.value)(row)),
            Table::Sql => format!("INSERT INTO llama_bench ({}) VALUES ({});\n", names(), values(sql)),
        }
    }

    fn end(&self, rows: &[Row]) -> String {
        match self.table {
            Table::Json if rows.is_empty() => "]\n".into(),
            Table::Json => "\n]\n".into(),
            Table::Md if self.operations => {
                let tables = rows.iter().filter_map(|row| {
                    let (setting, test) = (&row.setting, row.test);
                    let cached = if row.resident { ", cache resident" } else { "" };
                    let title = format!(
                        "{test} of {} on {} x {}{cached}",
                        row.subject.name, setting.isa, setting.threads
                    );
                    Some(row.recorded.as_ref()?.table(&title, &row.ceiling))
                });
                tables.collect()
            }
            Table::Csv | Table::Jsonl | Table::Md | Table::Sql => String::new(),
        }
    }
}

fn names() -> String {
    FIELDS.iter().map(|field| field.name).collect::<Vec<_>>().join(",")
}

/// Always in quotes, which are doubled within; nothing at all is an empty field.
fn csv(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        value => format!("\"{value}\""),
    }
}

fn sql(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        value => value.to_string(),
    }
}

/// A column of the Markdown table.
struct Column {
    name: &'static str,
    width: usize,
    left: bool,
    value: Box<dyn Fn(&Row) -> String>,
}

/// llama-bench's columns; those of a setting only if it varies or is not the default.
fn columns(args: &Bench) -> Vec<Column> {
    let mut columns = Vec::new();
    let mut add = |shown: bool, name, width: i32, value: Box<dyn Fn(&Row) -> String>| {
        if shown {
            columns.push(Column { name, width: width.unsigned_abs() as usize, left: width < 0, value });
        }
    };
    add(true, "model", -30, Box::new(|row| row.subject.name.clone()));
    add(true, "size", 10, Box::new(|row| scaled(row.subject.size as f64, 1024.0, ["KiB", "MiB", "GiB"])));
    add(true, "params", 10, Box::new(|row| scaled(row.subject.params as f64, 1000.0, ["K", "M", "B"])));
    add(true, "backend", -10, Box::new(|row| row.setting.isa.into()));
    add(true, "threads", 7, Box::new(|row| row.setting.threads.to_string()));
    add(List::flat(&args.batch_size) != [2048], "n_batch", 7, Box::new(|row| row.setting.batch.to_string()));
    add(
        List::flat(&args.ubatch_size) != [512],
        "n_ubatch",
        8,
        Box::new(|row| row.setting.ubatch.to_string()),
    );
    add(args.cache_type_k != [KvType::F16], "type_k", 6, Box::new(|row| row.setting.type_k.to_string()));
    add(args.cache_type_v != [KvType::F16], "type_v", 6, Box::new(|row| row.setting.type_v.to_string()));
    add(true, "test", 15, Box::new(|row| row.test.to_string()));
    add(
        true,
        "t/s",
        20,
        Box::new(|row| {
            let speeds = row.speeds();
            format!("{:.2} ± {:.2}", figures::mean(&speeds), figures::deviation(&speeds))
        }),
    );
    add(
        args.compare.is_some(),
        "ratio",
        6,
        Box::new(|row| optional(row.ratio, |ratio| format!("{ratio:.3}"))),
    );
    let speed =
        |figure: fn(&[f64]) -> f64| Box::new(move |row: &Row| format!("{:.2}", figure(&row.speeds())));
    add(args.stats, "min", 9, speed(figures::min));
    add(args.stats, "median", 9, speed(figures::median));
    add(args.stats, "p95", 9, speed(|speeds| figures::percentile(speeds, 95)));
    add(args.stats, "first ms", 9, Box::new(|row| format!("{:.2}", 1e3 * row.first())));
    let slow = |row: &Row| optional(row.slow_token(), |seconds| format!("{:.2}", 1e3 * seconds));
    add(args.stats, "p95 ms", 9, Box::new(slow));
    add(args.stats, "load ms", 9, Box::new(|row| format!("{:.2}", 1e3 * row.subject.load)));
    let peak =
        |row: &Row| optional(row.peak_memory, |peak| scaled(peak as f64, 1024.0, ["KiB", "MiB", "GiB"]));
    add(args.stats, "peak RSS", 11, Box::new(peak));
    let mbu = |row: &Row| {
        let cached = if row.resident { " (cache)" } else { "" };
        optional(row.mbu(), |mbu| format!("{:.1} %{cached}", 100.0 * mbu))
    };
    add(args.roofline, "MBU", 15, Box::new(mbu));
    add(args.roofline, "MFU", 8, Box::new(|row| optional(row.mfu(), |mfu| format!("{:.1} %", 100.0 * mfu))));
    columns
}

/// A line of the table, every value as wide as its column at least.
fn line(columns: &[Column], value: impl Fn(&Column) -> String) -> String {
    let cells = columns.iter().map(|column| {
        let (text, width) = (value(column), column.width);
        if column.left { format!(" {text:width$} |") } else { format!(" {text:>width$} |") }
    });
    format!("|{}\n", cells.collect::<String>())
}

fn optional<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or("-".into(), text)
}

/// `x` with two decimals in the largest of three units, `step` apart, that leaves it above 1.
pub(crate) fn scaled(mut x: f64, step: f64, units: [&str; 3]) -> String {
    let mut unit = units[0];
    x /= step;
    for larger in &units[1..] {
        if x >= step {
            (x, unit) = (x / step, larger);
        }
    }
    format!("{x:.2} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_are_scaled_as_llama_bench_does() {
        let sizes = [(512.0, "0.50 KiB"), (3.5e6, "3.34 MiB"), (3_825_065_984.0, "3.56 GiB")];
        for (bytes, expected) in sizes {
            assert_eq!(scaled(bytes, 1024.0, ["KiB", "MiB", "GiB"]), expected);
        }
        assert_eq!(scaled(6.74e9, 1000.0, ["K", "M", "B"]), "6.74 B");
    }

    #[test]
    fn quotes_are_doubled_and_nothing_is_nothing() {
        let values = [json!("a \"b\" 'c'"), json!(3), json!(1.5), json!(null)];
        assert_eq!(values.each_ref().map(csv), ["\"a \"\"b\"\" 'c'\"", "\"3\"", "\"1.5\"", ""]);
        assert_eq!(values.each_ref().map(sql), ["'a \"b\" ''c'''", "3", "1.5", "NULL"]);
    }
}
