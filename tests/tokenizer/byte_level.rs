//! Byte-level vocabularies: the published ids, the words and the ids of the reference, and files of any kind.

use crate::{any_text, data, digest, ids, streamed, text};
use llama_core::gguf::{ArrayBuf, Gguf, Writer};
use llama_core::tokenizer::{Merges, PreTokenizer, Vocab};
use llama_core::{Error, Token, Tokenizer};
use proptest::prelude::*;

/// What the reference makes of texts; `splits.py` wrote it.
const SPLITS: &str = include_str!("splits.txt");

/// The texts of the published vectors.
fn published() -> Option<Vec<String>> {
    let texts = text("vocab/ggml-vocab-gpt-2.gguf.inp")?;
    Some(texts.split("\n__ggml_vocab_test__\n").take(46).map(String::from).collect())
}

fn words(pre: PreTokenizer, text: &str) -> Vec<&[u8]> {
    let mut words = Vec::new();
    pre.split(text, |word| words.push(word));
    words
}

pub(crate) fn named(name: &str) -> PreTokenizer {
    PreTokenizer::from_name(name).unwrap_or_else(|| panic!("no pre-tokenizer {name}"))
}

/// The text of a line in which other characters than ASCII's are written as `\1F999;`.
pub(crate) fn unescaped(line: &str) -> String {
    let mut parts = line.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_once(';').unwrap();
        text.push(char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap());
        text += rest;
    }
    text
}

#[test]
fn the_published_vectors_of_gpt_2_pass() {
    let Some(path) = data("vocab/ggml-vocab-gpt-2.gguf") else { return };
    let gpt2 = Tokenizer::from_gguf(&Gguf::read(path).unwrap()).unwrap();
    let expected = text("vocab/ggml-vocab-gpt-2.gguf.out").unwrap();
    assert_eq!(expected.lines().count(), 46);
    for (input, expected) in published().unwrap().iter().zip(expected.lines()) {
        let expected: Vec<u32> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let tokens = gpt2.encode_text(input);
        assert_eq!(ids(&tokens), expected, "{input:?}");
        assert_eq!(gpt2.decode(&tokens), *input);
        assert_eq!(streamed(&gpt2, &[], &tokens), *input);
    }
    assert_eq!((gpt2.bos(), gpt2.add_bos()), (Some(Token(50_256)), false));
    assert_eq!(gpt2.end_tokens().collect::<Vec<_>>(), [Token(50_256)]);
    let end = gpt2.encode_text("<|endoftext|>");
    assert!(end.len() > 1 && !end.contains(&Token(50_256)), "{end:?}");
    assert_eq!(gpt2.special("<|endoftext|>"), Some(Token(50_256)));
}

#[test]
fn words_are_those_of_the_reference() {
    let (mut current, mut checked) = (String::new(), Vec::new());
    for line in SPLITS.lines() {
        if let Some(text) = line.strip_prefix("text ") {
            current = unescaped(text);
        } else if let Some(line) = line.strip_prefix("   ") {
            let (names, expected) = line.split_once(' ').unwrap_or((line, ""));
            for name in names.split(',') {
                let words = words(named(name), &current);
                assert_eq!(words.concat(), current.as_bytes());
                let lengths: Vec<String> = words.iter().map(|word| word.len().to_string()).collect();
                assert_eq!(lengths.join(" "), expected, "{name}: {current:?}");
                checked.push(named(name));
            }
        }
    }
    // The definitions but for the one which is Llama 3's with another treatment of words.
    for pre in PreTokenizer::all().filter(|pre| !pre.names().contains(&"smaug-bpe")) {
        assert!(checked.iter().filter(|&&other| other == pre).count() > 100, "{pre:?} is not tested");
    }
}

