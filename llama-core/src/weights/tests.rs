use super::*;
use crate::gguf::Writer;
use crate::gguf::tests::{complete, from_bytes};

/// A model of one layer, all widths different: d_model 32, 4 heads of 6 (values 10), 2 KV heads, d_ff 64.
const TENSORS: [(&str, &[usize]); 11] = [
    ("token_embd.weight", &[32, 5]),
    ("blk.0.attn_norm.weight", &[32]),
    ("blk.0.attn_q.weight", &[32, 24]),
    ("blk.0.attn_k.weight", &[32, 12]),
    ("blk.0.attn_v.weight", &[32, 20]),
    ("blk.0.attn_output.weight", &[40, 32]),
    ("blk.0.ffn_norm.weight", &[32, 1]),
    ("blk.0.ffn_gate.weight", &[32, 64]),
    ("blk.0.ffn_up.weight", &[32, 64]),
    ("blk.0.ffn_down.weight", &[64, 32]),
    ("output_norm.weight", &[32]),
];

fn header(tensors: &[(&str, &[usize])]) -> Writer {
    let mut header = Writer::new();
    header.set("general.architecture", "llama");
    let keys = [
        ("block_count", 1u32),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 6),
        ("attention.value_length", 10),
        ("context_length", 16),
    ];
    keys.iter().for_each(|&(key, value)| header.set(&format!("llama.{key}"), value));
    header.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    for &(name, dims) in tensors {
        header.tensor(name, dims, Format::F16).unwrap();
    }
    header
}

fn load(tensors: &[(&str, &[usize])]) -> Result<Weights> {
    let gguf = from_bytes(complete(&header(tensors)))?;
    Weights::load(&gguf, &Config::new(&gguf)?)
}

#[test]
fn shapes_follow_from_the_config_and_the_output_is_tied() {
    let weights = load(&TENSORS).unwrap();
    let shape = |tensor: &Tensor| (tensor.matrix().rows(), tensor.matrix().cols());
    let layer = &weights.layers[0];
    assert_eq!(
        layer.matrices().map(shape).collect::<Vec<_>>(),
        [(24, 32), (12, 32), (20, 32), (32, 40), (64, 32), (64, 32), (32, 64)]
    );
    assert_eq!(weights.output.matrix().bytes(), weights.token_embd.matrix().bytes());
    assert_eq!((layer.attn_norm.len(), layer.ffn_norm.len(), &weights.rope_freqs), (32, 32, &None));
    let matrices = 32 * (24 + 12 + 20 + 40 + 3 * 64);
    assert_eq!(weights.parameters(), matrices + 5 * 32 + 3 * 32);
    assert_eq!(weights.bytes_per_token(), 2 * (matrices + 5 * 32 + 32));
}

#[test]
fn an_output_of_its_own_counts() {
    let own = [&TENSORS[..], &[("output.weight", &[32, 5]), ("rope_freqs.weight", &[3])]].concat();
    let (tied, own) = (load(&TENSORS).unwrap(), load(&own).unwrap());
    assert_ne!(own.output.matrix().bytes(), own.token_embd.matrix().bytes());
    assert_eq!(own.parameters(), tied.parameters() + 5 * 32);
    assert_eq!(own.bytes_per_token(), tied.bytes_per_token());
    assert_eq!(own.rope_freqs.map(|freqs| freqs.len()), Some(3));
}

#[test]
fn vectors_are_decoded() {
    let gguf = from_bytes(complete(&header(&TENSORS))).unwrap();
    let weights = Weights::load(&gguf, &Config::new(&gguf).unwrap()).unwrap();
    let mut expected = [0.0; 32];
    Format::F16.dequantize(gguf.tensor("output_norm.weight").unwrap().data(), &mut expected);
    assert!(weights.output_norm == expected && expected[3] != 0.0);
}

#[test]
fn missing_misshapen_and_unknown_tensors_are_named() {
    for i in 0..TENSORS.len() {
        let (name, dims) = TENSORS[i];
        let mut tensors = TENSORS.to_vec();
        tensors.remove(i);
        let message = load(&tensors).unwrap_err().to_string();
        // Without an embedding or a tokenizer, the vocabulary's size is what is missed first.
        assert!(message.contains(name) && message.contains("found no such"), "{message}");

        let wrong: Vec<usize> = dims.iter().map(|dim| dim + 1).collect();
        let mut tensors = TENSORS.to_vec();
        tensors[i].1 = &wrong;
        let message = load(&tensors).unwrap_err().to_string();
        assert!(message.starts_with(&format!("tensor \"{name}\" (byte ")), "{message}");
        assert!(message.ends_with(&format!("found {}", shape(&wrong))), "{message}");
    }
    let extra = [&TENSORS[..], &[("blk.0.attn_q.bias", &[24])]].concat();
    let message = load(&extra).unwrap_err().to_string();
    assert!(message.starts_with("tensor \"blk.0.attn_q.bias\" (byte "), "{message}");
    assert!(
        message.ends_with("expected no such tensor in a model of this kind (llama), found one"),
        "{message}"
    );
}

/// The same model as a mixture of three experts, of which two are used.
fn mixture(tensors: &[(&str, &[usize])]) -> Result<Weights> {
    let dense =
        TENSORS.iter().filter(|(name, _)| !["gate", "up", "down"].iter().any(|part| name.contains(part)));
    let mut header = header(&[&dense.copied().collect::<Vec<_>>()[..], tensors].concat());
    header.set("llama.expert_count", 3u32);
    header.set("llama.expert_used_count", 2u32);
    let gguf = from_bytes(complete(&header))?;
    Weights::load(&gguf, &Config::new(&gguf)?)
}

