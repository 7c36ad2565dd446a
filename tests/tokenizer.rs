//! The tokenizer gives the reference's ids, and its text comes back unchanged.
//!
//! Ids and digests for SentencePiece's vocabularies were computed once with SentencePiece's own library.

#[path = "tokenizer/byte_level.rs"]
mod byte_level;
#[path = "tokenizer/chats.rs"]
mod chats;
#[path = "tokenizer/infill.rs"]
mod infill;
#[path = "tokenizer/normalisation.rs"]
mod normalisation;
#[path = "tokenizer/templates.rs"]
mod templates;

use llama_core::gguf::{ArrayBuf, Gguf, Writer};
use llama_core::tokenizer::{Merges, Vocab};
use llama_core::{Chat, Prompt, Token, Tokenizer};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Llama 2's 32,000 pieces.
static LLAMA: LazyLock<Option<Tokenizer>> = LazyLock::new(|| tokenizer("vocab/ggml-vocab-llama-spm.gguf"));

/// A file of the shared test data, which may be absent.
fn data(file: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")).join(file);
    let found = path.exists();
    if !found {
        eprintln!("skipped: no {}", path.display());
    }
    found.then_some(path)
}

fn tokenizer(file: &str) -> Option<Tokenizer> {
    Some(Tokenizer::from_gguf(&Gguf::read(data(file)?).unwrap()).unwrap())
}

fn text(file: &str) -> Option<String> {
    Some(std::fs::read_to_string(data(file)?).unwrap())
}

fn ids(tokens: &[Token]) -> Vec<u32> {
    tokens.iter().map(|token| token.0).collect()
}