#[test]
fn published_texts_and_a_play_get_the_words_and_ids_of_the_reference() {
    let Some(path) = data("vocab/ggml-vocab-gpt-2.gguf") else { return };
    let (Some(mut texts), Some(play)) = (published(), text("text/tinyshakespeare.txt")) else { return };
    let gguf = Gguf::read(path).unwrap();
    let strings = |key| gguf.strs(key).unwrap().map(String::from).collect::<Vec<_>>();
    let (pieces, merges) = (strings("tokenizer.ggml.tokens"), strings("tokenizer.ggml.merges"));
    let summary = |numbers: &[Token]| format!("{} {:016x}", numbers.len(), digest(numbers));
    let expected = |what: &str, name: &str| {
        SPLITS.lines().find_map(|line| line.strip_prefix(&format!("{what} {name} "))).unwrap()
    };
    let names: Vec<&str> =
        SPLITS.lines().filter_map(|line| line.strip_prefix("ids ")?.split(' ').next()).collect();
    assert_eq!(names.len(), PreTokenizer::all().len() - 1);
    for name in &names {
        let lengths = texts.iter().flat_map(|text| words(named(name), text));
        let lengths: Vec<Token> = lengths.map(|word| Token(word.len() as u32)).collect();
        assert_eq!(summary(&lengths), expected("words", name), "{name}");
    }
    texts.push(play[..1 << 18].to_owned());
    for name in names {
        let types = vec![1; pieces.len()];
        let tokenizer =
            Tokenizer::new(Vocab::bpe(pieces.clone(), types, merges.clone(), named(name))).unwrap();
        let tokens: Vec<Token> = texts.iter().flat_map(|text| tokenizer.encode_text(text)).collect();
        assert_eq!(summary(&tokens), expected("ids", name), "{name}");
        assert!(tokenizer.decode(&tokens) == texts.concat(), "{name}: the text does not come back");
    }
}

#[test]
fn names_are_unique_and_aliases_mean_the_same() {
    let names: Vec<&str> = PreTokenizer::all().flat_map(PreTokenizer::names).copied().collect();
    for (i, name) in names.iter().enumerate() {
        assert!(!names[..i].contains(name), "{name} twice");
        assert!(named(name).names().contains(name));
    }
    for alias in ["llama3", "llama-v3", "pixtral"] {
        assert_eq!(named(alias), named("llama-bpe"));
    }
    for (alias, name) in [("phi-2", "gpt-2"), ("refact", "starcoder"), ("smollm", "starcoder")] {
        assert_eq!(named(alias), named(name));
    }
    // Those that compose characters or do not, and cut in the same way.
    for (alias, name) in [("mpt", "gpt-2"), ("deepseek-r1-qwen", "qwen2"), ("command-r", "starcoder")] {
        assert!(named(alias) != named(name) && named(alias).names() == named(name).names());
    }
    assert_eq!(named("default"), PreTokenizer::default());
    assert_ne!(named("smaug-bpe"), named("llama-bpe"));
    assert_eq!(PreTokenizer::from_name("GPT-2"), None);
}

/// The character that stands for a byte in these vocabularies.
fn letter(byte: u8) -> char {
    let itself = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..);
    if itself(&byte) {
        char::from(byte)
    } else {
        char::from_u32(0x100 + (0..byte).filter(|byte| !itself(byte)).count() as u32).unwrap()
    }
}

fn spell(text: &str) -> String {
    text.bytes().map(letter).collect()
}

/// All bytes, whose ids are their values, then what these merges make, then pieces of other types.
pub(crate) fn vocab(pre: PreTokenizer, merges: &[(&str, &str)], others: &[(&str, i32)]) -> Vocab {
    let mut pieces: Vec<String> = (0..=255).map(|byte| letter(byte).to_string()).collect();
    let mut list = Vec::new();
    for (left, right) in merges {
        pieces.push(spell(left) + &spell(right));
        list.push(format!("{} {}", spell(left), spell(right)));
    }
    let mut types = vec![1; pieces.len()];
    for (piece, kind) in others {
        pieces.push(piece.to_string());
        types.push(*kind);
    }
    Vocab::bpe(pieces, types, list, pre)
}

fn gpt2() -> PreTokenizer {
    named("gpt-2")
}

