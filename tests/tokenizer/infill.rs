//! Prompts that leave a gap have the ids of Code Llama's reference code.

use crate::{data, ids};
use llama_core::gguf::{ArrayBuf, Gguf, Writer};
use llama_core::{Error, Infill, Order, Prompt, Segment, Token, Tokenizer};

const PREFIX: &str = "def remove_non_ascii(s: str) -> str:\n    \"\"\" ";
const SUFFIX: &str = "\n    return result\n";

/// What the two texts are: the prefix with its space, the suffix without.
const PREFIX_IDS: [u32; 19] = [
    822, 3349, 29918, 5464, 29918, 294, 18869, 29898, 29879, 29901, 851, 29897, 1599, 851, 29901, 13, 1678,
    9995, 29871,
];
const SUFFIX_IDS: [u32; 5] = [13, 1678, 736, 1121, 13];

/// Llama 2's vocabulary with 16 more pieces of this type, as Code Llama's, changed before it is read. The last one is
/// that of 70B.
pub(crate) fn code_llama(
    kind: i32,
    change: impl FnOnce(&mut Writer),
) -> Option<llama_core::Result<Tokenizer>> {
    let gguf = Gguf::read(data("vocab/ggml-vocab-llama-spm.gguf")?).unwrap();
    let key = |name| format!("tokenizer.ggml.{name}");
    let spelled: Vec<String> = (0..15).map(|i| format!("▁<{i}>")).chain(["<step>".into()]).collect();
    let pieces = gguf.strs(&key("tokens")).unwrap().chain(spelled.iter().map(String::as_str));
    let scores = gguf.f32s(&key("scores")).unwrap().chain([0.0; 16]);
    let types = gguf.i32s(&key("token_type")).unwrap().chain([kind; 16]);
    let mut header = Writer::new();
    header.set(&key("model"), "llama");
    header.set(&key("tokens"), &pieces.collect::<ArrayBuf>());
    header.set(&key("scores"), &scores.collect::<ArrayBuf>());
    header.set(&key("token_type"), &types.collect::<ArrayBuf>());
    change(&mut header);
    let file = tempfile::NamedTempFile::new().unwrap();
    header.begin(file.reopen().unwrap()).unwrap().finish().unwrap();
    Some(Tokenizer::from_gguf(&Gguf::read(file.path()).unwrap()))
}

fn encode(tokenizer: &Tokenizer, order: Order, prefix: &str, suffix: &str) -> Vec<u32> {
    let infill = Infill::new(tokenizer).unwrap().prefix(prefix).suffix(suffix).order(order);
    ids(&tokenizer.encode(&Prompt::from(infill)))
}

#[test]
fn both_orders_have_the_ids_of_the_reference() {
    // Whatever the file says of the pieces: control or user-defined.
    for kind in [3, 4] {
        let Some(tokenizer) = code_llama(kind, |_| ()) else { return };
        let tokenizer = tokenizer.unwrap();
        let golden = [&[1, 32007][..], &PREFIX_IDS, &[32008], &SUFFIX_IDS, &[32009]].concat();
        assert_eq!(encode(&tokenizer, Order::PrefixFirst, PREFIX, SUFFIX), golden);
        let golden = [&[1, 32007, 32008][..], &SUFFIX_IDS, &[32009], &PREFIX_IDS].concat();
        assert_eq!(encode(&tokenizer, Order::SuffixFirst, PREFIX, SUFFIX), golden);
        assert_eq!(encode(&tokenizer, Order::PrefixFirst, "", ""), [1, 32007, 32008, 32009]);
        assert!(tokenizer.ends(Token(32010)) && tokenizer.ends(Token(2)));
        // `▁return` and not `return`: the space of a suffix is its own.
        assert_eq!(encode(&tokenizer, Order::PrefixFirst, "", " return"), [1, 32007, 32008, 736, 32009]);
        assert_eq!(encode(&tokenizer, Order::PrefixFirst, "", "return"), [1, 32007, 32008, 2457, 32009]);
    }
}

#[test]
fn text_does_not_become_a_token_of_infill() {
    let Some(tokenizer) = code_llama(4, |_| ()) else { return };
    let tokenizer = tokenizer.unwrap();
    let text = " <7> <8> <9> <10> </s>";
    for order in [Order::PrefixFirst, Order::SuffixFirst] {
        let tokens = encode(&tokenizer, order, text, text);
        let special: Vec<u32> = tokens.into_iter().filter(|id| !(3..32_007).contains(id)).collect();
        let expected: &[u32] = &[1, 32007, 32008, 32009];
        assert_eq!(special, expected, "{order:?}");
    }
}

#[test]
fn a_file_may_name_the_tokens_by_either_name() {
    let named = |names: [&'static str; 3]| {
        let tokenizer = code_llama(3, |header| {
            for (name, id) in names.iter().zip([32_000u32, 32_001, 32_002]) {
                header.set(&format!("tokenizer.ggml.{name}_token_id"), id);
            }
            header.set("tokenizer.ggml.eot_token_id", 32_003u32);
        })?;
        Some(tokenizer.unwrap())
    };
    for names in [["prefix", "suffix", "middle"], ["fim_pre", "fim_suf", "fim_mid"]] {
        let Some(tokenizer) = named(names) else { return };
        let tokens = encode(&tokenizer, Order::PrefixFirst, PREFIX, SUFFIX);
        let expected = [&[1, 32000][..], &PREFIX_IDS, &[32001], &SUFFIX_IDS, &[32002]].concat();
        assert_eq!(tokens, expected, "{names:?}");
        assert!(tokenizer.ends(Token(32_003)) && !tokenizer.ends(Token(32_010)));
    }
    let outside = code_llama(3, |header| header.set("tokenizer.ggml.fim_mid_token_id", 32_016u32)).unwrap();
    let error = outside.unwrap_err().to_string();
    assert!(error.contains("fim_mid_token_id\" (byte ") && error.contains("found 32016"), "{error}");
}

#[test]
fn a_vocabulary_without_these_tokens_is_refused() {
    let Some(llama) = &*crate::LLAMA else { return };
    let error = Infill::new(llama).unwrap_err();
    assert!(matches!(&error, Error::Key { key, .. } if key == "tokenizer.ggml.fim_pre_token_id"), "{error}");
    assert!(error.to_string().ends_with("found none in a vocabulary of 32000 pieces"), "{error}");
}

#[test]
fn a_continuation_goes_on_with_what_stands_before_it() {
    let Some(llama) = &*crate::LLAMA else { return };
    let prompt = Prompt::new().text("a").continuation("b").special(Token(2)).continuation("c").text("d");
    let expected =
        [Segment::Text("ab".into()), Segment::Special(Token(2)), Segment::Continuation("cd".into())];
    assert_eq!(prompt.segments(), expected);
    let text = |text: &str| llama.encode_text(text);
    let continued = llama.encode(&Prompt::new().continuation(" cd"));
    assert_eq!(continued, text("cd"));
    assert_eq!(llama.decode(&llama.encode(&Prompt::new().special(Token(2)).continuation("cd"))), "cd");
}
