//! What the operations reach of what the machine could do, and where the time goes.
//!
//! ```text
//! GOP/s of an operation <= min(its operations per byte * bandwidth, peak of its engine)
//! ```

use super::axis::{Axis, number};
use super::chart::{LEFT, LINE, Sign, TEXT, TITLE, legend};
use super::svg::{Anchor, At, GREY, INK, Svg, width};
use crate::bench::ceiling::Ceiling;
use crate::bench::roofline::{self, Recorded};
use crate::bench::row::Row;
use llama_kernels::profile::Operation;

const FIELD: f64 = 330.0;
/// Room for the names of the ceilings.
const RIGHT: f64 = 178.0;
const GRID: &str = "#e4e7eb";

/// The operations that take the time, and the colour of each; all others share the last.
const OPERATIONS: [(&str, &str); 7] = [
    ("matmul", "#0072b2"),
    ("swiglu", "#009e73"),
    ("attention", "#d55e00"),
    ("quantize", "#b8860b"),
    ("rmsnorm", "#aa4499"),
    ("rope", "#3a9bdc"),
    ("others", "#8c959f"),
];

fn class(operation: &Operation) -> usize {
    let last = OPERATIONS.len() - 1;
    OPERATIONS[..last].iter().position(|(name, _)| *name == operation.name()).unwrap_or(last)
}

/// A class of operations of a test: equal kinds, formats and kernels, whatever their shapes.
struct Spot {
    class: usize,
    test: usize,
    name: String,
    macs: f64,
    bytes: f64,
    seconds: f64,
    peak: Option<f64>,
}

/// Rows of one setting, with a name for each.
pub(super) struct Roof<'a> {
    rows: Vec<(&'a Row, &'a Recorded, String)>,
    /// The best that was measured between them.
    ceiling: Ceiling,
    setting: String,
}