#[test]
fn merges_go_by_rank_then_from_the_left() {
    let merges = [("b", "c"), ("a", "b"), ("a", "a"), ("a", "bc"), (" ", "a")];
    let tokenizer = Tokenizer::new(vocab(gpt2(), &merges, &[])).unwrap();
    let [bc, ab, aa, abc, space_a] = [256, 257, 258, 259, 260];
    let a = u32::from(b'a');
    for (text, expected) in [
        ("abc", &[abc][..]),
        ("aaa", &[aa, a]),
        ("aab", &[a, ab]),
        ("xbc a", &[120, bc, space_a]),
        ("é", &[0xC3, 0xA9]),
    ] {
        assert_eq!(ids(&tokenizer.encode_text(text)), expected, "{text}");
    }
    assert!(tokenizer.encode_text("").is_empty());
}

#[test]
fn whole_words_are_pieces_where_the_family_says_so() {
    // No merge leads to "abc".
    let others = [("abc", 1), ("Ġabc", 1)];
    let encode = |name, text| {
        ids(&Tokenizer::new(vocab(named(name), &[("b", "c")], &others)).unwrap().encode_text(text))
    };
    for name in ["llama-bpe", "tekken"] {
        assert_eq!(encode(name, "abc abc"), [257, 258]);
    }
    for name in ["gpt-2", "smaug-bpe"] {
        assert_eq!(encode(name, "abc abc"), [97, 256, 32, 97, 256]);
    }
}

#[test]
fn only_user_defined_pieces_come_out_of_text_as_they_are() {
    let others =
        [("<s>", 3), ("<|im_end|>", 1), ("<tool>", 4), ("<tool>s", 4), ("  ", 4), ("é", 4), ("<unk>", 2)];
    let mut vocab = vocab(gpt2(), &[("a", "b"), ("ab", "c")], &others);
    vocab.types[257] = 3;
    let tokenizer = Tokenizer::new(vocab).unwrap();
    let [tool, tools, spaces, e] = [260, 261, 262, 263];
    // What a merge would make is a control piece.
    assert_eq!(ids(&tokenizer.encode_text("abc")), [256, 99]);
    assert_eq!(ids(&tokenizer.encode_text("a<tool>b<tool>s")), [97, tool, 98, tools]);
    assert_eq!(ids(&tokenizer.encode_text("a   é")), [97, spaces, 32, e]);
    for text in ["abc", "<s>", "<|im_end|>", "<unk>", "<tool><s>", "   é"] {
        let tokens = tokenizer.encode_text(text);
        assert!(
            tokens.iter().all(|token| ![257, 258, 259, 264].contains(&token.0)),
            "{text} gave {tokens:?}"
        );
        assert_eq!(tokenizer.decode(&tokens), text);
    }
    assert_eq!(tokenizer.decode(&[97, 258, 259, 264].map(Token)), "a\u{FFFD}");

    assert_eq!(tokenizer.special("<s>"), Some(Token(258)));
    assert_eq!(tokenizer.special("<tool>"), Some(Token(tool)));
    assert_eq!(tokenizer.special("<|im_end|>"), Some(Token(259)));
    for none in ["a", "<unk>", "<tool", "", "Ġ"] {
        assert_eq!(tokenizer.special(none), None, "{none}");
    }
}

#[test]
fn a_generation_ends_with_all_that_the_file_or_a_chat_format_names() {
    let others = [
        ("<s>", 3),
        ("</s>", 3),
        ("<|eot_id|>", 3),
        ("<turn>", 3),
        ("<|im_end|>", 4),
        ("<call>", 3),
        ("x", 4),
    ];
    let plain = vocab(gpt2(), &[], &others);
    let ends = |vocab: &Vocab| {
        let tokenizer = Tokenizer::new(vocab.clone()).unwrap();
        let ends: Vec<u32> = tokenizer.end_tokens().map(|token| token.0).collect();
        let size = tokenizer.vocab_size() as u32;
        assert_eq!((0..size + 1).filter(|&id| tokenizer.ends(Token(id))).collect::<Vec<_>>(), ends);
        assert!(tokenizer.end_tokens().all(|token| tokenizer.bytes(token).is_empty()));
        ends
    };
    assert_eq!(ends(&plain), [258, 260]);
    let token = |id| Some(Token(id));
    let named = Vocab { eos: token(257), eot: token(259), eom: token(261), ..plain };
    assert_eq!(ends(&named), [257, 258, 259, 260, 261]);
    assert_eq!(ends(&Vocab { eos: token(258), ..named }), [258, 259, 260, 261]);
}

