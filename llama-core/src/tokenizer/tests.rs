//! Tokenizers of small vocabularies.

use super::*;

/// `<unk> <s> </s>`, all bytes, then `pieces` with falling scores.
fn vocab(pieces: &[(&str, i32)]) -> Vocab {
    let specials = [("<unk>", 2), ("<s>", 3), ("</s>", 3)].map(|(piece, kind)| (piece.to_string(), kind));
    let bytes = (0..256).map(|byte| (format!("<0x{byte:02X}>"), 6));
    let rest = pieces.iter().map(|&(piece, kind)| (piece.to_string(), kind));
    let (pieces, types): (Vec<_>, Vec<_>) = specials.into_iter().chain(bytes).chain(rest).unzip();
    let scores = (0..pieces.len()).map(|id| -(id as f32)).collect();
    Vocab::spm(pieces, scores, types)
}

fn spelled(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    tokenizer.encode_text(text).into_iter().map(|token| tokenizer.piece(token).unwrap().to_string()).collect()
}

#[test]
fn merges_go_by_score_then_from_the_left() {
    let tokenizer =
        Tokenizer::new(vocab(&[("bc", 1), ("ab", 1), ("aa", 1), ("a", 1), ("b", 1), ("c", 1), ("▁", 1)]))
            .unwrap();
    assert_eq!(spelled(&tokenizer, "abc"), ["▁", "a", "bc"]);
    assert_eq!(spelled(&tokenizer, "aaa"), ["▁", "aa", "a"]);
    assert_eq!(spelled(&tokenizer, "aé"), ["▁", "a", "<0xC3>", "<0xA9>"]);
}

#[test]
fn user_defined_pieces_win_over_merges_and_the_longest_of_them_first() {
    let tokenizer = Tokenizer::new(vocab(&[
        ("▁", 1),
        ("ab", 1),
        ("a", 1),
        ("b", 1),
        ("c", 1),
        ("bc", 4),
        ("bcb", 4),
        ("a  b", 4),
    ]))
    .unwrap();
    assert_eq!(spelled(&tokenizer, "abcab"), ["▁", "a", "bc", "ab"]);
    assert_eq!(spelled(&tokenizer, "abcb"), ["▁", "a", "bcb"]);
    assert_eq!(spelled(&tokenizer, "ca  bc"), ["▁", "c", "a  b", "c"]);
    for text in ["abcab", "ca  bc", "bc", " bc bc"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode_text(text)), text);
    }
}

#[test]
fn text_never_becomes_a_special_token() {
    // Every prefix of the spellings is a piece, so that merges could reach them.
    let mut pieces = vec![("▁", 1)];
    for piece in ["<", "s", ">", "<s", "/", "/s", "</s", "u", "n", "k", "<u", "<un", "<unk"] {
        pieces.push((piece, 1));
    }
    let mut vocab = vocab(&pieces);
    vocab.types[1] = 1;
    vocab.types[2] = 4;
    let tokenizer = Tokenizer::new(vocab).unwrap();
    for text in ["<s>", "</s>", "<unk>", "<0x41>"] {
        let tokens = tokenizer.encode_text(text);
        assert!(tokens.iter().all(|token| token.0 > 2), "{text} gave {tokens:?}");
        assert_eq!(tokenizer.decode(&tokens), text);
    }
}

#[test]
fn without_bytes_a_character_is_unknown() {
    let pieces = ["<unk>", "<s>", "</s>", "▁", "a"].map(String::from).to_vec();
    let vocab = Vocab::spm(pieces, vec![0.0; 5], vec![2, 3, 3, 1, 1]);
    let tokenizer = Tokenizer::new(vocab.clone()).unwrap();
    assert_eq!(tokenizer.encode_text("aéa"), [3, 4, 0, 4].map(Token));
    assert_eq!(tokenizer.decode(&tokenizer.encode_text("aéa")), "a\u{FFFD}a");
    let error = Tokenizer::new(Vocab { unk: None, ..vocab }).unwrap_err();
    assert!(error.to_string().contains("all 256 byte pieces"), "{error}");
}

#[test]
fn odd_but_harmless_vocabularies_work() {
    let tokenizer =
        Tokenizer::new(vocab(&[("▁", 1), ("", 1), ("", 4), ("a", 1), ("a", 1), ("<0x41>", 6)])).unwrap();
    assert_eq!(spelled(&tokenizer, "aA"), ["▁", "a", "<0x41>"]);
    assert_eq!(tokenizer.encode_text("a"), [259, 262].map(Token));
    assert_eq!(tokenizer.decode(&[Token(u32::MAX), Token(262)]), "a");
    assert_eq!(tokenizer.piece(Token(u32::MAX)), None);
    assert!(tokenizer.encode_text("").is_empty());

    let unprefixed = Vocab { add_space_prefix: false, ..vocab(&[("▁", 1), ("a", 1)]) };
    let tokenizer = Tokenizer::new(unprefixed).unwrap();
    assert_eq!(spelled(&tokenizer, " a"), ["▁", "a"]);
    assert_eq!(tokenizer.decode(&tokenizer.encode_text(" a")), " a");

    let nothing = Vocab { bos: None, eos: None, unk: None, ..Vocab::spm(vec![], vec![], vec![]) };
    assert!(Tokenizer::new(nothing).is_err());
}

#[test]
fn impossible_vocabularies_are_refused_by_name() {
    let good = || vocab(&[("▁", 1), ("a", 1)]);
    let refused = |vocab, what: &str| {
        let error = Tokenizer::new(vocab).unwrap_err().to_string();
        assert!(error.contains(what), "{error:?} lacks {what:?}");
    };
    refused(
        Vocab { merges: Merges::Scores(vec![0.0]), ..good() },
        "scores\": expected 261 values, one a piece, found 1",
    );
    refused(Vocab { types: vec![], ..good() }, "token_type\": expected 261");
    refused(Vocab { bos: Some(Token(261)), ..good() }, "bos_token_id\": expected an id below 261, found 261");
    refused(Vocab { eos: Some(Token(u32::MAX)), ..good() }, "eos_token_id");
    refused(Vocab { unk: Some(Token(300)), ..good() }, "unknown_token_id");
    let mut scores = vec![0.0; 261];
    scores[7] = f32::NAN;
    refused(Vocab { merges: Merges::Scores(scores), ..good() }, "NaN for token 7");
    let mut bad = good();
    bad.types[260] = 7;
    refused(bad, "1 to 6 for token 260, found 7");
    for spelling in ["<0xG0>", "<0x+1>", "<0x1>", "", "<0x€>"] {
        let mut bad = good();
        bad.pieces[3] = spelling.to_string();
        refused(bad, "for token 3, which is a byte");
    }
}

#[test]
fn text_after_text_is_one_segment() {
    let prompt = Prompt::new().text("a").text("b").special(Token(1)).text("c");
    let expected = [Segment::Text("ab".into()), Segment::Special(Token(1)), Segment::Text("c".into())];
    assert_eq!(prompt.segments(), expected);
    assert_eq!(Prompt::from("ab"), Prompt::from(String::from("ab")));

    let tokenizer = Tokenizer::new(vocab(&[("▁", 1), ("a", 1), ("b", 1), ("c", 1)])).unwrap();
    assert_eq!(tokenizer.encode(&prompt), [259, 260, 261, 1, 259, 262].map(Token));
}
