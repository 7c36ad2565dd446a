//! Promise 2: every instruction set x format x awkward shape agrees with the oracle: integers exactly,
//! floats within a derived bound. Formats and instruction sets come from their registries, so a new one
//! is covered the day it is registered.

#[path = "kernels/context.rs"]
mod context;
#[path = "kernels/layers.rs"]
mod layers;
#[path = "kernels/operations.rs"]
mod operations;

use llama_kernels::{Cpu, CpuOptions, Format, Matrix, Ops};
use llama_tests::close::{self, Activations, Answer, dot_bound, violation};
use llama_tests::oracle::{self, GROUP, Int8, widen};
use llama_tests::shapes::{Data, Shape, awkward_shapes};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

/// Every instruction set of this machine, with one thread and with two.
static CPUS: LazyLock<Vec<[Cpu; 2]>> = LazyLock::new(|| {
    let cpu = |isa: &str, threads| {
        Cpu::new(&CpuOptions { threads: Some(threads), isa: Some(isa.to_owned()), ..CpuOptions::default() })
            .unwrap()
    };
    llama_kernels::available().into_iter().map(|isa| [cpu(isa, 1), cpu(isa, 2)]).collect()
});

/// Runs an operation that writes to a copy of `start` on every instruction set, in both modes: the
/// result must be within its bounds, and two threads must give the bits of one.
#[track_caller]
fn check(answer: &Answer, start: &[f32], what: &str, op: impl Fn(&Ops<'_>, &mut [f32]) + Sync) {
    check_each(|_, _| answer.clone(), start, what, op);
}

/// The same where the answer depends on the instruction set and the mode.
#[track_caller]
fn check_each(
    answer: impl Fn(&str, bool) -> Answer,
    start: &[f32],
    what: &str,
    op: impl Fn(&Ops<'_>, &mut [f32]) + Sync,
) {
    for [one, two] in &*CPUS {
        for deterministic in [false, true] {
            let answer = answer(one.isa(), deterministic);
            assert!(answer.bound.iter().all(|bound| bound.is_finite()), "{what}: anything would pass");
            let run = |cpu: &Cpu| {
                let mut out = start.to_vec();
                cpu.region(deterministic, |ops| op(ops, &mut out));
                out
            };
            let found = run(one);
            let what = || format!("{what}, {}, deterministic: {deterministic}", one.isa());
            if let Some(violation) = violation(&found, &answer.expected, &answer.bound) {
                panic!("{}: {violation}", what());
            }
            let same = found.iter().zip(run(two)).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{}: two threads give other bits than one", what());
        }
    }
}

/// Runs a test on each of these formats, whether others fail or not, and names all that did.
fn each<'a>(formats: impl IntoIterator<Item = &'a Format>, test: impl Fn(Format)) {
    let fails = |format: &&Format| catch_unwind(AssertUnwindSafe(|| test(**format))).is_err();
    let failed: Vec<&str> = formats.into_iter().filter(fails).map(|format| format.name()).collect();
    assert!(failed.is_empty(), "{} formats failed, each as said above: {}", failed.len(), failed.join(", "));
}

/// The formats that weights can be encoded in.
fn encoders() -> impl Iterator<Item = &'static Format> {
    Format::ALL.iter().filter(|format| format.encodes())
}

/// What a result is written over: a value that is left there is noticed.
fn unwritten(n: usize) -> Vec<f32> {
    vec![f32::NAN; n]
}

/// A product by the engine that each instruction set has for it: an answer for each way to do it.
struct Product {
    format: Format,
    tokens: usize,
    answers: Vec<(Activations, Answer)>,
}

impl Product {
    fn new(w: &Matrix<'_>, x: &[f32], tokens: usize) -> Product {
        Product::map(w.format(), tokens, |activations| close::matmul(w, x, tokens, activations))
    }

    /// The answer to something that follows from products of this format.
    fn map(format: Format, tokens: usize, answer: impl Fn(Activations) -> Answer) -> Product {
        let on =
            llama_kernels::available().into_iter().map(|isa| Activations::on(isa, format, tokens, false));
        let mut answers: Vec<(Activations, Answer)> = Vec::new();
        for activations in on.chain([Activations::of(format)]) {
            if answers.iter().all(|(known, _)| *known != activations) {
                answers.push((activations, answer(activations)));
            }
        }
        Product { format, tokens, answers }
    }