const ROUTER: (&str, &[usize]) = ("blk.0.ffn_gate_inp.weight", &[32, 3]);
const MERGED: [(&str, &[usize]); 3] = [
    ("blk.0.ffn_gate_exps.weight", &[32, 64, 3]),
    ("blk.0.ffn_up_exps.weight", &[32, 64, 3]),
    ("blk.0.ffn_down_exps.weight", &[64, 32, 3]),
];

#[test]
fn experts_are_parts_of_merged_tensors() {
    let weights = mixture(&[&[ROUTER], &MERGED[..]].concat()).unwrap();
    let layer = &weights.layers[0];
    let FeedForward::Sparse { router, experts, used } = &layer.ffn else { panic!("no experts") };
    assert_eq!((router.matrix().rows(), experts.len(), *used), (3, 3, 2));
    for part in [|mlp: &Mlp| mlp.gate.clone(), |mlp: &Mlp| mlp.up.clone(), |mlp: &Mlp| mlp.down.clone()] {
        let offsets: Vec<usize> = experts.iter().map(|mlp| part(mlp).bytes.offset()).collect();
        assert_eq!((offsets[1] - offsets[0], offsets[2] - offsets[1]), (2 * 32 * 64, 2 * 32 * 64));
    }
    assert_eq!((layer.matrices().count(), layer.matrices_per_token().count()), (5 + 9, 5 + 6));
    let dense = load(&TENSORS).unwrap();
    assert_eq!(weights.parameters(), dense.parameters() + 3 * 32 + 2 * 3 * 32 * 64);
    assert_eq!(weights.bytes_per_token(), dense.bytes_per_token() + 2 * (3 * 32 + 3 * 32 * 64));
}

#[test]
fn experts_may_be_tensors_of_their_own() {
    let parts = [("gate", [32, 64]), ("up", [32, 64]), ("down", [64, 32])];
    let names: Vec<(String, [usize; 2])> = (0..3)
        .flat_map(|i| parts.map(|(part, dims)| (format!("blk.0.ffn_{part}.{i}.weight"), dims)))
        .collect();
    let split: Vec<(&str, &[usize])> = names.iter().map(|(name, dims)| (&name[..], &dims[..])).collect();
    let weights = mixture(&[&[ROUTER], &split[..]].concat()).unwrap();
    assert_eq!(weights.layers[0].matrices().count(), 5 + 9);
    let message = mixture(&[&[ROUTER], &split[..8]].concat()).unwrap_err().to_string();
    assert!(message.contains("blk.0.ffn_down.2.weight") && message.contains("no such tensor"), "{message}");
}

#[test]
fn incomplete_and_misshapen_experts_are_named() {
    let all = [&[ROUTER], &MERGED[..]].concat();
    for i in 0..all.len() {
        let mut tensors = all.clone();
        let (name, _) = tensors.remove(i);
        let message = mixture(&tensors).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
        let mut tensors = all.clone();
        tensors[i].1 = &[32, 64, 2];
        let message = mixture(&tensors).unwrap_err().to_string();
        assert!(message.contains(name) && message.ends_with("found 32x64x2"), "{message}");
    }
    let message =
        mixture(&[&all[..], &[("blk.0.ffn_gate.weight", &[32, 64])]].concat()).unwrap_err().to_string();
    assert!(message.contains("no such tensor in a model of this kind"), "{message}");
}

#[test]
fn biases_and_norms_of_heads_belong_to_architectures() {
    let of = |name: &str, extra: &[(&str, &[usize])]| {
        let mut file = Writer::new();
        let header = header(&[&TENSORS[..], extra].concat());
        let gguf = from_bytes(complete(&header)).unwrap();
        for (key, value) in gguf.metadata() {
            file.set(&key.replace("llama.", &format!("{name}.")), value);
        }
        file.set("general.architecture", name);
        for tensor in gguf.tensors() {
            file.tensor(tensor.name(), tensor.dims(), tensor.format()).unwrap();
        }
        let gguf = from_bytes(complete(&file)).unwrap();
        Weights::load(&gguf, &Config::new(&gguf).unwrap()).map(|mut weights| weights.layers.remove(0))
    };
    let biases: [(&str, &[usize]); 3] =
        [("blk.0.attn_q.bias", &[24]), ("blk.0.attn_k.bias", &[12]), ("blk.0.attn_v.bias", &[20])];
    let norms: [(&str, &[usize]); 2] =
        [("blk.0.attn_q_norm.weight", &[6]), ("blk.0.attn_k_norm.weight", &[6])];
    let layer = of("qwen2", &biases).unwrap();
    assert_eq!((layer.attn_bias.len(), layer.attn_q_norm.len()), (24 + 12 + 20, 0));
    let layer = of("qwen3", &norms).unwrap();
    assert_eq!((layer.attn_bias.len(), layer.attn_q_norm.len(), layer.attn_k_norm.len()), (0, 6, 6));
    for (name, extra, missing) in [
        ("qwen2", &biases[..2], "blk.0.attn_v.bias"),
        ("qwen3", &norms[..1], "blk.0.attn_k_norm.weight"),
        ("qwen3", &biases[..], "blk.0.attn_q_norm.weight"),
    ] {
        let message = of(name, extra).unwrap_err().to_string();
        assert!(message.contains(missing), "{message}");
    }
}
