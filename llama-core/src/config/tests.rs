use super::*;
use crate::gguf::tests::{complete, from_bytes};
use crate::gguf::{ArrayBuf, Writer};
use llama_kernels::Pairs;

/// The least that a model states.
fn minimal() -> Writer {
    let mut header = Writer::new();
    header.set("general.architecture", "llama");
    header.set("llama.block_count", 2u32);
    header.set("llama.embedding_length", 64u32);
    header.set("llama.feed_forward_length", 96u32);
    header.set("llama.attention.head_count", 8u32);
    header.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    header.set("llama.context_length", 256u32);
    header.set("tokenizer.ggml.tokens", &["a", "b", "c"].into_iter().collect::<ArrayBuf>());
    header
}

fn config(header: &Writer) -> Result<Config> {
    Config::new(&from_bytes(complete(header)).unwrap())
}

#[test]
fn defaults_are_those_of_llama() {
    let config = config(&minimal()).unwrap();
    assert_eq!((config.n_layers, config.d_model, &config.d_ff[..]), (2, 64, &[96, 96][..]));
    assert_eq!((config.n_heads, config.n_kv_heads, config.head_dim, config.value_dim), (8, 8, 8, 8));
    assert_eq!(config.rope, Rope::plain(8, Pairs::Adjacent, 10000.0, 256));
    assert_eq!((config.architecture, config.window, config.experts), ("llama", None, None));
    assert!(!config.qkv_bias && !config.head_norms);
    assert_eq!((config.norm_eps, config.context, config.vocab), (1e-5, 256, 3));
}

#[test]
fn what_is_stated_is_used() {
    let mut header = minimal();
    header.set("llama.feed_forward_length", &[96u32, 128].into_iter().collect::<ArrayBuf>());
    header.set("llama.attention.head_count_kv", &[2u32, 2].into_iter().collect::<ArrayBuf>());
    header.set("llama.attention.key_length", 16u32);
    header.set("llama.attention.value_length", 24u32);
    header.set("llama.rope.dimension_count", 12u32);
    header.set("llama.rope.freq_base", 1e6f32);
    header.set("llama.rope.scaling.type", "linear");
    header.set("llama.rope.scaling.factor", 4f32);
    let config = config(&header).unwrap();
    assert_eq!((&config.d_ff[..], config.n_kv_heads), (&[96, 128][..], 2));
    assert_eq!((config.q_width(), config.k_width()), (128, 32));
    assert_eq!((config.v_width(), config.attention_width()), (48, 192));
    let plain = Rope::plain(12, Pairs::Adjacent, 1e6, 256);
    assert_eq!(config.rope, Rope { scaling: Scaling::Linear, factor: 4.0, ..plain });
}

#[test]
fn scaling_has_an_old_key_and_an_off_switch() {
    let scale = |pairs: &[(&str, f32)], kind: Option<&str>| {
        let mut header = minimal();
        pairs.iter().for_each(|&(key, value)| header.set(key, value));
        kind.into_iter().for_each(|kind| header.set("llama.rope.scaling.type", kind));
        config(&header).unwrap().rope.factor
    };
    assert_eq!(scale(&[("llama.rope.scale_linear", 2.0)], None), 2.0);
    assert_eq!(scale(&[("llama.rope.scale_linear", 0.0)], None), 1.0);
    assert_eq!(scale(&[("llama.rope.scaling.factor", 2.0)], Some("none")), 1.0);
}