/// A file with this vocabulary and what `change` does to it.
fn read(vocab: &Vocab, change: &dyn Fn(&mut Writer)) -> Result<Tokenizer, Error> {
    let Merges::Ranks { merges, pre } = &vocab.merges else { panic!("not byte-level") };
    let strings = |strings: &[String]| strings.iter().map(String::as_str).collect::<ArrayBuf>();
    let mut writer = Writer::new();
    writer.set("tokenizer.ggml.model", "gpt2");
    writer.set("tokenizer.ggml.pre", pre.names()[0]);
    writer.set("tokenizer.ggml.tokens", &strings(&vocab.pieces));
    writer.set("tokenizer.ggml.token_type", &vocab.types.iter().copied().collect::<ArrayBuf>());
    writer.set("tokenizer.ggml.merges", &strings(merges));
    change(&mut writer);
    let file = tempfile::NamedTempFile::new().unwrap();
    writer.begin(file.reopen().unwrap()).unwrap().finish().unwrap();
    Tokenizer::from_gguf(&Gguf::read(file.path()).unwrap())
}

#[test]
fn a_file_decides_over_special_tokens_and_words() {
    let vocab =
        |name| vocab(named(name), &[("1", "2"), ("12", "3"), ("123", "4")], &[("<s>", 3), ("</s>", 3)]);
    let default = read(&vocab("gpt-2"), &|_| ()).unwrap();
    assert_eq!(
        (default.bos(), default.eos(), default.add_bos(), default.add_eos()),
        (None, None, false, false)
    );
    assert_eq!(ids(&default.encode_text(" 1234")), [32, 258]);
    assert_eq!(default.decode(&default.encode_text(" a")), " a");
    for name in ["llama-bpe", "tekken"] {
        assert!(read(&vocab(name), &|_| ()).unwrap().add_bos());
    }
    let changed = read(&vocab("llama-bpe"), &|writer| {
        writer.set("tokenizer.ggml.bos_token_id", 259u32);
        writer.set("tokenizer.ggml.eos_token_id", u32::MAX);
        writer.set("tokenizer.ggml.eot_token_id", 260u32);
        writer.set("tokenizer.ggml.add_bos_token", false);
        writer.set("tokenizer.ggml.add_eos_token", true);
        writer.set("tokenizer.ggml.add_space_prefix", true);
    })
    .unwrap();
    assert_eq!(
        (changed.bos(), changed.eos(), changed.add_bos(), changed.add_eos()),
        (Some(Token(259)), None, false, true)
    );
    assert!(changed.ends(Token(260)) && !changed.ends(Token(259)));
    assert_eq!(ids(&changed.encode_text("1234")), [257, 52]);

    // A file that names no pre-tokenizer, or no types, as the first of these files.
    let mut bare = Writer::new();
    let pieces: ArrayBuf = ["a", "b", "ab"].into_iter().collect();
    bare.set("tokenizer.ggml.model", "gpt2");
    bare.set("tokenizer.ggml.tokens", &pieces);
    bare.set("tokenizer.ggml.merges", &["a b"].into_iter().collect::<ArrayBuf>());
    let file = tempfile::NamedTempFile::new().unwrap();
    bare.begin(file.reopen().unwrap()).unwrap().finish().unwrap();
    let bare = Tokenizer::from_gguf(&Gguf::read(file.path()).unwrap()).unwrap();
    // A byte without a piece is nothing where there is no unknown piece.
    assert_eq!(ids(&bare.encode_text("abxa")), [2, 0]);
}

