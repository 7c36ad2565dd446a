//! Classes of characters, under the names that patterns give them.
//!
//! Unicode's general categories come from a table; what is ASCII, most of most texts, is decided without it.

use std::ops::RangeInclusive;
use unicode_general_category::{GeneralCategory as Category, get_general_category as category};

/// `\p{L}`
pub(super) fn letter(c: char) -> bool {
    use Category::*;
    let any = |c| {
        let letters = [UppercaseLetter, LowercaseLetter, TitlecaseLetter, ModifierLetter, OtherLetter];
        letters.contains(&category(c))
    };
    if c.is_ascii() { c.is_ascii_alphabetic() } else { any(c) }
}

/// `\p{M}`
pub(super) fn mark(c: char) -> bool {
    use Category::*;
    !c.is_ascii() && matches!(category(c), NonspacingMark | SpacingMark | EnclosingMark)
}

/// `\p{N}`
pub(super) fn number(c: char) -> bool {
    use Category::*;
    let any = |c| matches!(category(c), DecimalNumber | LetterNumber | OtherNumber);
    if c.is_ascii() { c.is_ascii_digit() } else { any(c) }
}

/// `\p{P}`
pub(super) fn punctuation(c: char) -> bool {
    use Category::*;
    matches!(
        category(c),
        ConnectorPunctuation
            | DashPunctuation
            | OpenPunctuation
            | ClosePunctuation
            | InitialPunctuation
            | FinalPunctuation
            | OtherPunctuation
    )
}

/// `\p{S}`
pub(super) fn symbol(c: char) -> bool {
    use Category::*;
    matches!(category(c), MathSymbol | CurrencySymbol | ModifierSymbol | OtherSymbol)
}

