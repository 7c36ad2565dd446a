//! A chart of lines, or of bars where there is nothing to draw a line over; and legends.

use super::axis::{Axis, apart, number};
use super::svg::{Anchor, At, GREY, INK, Svg, width};

/// Sizes of text.
pub(super) const TITLE: f64 = 17.0;
pub(super) const TEXT: f64 = 14.0;
/// From a line of text to the next.
pub(super) const LINE: f64 = 20.0;
/// Height of the field between the axes.
const FIELD: f64 = 210.0;
/// Room for the numbers on the left.
pub(super) const LEFT: f64 = 58.0;

const GRID: &str = "#e4e7eb";

/// Distinguishable also by those who see fewer colours.
const COLORS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#3a9bdc", "#444444"];
const DASHES: [&str; 4] = ["", "7 4", "2 3", "9 3 2 3"];

/// Speeds of one kind.
pub(super) struct Chart {
    pub(super) title: String,
    /// What is on the horizontal axis; bars have none.
    pub(super) axis: Option<&'static str>,
    pub(super) series: Vec<Series>,
}

pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<Point>,
}

#[derive(Clone, Copy)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) speed: f64,
    pub(super) deviation: f64,
}

/// The colour, dashes and shape of the series with this number.
fn look(i: usize) -> (&'static str, &'static str, usize) {
    (COLORS[i % COLORS.len()], DASHES[i / COLORS.len() % DASHES.len()], i)
}

impl Chart {
    /// Draws it below a point, as wide as that; returns how high it is.
    pub(super) fn draw(&self, svg: &mut Svg, (x, y): At, wide: f64) -> f64 {
        svg.bold((x, y + TITLE), TITLE, &self.title);
        let top = y + TITLE + 18.0;
        match self.axis {
            Some(axis) => self.lines(svg, (x, top), wide, axis) - y,
            None => self.bars(svg, (x, top), wide) - y,
        }
    }

    fn fastest(&self) -> f64 {
        let points = self.series.iter().flat_map(|series| &series.points);
        points.map(|point| point.speed + point.deviation).fold(0.0, f64::max).max(1e-9)
    }

    /// Returns where it ends.
    fn lines(&self, svg: &mut Svg, (x, y): At, wide: f64, axis: &str) -> f64 {
        let (left, right) = (x + LEFT, x + wide - 12.0);
        let (top, bottom) = (y + 18.0, y + 18.0 + FIELD);
        svg.text((x, y + 4.0), Anchor::Start, TEXT, GREY, "tokens per second");
        let vertical = Axis::linear((0.0, 1.08 * self.fastest()), (bottom, top));
        for tick in vertical.ticks(34.0) {
            let at = vertical.place(tick);
            svg.line((left, at), (right, at), GRID, 1.0);
            svg.text((left - 8.0, at + 5.0), Anchor::End, TEXT, INK, &number(tick));
        }
        let values: Vec<f64> = self.series.iter().flat_map(|s| s.points.iter().map(|p| p.x)).collect();
        let (low, high) = values.iter().fold((f64::INFINITY, 0.0f64), |(a, b), &x| (a.min(x), b.max(x)));
        let across = Axis::linear((low, high.max(low + 1.0)), (left + 14.0, right - 14.0));
        svg.line((left, bottom), (right, bottom), INK, 1.0);
        let widest = values.iter().map(|value| width(&number(*value), TEXT)).fold(0.0, f64::max);
        for tick in apart(values, &across, widest + 10.0) {
            let at = across.place(tick);
            svg.line((at, bottom), (at, bottom + 5.0), INK, 1.0);
            svg.text((at, bottom + 20.0), Anchor::Middle, TEXT, INK, &number(tick));
        }
        svg.text(((left + right) / 2.0, bottom + 40.0), Anchor::Middle, TEXT, GREY, axis);
        let mut entries = Vec::new();
        for (i, series) in self.series.iter().enumerate() {
            let (color, dashes, shape) = look(i);
            let place = |point: &Point| (across.place(point.x), vertical.place(point.speed));
            svg.path(&series.points.iter().map(place).collect::<Vec<_>>(), color, dashes);
            for point in &series.points {
                let (at, _) = place(point);
                let ends =
                    [-1.0, 1.0].map(|sign| vertical.place((point.speed + sign * point.deviation).max(0.0)));
                svg.line((at, ends[0]), (at, ends[1]), color, 1.4);
            }
            for point in &series.points {
                let title = format!("{}: {} at {} {axis}", series.name, speed(point), number(point.x));
                svg.mark(shape, place(point), color, &title);
            }
            entries.push((Sign::Line(i), series.name.clone()));
        }
        legend(svg, (left, bottom + 62.0), right - left, &entries)
    }

    /// The same of bars, each under its name.
    fn bars(&self, svg: &mut Svg, (x, y): At, wide: f64) -> f64 {
        let room = 130.0;
        let across = Axis::linear((0.0, self.fastest()), (x, x + wide - room));
        let mut y = y;
        for series in &self.series {
            for point in &series.points {
                svg.text((x, y + TEXT), Anchor::Start, TEXT, INK, &fitting(&series.name, wide));
                let end = across.place(point.speed);
                svg.rect((x, y + 20.0), ((end - x).max(1.0), 18.0), COLORS[0], &series.name);
                svg.text((end + 8.0, y + 34.0), Anchor::Start, TEXT, INK, &format!("{} t/s", speed(point)));
                y += 50.0;
            }
        }
        y
    }
}

fn speed(point: &Point) -> String {
    match point.deviation {
        deviation if deviation > 0.0 => format!("{} ± {}", number(point.speed), number(deviation)),
        _ => number(point.speed),
    }
}

/// As much of a text as there is room for.
fn fitting(text: &str, wide: f64) -> String {
    let mut kept = text.to_owned();
    while width(&kept, TEXT) > wide && kept.pop().is_some() {}
    if kept.len() < text.len() {
        kept.pop();
        kept.push('…');
    }
    kept
}

/// What stands before a name in a legend.
pub(super) enum Sign {
    /// The line with the marks of the series of this number.
    Line(usize),
    Square(&'static str),
    Mark(usize),
}

/// Draws the entries one after the other, in as many lines as they need; returns where they end.
pub(super) fn legend(svg: &mut Svg, (left, y): At, wide: f64, entries: &[(Sign, String)]) -> f64 {
    const SIGN: f64 = 34.0;
    let (mut x, mut y) = (left, y);
    for (sign, name) in entries {
        let name = fitting(name, wide - SIGN);
        let needed = SIGN + width(&name, TEXT) + 18.0;
        if x > left && x + needed > left + wide + 18.0 {
            (x, y) = (left, y + LINE);
        }
        let middle = (x + 13.0, y - 5.0);
        match sign {
            Sign::Line(i) => {
                let (color, dashes, shape) = look(*i);
                svg.path(&[(x, middle.1), (x + 26.0, middle.1)], color, dashes);
                svg.mark(shape, middle, color, &name);
            }
            Sign::Square(color) => svg.rect((x + 8.0, y - 12.0), (14.0, 14.0), color, &name),
            Sign::Mark(shape) => svg.mark(*shape, middle, GREY, &name),
        }
        svg.text((x + SIGN, y), Anchor::Start, TEXT, INK, &name);
        x += needed;
    }
    y + LINE
}