#[test]
fn impossible_files_are_refused_by_name() {
    let good = vocab(gpt2(), &[("a", "b")], &[("<s>", 3)]);
    let refused = |change: &dyn Fn(&mut Writer), expected: &[&str]| {
        let error = read(&good, change).unwrap_err();
        let (Error::Key { key, .. }, message) = (&error, error.to_string()) else { panic!("{error}") };
        assert!(key.starts_with("tokenizer.ggml."), "{message}");
        expected.iter().for_each(|part| assert!(message.contains(part), "{message:?} lacks {part:?}"));
    };
    let merges = |merges: &'static [&'static str]| {
        move |writer: &mut Writer| {
            writer.set("tokenizer.ggml.merges", &merges.iter().copied().collect::<ArrayBuf>())
        }
    };
    refused(
        &|w| w.set("tokenizer.ggml.pre", "gpt-9"),
        &["ggml.pre\" (byte ", "expected one of default, gpt-2, ", "\"gpt-9\""],
    );
    refused(&|w| w.set("tokenizer.ggml.pre", 3u32), &["ggml.pre", "expected a UTF-8 string"]);
    refused(&|w| w.set("tokenizer.ggml.model", "bert"), &["ggml.model", "\"llama\"", "\"gpt2\"", "\"bert\""]);
    refused(
        &|w| w.set("tokenizer.ggml.merges", 1u32),
        &["ggml.merges", "expected an array of UTF-8 strings"],
    );
    for malformed in ["ab", "", " ", "a ", " ab"] {
        let set = move |w: &mut Writer| {
            w.set("tokenizer.ggml.merges", &["a b", malformed].into_iter().collect::<ArrayBuf>())
        };
        let found = format!("for merge 1, found {malformed:?}");
        refused(&set, &["ggml.merges\" (byte ", "two pieces with a space between them", &found]);
    }
    refused(
        &merges(&["b c"]),
        &["ggml.merges\" (byte ", "expected pieces of the vocabulary for merge 0, found \"bc\""],
    );
    refused(&merges(&["漢 a"]), &["found \"漢\""]);
    refused(&merges(&["a b c"]), &["found \"b c\""]);
    refused(
        &|w| w.set("tokenizer.ggml.token_type", &[1i32].into_iter().collect::<ArrayBuf>()),
        &["token_type\" (byte ", "expected 258 values"],
    );
    refused(&|w| w.set("tokenizer.ggml.tokens", "a"), &["ggml.tokens"]);
    for key in ["bos", "eos", "eot", "eom", "unknown"] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        refused(&|w| w.set(&key, 258u32), &[&key, "expected an id below 258, found 258"]);
    }
    let no_merges = |w: &mut Writer| {
        *w = {
            let mut new = Writer::new();
            new.set("tokenizer.ggml.model", "gpt2");
            new.set("tokenizer.ggml.tokens", &["a"].into_iter().collect::<ArrayBuf>());
            new
        }
    };
    refused(&no_merges, &["ggml.merges", "no such key"]);
}

#[test]
fn long_monotonous_texts_are_not_quadratic() {
    // Pieces of up to 256 equal characters, so that merges happen at every length.
    let mut merges = Vec::new();
    let doubled: Vec<Vec<String>> =
        ["a", " ", "\n", "1", "="].map(|c| (0..8).map(|power| c.repeat(1 << power)).collect()).into();
    for powers in &doubled {
        merges.extend(powers.iter().map(|part| (part.as_str(), part.as_str())));
    }
    let [one, all] = [1 << 16, 1 << 17];
    for part in ["a", " ", "\n", "1", "=", "🦙", "\u{300}", "\u{a0}", "A\u{300}", "'", " \n"] {
        for (before, after) in [("", ""), ("b", ""), ("", "b")] {
            let text = [before, &part.repeat(all / part.len()), after].concat();
            for pre in PreTokenizer::all() {
                assert_eq!(words(pre, &text).iter().map(|word| word.len()).sum::<usize>(), text.len());
            }
        }
        let text = part.repeat(one / part.len());
        for name in ["gpt-2", "deepseek-llm"] {
            let tokenizer = Tokenizer::new(vocab(named(name), &merges, &[])).unwrap();
            assert!(tokenizer.decode(&tokenizer.encode_text(&text)) == text, "{part:?}… does not come back");
        }
    }
}

