//! Keys that move and turn within the cache, against the first layer in f64. Later layers differ by nature:
//! what stays was computed in the presence of what left.

use crate::gguf::Gguf;
use crate::synth::{Shape, Spec, Synth};
use crate::{Model, Options, RopeOptions, Scaling, Session, Token};
use llama_kernels::{Format, KvType};

const DIM: usize = 32;
const CONTEXT: usize = 40;

/// Two heads that share keys of a group's width.
fn model() -> Model {
    let file = tempfile::NamedTempFile::new().unwrap();
    let tiny = Shape::from_name("tiny").unwrap();
    let shape = Shape { layers: 2, d_model: 2 * DIM, d_ff: 96, heads: 2, kv_heads: 1, vocab: 400, ..tiny };
    let spec = Spec { shape, format: Format::F32.into(), seed: 9 };
    Synth::new(&spec).unwrap().write(file.as_file(), |_| ()).unwrap();
    Model::from_gguf(Gguf::read(file.path()).unwrap()).unwrap()
}

fn tokens(n: u32) -> Vec<Token> {
    (0..n).map(|i| Token(1 + i * 37 % 390)).collect()
}

/// A token's key in the first layer at a position, and how far f32 may be from it before it is cached.
fn key(model: &Model, token: Token, position: usize, base: f64) -> (Vec<f64>, f64) {
    let (config, weights) = (model.config(), model.weights());
    let layer = &weights.layers[0];
    let row = |matrix: llama_kernels::Matrix<'_>, row: usize| {
        let mut out = vec![0.0; matrix.cols()];
        matrix.dequantize_row(row, &mut out);
        out.into_iter().map(f64::from).collect::<Vec<f64>>()
    };
    let x = row(weights.token_embd.matrix(), token.0 as usize);
    let mean_square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let rms = (mean_square + f64::from(config.norm_eps)).sqrt();
    let xn: Vec<f64> = x.iter().zip(&layer.attn_norm).map(|(x, w)| x / rms * f64::from(*w)).collect();
    let products =
        |i: usize| row(layer.attn_k.matrix(), i).into_iter().zip(&xn).map(|(w, x)| w * x).collect();
    let products: Vec<Vec<f64>> = (0..DIM).map(products).collect();
    let k: Vec<f64> = products.iter().map(|products| products.iter().sum()).collect();
    let mut turned = vec![0.0; DIM];
    for i in 0..DIM / 2 {
        let angle = position as f64 * base.powf(-2.0 * i as f64 / DIM as f64);
        let (sin, cos) = angle.sin_cos();
        turned[2 * i] = k[2 * i] * cos - k[2 * i + 1] * sin;
        turned[2 * i + 1] = k[2 * i] * sin + k[2 * i + 1] * cos;
    }
    // A norm and an inner product, each of all features, and two turns: roundings of the sum's terms.
    let largest = products.iter().map(|p| p.iter().map(|p| p.abs()).sum()).fold(0.0, f64::max);
    let roundings = 2.0 * x.len() as f64 + 24.0;
    (turned, 2.0 * roundings * f64::from(f32::EPSILON) / 2.0 * largest)
}

/// How far a cached feature is from one of a head whose largest is this.
fn rounding(kind: KvType, largest: f64) -> f64 {
    let half = |bits: i32| 2f64.powi(-bits);
    match kind {
        KvType::F32 => 0.0,
        KvType::F16 => largest * half(11) + half(25),
        KvType::BF16 => largest * half(8),
        // Half a step of 127, or a step of eight whose other end is short; and the scale's own rounding.
        KvType::Q8_0 => largest / 254.0 + largest * half(11),
        KvType::Q4_0 => largest / 8.0 + largest * half(11),
    }
}