#[test]
fn every_error_names_its_key() {
    let three: ArrayBuf = [1u32, 2, 3].into_iter().collect();
    let two: ArrayBuf = [8u32, 4].into_iter().collect();
    let cases: &[(&str, crate::gguf::Value<'_>, &str)] = &[
        ("general.architecture", "falcon".into(), "\"llama\", \"qwen2\", \"qwen3\", found string \"falcon\""),
        ("llama.block_count", 0u32.into(), "1 to 4096, found u32 0"),
        ("llama.block_count", u32::MAX.into(), "1 to 4096, found u32 4294967295"),
        ("llama.embedding_length", "64".into(), "an integer from 0 up, of any type, found string \"64\""),
        (
            "llama.feed_forward_length",
            (&three).into(),
            "an array of 2, one for each layer, found array of u32 [1, 2, 3]",
        ),
        (
            "llama.attention.head_count",
            7u32.into(),
            "a divisor of the embedding's 64, or the key llama.attention.key_length, found u32 7",
        ),
        (
            "llama.attention.head_count",
            (&two).into(),
            "the same number for every layer, found array of u32 [8, 4]",
        ),
        ("llama.attention.head_count_kv", 3u32.into(), "a divisor of the 8 query heads, found u32 3"),
        ("llama.attention.key_length", (1u64 << 62).into(), "1 to 2097152, found u64 4611686018427387904"),
        ("llama.attention.layer_norm_rms_epsilon", f32::NAN.into(), "a finite number above 0, found f32 NaN"),
        ("llama.context_length", (-1i32).into(), "an integer from 0 up, of any type, found i32 -1"),
        (
            "llama.rope.dimension_count",
            7u32.into(),
            "an even number from 2 to 8, a head's width, found u32 7",
        ),
        ("llama.rope.freq_base", 0f32.into(), "a finite number above 0, found f32 0"),
        (
            "llama.rope.scaling.type",
            "longrope".into(),
            "\"none\", \"linear\" or \"yarn\": factors for long and short texts are not supported, \
             found string \"longrope\"",
        ),
        ("llama.rope.scaling.type", "su".into(), "\"none\", \"linear\" or \"yarn\", found string \"su\""),
        ("llama.rope.scaling.yarn_beta_fast", 0f32.into(), "a finite number above 0, found f32 0"),
        ("llama.attention.sliding_window", (-1i32).into(), "an integer from 0 up, of any type, found i32 -1"),
        ("llama.expert_count", 8192u32.into(), "1 to 4096, found u32 8192"),
        ("llama.rope.scaling.factor", (-2f32).into(), "a finite number above 0, found f32 -2"),
        ("tokenizer.ggml.tokens", 1u32.into(), "an array of strings, found u32 1"),
    ];
    for &(key, value, expected) in cases {
        let mut header = minimal();
        header.set(key, value);
        let message = config(&header).unwrap_err().to_string();
        assert!(message.starts_with(&format!("key \"{key}\" (byte ")), "{message}");
        assert!(message.ends_with(&format!("): expected {expected}")), "{message}");
    }
}

#[test]
fn the_vocabulary_has_one_size() {
    let mut header = minimal();
    header.tensor("token_embd.weight", &[64, 4], llama_kernels::Format::F32).unwrap();
    let message = config(&header).unwrap_err().to_string();
    assert!(message.ends_with("expected 3 rows, one for each piece of the vocabulary, found 4"), "{message}");
}

#[test]
fn yarn_has_its_own_keys() {
    let mut header = minimal();
    header.set("llama.rope.scaling.type", "yarn");
    header.set("llama.rope.scaling.factor", 8f32);
    header.set("llama.rope.scaling.original_context_length", 64u32);
    header.set("llama.rope.scaling.attn_factor", 1.5f32);
    let plain = Rope::plain(8, Pairs::Adjacent, 10000.0, 64);
    let plain = Rope { scaling: Scaling::Yarn, factor: 8.0, attn_factor: 1.5, ..plain };
    assert_eq!(config(&header).unwrap().rope, plain);
    header.set("llama.rope.scaling.yarn_ext_factor", 0.5f32);
    header.set("llama.rope.scaling.yarn_attn_factor", 2f32);
    header.set("llama.rope.scaling.yarn_beta_fast", 16f32);
    header.set("llama.rope.scaling.yarn_beta_slow", 2f32);
    let own = Rope { ext_factor: 0.5, attn_factor: 3.0, beta_fast: 16.0, beta_slow: 2.0, ..plain };
    assert_eq!(config(&header).unwrap().rope, own);
}

#[test]
fn each_architecture_has_keys_of_its_own_name() {
    for known in &architecture::ALL {
        let mut header = Writer::new();
        let minimal = from_bytes(complete(&minimal())).unwrap();
        for (key, value) in minimal.metadata() {
            header.set(&key.replace("llama.", &format!("{}.", known.name)), value);
        }
        header.set("general.architecture", known.name);
        header.set(&format!("{}.attention.sliding_window", known.name), 32u32);
        let config = config(&header).unwrap();
        assert_eq!((config.architecture, config.window), (known.name, Some(32)));
        assert_eq!((config.qkv_bias, config.head_norms), (known.qkv_bias, known.head_norms));
        assert_eq!((config.rope.pairs, config.n_layers), (known.pairs, 2));
    }
}

#[test]
fn experts_are_counted() {
    let mut header = minimal();
    header.set("llama.expert_count", 8u32);
    let message = config(&header).unwrap_err().to_string();
    assert!(message.contains("llama.expert_used_count"), "{message}");
    header.set("llama.expert_used_count", 9u32);
    let message = config(&header).unwrap_err().to_string();
    assert!(message.ends_with("expected 1 to 8, found u32 9"), "{message}");
    header.set("llama.expert_used_count", 2u32);
    assert_eq!(config(&header).unwrap().experts, Some(Experts { count: 8, used: 2 }));
    header.set("llama.expert_count", 0u32);
    assert_eq!(config(&header).unwrap().experts, None);
}
