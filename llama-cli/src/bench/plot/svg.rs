//! The few elements of SVG that a plot is made of.

use std::fmt::Write;

/// A point of the picture, in its units; y grows downwards.
pub(super) type At = (f64, f64);

pub(super) const INK: &str = "#1f2328";
pub(super) const GREY: &str = "#656d76";

/// Where a text is in relation to its point.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture that grows.
pub(super) struct Svg(String);

/// The width of a text, near enough to keep two apart: there is no font to ask.
pub(super) fn width(text: &str, size: f64) -> f64 {
    text.chars().map(|c| if c.is_uppercase() || c == 'm' || c == 'w' { 0.75 } else { 0.58 }).sum::<f64>()
        * size
}

impl Svg {
    pub(super) fn new() -> Svg {
        Svg(String::new())
    }

    // Writing to a string cannot fail, here and below.
    pub(super) fn line(&mut self, (x1, y1): At, (x2, y2): At, color: &str, stroke: f64) {
        let _ = writeln!(
            self.0,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{color}" stroke-width="{stroke}"/>"#
        );
    }

    pub(super) fn path(&mut self, points: &[At], color: &str, dashes: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        let _ = writeln!(
            self.0,
            r#"<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2.2" stroke-dasharray="{dashes}"/>"#
        );
    }

    /// A rectangle that says what it is to those who point at it.
    pub(super) fn rect(&mut self, (x, y): At, (width, height): At, color: &str, title: &str) {
        let title = escaped(title);
        let _ = writeln!(
            self.0,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{color}"><title>{title}</title></rect>"#
        );
    }

    pub(super) fn text(&mut self, at: At, anchor: Anchor, size: f64, color: &str, text: &str) {
        self.styled(at, anchor, size, color, "", text);
    }

    pub(super) fn bold(&mut self, at: At, size: f64, text: &str) {
        self.styled(at, Anchor::Start, size, INK, r#" font-weight="bold""#, text);
    }

    /// A text that runs at an angle, clockwise in degrees.
    pub(super) fn turned(&mut self, (x, y): At, angle: f64, size: f64, color: &str, text: &str) {
        let turn = format!(r#" transform="rotate({angle:.1} {x:.1} {y:.1})""#);
        self.styled((x, y), Anchor::Start, size, color, &turn, text);
    }

    fn styled(&mut self, (x, y): At, anchor: Anchor, size: f64, color: &str, style: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(text);
        let _ = writeln!(
            self.0,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" fill="{color}"{style}>{text}</text>"#
        );
    }

    /// One of [`MARKS`] shapes, with what it says to those who point at it.
    pub(super) fn mark(&mut self, shape: usize, (x, y): At, color: &str, title: &str) {
        let polygon = |points: &[At]| {
            let points: Vec<String> =
                points.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy)).collect();
            format!(r#"<polygon points="{}""#, points.join(" "))
        };
        let begin = match shape % MARKS {
            0 => format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="5""#),
            1 => polygon(&[(-4.6, -4.6), (4.6, -4.6), (4.6, 4.6), (-4.6, 4.6)]),
            2 => polygon(&[(0.0, -6.0), (5.8, 4.6), (-5.8, 4.6)]),
            3 => polygon(&[(0.0, -6.5), (6.5, 0.0), (0.0, 6.5), (-6.5, 0.0)]),
            4 => polygon(&[(-5.8, -4.6), (5.8, -4.6), (0.0, 6.0)]),
            _ => polygon(&[(-2.0, -6.0), (2.0, -6.0), (2.0, 6.0), (-2.0, 6.0)]),
        };
        let title = escaped(title);
        let _ = writeln!(
            self.0,
            r##"{begin} fill="{color}" stroke="#ffffff" stroke-width="1"><title>{title}</title></{}>"##,
            if shape.is_multiple_of(MARKS) { "circle" } else { "polygon" }
        );
    }

    /// The whole document, on white whatever the viewer's background is.
    pub(super) fn finish(self, width: f64, height: f64, title: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\">\n\
             <title>{}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}</svg>\n",
            escaped(title),
            self.0
        )
    }
}

/// How many shapes there are.
pub(super) const MARKS: usize = 6;

/// As XML has it; what XML does not have at all is left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\t' | '\n' | '\r' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_is_a_text() {
        assert_eq!(escaped("<a & \"b\">\n\u{0}\u{1b}\u{FFFF}é"), "&lt;a &amp; &quot;b&quot;&gt; é");
    }
}