/// FNV-1a, 64 bits, over the ids as little-endian 32-bit numbers.
fn digest(tokens: &[Token]) -> u64 {
    let bytes = tokens.iter().flat_map(|token| token.0.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn the_published_vectors_pass() {
    let Some(llama) = &*LLAMA else { return };
    let inputs = text("vocab/ggml-vocab-llama-spm.gguf.inp").unwrap();
    let expected = text("vocab/ggml-vocab-llama-spm.gguf.out").unwrap();
    assert_eq!(expected.lines().count(), 46);
    for (input, expected) in inputs.split("\n__ggml_vocab_test__\n").zip(expected.lines()) {
        let expected: Vec<u32> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let tokens = llama.encode_text(input);
        assert_eq!(ids(&tokens), expected, "{input:?}");
        assert_eq!(llama.decode(&tokens), input);
    }
}

#[test]
fn a_megabyte_gets_the_ids_of_sentencepiece() {
    let (Some(llama), Some(text)) = (&*LLAMA, text("text/tinyshakespeare.txt")) else { return };
    let tokens = llama.encode_text(&text);
    assert_eq!((tokens.len(), digest(&tokens)), (368_633, 0xf8e5_eec8_68d0_ecb2));
    assert!(llama.decode(&tokens) == text, "the text does not come back");
}

#[test]
fn the_stories_vocabulary_gets_the_ids_of_sentencepiece() {
    let (Some(stories), Some(text)) =
        (tokenizer("models/stories260K.gguf"), text("text/tinystories_sample_2MiB.txt"))
    else {
        return;
    };
    let tokens = stories.encode_text("Once upon a time, Zoë 🦙\n");
    let expected = [403, 407, 261, 378, 432, 410, 469, 414, 198, 174, 410, 243, 162, 169, 156, 13];
    assert_eq!(ids(&tokens), expected);

    // This SentencePiece model also strikes repeated spaces, which its GGUF file cannot say.
    let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    let text = words.join(" ");
    let tokens = stories.encode_text(&text);
    assert_eq!((tokens.len(), digest(&tokens)), (1_064_886, 0xfd97_7c63_f231_531a));
    assert!(stories.decode(&tokens) == text, "the text does not come back");
}

#[test]
fn a_lower_one_eighth_block_is_a_space_to_this_vocabulary() {
    let Some(llama) = &*LLAMA else { return };
    for (text, expected, back) in
        [("a▁b", &[263, 289][..], "a b"), ("▁a", &[29871, 263], " a"), ("▁", &[259], " ")]
    {
        let tokens = llama.encode_text(text);
        assert_eq!(ids(&tokens), expected);
        assert_eq!(llama.decode(&tokens), back);
        assert_eq!(tokens, llama.encode_text(back));
    }
}

#[test]
fn long_monotonous_and_random_texts_are_not_quadratic() {
    // A quadratic tokenizer would still be at it tomorrow.
    let Some(llama) = &*LLAMA else { return };
    let mut state = 1u64;
    let random = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    let noise: Vec<u8> = random.take(1 << 20).collect();
    let noise = String::from_utf8_lossy(&noise).into_owned();
    for text in ["a", " ", "\n", "=", "ab", "é", "🦙"].map(|part| part.repeat((1 << 20) / part.len())) {
        assert!(llama.decode(&llama.encode_text(&text)) == text, "{:?}… does not come back", &text[..4]);
    }
    assert!(llama.decode(&llama.encode_text(&noise)) == noise, "noise does not come back");
}

#[test]
fn chats_get_the_ids_of_the_reference_code() {
    let Some(llama) = &*LLAMA else { return };
    let chat = || Chat::new(llama.bos().unwrap(), llama.eos().unwrap());
    let encode = |chat: &Chat| ids(&llama.encode(&Prompt::from(chat)));
    assert_eq!(
        encode(&chat().user(" Hi </s><s> \n")),
        [1, 518, 25580, 29962, 6324, 1533, 29879, 5299, 29879, 29958, 518, 29914, 25580, 29962]
    );
    assert_eq!(
        encode(&chat().system("Be brief.").user("Why is the sky blue?")),
        [
            1, 518, 25580, 29962, 3532, 14816, 29903, 6778, 13, 3629, 11473, 29889, 13, 29966, 829, 14816,
            29903, 6778, 13, 13, 11008, 338, 278, 14744, 7254, 29973, 518, 29914, 25580, 29962
        ]
    );
    assert_eq!(
        encode(&chat().user("Hi").assistant(" Hello! 🦙 ").user("Bye")),
        [
            1, 518, 25580, 29962, 6324, 518, 29914, 25580, 29962, 15043, 29991, 29871, 243, 162, 169, 156,
            29871, 2, 1, 518, 25580, 29962, 2648, 29872, 518, 29914, 25580, 29962
        ]
    );
    assert_eq!(
        encode(&chat().system(" Be brief. \n").user(" Hi ").assistant("Hello.").user("\tBye")),
        [
            1, 518, 25580, 29962, 3532, 14816, 29903, 6778, 13, 1522, 11473, 29889, 29871, 13, 13, 29966,
            829, 14816, 29903, 6778, 13, 13, 6324, 518, 29914, 25580, 29962, 15043, 29889, 29871, 2, 1, 518,
            25580, 29962, 2648, 29872, 518, 29914, 25580, 29962
        ]
    );
}

/// The text that a stream emits for `tokens` after it has skipped `before`.
fn streamed(tokenizer: &Tokenizer, before: &[Token], tokens: &[Token]) -> String {
    let mut stream = tokenizer.stream();
    stream.skip(before);
    let mut text: String = tokens.iter().map(|&token| stream.push(token).to_owned()).collect();
    text += stream.finish();
    text
}

#[test]
fn a_stream_emits_a_character_with_its_last_byte_and_not_before() {
    let Some(llama) = &*LLAMA else { return };
    let text = "n\u{e9}\u{6f22} 🦙\u{10ffff}e\u{301}";
    // The bytes 0 to 255 are the tokens 3 to 258.
    let tokens: Vec<Token> = text.bytes().map(|byte| Token(u32::from(byte) + 3)).collect();
    let mut stream = llama.stream();
    let mut emitted = String::new();
    for (i, &token) in tokens.iter().enumerate() {
        let new = stream.push(token);
        assert_eq!(new.is_empty(), !text.is_char_boundary(i + 1), "byte {i}");
        emitted += new;
    }
    assert_eq!(emitted, text);
    assert_eq!(stream.finish(), "");

    for cut in 0..=tokens.len() {
        let expected = String::from_utf8_lossy(&text.as_bytes()[..cut]);
        assert_eq!(streamed(llama, &[], &tokens[..cut]), expected);
        // What a prompt begins, the continuation completes.
        let boundary = (0..=cut).rev().find(|&i| text.is_char_boundary(i)).unwrap();
        assert_eq!(streamed(llama, &tokens[..cut], &tokens[cut..]), text[boundary..]);
    }
}

#[test]
fn only_the_start_of_a_text_loses_its_space() {
    let Some(llama) = &*LLAMA else { return };
    let once = llama.encode_text("Once");
    assert_eq!(llama.piece(once[0]), Some("▁Once"));
    let [bos, eos] = [llama.bos().unwrap(), llama.eos().unwrap()];
    let hello = llama.encode_text("Hello");
    assert_eq!(streamed(llama, &[], &once), "Once");
    assert_eq!(streamed(llama, &[bos], &once), "Once");
    assert_eq!(streamed(llama, &[], &[bos, eos, once[0], once[0], eos]), "Once Once");
    assert_eq!(streamed(llama, &[bos, hello[0]], &once), " Once");
    assert_eq!(llama.decode(&[bos, once[0], eos, hello[0]]), "Once Hello");
    assert_eq!(streamed(llama, &[], &[Token(0), Token(u32::MAX)]), "\u{fffd}");
}

#[test]
fn a_file_decides_over_special_tokens_and_prefix() {
    let pieces: ArrayBuf = ["<unk>", "<s>", "</s>", "▁", "a"].into_iter().collect();
    let scores: ArrayBuf = [0.0f32; 5].into_iter().collect();
    let types: ArrayBuf = [2i32, 3, 3, 1, 1].into_iter().collect();
    let read = |change: &dyn Fn(&mut Writer)| {
        let mut writer = Writer::new();
        writer.set("tokenizer.ggml.model", "llama");
        writer.set("tokenizer.ggml.tokens", &pieces);
        writer.set("tokenizer.ggml.scores", &scores);
        writer.set("tokenizer.ggml.token_type", &types);
        change(&mut writer);
        let file = tempfile::NamedTempFile::new().unwrap();
        writer.begin(file.reopen().unwrap()).unwrap().finish().unwrap();
        Tokenizer::from_gguf(&Gguf::read(file.path()).unwrap())
    };
    let default = read(&|_| ()).unwrap();
    assert_eq!((default.bos(), default.eos(), default.vocab_size()), (Some(Token(1)), Some(Token(2)), 5));
    assert_eq!((default.add_bos(), default.add_eos()), (true, false));
    assert_eq!(ids(&default.encode_text("aé")), [3, 4, 0]);

    let changed = read(&|writer| {
        writer.set("tokenizer.ggml.bos_token_id", 4u32);
        writer.set("tokenizer.ggml.eos_token_id", u32::MAX);
        writer.set("tokenizer.ggml.unknown_token_id", 2u32);
        writer.set("tokenizer.ggml.add_bos_token", false);
        writer.set("tokenizer.ggml.add_eos_token", true);
        writer.set("tokenizer.ggml.add_space_prefix", false);
    })
    .unwrap();
    assert_eq!((changed.bos(), changed.eos()), (Some(Token(4)), None));
    assert_eq!((changed.add_bos(), changed.add_eos()), (false, true));
    // "a" is the special token now, which no text becomes.
    assert_eq!(ids(&changed.encode_text(" a")), [3, 2]);

    let refused = |change: &dyn Fn(&mut Writer), expected: &str| {
        let error = read(change).unwrap_err().to_string();
        assert!(error.starts_with("key \"tokenizer.ggml.") && error.contains(expected), "{error}");
    };
    refused(&|w| w.set("tokenizer.ggml.model", "bert"), "expected \"llama\"");
    refused(&|w| w.set("tokenizer.ggml.model", "bert"), "\"bert\"");
    refused(&|w| w.set("tokenizer.ggml.scores", &types), "expected an array of floating-point numbers");
    refused(&|w| w.set("tokenizer.ggml.bos_token_id", 5u32), "expected an id below 5, found 5");
    // Errors of what the values mean also say where they are.
    refused(&|w| w.set("tokenizer.ggml.eos_token_id", 77u32), "eos_token_id\" (byte ");
    refused(&|w| w.set("tokenizer.ggml.unknown_token_id", u32::MAX), "neither <0x00> nor an unknown piece");
}

/// Merging by its definition: look at all pairs, merge the best, start again.
fn merged_naively(vocab: &Vocab, text: &str) -> Vec<Token> {
    let Merges::Scores(scores) = &vocab.merges else { panic!("not SentencePiece's") };
    let find = |piece: &str| vocab.pieces.iter().position(|known| known == piece);
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 1..parts.len() {
            if let Some(id) = find(&[parts[at - 1].as_str(), &parts[at]].concat()) {
                let score = scores[id];
                if best.is_none_or(|(highest, _)| score > highest) {
                    best = Some((score, at));
                }
            }
        }
        let Some((_, at)) = best else { break };
        let right = parts.remove(at);
        parts[at - 1] += &right;
    }
    parts.iter().map(|part| Token(find(part).unwrap() as u32)).collect()
}

/// Text as it comes and text as it hardly ever comes.
fn any_text() -> impl Strategy<Value = String> {
    let char = prop_oneof![
        any::<char>(),
        prop::char::range(' ', '~'),
        prop::sample::select(vec![' ', ' ', '\n', '\t', '\0', 'é', '漢', '🦙', '\u{301}', '\u{fffd}']),
    ];
    prop::collection::vec(char, 0..200).prop_map(|chars| chars.into_iter().filter(|&c| c != '▁').collect())
}

proptest! {
    #[test]
    fn every_text_comes_back(text in any_text()) {
        let Some(llama) = &*LLAMA else { return Ok(()) };
        let tokens = llama.encode_text(&text);
        prop_assert!(tokens.iter().all(|token| (3..32_000).contains(&token.0)));
        prop_assert_eq!(llama.decode(&tokens), text);
    }

    /// Ids at random, so mostly invalid UTF-8 where there are bytes.
    #[test]
    fn a_stream_says_what_decode_says(
        tokens in prop::collection::vec(prop_oneof![0u32..300, 0u32..32_010].prop_map(Token), 0..50),
        cut: prop::sample::Index,
    ) {
        let Some(llama) = &*LLAMA else { return Ok(()) };
        let whole = llama.decode(&tokens);
        prop_assert_eq!(&streamed(llama, &[], &tokens), &whole);
        let (before, after) = tokens.split_at(cut.index(tokens.len() + 1));
        prop_assert!(whole.ends_with(&streamed(llama, before, after)));
    }

    /// Small vocabularies, in which many merges tie and pieces may span words.
    #[test]
    fn merges_agree_with_their_definition(
        pieces in prop::collection::vec(("[ab▁]{2,6}", -3i8..3), 0..30),
        spaces_lead: bool,
        text in "[ab ]{1,60}",
    ) {
        let wanted = |piece: &str| !spaces_lead || !piece.trim_start_matches('▁').contains('▁');
        let (mut spelled, mut scores) = (["<unk>", "<s>", "</s>", "a", "b", "▁"].map(String::from).to_vec(), vec![0.0; 6]);
        for (piece, score) in pieces.into_iter().filter(|(piece, _)| wanted(piece)) {
            spelled.push(piece);
            scores.push(f32::from(score));
        }
        let types = [2, 3, 3].into_iter().chain(std::iter::repeat(1)).take(spelled.len()).collect();
        let vocab = Vocab::spm(spelled, scores, types);
        let tokenizer = Tokenizer::new(vocab.clone()).unwrap();
        let tokens = tokenizer.encode_text(&text);
        prop_assert_eq!(&tokens, &merged_naively(&vocab, &format!(" {text}").replace(' ', "▁")));
        prop_assert_eq!(tokenizer.decode(&tokens), text);
    }

    /// Whatever a file says, there is an error or a tokenizer, and neither panics.
    #[test]
    fn hostile_vocabularies_do_not_panic(
        pieces in prop::collection::vec("[ab▁ <0x1>🦙]{0,6}", 0..12),
        scores in prop::collection::vec(any::<f32>(), 12),
        types in prop::collection::vec(prop_oneof![Just(1i32), 0i32..8], 12),
        special in [prop::option::of(0u32..14), prop::option::of(0u32..14), prop::option::of(0u32..14)],
        short: bool,
        text in "[ab▁ <0x1>🦙]{0,30}",
    ) {
        let len = pieces.len();
        let [bos, eos, unk] = special.map(|id| id.map(Token));
        let vocab = Vocab { bos, eos, unk, ..Vocab::spm(pieces, scores[..len].to_vec(), types[..len - usize::from(short && len > 0)].to_vec()) };
        if let Ok(tokenizer) = Tokenizer::new(vocab) {
            let tokens = tokenizer.encode_text(&text);
            prop_assert!(tokens.iter().all(|token| (token.0 as usize) < len));
            prop_assert_eq!(streamed(&tokenizer, &[], &tokens), tokenizer.decode(&tokens));
        }
    }
}
