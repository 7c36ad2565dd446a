//! `llama bench --plot`: that there is a picture, and what is in it.

use crate::fixture::{Fixture, assert_refused, names, output, stderr};
use std::fs;

/// Draws these tests into a file of this name, and returns what is in it.
fn drawn(fixture: &Fixture, name: &str, more: &[&str]) -> String {
    let path = fixture.path(name);
    let base =
        ["bench", "-m", &fixture.model, "-r", "2", "--isa", "scalar", "--plot", path.to_str().unwrap()];
    let output = output(&[&base[..], more].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    // The picture is no reason to print more.
    assert!(!String::from_utf8_lossy(&output.stdout).contains("between the operations"));
    fs::read_to_string(path).unwrap()
}

/// The texts that are shown, without those for pointing at.
fn texts(svg: &str) -> Vec<String> {
    let document = roxmltree::Document::parse(svg).unwrap_or_else(|e| panic!("{e}: {svg}"));
    let root = document.root_element();
    assert_eq!((root.tag_name().name(), root.attribute("font-family").is_some()), ("svg", true));
    // White lies under everything.
    let first = root
        .children()
        .find(|node| node.has_tag_name("rect"))
        .or_else(|| root.children().find(|node| node.tag_name().name() == "rect"));
    assert_eq!(first.unwrap().attribute("fill"), Some("#ffffff"));
    let size = |name: &str| root.attribute(name).unwrap().parse::<f64>().unwrap();
    let (width, height) = (size("width"), size("height"));
    let shown = document.descendants().filter(|node| node.tag_name().name() == "text");
    shown
        .map(|node| {
            let at = |name: &str| node.attribute(name).unwrap().parse::<f64>().unwrap();
            assert!((0.0..width).contains(&at("x")) && (0.0..height).contains(&at("y")), "{node:?}");
            node.text().unwrap_or_default().to_owned()
        })
        .collect()
}

/// Lines of points, by how many each has.
fn lines(svg: &str, points: usize) -> usize {
    let document = roxmltree::Document::parse(svg).unwrap();
    let lines = document.descendants().filter(|node| node.tag_name().name() == "polyline");
    lines.filter(|line| line.attribute("points").unwrap().split_whitespace().count() == points).count()
}

#[test]
fn speeds_are_drawn_against_depth_and_threads_with_every_series() {
    let fixture = Fixture::new();
    let svg = drawn(&fixture, "a.svg", &["-p", "8", "-n", "2", "-d", "0,16,32", "-t", "1,2"]);
    let texts = texts(&svg);
    let has = |text: &str| assert!(texts.iter().any(|found| found == text), "{text}: {texts:?}");
    for kind in ["Prompt", "Generation"] {
        has(&format!("{kind}: speed against depth"));
        has(&format!("{kind}: speed against threads"));
    }
    for (test, thread) in
        [("pp8", "1 thread"), ("pp8", "2 threads"), ("tg2", "1 thread"), ("tg2", "2 threads")]
    {
        has(&format!("{test}, {thread}"));
    }
    for test in ["pp8, d0", "pp8, d16", "pp8, d32", "tg2, d0", "tg2, d16", "tg2, d32"] {
        has(test);
    }
    for axis in ["tokens per second", "tokens in the context", "threads", "GOP/s"] {
        has(axis);
    }
    // Two kinds with a line for each number of threads.
    assert_eq!(lines(&svg, 3), 4, "{svg}");
    // Of the operations those with the most threads.
    for text in ["Roofline: scalar, 2 threads", "matmul", "swiglu", "attention", "Where the time goes"] {
        has(text);
    }
    for begin in ["memory ", "integers ", "floats ", "operations per byte", "tg2, d32: "] {
        assert!(texts.iter().any(|text| text.starts_with(begin)), "{begin}: {texts:?}");
    }
    assert!(
        svg.contains("attention: ") && svg.contains("matmul Q8_0 gemv: ") && svg.contains(" % of the peak")
    );
    // Nothing but the model and the picture is left.
    assert_eq!(names(fixture.directory.path()), ["a.svg", "model.gguf"]);
}

#[test]
fn where_nothing_varies_there_are_bars_and_a_page_may_hold_them() {
    let fixture = Fixture::new();
    let html = drawn(&fixture, "a.HTML", &["-p", "8,16", "-n", "2", "-pg", "4,2", "-t", "1"]);
    assert!(html.starts_with("<!doctype html>") && html.contains("background: #fff"));
    let svg = &html[html.find("<svg").unwrap()..html.find("</html>").unwrap()];
    let texts = texts(svg);
    for text in ["pp8", "pp16", "tg2", "pp4+tg2", "Prompt", "Generation", "Prompt and generation"] {
        assert!(texts.iter().any(|found| found == text), "{text}: {texts:?}");
    }
    assert_eq!(texts.iter().filter(|text| text.ends_with(" t/s")).count(), 4, "{texts:?}");
    // A second run replaces the first.
    assert_ne!(drawn(&fixture, "a.HTML", &["-p", "8", "-n", "0", "-t", "1"]), html);
}

#[test]
fn a_name_that_says_not_what_to_draw_is_a_wrong_flag() {
    for name in ["a.png", "svg", "a"] {
        let output = output(&["bench", "--plot", name]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(".svg or .html"), "{}", stderr(&output));
    }
}

#[test]
fn no_place_for_the_picture_is_an_error_before_anything_is_measured() {
    let fixture = Fixture::new();
    let output = output(&["bench", "-m", &fixture.model, "--plot", "no/such/folder/a.svg"]);
    assert_refused(&output, "cannot write no/such/folder/a.svg: ");
    // The path once, and no other.
    assert!(stderr(&output).matches(['/', '\\']).count() == 3, "{}", stderr(&output));
    let folder = fixture.path("folder.svg");
    fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    assert_refused(&crate::fixture::output(&["bench", "-m", &fixture.model, "--plot", folder]), folder);
}
