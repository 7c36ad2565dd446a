//! What some architectures add: biases, norms of heads, and the ways of tokens to their experts.

use crate::operations::rows;
use crate::{check, unwritten};
use llama_tests::close::{self, Answer, U};
use llama_tests::oracle::widen;
use llama_tests::shapes::Data;

#[test]
fn biases_are_added_to_every_token() {
    let mut data = Data::new(31);
    for (tokens, features) in [(1, 1), (3, 17), (40, 64)] {
        let (x, bias) = (data.values(tokens * features), data.values(features));
        let sums: Vec<f64> =
            widen(&x).iter().zip(widen(&bias).iter().cycle()).map(|(x, bias)| x + bias).collect();
        let bound = sums.iter().map(|sum| U * sum.abs()).collect();
        let what = format!("{tokens} tokens of {features}");
        check(&Answer { expected: sums, bound }, &x, &what, |ops, out| ops.add_bias(out, &bias));
        check(&Answer::exact(&x), &x, "no bias", |ops, out| ops.add_bias(out, &[]));
    }
}

#[test]
fn heads_are_normalised_on_their_own() {
    let mut data = Data::new(32);
    for (dim, heads, others) in [(8, 3, 1), (20, 2, 2), (64, 4, 1)] {
        let features = (heads + others) * dim + 7; // and what follows them
        let x = data.outliers(5 * features);
        let weights = [data.values(dim), data.values(dim)];
        for kept in [[true, true], [true, false], [false, true], [false, false]] {
            let token = |x: &[f32]| {
                let (normed, rest) = x.split_at((heads + others) * dim);
                let head = |(i, head): (usize, &[f32])| {
                    let kind = usize::from(i >= heads);
                    if kept[kind] { close::rmsnorm(head, &weights[kind], 1e-6) } else { Answer::exact(head) }
                };
                rows(normed.chunks(dim).enumerate().map(head).chain([Answer::exact(rest)]))
            };
            let answer = rows(x.chunks(features).map(token));
            let weight = |kind: usize| if kept[kind] { &weights[kind][..] } else { &[] };
            let norms = [(heads, weight(0)), (others, weight(1))];
            let what = format!("{heads} and {others} heads of {dim}, {kept:?}");
            check(&answer, &x, &what, |ops, out| ops.head_norms(out, 5, norms, 1e-6));
        }
    }
}

#[test]
fn rows_go_to_their_experts_and_back() {
    let mut data = Data::new(33);
    for (tokens, width, each) in [(1, 5, 2), (7, 16, 2), (30, 33, 3)] {
        let x = data.values(tokens * width);
        let order: Vec<u32> = (0..tokens * each).map(|_| data.below(tokens) as u32).collect();
        let gathered: Vec<f32> =
            order.iter().flat_map(|&row| x[row as usize * width..][..width].to_vec()).collect();
        let empty = unwritten(gathered.len());
        check(&Answer::exact(&gathered), &empty, "gather", |ops, out| ops.gather(out, &x, width, &order));

        let back: Vec<u32> = (0..tokens * each).rev().map(|i| i as u32).collect();
        let weights = data.values(tokens * each);
        let sum = |i: usize| {
            let (token, feature) = (i / width, i % width);
            let term = |j: usize| {
                let row = back[token * each + j] as usize;
                f64::from(weights[token * each + j]) * f64::from(gathered[row * width + feature])
            };
            let terms = || (0..each).map(term);
            let start = f64::from(x[i]);
            (
                start + terms().sum::<f64>(),
                close::dot_bound(2 * each, start.abs() + terms().map(f64::abs).sum::<f64>()),
            )
        };
        let (expected, bound) = (0..x.len()).map(sum).unzip();
        let what = format!("{tokens} tokens of {width} with {each} experts");
        check(&Answer { expected, bound }, &x, &what, |ops, out| {
            ops.add_weighted(out, &gathered, width, &back, &weights);
        });
    }
}
