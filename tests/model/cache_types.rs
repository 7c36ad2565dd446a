//! What each type of cache does to a trained model's probabilities: the figures of `KvType`'s documentation.

use llama_core::{Model, Options, Prompt, Token};
use llama_kernels::KvType;
use std::path::Path;

/// Tokens of text, within what the model was trained for.
const TOKENS: usize = 512;

pub(super) fn shared(name: &str) -> Option<std::path::PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")).join(name);
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
    }
    path.exists().then_some(path)
}

/// The logarithms of probabilities, row by row.
pub(super) fn log_softmax(logits: &[f32], vocab: usize) -> Vec<f64> {
    let row = |row: &[f32]| {
        let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum = row.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max;
        row.into_iter().map(|x| x - sum).collect::<Vec<f64>>()
    };
    logits.chunks_exact(vocab).flat_map(row).collect()
}

/// Against probabilities taken for exact: the divergence in nats per token, how often the favourite is another, and the
/// ratio of the perplexities.
pub(super) struct Effect {
    pub(super) divergence: f64,
    pub(super) others: f64,
    pub(super) perplexity: f64,
}

pub(super) fn effect(exact: &[f64], found: &[f64], vocab: usize, text: &[Token]) -> Effect {
    let rows = || exact.chunks_exact(vocab).zip(found.chunks_exact(vocab));
    let n = rows().count() as f64;
    let favourite = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let divergence = |(p, q): (&[f64], &[f64])| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
    let surprise =
        |(rows, next): ((&[f64], &[f64]), &Token)| rows.0[next.0 as usize] - rows.1[next.0 as usize];
    Effect {
        divergence: rows().map(divergence).sum::<f64>() / n,
        others: rows().filter(|(p, q)| favourite(p) != favourite(q)).count() as f64 / n,
        perplexity: (rows().zip(&text[1..]).map(surprise).sum::<f64>() / (n - 1.0)).exp(),
    }
}

#[test]
fn types_cost_what_their_documentation_says() {
    let (Some(model), Some(text)) =
        (shared("models/stories260K.gguf"), shared("text/tinystories_sample_2MiB.txt"))
    else {
        return;
    };
    let model = Model::read(model).unwrap();
    let text = std::fs::read_to_string(text).unwrap();
    let cut = text.char_indices().nth(4000).map_or(text.len(), |(at, _)| at);
    let bos = model.tokenizer().bos().unwrap();
    let mut tokens = model.tokenizer().encode(&Prompt::new().special(bos).text(&text[..cut]));
    tokens.truncate(TOKENS);
    assert_eq!(tokens.len(), TOKENS);
    let vocab = model.config().vocab;
    let run = |keys, values| {
        let options = Options::default().context(TOKENS).cache_type_k(keys).cache_type_v(values);
        log_softmax(&model.session(options).unwrap().forward_all(&tokens).unwrap(), vocab)
    };
    let exact = run(KvType::F32, KvType::F32);
    // Keys, values, and the divergence that the documentation gives.
    let documented = [
        (KvType::F16, KvType::F16, 5.7e-6),
        (KvType::BF16, KvType::BF16, 2.8e-4),
        (KvType::Q8_0, KvType::F32, 2.8e-3),
        (KvType::F32, KvType::Q8_0, 9.1e-6),
        (KvType::Q8_0, KvType::Q8_0, 2.9e-3),
        (KvType::Q4_0, KvType::F32, 0.83),
        (KvType::F32, KvType::Q4_0, 2.7e-3),
        (KvType::Q8_0, KvType::Q4_0, 5.1e-3),
        (KvType::Q4_0, KvType::Q4_0, 0.82),
    ];
    for (keys, values, expected) in documented {
        let found = effect(&exact, &run(keys, values), vocab, &tokens);
        eprintln!(
            "{keys} and {values}: {:.1e} nats, other favourite at {:.2} %, perplexity times {:.5}",
            found.divergence,
            100.0 * found.others,
            found.perplexity
        );
        // Instruction sets add up in other orders, which the two digits of the documentation can tell.
        assert!(
            (0.8..1.25).contains(&(found.divergence / expected)),
            "{keys}, {values}: {}",
            found.divergence
        );
    }
}