    fn with(&self, activations: Activations) -> &Answer {
        let mut answers = self.answers.iter();
        &answers.find(|(known, _)| *known == activations).expect("an answer for every engine").1
    }

    fn on(&self, isa: &str, deterministic: bool) -> &Answer {
        self.with(Activations::on(isa, self.format, self.tokens, deterministic))
    }

    /// The same with more room, or another value, for each.
    fn then(self, f: impl Fn(Answer) -> Answer) -> Product {
        let answers =
            self.answers.into_iter().map(|(activations, answer)| (activations, f(answer))).collect();
        Product { answers, ..self }
    }

    #[track_caller]
    fn check(&self, start: &[f32], what: &str, op: impl Fn(&Ops<'_>, &mut [f32]) + Sync) {
        check_each(|isa, deterministic| self.on(isa, deterministic).clone(), start, what, op);
    }
}

fn matrix(format: Format, rows: usize, cols: usize, bytes: &[u8]) -> Matrix<'_> {
    Matrix::new(format, rows, cols, bytes).expect("encoded from rows x cols values")
}

fn encode(format: Format, weights: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    format.quantize(weights, &mut bytes);
    bytes
}

/// Weights of this deviation: Gaussian, or random blocks of a format that is only read.
fn random(format: Format, data: &mut Data, rows: usize, cols: usize, deviation: f32) -> Vec<u8> {
    if format.encodes() {
        return encode(format, &data.values(rows * cols).iter().map(|w| w * deviation).collect::<Vec<f32>>());
    }
    let mut bytes = Vec::new();
    format.random(rows * cols, deviation, || data.bits(), &mut bytes);
    bytes
}

/// Columns on both sides of the panels' ends (512 and 1024), and rows on both sides of a panel's
/// sixteen, for batches that are one, several or no whole tiles of any instruction set.
fn panel_shapes(format: Format) -> Vec<Shape> {
    let block = format.block_len();
    let mut shapes = Vec::new();
    for end in [512, 1024] {
        for cols in [end - block, end, end + block] {
            for (rows, tokens) in [
                (1, 1),
                (15, 2),
                (16, 4),
                (17, 8),
                (33, 5),
                (33, 9),
                (35, 13),
                (16, 16),
                (15, 17),
                (19, 27),
                (17, 33),
                (35, 50),
            ] {
                shapes.push(Shape { rows, cols, tokens });
            }
        }
    }
    shapes
}

