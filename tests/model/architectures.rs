//! The relatives of Llama: what tells them apart, and files that say the same in another way.

use crate::{VOCAB, check, rewritten, synthetic, text, tiny};
use llama_core::gguf::Value;
use llama_core::synth::{Family, Shape};
use llama_kernels::Format;

#[test]
fn every_family_agrees() {
    for family in Family::ALL {
        let shape = tiny(2).of(family);
        // A window of which the text is twice as long.
        let shape = Shape { window: if shape.window > 0 { 16 } else { 0 }, ..shape };
        let decided = check(family.name(), synthetic(Format::F32, shape), &text(32, VOCAB));
        assert!(decided >= 24, "{family:?}: a favourite at {decided} of 32 positions");
    }
}

/// Experts with few tokens each and with many, one and all of them, and in a quantized format.
#[test]
fn every_mixture_agrees() {
    for (experts, format, tokens) in [
        ((3, 1), Format::F32, 32),
        ((4, 4), Format::F32, 16),
        ((9, 3), Format::F16, 48),
        ((4, 2), Format::Q8_0, 40),
    ] {
        let shape = Shape { experts, ..tiny(1) };
        check(&format!("{experts:?} experts in {format}"), synthetic(format, shape), &text(tokens, VOCAB));
    }
}

/// Older files have a tensor for each expert: the same logits, to the bit.
#[test]
fn experts_in_tensors_of_their_own_are_the_same() {
    let shape = Shape { experts: (3, 2), ..tiny(1) };
    let merged = synthetic(Format::Q8_0, shape);
    let split = rewritten(&merged, &[], |tensors| {
        let all = std::mem::take(tensors);
        for (name, dims, format, bytes) in all {
            let Some((start, end)) = name.split_once("_exps") else {
                tensors.push((name, dims, format, bytes));
                continue;
            };
            for (i, bytes) in bytes.chunks_exact(bytes.len() / dims[2]).enumerate() {
                tensors.push((format!("{start}.{i}{end}"), dims[..2].to_vec(), format, bytes.to_vec()));
            }
        }
    });
    assert!(split.tensor("blk.0.ffn_down.2.weight").is_some());
    let logits = |gguf| {
        let model = llama_core::Model::from_gguf(gguf).unwrap();
        let mut session = model.session(llama_core::Options::default().context(32)).unwrap();
        session.forward_all(&text(20, VOCAB)).unwrap()
    };
    let (split, merged) = (logits(split), logits(merged));
    assert!(split.iter().zip(&merged).all(|(a, b)| a.to_bits() == b.to_bits()));
}

/// A window as long as the text is none; a single position sees itself alone.
#[test]
fn every_window_agrees() {
    let gguf = synthetic(Format::F32, tiny(2));
    let tokens = text(24, VOCAB);
    for window in [1u32, 2, 23, 24, 1000] {
        let keys = [("llama.attention.sliding_window", Value::from(window))];
        check(&format!("a window of {window}"), rewritten(&gguf, &keys, |_| ()), &tokens);
    }
}

/// Heads that are wider than the embedding divided among them, as Qwen3's are, and shared by eight.
#[test]
fn heads_of_another_width_agree() {
    for family in [Family::Qwen2, Family::Qwen3] {
        let gguf = synthetic(Format::F32, tiny(1).of(family));
        let name = family.name();
        let key = |key: &str| format!("{name}.{key}");
        let names = ["attention.head_count", "attention.head_count_kv", "attention.key_length"].map(key);
        let more = ["attention.value_length", "rope.dimension_count"].map(key);
        let names: Vec<String> = names.into_iter().chain(more).collect();
        // The same matrices, cut into half as many heads; the norms of heads become as wide.
        let values = [4u32, 1, 64, 64, 64].map(Value::from);
        let keys: Vec<(&str, Value<'_>)> = names.iter().map(String::as_str).zip(values).collect();
        let wider = rewritten(&gguf, &keys, |tensors| {
            for (name, dims, _, bytes) in tensors.iter_mut() {
                if name.ends_with("_q_norm.weight") || name.ends_with("_k_norm.weight") {
                    dims[0] *= 2;
                    *bytes = bytes.repeat(2);
                }
            }
        });
        check(&format!("{name} with wider heads"), wider, &text(16, VOCAB));
    }
}