/// Whether each key of the first layer is that of its token at its position, having been cached `times`.
fn agrees(session: &Session, kind: KvType, base: f64, times: impl Fn(usize) -> i32) -> Result<(), String> {
    let evaluation = &session.evaluation;
    let layer = &evaluation.kv.layers()[0];
    for position in 0..evaluation.kv.len() {
        let (expected, error) = key(&session.model, evaluation.tokens[position], position, base);
        let largest = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs())) * 2f64.sqrt();
        // A turn spreads the errors of a pair: by the root of two at most.
        let rounded = rounding(kind, largest + rounding(kind, largest));
        let times = times(position);
        let bound = error + (0..times).map(|i| rounded * 2f64.sqrt().powi(i)).sum::<f64>();
        let mut found = [0.0; DIM];
        layer.key(0, position, &mut found);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let off = (f64::from(*found) - expected).abs();
            if off.is_nan() || off > bound {
                return Err(format!("{kind}, position {position}, {i}: {off:e} of {expected:e}, {bound:e}"));
            }
        }
    }
    Ok(())
}

#[test]
fn shifted_keys_are_those_of_their_new_positions() {
    let model = model();
    let base = f64::from(model.config().rope.freq_base);
    for kind in KvType::ALL {
        let options = || Options::default().context(CONTEXT).cache_type_k(kind);
        let mut session = model.session(options().context_shift(3)).unwrap();
        session.forward(&tokens(CONTEXT as u32)).unwrap();
        agrees(&session, kind, base, |_| 1).unwrap();
        let before = session.tokens().to_vec();
        session.forward(&[Token(5)]).unwrap();
        let (kept, left) = (if model.tokenizer().bos() == Some(before[0]) { 4 } else { 3 }, CONTEXT);
        let gone = (left - kept) / 2;
        assert_eq!(session.tokens(), [&before[..kept], &before[kept + gone..], &[Token(5)]].concat());
        assert_eq!(session.stats().forgotten_tokens, gone);
        agrees(&session, kind, base, |position| if position < kept { 1 } else { 2 }).unwrap();

        // A cache from scratch is within the same bounds, and one that moved without a turn is not.
        let mut scratch = model.session(options()).unwrap();
        scratch.forward(session.tokens()).unwrap();
        agrees(&scratch, kind, base, |_| 1).unwrap();
        session.evaluation.tokens.swap(kept, kept + 1);
        assert!(agrees(&session, kind, base, |_| 2).is_err(), "{kind}: two tokens may change places");
        session.evaluation.tokens.swap(kept, kept + 1);
        let off = base * 10.0;
        assert!(agrees(&session, kind, off, |_| 2).is_err(), "{kind}: another base passes");
    }
}

/// Each time the text outgrows as many original contexts as it has, all keys turn to a larger base.
#[test]
fn dynamic_scaling_turns_all_keys_to_one_base() {
    let model = model();
    let own = f64::from(model.config().rope.freq_base);
    for kind in KvType::ALL {
        let rope =
            RopeOptions { scaling: Some(Scaling::Dynamic), original_context: Some(9), ..Default::default() };
        let mut session =
            model.session(Options::default().context(CONTEXT).cache_type_k(kind).rope(rope)).unwrap();
        for (i, token) in tokens(30).into_iter().enumerate() {
            session.forward(&[token]).unwrap();
            let stage = i / 9 + 1;
            let base = own * (stage as f64).powf(DIM as f64 / (DIM as f64 - 2.0));
            agrees(&session, kind, base, |position| (stage - position / 9) as i32).unwrap();
        }
    }
}

/// What is not yet evaluated may be forgotten, and what is behind it, too.
#[test]
fn tokens_may_leave_before_they_are_evaluated() {
    let model = model();
    let base = f64::from(model.config().rope.freq_base);
    let mut session = model.session(Options::default().context(CONTEXT).context_shift(3)).unwrap();
    session.forward(&tokens(10)).unwrap();
    session.evaluation.append(&tokens(30)).unwrap();
    assert!(session.evaluation.make_room(1));
    session.forward(&[Token(7)]).unwrap();
    assert!(session.tokens().len() < CONTEXT && session.evaluation.kv.len() == session.tokens().len());
    agrees(&session, KvType::F16, base, |_| 2).unwrap();
}