impl<'a> Roof<'a> {
    /// Of the rows those with the most threads and the last instruction set, if their operations were recorded.
    pub(super) fn new(rows: &'a [Row], name: impl Fn(&Row) -> String) -> Option<Roof<'a>> {
        let recorded = || rows.iter().filter(|row| row.recorded.is_some());
        let threads = recorded().map(|row| row.setting.threads).max()?;
        let isa = recorded().rfind(|row| row.setting.threads == threads)?.setting.isa;
        let chosen = recorded().filter(|row| row.setting.threads == threads && row.setting.isa == isa);
        let rows: Vec<_> = chosen.filter_map(|row| Some((row, row.recorded.as_ref()?, name(row)))).collect();
        let best = |of: fn(&Ceiling) -> Option<f64>| {
            rows.iter().filter_map(|(row, ..)| of(&row.ceiling)).reduce(f64::max)
        };
        let ceiling = Ceiling {
            bandwidth: best(|ceiling| Some(ceiling.bandwidth)).unwrap_or(0.0),
            integers: best(|ceiling| ceiling.integers),
            tiles: best(|ceiling| ceiling.tiles),
            pairs: best(|ceiling| ceiling.pairs),
            fixed: best(|ceiling| ceiling.fixed),
            floats: best(|ceiling| ceiling.floats),
        };
        let plural = if threads == 1 { "" } else { "s" };
        Some(Roof { rows, ceiling, setting: format!("{isa}, {threads} thread{plural}") })
    }

    fn spots(&self) -> Vec<Spot> {
        let mut spots: Vec<Spot> = Vec::new();
        for (test, (_, recorded, _)) in self.rows.iter().enumerate() {
            for record in recorded.profile.records.iter().filter(|record| record.macs > 0 && record.bytes > 0)
            {
                let mut name = record.operation.name().to_owned();
                if let Some(product) = record.operation.product() {
                    let formats: Vec<&str> = product.formats.iter().map(|format| format.name()).collect();
                    let kernel = if product.gemv { "gemv" } else { "gemm" };
                    name += &format!(" {} {kernel}", formats.join("+"));
                }
                let (macs, bytes) = (record.macs as f64, record.bytes as f64);
                let seconds = record.time.as_secs_f64();
                match spots.iter_mut().find(|spot| spot.test == test && spot.name == name) {
                    Some(spot) => {
                        spot.macs += macs;
                        spot.bytes += bytes;
                        spot.seconds += seconds;
                    }
                    None => {
                        let class = class(&record.operation);
                        let peak = roofline::peak(&record.operation, &self.ceiling);
                        spots.push(Spot { class, test, name, macs, bytes, seconds, peak });
                    }
                }
            }
        }
        spots
    }

    /// The names of the engines, their peaks in GOP/s, the highest first.
    fn peaks(&self) -> Vec<(&'static str, f64)> {
        let Ceiling { integers, tiles, pairs, fixed, floats, .. } = self.ceiling;
        let all = [
            ("integers", integers),
            ("tiles", tiles),
            ("bfloat16", pairs),
            ("fixed point", fixed),
            ("floats", floats),
        ];
        let mut known: Vec<_> =
            all.into_iter().filter_map(|(name, peak)| Some((name, peak? / 1e9))).collect();
        known.sort_by(|a, b| b.1.total_cmp(&a.1));
        known
    }

    /// Draws both below a point; returns how high they are together.
    pub(super) fn draw(&self, svg: &mut Svg, (x, y): At, wide: f64) -> f64 {
        let end = self.roofline(svg, (x, y), wide);
        self.shares(svg, (x, end + 24.0), wide) - y
    }

    fn roofline(&self, svg: &mut Svg, (x, y): At, wide: f64) -> f64 {
        svg.bold((x, y + TITLE), TITLE, &format!("Roofline: {}", self.setting));
        svg.text((x, y + TITLE + 22.0), Anchor::Start, TEXT, GREY, "GOP/s");
        let (left, right) = (x + LEFT, x + wide - RIGHT);
        let (top, bottom) = (y + TITLE + 30.0, y + TITLE + 30.0 + FIELD);
        let (spots, peaks) = (self.spots(), self.peaks());
        let bandwidth = (self.ceiling.bandwidth / 1e9).max(1e-9);
        let rate = |spot: &Spot| spot.macs * 2.0 / spot.seconds.max(1e-9) / 1e9;
        let density = |spot: &Spot| spot.macs * 2.0 / spot.bytes;
        let ridges = peaks.iter().map(|(_, peak)| peak / bandwidth);
        let across = Axis::logarithmic(span(spots.iter().map(density).chain(ridges)), (left, right));
        let up =
            Axis::logarithmic(span(spots.iter().map(rate).chain(peaks.iter().map(|p| p.1))), (bottom, top));
        for tick in up.ticks(22.0) {
            let at = up.place(tick);
            svg.line((left, at), (right, at), GRID, 1.0);
            svg.text((left - 8.0, at + 5.0), Anchor::End, TEXT, INK, &number(tick));
        }
        for tick in across.ticks(46.0) {
            let at = across.place(tick);
            svg.line((at, top), (at, bottom), GRID, 1.0);
            svg.text((at, bottom + 20.0), Anchor::Middle, TEXT, INK, &number(tick));
        }
        svg.line((left, bottom), (right, bottom), INK, 1.0);
        let below = "operations per byte (a multiplication and an addition are two)";
        svg.text(((left + right) / 2.0, bottom + 40.0), Anchor::Middle, TEXT, GREY, below);

        // What memory allows, up to the highest of the peaks.
        let ((first, last), (lowest, _)) = (across.ends(), up.ends());
        let highest = peaks.first().map_or(last * bandwidth, |peak| peak.1);
        let from = first.max(lowest / bandwidth);
        let at = |density: f64, rate: f64| (across.place(density), up.place(rate));
        let slope = [at(from, from * bandwidth), at(highest / bandwidth, highest)];
        svg.path(&slope, INK, "");
        let (dx, dy) = (slope[1].0 - slope[0].0, slope[1].1 - slope[0].1);
        let (angle, length) = (dy.atan2(dx), dx.hypot(dy));
        let text = format!("memory {} GB/s", number(bandwidth));
        // In its middle, a little above it.
        let start = ((length - width(&text, TEXT)) / 2.0).max(4.0);
        let (sin, cos) = angle.sin_cos();
        let place = (slope[0].0 + start * cos + 7.0 * sin, slope[0].1 + start * sin - 7.0 * cos);
        svg.turned(place, angle.to_degrees(), TEXT, INK, &text);
        let mut free = f64::NEG_INFINITY;
        for (name, peak) in &peaks {
            let (begin, end) = (at(peak / bandwidth, *peak), (right, up.place(*peak)));
            svg.path(&[begin, end], INK, if *name == "floats" { "7 4" } else { "" });
            let label = (end.1 + 5.0).max(free);
            svg.text(
                (right + 8.0, label),
                Anchor::Start,
                TEXT,
                INK,
                &format!("{name} {} GOP/s", number(*peak)),
            );
            free = label + TEXT + 3.0;
        }
        for spot in &spots {
            let (_, _, test) = &self.rows[spot.test];
            let of = |share: Option<f64>, what: &str| {
                share.map_or(String::new(), |share| format!(", {:.0} % of {what}", 100.0 * share))
            };
            let title = format!(
                "{test}: {}: {} GOP/s{}, {} GB/s{}",
                spot.name,
                number(rate(spot)),
                of(spot.peak.map(|peak| rate(spot) * 1e9 / peak), "the peak"),
                number(spot.bytes / spot.seconds.max(1e-9) / 1e9),
                of(Some(spot.bytes / spot.seconds.max(1e-9) / 1e9 / bandwidth), "the bandwidth"),
            );
            svg.mark(spot.test, at(density(spot), rate(spot)), OPERATIONS[spot.class].1, &title);
        }
        let mut entries: Vec<(Sign, String)> = Vec::new();
        for (i, (name, color)) in OPERATIONS.iter().enumerate() {
            if spots.iter().any(|spot| spot.class == i) {
                entries.push((Sign::Square(color), (*name).into()));
            }
        }
        entries.extend(self.rows.iter().enumerate().map(|(i, (_, _, name))| (Sign::Mark(i), name.clone())));
        legend(svg, (left, bottom + 64.0), x + wide - left, &entries)
    }

    fn shares(&self, svg: &mut Svg, (x, y): At, wide: f64) -> f64 {
        svg.bold((x, y + TITLE), TITLE, "Where the time goes");
        let mut y = y + TITLE + 12.0;
        let mut seen = [false; OPERATIONS.len()];
        for (_, recorded, name) in &self.rows {
            let mut seconds = [0.0; OPERATIONS.len()];
            for record in &recorded.profile.records {
                seconds[class(&record.operation)] += record.time.as_secs_f64();
            }
            let total = recorded.seconds.max(seconds.iter().sum()).max(1e-9);
            // What lies between the operations.
            *seconds.last_mut().expect("a list that is not empty") += total - seconds.iter().sum::<f64>();
            let label = format!("{name}: {} ms", number(1e3 * total));
            svg.text((x, y + TEXT), Anchor::Start, TEXT, INK, &label);
            let mut at = x;
            for (i, (what, color)) in OPERATIONS.iter().enumerate() {
                let part = wide * seconds[i] / total;
                if part < 0.5 {
                    continue;
                }
                seen[i] = true;
                let share = format!("{:.0} %", 100.0 * seconds[i] / total);
                svg.rect(
                    (at, y + 20.0),
                    ((part - 1.0).max(0.5), 22.0),
                    color,
                    &format!("{name}: {what} {share}"),
                );
                if part > width(&share, TEXT) + 8.0 {
                    svg.text((at + part / 2.0, y + 36.0), Anchor::Middle, TEXT, "#ffffff", &share);
                }
                at += part;
            }
            y += 52.0;
        }
        let entries: Vec<_> = OPERATIONS.iter().zip(seen).filter(|(_, seen)| *seen).collect();
        let entries: Vec<(Sign, String)> =
            entries.into_iter().map(|((name, color), _)| (Sign::Square(color), (*name).into())).collect();
        legend(svg, (x, y + LINE), wide, &entries)
    }
}

/// From a bit below the least to a bit above the greatest of values above zero.
fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values = values.filter(|value| *value > 0.0 && value.is_finite());
    let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
    if low > high { (0.1, 10.0) } else { (low / 1.7, high * 1.7) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_values_have_room() {
        let (low, high) = span([0.0, 10.0, 1000.0, f64::NAN, f64::INFINITY].into_iter());
        assert!((1.0..10.0).contains(&low) && (1000.0..10000.0).contains(&high));
        assert_eq!(span(std::iter::empty()), (0.1, 10.0));
    }
}