/// Merging by its definition: look at all pairs, merge the best, start again.
fn merged_naively(vocab: &Vocab, word: &str) -> Vec<Token> {
    let Merges::Ranks { merges, .. } = &vocab.merges else { panic!("not byte-level") };
    let mut parts: Vec<String> = word.bytes().map(|byte| letter(byte).to_string()).collect();
    let rank = |pair: &[String]| merges.iter().position(|merge| *merge == pair.join(" "));
    while let Some((_, at)) = (1..parts.len()).filter_map(|at| Some((rank(&parts[at - 1..=at])?, at))).min() {
        let right = parts.remove(at);
        parts[at - 1] += &right;
    }
    let id = |part: &String| vocab.pieces.iter().position(|piece| piece == part).unwrap();
    parts.iter().map(|part| Token(id(part) as u32)).collect()
}

fn any_pre_tokenizer() -> impl Strategy<Value = PreTokenizer> {
    prop::sample::select(PreTokenizer::all().collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn every_text_comes_back(text in any_text(), pre in any_pre_tokenizer()) {
        prop_assert_eq!(words(pre, &text).concat(), text.as_bytes());
        prop_assert!(words(pre, &text).iter().all(|word| !word.is_empty()));
        let merges = [("a", "b"), (" ", "a"), ("\u{301}", "\n"), ("e", "é"), ("\n", "\n")];
        let merges: Vec<_> = merges.into_iter().filter(|(left, right)| left.len() == 1 && right.len() == 1).collect();
        let tokenizer = Tokenizer::new(vocab(pre, &merges, &[("漢", 4), ("<s>", 3)])).unwrap();
        let tokens = tokenizer.encode_text(&text);
        // What is between the user's pieces comes back as it was normalised.
        let text: Vec<_> = text.split('漢').map(|part| pre.normalized(part)).collect();
        prop_assert_eq!(streamed(&tokenizer, &[], &tokens), &*text.join("漢"));
        prop_assert_eq!(tokenizer.decode(&tokens), text.join("漢"));
    }

    /// Small lists, in which many merges compete.
    #[test]
    fn merges_agree_with_their_definition(
        merges in prop::collection::vec(("[ab]{1,3}", "[ab]{1,3}"), 0..20),
        text in "[ab]{1,60}",
    ) {
        // A merge needs its parts, which earlier ones make.
        let mut known = vec!["a".to_owned(), "b".to_owned()];
        let mut list = Vec::<(&str, &str)>::new();
        for (left, right) in &merges {
            let joined = left.clone() + right;
            if known.contains(left) && known.contains(right) {
                known.push(joined);
                list.push((left, right));
            }
        }
        let vocab = vocab(gpt2(), &list, &[]);
        let tokenizer = Tokenizer::new(vocab.clone()).unwrap();
        let tokens = tokenizer.encode_text(&text);
        prop_assert_eq!(&tokens, &merged_naively(&vocab, &text));
        prop_assert_eq!(tokenizer.decode(&tokens), text);
    }

    /// Whatever a file says, there is an error or a tokenizer, and neither panics.
    #[test]
    fn hostile_vocabularies_do_not_panic(
        pieces in prop::collection::vec("[abĠé <0x1>🦙]{0,4}", 0..12),
        types in prop::collection::vec(prop_oneof![Just(1i32), Just(1), Just(4), 0i32..8], 12),
        merges in prop::collection::vec(prop_oneof!["[ab] [ab]", "[abĠ ]{0,5}"], 0..4),
        special in [prop::option::of(0u32..14), prop::option::of(0u32..14), prop::option::of(0u32..14)],
        pre in any_pre_tokenizer(),
        text in "[abé <0x1>🦙]{0,30}",
    ) {
        let len = pieces.len();
        let [bos, eot, unk] = special.map(|id| id.map(Token));
        let vocab = Vocab { bos, eot, unk, ..Vocab::bpe(pieces, types[..len].to_vec(), merges, pre) };
        if let Ok(tokenizer) = Tokenizer::new(vocab) {
            let tokens = tokenizer.encode_text(&text);
            // A byte without a piece is the unknown one, even if that is also named as an end.
            let is_text = |token: Token| !tokenizer.ends(token) || Some(token) == unk;
            prop_assert!(tokens.iter().all(|&token| (token.0 as usize) < len && is_text(token)));
            prop_assert_eq!(streamed(&tokenizer, &[], &tokens), tokenizer.decode(&tokens));
        }
    }
}