/// `[\p{L}\p{M}]`
pub(super) fn letter_or_mark(c: char) -> bool {
    letter(c) || mark(c)
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`: what may stand at the head of a cased word.
pub(super) fn head(c: char) -> bool {
    letter_or_mark(c) && category(c) != Category::LowercaseLetter
}

/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`: what may stand at its tail.
pub(super) fn tail(c: char) -> bool {
    use Category::*;
    letter_or_mark(c) && !matches!(category(c), UppercaseLetter | TitlecaseLetter)
}

/// `[\r\n]`
pub(super) fn newline(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

/// `[一-龥ࠀ-一가-퟿]`, DeepSeek's ideographs and syllables; what lies between them in the code is in it too.
pub(super) fn deepseek_east(c: char) -> bool {
    matches!(c, '\u{800}'..='\u{9FA5}' | '\u{AC00}'..='\u{D7FF}')
}

/// `[一-龥぀-ゟ゠-ヿ]`, the ideographs and kana of DeepSeek's third version.
pub(super) fn deepseek3_east(c: char) -> bool {
    matches!(c, '\u{4E00}'..='\u{9FA5}' | '\u{3040}'..='\u{30FF}')
}

/// `[!-/:-~！-／：-～‘-‟　-。]`, DeepSeek's punctuation, which has ASCII's letters in it.
pub(super) fn deepseek_punctuation(c: char) -> bool {
    matches!(
        c,
        '!'..='/'
            | ':'..='~'
            | '\u{FF01}'..='\u{FF0F}'
            | '\u{FF1A}'..='\u{FF5E}'
            | '\u{2018}'..='\u{201F}'
            | '\u{3000}'..='\u{3002}'
    )
}

/// `[A-Za-zµÀ-ÖØ-öø-ƺ…]`, DeepSeek's cased letters.
pub(super) fn deepseek_letter(c: char) -> bool {
    let after = DEEPSEEK_LETTERS.partition_point(|range| *range.start() <= c);
    after > 0 && DEEPSEEK_LETTERS[after - 1].contains(&c)
}

/// `[^(\s|.,!?…。，、।۔،)]`, what BLOOM's words are made of; the parentheses and the bar are in the list.
pub(super) fn bloom_word(c: char) -> bool {
    let ends = matches!(
        c,
        '(' | ')'
            | '|'
            | '.'
            | ','
            | '!'
            | '?'
            | '\u{2026}'
            | '\u{3002}'
            | '\u{FF0C}'
            | '\u{3001}'
            | '\u{964}'
            | '\u{6D4}'
            | '\u{60C}'
    );
    !ends && !c.is_whitespace()
}

/// In order.
#[rustfmt::skip]
static DEEPSEEK_LETTERS: [RangeInclusive<char>; 87] = [
    'A'..='Z', 'a'..='z', '\u{B5}'..='\u{B5}', '\u{C0}'..='\u{D6}', '\u{D8}'..='\u{F6}', '\u{F8}'..='\u{1BA}',
    '\u{1BC}'..='\u{1BF}', '\u{1C4}'..='\u{293}', '\u{295}'..='\u{2AF}', '\u{370}'..='\u{373}',
    '\u{376}'..='\u{376}', '\u{377}'..='\u{377}', '\u{37B}'..='\u{37D}', '\u{37F}'..='\u{37F}',
    '\u{386}'..='\u{386}', '\u{388}'..='\u{38A}', '\u{38C}'..='\u{38C}', '\u{38E}'..='\u{3A1}',
    '\u{3A3}'..='\u{3F5}', '\u{3F7}'..='\u{481}', '\u{48A}'..='\u{52F}', '\u{531}'..='\u{556}',
    '\u{10A0}'..='\u{10C5}', '\u{13A0}'..='\u{13F5}', '\u{13F8}'..='\u{13FD}', '\u{1C90}'..='\u{1CBA}',
    '\u{1CBD}'..='\u{1CBF}', '\u{1D00}'..='\u{1D2B}', '\u{1D6B}'..='\u{1D77}', '\u{1D79}'..='\u{1D9A}',
    '\u{1E00}'..='\u{1F15}', '\u{1F18}'..='\u{1F1D}', '\u{1F20}'..='\u{1F45}', '\u{1F48}'..='\u{1F4D}',
    '\u{1F50}'..='\u{1F57}', '\u{1F59}'..='\u{1F59}', '\u{1F5B}'..='\u{1F5B}', '\u{1F5D}'..='\u{1F5D}',
    '\u{1F5F}'..='\u{1F7D}', '\u{1F80}'..='\u{1FB4}', '\u{1FB6}'..='\u{1FBC}', '\u{1FBE}'..='\u{1FBE}',
    '\u{1FC2}'..='\u{1FC4}', '\u{1FC6}'..='\u{1FCC}', '\u{1FD0}'..='\u{1FD3}', '\u{1FD6}'..='\u{1FDB}',
    '\u{1FE0}'..='\u{1FEC}', '\u{1FF2}'..='\u{1FF4}', '\u{1FF6}'..='\u{1FFC}', '\u{2102}'..='\u{2102}',
    '\u{2107}'..='\u{2107}', '\u{210A}'..='\u{2113}', '\u{2115}'..='\u{2115}', '\u{2119}'..='\u{211D}',
    '\u{2124}'..='\u{2124}', '\u{2126}'..='\u{2126}', '\u{2128}'..='\u{2128}', '\u{212A}'..='\u{212D}',
    '\u{212F}'..='\u{2134}', '\u{2139}'..='\u{2139}', '\u{213C}'..='\u{213F}', '\u{2145}'..='\u{2149}',
    '\u{214E}'..='\u{214E}', '\u{2183}'..='\u{2183}', '\u{2184}'..='\u{2184}', '\u{2C00}'..='\u{2C7B}',
    '\u{2C7E}'..='\u{2CE4}', '\u{2CEB}'..='\u{2CEE}', '\u{2CF2}'..='\u{2CF2}', '\u{2CF3}'..='\u{2CF3}',
    '\u{A640}'..='\u{A66D}', '\u{A680}'..='\u{A69B}', '\u{A722}'..='\u{A76F}', '\u{A771}'..='\u{A787}',
    '\u{A78B}'..='\u{A78E}', '\u{AB70}'..='\u{ABBF}', '\u{FB00}'..='\u{FB06}', '\u{FB13}'..='\u{FB17}',
    '\u{FF21}'..='\u{FF3A}', '\u{FF41}'..='\u{FF5A}', '\u{10400}'..='\u{1044F}', '\u{104B0}'..='\u{104D3}',
    '\u{104D8}'..='\u{104FB}', '\u{10C80}'..='\u{10CB2}', '\u{10CC0}'..='\u{10CF2}', '\u{118A0}'..='\u{118DF}',
    '\u{1E900}'..='\u{1E943}',
];
