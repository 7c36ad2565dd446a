//! `--plot`: the results as a picture, for a page or for a browser.
//!
//! Speeds are drawn over the depth of the context and over the number of threads, if these vary, else as bars; then
//! what the operations reach of what the machine could do. It is written by hand: the elements that it takes are few,
//! and there is no font to measure.

mod axis;
mod chart;
mod roof;
mod svg;

use self::chart::{Chart, LINE, Point, Series};
use self::roof::Roof;
use self::svg::{Anchor, GREY, Svg};
use super::figures;
use super::row::Row;
use super::run::Test;
use crate::failure::Failure;
use crate::output::Pending;
use std::io::Write;
use std::path::{Path, PathBuf};

const WIDTH: f64 = 900.0;
const MARGIN: f64 = 28.0;

/// A parser of names that say what to write.
pub(crate) fn file(name: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(name);
    let known = is(&path, "svg") || is(&path, "html");
    if known { Ok(path) } else { Err("expected a name that ends in .svg or .html".into()) }
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// A file that will hold the picture.
pub(super) struct Plot {
    file: Pending,
    /// Whether it is a page.
    html: bool,
}

impl Plot {
    /// Sees before anything is measured that there is a place for it.
    pub(super) fn new(path: &Path) -> Result<Plot, Failure> {
        Ok(Plot { file: Pending::new(path, ".llama-plot-")?, html: is(path, "html") })
    }

    pub(super) fn write(mut self, rows: &[Row]) -> Result<(), Failure> {
        let svg = picture(rows);
        let text = if self.html { page(&svg) } else { svg };
        self.file.write(|file| file.write_all(text.as_bytes()))?;
        self.file.keep(true)
    }
}

fn page(svg: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>llama bench</title>\n\
         <style>body {{ background: #fff; margin: 0 }} svg {{ max-width: 100%; height: auto }}</style>\n{svg}</html>\n"
    )
}

fn picture(rows: &[Row]) -> String {
    let mut svg = Svg::new();
    let names = Names::new(rows);
    let mut y = MARGIN;
    svg.bold((MARGIN, y + 14.0), 21.0, &format!("llama bench {}", env!("CARGO_PKG_VERSION")));
    y += 18.0 + LINE;
    for line in [names.common(rows), crate::machine::cpu_name().unwrap_or_default()] {
        if !line.is_empty() {
            svg.text((MARGIN, y), Anchor::Start, chart::TEXT, GREY, &line);
            y += LINE;
        }
    }
    y += 8.0;
    let charts = charts(rows, &names);
    let wide = WIDTH - 2.0 * MARGIN;
    let half = (wide - MARGIN) / 2.0;
    for pair in charts.chunks(2) {
        let wide = if pair.len() == 2 { half } else { wide };
        let places = [MARGIN, MARGIN + half + MARGIN];
        let heights = pair.iter().zip(places).map(|(chart, x)| chart.draw(&mut svg, (x, y), wide));
        y += heights.fold(0.0, f64::max) + 24.0;
    }
    if let Some(roof) = Roof::new(rows, |row| names.of(row, &["isa", "threads"])) {
        y += roof.draw(&mut svg, (MARGIN, y), wide);
    }
    svg.finish(WIDTH, y + 8.0, "llama bench")
}

/// What a row may be named by.
type Fact = (&'static str, fn(&Row) -> String);

const FACTS: [Fact; 9] = [
    ("test", |row| Test { depth: 0, ..row.test }.to_string()),
    ("depth", |row| format!("d{}", row.test.depth)),
    ("model", |row| row.subject.name.clone()),
    ("isa", |row| row.setting.isa.into()),
    ("threads", |row| {
        format!("{} thread{}", row.setting.threads, if row.setting.threads == 1 { "" } else { "s" })
    }),
    ("batch", |row| format!("-b {}", row.setting.batch)),
    ("ubatch", |row| format!("-ub {}", row.setting.ubatch)),
    ("keys", |row| format!("keys {}", row.setting.type_k)),
    ("values", |row| format!("values {}", row.setting.type_v)),
];

/// Which of the facts differ.
struct Names {
    varying: Vec<Fact>,
    /// Whether several files hold models of the same name.
    files: bool,
}

impl Names {
    fn new(rows: &[Row]) -> Names {
        let differ = |of: fn(&Row) -> String| rows.iter().any(|row| of(row) != of(&rows[0]));
        let same = |a: &Row| {
            rows.iter().any(|b| a.subject.name == b.subject.name && a.subject.file != b.subject.file)
        };
        let files = rows.iter().any(same);
        let varying = FACTS.into_iter().filter(|(name, of)| match *name {
            "model" => files || differ(*of),
            _ => differ(*of),
        });
        Names { varying: varying.collect(), files }
    }

    /// The test, and what else tells it from other rows but for these facts.
    fn of(&self, row: &Row, without: &[&str]) -> String {
        let mut parts = vec![FACTS[0].1(row)];
        for (name, of) in &self.varying {
            match *name {
                "test" => {}
                name if without.contains(&name) => {}
                "model" if self.files => {
                    let stem = Path::new(&row.subject.file).file_stem().unwrap_or_default();
                    parts.push(stem.to_string_lossy().into_owned());
                }
                _ => parts.push(of(row)),
            }
        }
        parts.join(", ")
    }

    /// What all rows share of the model and of what computes.
    fn common(&self, rows: &[Row]) -> String {
        let varies = |name: &str| self.varying.iter().any(|(varying, _)| *varying == name);
        let shared =
            FACTS.iter().filter(|(name, _)| ["model", "isa", "threads"].contains(name) && !varies(name));
        let parts: Vec<String> =
            rows.first().map(|row| shared.map(|(_, of)| of(row)).collect()).unwrap_or_default();
        parts.join(", ")
    }
}

/// A kind of tests, whose speeds have little to do with those of another.
type Kind = (&'static str, fn(&Test) -> bool);

const KINDS: [Kind; 3] = [
    ("Prompt", |test| test.generated == 0),
    ("Generation", |test| test.prompt == 0),
    ("Prompt and generation", |test| test.prompt > 0 && test.generated > 0),
];

/// A fact that lines are drawn over, what its axis is called, and where a row is on it.
type Across = (&'static str, &'static str, fn(&Row) -> f64);

fn charts(rows: &[Row], names: &Names) -> Vec<Chart> {
    let varies = |name: &str| names.varying.iter().any(|(varying, _)| *varying == name);
    let axes: [Across; 2] = [
        ("depth", "tokens in the context", |row| row.test.depth.into()),
        ("threads", "threads", |row| row.setting.threads as f64),
    ];
    let mut charts = Vec::new();
    let mut add = |title: &str, axis: Option<&'static str>, fact: &str, x: fn(&Row) -> f64| {
        for (kind, is) in KINDS {
            let rows = rows.iter().filter(|row| is(&row.test));
            let series = series(rows, |row| names.of(row, &[fact]), x);
            if !series.is_empty() {
                charts.push(Chart { title: format!("{kind}{title}"), axis, series });
            }
        }
    };
    for (fact, axis, x) in axes.into_iter().filter(|(fact, ..)| varies(fact)) {
        add(&format!(": speed against {fact}"), Some(axis), fact, x);
    }
    if !varies("depth") && !varies("threads") {
        add("", None, "", |_| 0.0);
    }
    charts
}

/// The rows of each name as a line.
fn series<'a>(
    rows: impl Iterator<Item = &'a Row>,
    name: impl Fn(&Row) -> String,
    x: fn(&Row) -> f64,
) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for row in rows {
        let speeds = row.speeds();
        let point =
            Point { x: x(row), speed: figures::mean(&speeds), deviation: figures::deviation(&speeds) };
        let name = name(row);
        match all.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => all.push(Series { name, points: vec![point] }),
        }
    }
    for series in &mut all {
        series.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    all
}
