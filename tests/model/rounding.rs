//! What each engine's rounding does to a trained model's probabilities in a prompt: the figures of PERFORMANCE.md.

use super::cache_types::{effect, log_softmax, shared};
use super::{CPUS, ids, rewritten};
use llama_core::gguf::Gguf;
use llama_core::{Model, Options, Prompt, Token};
use llama_kernels::{Format, KvType};
use llama_tests::close::Activations;
use llama_tests::naive::Naive;

/// Tokens of text, within what the model was trained for.
const TOKENS: usize = 512;

/// The model with its matrices in a format, or in half precision where the rows are no whole blocks.
fn in_format(gguf: &Gguf, format: Format) -> Gguf {
    rewritten(gguf, &[], |tensors| {
        for (_, dims, kind, bytes) in tensors.iter_mut().filter(|(_, dims, ..)| dims.len() == 2) {
            let weights: Vec<f32> = bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
            assert_eq!(*kind, Format::F32);
            *kind = if dims[0].is_multiple_of(format.block_len()) { format } else { Format::F16 };
            bytes.clear();
            kind.quantize(&weights, bytes);
        }
    })
}

/// Against the same weights in f64. Prompts in bfloat16 cost no more than those in bytes, and less than a
/// thousandth of a nat; those in fixed point no more than floats. (In BF16 on AMX they are in bfloat16.)
#[test]
fn prompts_cost_little() {
    let (Some(model), Some(text)) =
        (shared("models/stories260K.gguf"), shared("text/tinystories_sample_2MiB.txt"))
    else {
        return;
    };
    let gguf = Gguf::read(model).unwrap();
    let text = std::fs::read_to_string(text).unwrap();
    for format in [Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0] {
        let gguf = in_format(&gguf, format);
        let naive = Naive::load(&gguf);
        let model = Model::from_gguf(gguf).unwrap();
        let cut = text.char_indices().nth(4000).map_or(text.len(), |(at, _)| at);
        let bos = model.tokenizer().bos().unwrap();
        let mut tokens: Vec<Token> = model.tokenizer().encode(&Prompt::new().special(bos).text(&text[..cut]));
        tokens.truncate(TOKENS);
        let vocab = model.config().vocab;
        let exact: Vec<f32> =
            naive.logits(&ids(&tokens)).iter().flatten().map(|&logit| logit as f32).collect();
        let exact = log_softmax(&exact, vocab);
        let mut found = Vec::new();
        for [cpu, ..] in CPUS.iter().filter(|[cpu, ..]| cpu.isa() != "scalar") {
            let options = Options::default().context(TOKENS).cpu(cpu.clone());
            let options = options.cache_type_k(KvType::F16).cache_type_v(KvType::F16);
            let logits = model.session(options).unwrap().forward_all(&tokens).unwrap().to_vec();
            let effect = effect(&exact, &log_softmax(&logits, vocab), vocab, &tokens);
            eprintln!(
                "{format} on {}: {:.1e} nats, other favourite at {:.2} %, perplexity times {:.5}",
                cpu.isa(),
                effect.divergence,
                100.0 * effect.others,
                effect.perplexity
            );
            found.push((Activations::on(cpu.isa(), format, TOKENS, false), effect.divergence));
        }
        let most = |kind| found.iter().filter(|(k, _)| *k == kind).map(|(_, d)| *d).fold(0.0, f64::max);
        assert!(most(Activations::Bf16) < 1e-3, "{format}: {found:?}");
        assert!(
            most(Activations::Float).max(most(Activations::Fixed)).max(most(Activations::Shorts)) < 1e-5,
            "{format}: {found:?}"
        );
        if format.is_integer() {
            assert!(most(Activations::Bf16) <= most(Activations::Int8), "{format}: {found:?}");
        }
    }
}