/// What it is called, and whether a shape is of it.
type Kind = (&'static str, fn(&Shape) -> bool);

/// Kinds of shapes that no format may go without; only blocks of less than 64 can end within a stripe.
const KINDS: [Kind; 19] = [
    ("a stripe's tail", |s| s.cols % 64 != 0 && s.tokens <= 4),
    ("a stripe's tail in a batch", |s| s.cols % 64 != 0 && s.tokens > 8),
    ("a panel's tail", |s| s.cols > 512 && s.cols % 512 != 0 && s.tokens <= 4),
    ("a panel's tail in a batch", |s| s.cols > 512 && s.cols % 512 != 0 && s.tokens > 8),
    ("a panel's tail in matrix tiles", |s| s.cols > 512 && s.cols % 512 != 0 && s.tokens > 32),
    ("a panel's tail in matrix tiles of bytes", |s| s.cols > 512 && s.rows % 16 != 0 && s.tokens == 13),
    ("two matrix tiles of bytes", |s| s.cols > 512 && s.tokens == 27),
    ("a tail of rows", |s| s.rows % 16 != 0 && s.tokens <= 4),
    ("a tail of rows in a batch", |s| s.rows > 16 && s.rows % 16 != 0 && s.tokens > 8),
    ("1 token", |s| s.tokens == 1),
    ("2 tokens", |s| s.tokens == 2),
    ("3 tokens", |s| s.tokens == 3),
    ("4 tokens", |s| s.tokens == 4),
    ("5 tokens", |s| s.tokens == 5),
    ("6 tokens", |s| s.tokens == 6),
    ("7 tokens", |s| s.tokens == 7),
    ("8 tokens", |s| s.tokens == 8),
    ("9 tokens", |s| s.tokens == 9),
    ("a prompt", |s| s.tokens > 64),
];

/// Every shape that a format may have.
fn all_shapes(format: Format) -> impl Iterator<Item = Shape> {
    let shapes = awkward_shapes(format).into_iter().chain(panel_shapes(format));
    shapes.filter(|shape| shape.cols > 0)
}

/// A fifth of the shapes, another one for each of five formats, since what a format adds is how it unpacks.
fn a_fifth(format: Format) -> Vec<Shape> {
    let index = Format::ALL.iter().position(|&other| other == format).expect("a registered format");
    all_shapes(format).skip(index % 5).step_by(5).collect()
}

/// As few shapes as have one of each kind.
fn one_of_each_kind(format: Format) -> Vec<Shape> {
    let mut shapes: Vec<Shape> = Vec::new();
    for (_, kind) in KINDS {
        let is_of_it = |shape: &Shape| shape.rows > 0 && kind(shape);
        if !shapes.iter().any(is_of_it) {
            shapes.extend(all_shapes(format).find(is_of_it));
        }
    }
    shapes
}

#[test]
fn every_format_has_shapes_of_every_kind() {
    for &format in Format::ALL {
        let shapes = one_of_each_kind(format);
        for (what, kind) in KINDS {
            let found = shapes.iter().any(|shape| shape.rows > 0 && kind(shape));
            let possible = !what.starts_with("a stripe") || format.block_len() < 64;
            assert_eq!(found, possible, "{format}: {what}");
        }
        let all = all_shapes(format).count();
        let share = a_fifth(format).len();
        assert!(shapes.len() <= KINDS.len() && 4 * share < all, "{format}: {share} of {all}");
    }
}

#[test]
fn products_agree() {
    products(Format::ALL, one_of_each_kind);
}

/// Takes an emulator many minutes.
#[test]
fn products_agree_in_every_shape() {
    products(Format::ALL, a_fifth);
}

/// So many tokens that floats of every kind go through panels, wherever they do.
#[test]
fn floats_times_a_long_prompt_agree() {
    products(&[Format::F32, Format::F16, Format::BF16], |_| {
        [35, 1061].map(|cols| Shape { rows: 33, cols, tokens: 259 }).to_vec()
    });
}

fn products(formats: &[Format], shapes: fn(Format) -> Vec<Shape>) {
    each(formats, |format| {
        let mut data = Data::new(1);
        for shape @ Shape { rows, cols, tokens } in shapes(format) {
            let weights = [data.weights(format, rows, cols), data.weights(format, rows, cols)];
            let [w, up] = [weights[0].matrix(), weights[1].matrix()];
            let (x, residual) = (data.outliers(tokens * cols), data.values(tokens * rows));
            let [answer, up_answer] = [w, up].map(|w| Product::new(&w, &x, tokens));

            let what = |op| format!("{format} {op}, {shape:?}");
            let empty = unwritten(tokens * rows);
            answer.check(&empty, &what("matmul"), |ops, out| ops.matmul(out, &[w], &x));
            let swiglu = |activations| close::swiglu(answer.with(activations), up_answer.with(activations));
            let swiglu = Product::map(format, tokens, swiglu);
            swiglu.check(&empty, &what("swiglu"), |ops, out| ops.swiglu(out, w, up, &x));
            let sum = answer.then(|answer| answer.plus(&residual));
            sum.check(&residual, &what("matmul_add"), |ops, out| ops.matmul_add(out, w, &x));
        }
    });
}

#[test]
fn products_of_several_matrices_lie_side_by_side() {
    let formats = Format::ALL;
    let cols = formats.iter().map(|format| format.block_len()).max().unwrap().max(64);
    let mut data = Data::new(2);
    for first in 0..formats.len() {
        for tokens in [1, 3, 19, 37] {
            let rows = [17, 0, 5, 33];
            let format = |i: usize| formats[(first + i) % formats.len()];
            let weights: Vec<_> = (0..4).map(|i| data.weights(format(i), rows[i], cols)).collect();
            let matrices: Vec<Matrix<'_>> = weights.iter().map(|w| w.matrix()).collect();
            let x = data.values(tokens * cols);
            let products: Vec<Product> = matrices.iter().map(|w| Product::new(w, &x, tokens)).collect();
            let answer = |isa: &str, deterministic| {
                let all: Vec<Format> = products.iter().map(|product| product.format).collect();
                let beside = |format| Activations::beside(isa, format, &all, tokens, deterministic);
                let answers =
                    || products.iter().map(|product| product.with(beside(product.format))).zip(rows);
                let rows_of = |field: fn(&Answer) -> &Vec<f64>| {
                    let row = |t| answers().flat_map(move |(a, n)| field(a)[t * n..][..n].iter().copied());
                    (0..tokens).flat_map(row).collect::<Vec<f64>>()
                };
                Answer { expected: rows_of(|a| &a.expected), bound: rows_of(|a| &a.bound) }
            };
            let what = format!("{} and others, {tokens} tokens", format(0));
            check_each(answer, &unwritten(tokens * 55), &what, |ops, out| ops.matmul(out, &matrices, &x));
        }
    }
}

/// Integers times a power of two with an extreme one in every 32: encoders and the activations'
/// rounding to int8 keep them, and the sums of their products fit the 24 bits of an f32.
fn integers(data: &mut Data, n: usize, smallest: i32, largest: i32, extreme: i32) -> Vec<f32> {
    let mut value = |i| match i % GROUP {
        7 => extreme as f32,
        _ => (smallest + data.below((largest - smallest + 1) as usize) as i32) as f32,
    };
    (0..n).map(&mut value).collect()
}

#[test]
fn integers_are_exact() {
    let (rows, tokens) = (17, 33);
    each(encoders(), |format| {
        let (mut data, mut kept) = (Data::new(3), 0);
        for cols in [64, 544, 1056].map(|cols: usize| cols.next_multiple_of(format.block_len())) {
            let mut x = integers(&mut data, tokens * cols, -127, 127, -127);
            x.chunks_mut(GROUP)
                .enumerate()
                .for_each(|(i, x)| x.iter_mut().for_each(|x| *x *= [1.0, 4.0][i % 2]));
            for (smallest, largest, extreme) in [(-8, 7, -8), (7, 7, -8), (-127, 127, 127)] {
                let mut weights = integers(&mut data, rows * cols, smallest, largest, extreme);
                weights.iter_mut().for_each(|w| *w *= 0.125);
                let bytes = encode(format, &weights);
                let mut decoded = vec![0.0; weights.len()];
                format.dequantize(&bytes, &mut decoded);
                if decoded != weights {
                    continue;
                }
                kept += 1;
                let w = matrix(format, rows, cols, &bytes);
                for tokens in [1, 2, 3, 4, 5, 8, 9, 16, 17, 33] {
                    let x = &x[..tokens * cols];
                    let expected = oracle::matmul(&w, &widen(x), tokens);
                    let answer = Answer { bound: vec![0.0; expected.len()], expected };
                    let what = format!("{format} of integers, {rows} x {cols}, {tokens} tokens");
                    check(&answer, &unwritten(tokens * rows), &what, |ops, out| ops.matmul(out, &[w], x));
                }
            }
        }
        let simple = [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0].contains(&format);
        assert!(kept > 0 || !simple, "{format} keeps neither nibbles nor bytes");
        if kept == 0 {
            eprintln!("{format}: its encoder keeps no integers, nothing was checked exactly");
        }
    });
}

/// The bytes of a matrix with one bit of its last block turned: a sign, the upper bit of a nibble, or
/// whatever else changes the fewest weights by a fair amount.
fn planted(w: &Matrix<'_>) -> Vec<u8> {
    let (last, mut right, mut wrong) = (w.rows() - 1, vec![0.0; w.cols()], vec![0.0; w.cols()]);
    w.dequantize_row(last, &mut right);
    let turned = |i: usize| {
        let mut bytes = w.bytes().to_vec();
        bytes[i] ^= 0x80;
        bytes
    };
    let mut changed = |i: usize| {
        matrix(w.format(), w.rows(), w.cols(), &turned(i)).dequantize_row(last, &mut wrong);
        let changes = || right.iter().zip(&wrong).map(|(a, b)| (a - b).abs());
        let fair = wrong.iter().all(|w| w.is_finite()) && changes().any(|change| change > 0.3);
        fair.then_some(changes().filter(|&change| change > 0.0).count())
    };
    let end = w.bytes().len();
    let block = end - w.format().block_bytes()..end;
    turned(block.filter_map(|i| Some((changed(i)?, i))).min().expect("a bit that matters").1)
}

#[test]
fn one_wrong_weight_is_noticed() {
    let rows = 17;
    each(Format::ALL, |format| {
        let cols = (2 * format.block_len()).max(64);
        let mut data = Data::new(4);
        let weights = data.weights(format, rows, cols);
        let w = weights.matrix();
        let bytes = planted(&w);
        let planted = matrix(format, rows, cols, &bytes);
        for tokens in [1, 2, 4, 8, 9, 33] {
            let x: Vec<f32> = data.values(tokens * cols).iter().map(|x| x + 0.5f32.copysign(*x)).collect();
            let (right, wrong) = (Product::new(&w, &x, tokens), Product::new(&planted, &x, tokens));
            for [cpu, _] in &*CPUS {
                let (right, wrong) = (right.on(cpu.isa(), false), wrong.on(cpu.isa(), false));
                let mut found = unwritten(tokens * rows);
                cpu.region(false, |ops| ops.matmul(&mut found, &[w], &x));
                let refused = |answer: &Answer, i: usize| {
                    violation(&found[i..=i], &answer.expected[i..=i], &answer.bound[i..=i]).is_some()
                };
                assert!((0..found.len()).all(|i| !refused(right, i)), "{format}: the right weights");
                let (last, others): (Vec<_>, Vec<_>) = (0..found.len()).partition(|i| i % rows == rows - 1);
                // Where one bit belongs to several weights, their changes may cancel for some token.
                let noticed = last.into_iter().filter(|&i| refused(wrong, i)).count();
                assert!(2 * noticed >= tokens, "{format}: noticed for {noticed} of {tokens} tokens");
                assert!(others.into_iter().all(|i| !refused(wrong, i)), "{format}: another row");
            }
        }
    });
}

/// What is lost if the groups whose int8 scale is subnormal count as zero, which they may.
fn lost_groups(w: &Matrix<'_>, x: &[f32], tokens: usize) -> Vec<f64> {
    let scales = Int8::quantize(x).scales;
    let lost = |i: usize| if scales[i / GROUP] < f32::MIN_POSITIVE { f64::from(x[i]).abs() } else { 0.0 };
    let mut weights = vec![0.0; w.cols()];
    let mut sums = vec![0.0; tokens * w.rows()];
    for (i, sum) in sums.iter_mut().enumerate() {
        let (t, row) = (i / w.rows(), i % w.rows());
        w.dequantize_row(row, &mut weights);
        *sum = weights.iter().zip(t * w.cols()..).map(|(w, i)| f64::from(w.abs()) * lost(i)).sum();
    }
    sums
}

#[test]
fn products_of_extreme_values_agree() {
    let rows = 17;
    each(Format::ALL, |format| {
        let cols = (3 * format.block_len()).max(96);
        let mut data = Data::new(5);
        for tokens in [1, 3, 17] {
            let n = tokens * cols;
            let scaled = |x: Vec<f32>, by: f32| x.iter().map(|x| x * by).collect::<Vec<f32>>();
            let mut spike = data.values(n);
            spike.iter_mut().skip(5).step_by(97).for_each(|x| *x = 1e30);
            let mut gaps = data.values(n);
            gaps.chunks_mut(GROUP).step_by(2).for_each(|group| group.fill(0.0));
            let cases = [
                ("zeros", vec![0.0; n], 1.0),
                ("gaps", gaps, 1.0),
                ("huge", scaled(data.values(n), 1e30), 1.0),
                ("spikes", spike, 1.0),
                ("tiny", scaled(data.values(n), 1e-36), 1.0),
                ("subnormal", scaled(data.values(n), 1e-39), 1.0),
                ("tiny weights", data.values(n), 1e-5), // subnormal scales in f16
                ("zero weights", data.values(n), 0.0),
            ];
            for (what, x, size) in cases {
                let bytes = random(format, &mut data, rows, cols, size);
                let w = matrix(format, rows, cols, &bytes);
                let lost = lost_groups(&w, &x, tokens);
                let answer = Product::new(&w, &x, tokens).then(|mut answer| {
                    if format.is_integer() {
                        answer.bound.iter_mut().zip(&lost).for_each(|(bound, lost)| *bound += lost);
                    }
                    answer
                });
                let what = format!("{format} with {what}, {tokens} tokens");
                let empty = unwritten(tokens * rows);
                answer.check(&empty, &what, |ops, out| ops.matmul(out, &[w], &x));
                // silu(g) * u may leave the range of f32, but is a number.
                for [cpu, _] in &*CPUS {
                    let mut out = unwritten(tokens * rows);
                    cpu.region(false, |ops| ops.swiglu(&mut out, w, w, &x));
                    assert!(out.iter().all(|v| !v.is_nan()), "{what}: swiglu on {}", cpu.isa());
                }
            }
        }
    });
}

/// The largest integers on both sides: where sums of 16 bits would overflow.
#[test]
fn products_of_the_largest_integers_agree() {
    each(encoders(), |format| {
        let (rows, cols) = (17, (3 * format.block_len()).max(96));
        // Of symmetric formats the extreme goes to -8 or -32, and all others to 7 or 31.
        let weight = |i| if i % 16 == 3 { -32.0 / 31.0 } else { 1.0 };
        let bytes = encode(format, &(0..rows * cols).map(weight).collect::<Vec<f32>>());
        let w = matrix(format, rows, cols, &bytes);
        for tokens in [1, 2, 4, 9, 33] {
            for sign in [1.0, -1.0] {
                let x = vec![sign; tokens * cols];
                let answer = Product::new(&w, &x, tokens);
                let what = format!("{format}, {tokens} tokens of {sign}");
                answer.check(&unwritten(tokens * rows), &what, |ops, out| ops.matmul(out, &[w], &x));
            }
        }
    });
}

/// Blocks that no encoder writes: any bytes, as long as they decode to moderate numbers.
#[test]
fn products_of_any_bytes_agree() {
    let rows = 17;
    each(Format::ALL, |format| {
        let (cols, mut data) = ((3 * format.block_len()).max(96), Data::new(9));
        let mut bytes = Vec::new();
        let (mut block, mut weights) = (vec![0; format.block_bytes()], vec![0.0; format.block_len()]);
        while bytes.len() < rows * format.row_bytes(cols).unwrap() {
            block.iter_mut().for_each(|byte| *byte = data.below(256) as u8);
            format.dequantize(&block, &mut weights);
            if weights.iter().all(|w| w.abs() < 1e9) {
                bytes.extend_from_slice(&block);
            }
        }
        let w = matrix(format, rows, cols, &bytes);
        for tokens in [1, 2, 4, 9, 33, 48] {
            let x = data.outliers(tokens * cols);
            let answer = Product::new(&w, &x, tokens);
            let what = format!("{format} of random bytes, {tokens} tokens");
            answer.check(&unwritten(tokens * rows), &what, |ops, out| ops.matmul(out, &[w], &x));
        }
    });
}

/// Whatever is rounded, with however many tokens.
#[test]
fn what_is_no_finite_number_stays_none() {
    let (rows, cols, wrong) = (35, 300, 7);
    for (format, tokens) in [Format::F32, Format::F16, Format::BF16]
        .into_iter()
        .flat_map(|format| [1, 5, 12, 40, 64].map(|tokens| (format, tokens)))
    {
        for value in [f32::NAN, f32::INFINITY] {
            let mut data = Data::new(10);
            let (mut weights, mut x) = (data.values(rows * cols), data.values(tokens * cols));
            weights[wrong * cols + 250] = value;
            x[(tokens - 1) * cols + 3] = value;
            let bytes = encode(format, &weights);
            for [cpu, _] in &*CPUS {
                let mut out = vec![0.0; tokens * rows];
                cpu.region(false, |ops| ops.matmul(&mut out, &[matrix(format, rows, cols, &bytes)], &x));
                for (i, found) in out.iter().enumerate() {
                    let none = i % rows == wrong || i / rows + 1 == tokens;
                    assert_eq!(
                        found.is_finite(),
                        !none,
                        "{format}, {value}, {tokens} tokens, {}, {i}",
                        cpu.isa()
                    );
                }
            }
        }
    }
}

#[test]
fn a_lost_group_is_within_its_bound_only() {
    // The allowance of `lost_groups` is for subnormal scales: an ordinary group has none.
    let weights = Data::new(7).weights(Format::Q8_0, 1, 64);
    let mut x = Data::new(8).values(64);
    x[32..].iter_mut().for_each(|x| *x *= 1e-39);
    let lost = lost_groups(&weights.matrix(), &x, 1)[0];
    assert!(lost > 0.0 && lost < dot_bound(64, 1e-30), "{lost:e}");
    assert_eq!(lost_groups(&weights.matrix(), &Data::new(8).values(64), 1), [0.0]);
}
