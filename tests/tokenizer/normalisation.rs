//! Unicode's normalisation form C, where the name of a pre-tokenizer asks for it.

use crate::byte_level::{named, vocab};
use llama_core::Tokenizer;

/// Form C composes what has a composed character, orders what combines, and exchanges what Unicode encodes twice.
#[test]
fn characters_are_composed_where_the_models_tokenizer_does_it() {
    let pairs = [
        ("Cafe\u{301}", "Caf\u{e9}"),
        ("a\u{323}\u{302}", "\u{1ead}"),
        ("a\u{302}\u{323}", "\u{1ead}"),
        ("\u{1112}\u{1161}\u{11ab}", "\u{d55c}"),
        ("\u{212b}", "\u{c5}"),
        ("x\u{301}\u{323}", "x\u{323}\u{301}"),
        ("\u{958}", "\u{915}\u{93c}"),
        ("ﬁ ² ①", "ﬁ ² ①"),
    ];
    let tokenizer = |name| Tokenizer::new(vocab(named(name), &[], &[("<e\u{301}>", 4)])).unwrap();
    for name in ["qwen2", "qwen35", "command-r", "mpt"] {
        let tokenizer = tokenizer(name);
        for (text, composed) in pairs {
            assert_eq!(named(name).normalized(text), composed, "{name}");
            assert_eq!(tokenizer.encode_text(text), tokenizer.encode_text(composed), "{name}");
            assert_eq!(tokenizer.decode(&tokenizer.encode_text(text)), composed, "{name}");
        }
        // Pieces of the user's are found before.
        let piece = tokenizer.special("<e\u{301}>").unwrap();
        assert_eq!(tokenizer.encode_text("<e\u{301}>"), [piece]);
    }
    for name in ["gpt-2", "llama-bpe", "starcoder", "default"] {
        let tokenizer = tokenizer(name);
        for (text, _) in pairs {
            assert_eq!(tokenizer.decode(&tokenizer.encode_text(text)), text, "{name}");
        }
    }
    assert_ne!(named("mpt"), named("gpt-2"));
}
