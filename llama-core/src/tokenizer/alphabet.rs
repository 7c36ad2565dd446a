//! The alphabet in which byte-level vocabularies spell their pieces, GPT-2's.
//!
//! Each byte is a printable character: those that are printable in Latin-1 stand for themselves, the other 68
//! take the characters from U+0100 on, in order. So a space is `Ġ` and a newline `Ċ`, and any bytes are a string.

/// The bytes that the characters below U+0144 stand for.
const BYTES: [Option<u8>; 0x144] = {
    let mut bytes = [None; 0x144];
    let (mut byte, mut next) = (0, 0x100);
    while byte < 256 {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let char = if printable { byte } else { next };
        if !printable {
            next += 1;
        }
        bytes[char] = Some(byte as u8);
        byte += 1;
    }
    bytes
};

/// The bytes that a piece spells; `None` if one of its characters is not of the alphabet.
pub(super) fn bytes(piece: &str) -> Option<Box<[u8]>> {
    piece.chars().map(|char| BYTES.get(char as usize).copied().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut spelled: Vec<u8> = BYTES.iter().flatten().copied().collect();
        spelled.sort_unstable();
        assert_eq!(spelled, (0..=255).collect::<Vec<u8>>());
        assert_eq!(bytes("ĠHelloĊ").as_deref(), Some(&b" Hello\n"[..]));
        assert_eq!(bytes("Ã©ŃĀÿ").as_deref(), Some(&b"\xC3\xA9\xAD\0\xFF"[..]));
        for stranger in [" ", "\n", "\u{AD}", "a\u{144}", "漢"] {
            assert_eq!(bytes(stranger), None, "{stranger:?}");
        }
    }
}
