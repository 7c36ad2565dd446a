"""Writes splits.txt, how the reference cuts texts into words: python splits.py > splits.txt

Needs the PyPI package tokenizers (0.23) and the shared test data. The pre-tokenizers are put together as the
tokenizer.json files of the models define them; `default` is GGUF's.

Lines of lengths (in bytes, of the words of the text above) name the pre-tokenizers that cut so. The digests at the end
are of the lengths for the published texts, and of the ids with GPT-2's vocabulary for those and for the
first 256 KiB of tinyshakespeare.
"""

import collections
import pathlib
import random
import struct

from tokenizers import Regex, Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel, Digits, Punctuation, Sequence, Split

DATA = pathlib.Path(__file__).parents[3] / "shared/data"

CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + SPACES
HEAD, TAIL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (rf"[^\r\n\p{{L}}\p{{N}}]?{HEAD}*{TAIL}+|[^\r\n\p{{L}}\p{{N}}]?{HEAD}+{TAIL}*|"
          r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES)
GPT4O = (rf"[^\r\n\p{{L}}\p{{N}}]?{HEAD}*{TAIL}+{CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{HEAD}+{TAIL}*{CONTRACTION}?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES)
DEEPSEEK3 = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
             r" ?[\p{P}\p{S}]+[\r\n]*|" + SPACES)
# Characters that normalisation would change are written by their numbers.
CASED = ("[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7d"
         "ᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+")
DEEPSEEK_PUNCTUATION = "[!-/:-~！-／：-～‘-‟\u3000-。]+"
DEEPSEEK_EAST = "[一-龥ࠀ-一가-퟿]+"
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"


def split(pattern):
    return Split(Regex(pattern), "isolated")


def pre_tokenizer(*stages, use_regex=False):
    stages = list(stages)
    if not any(isinstance(stage, ByteLevel) for stage in stages):
        stages.append(ByteLevel(add_prefix_space=False, use_regex=use_regex))
    return Sequence(stages)


PRE_TOKENIZERS = {
    "default": pre_tokenizer(split(r"[\p{P}\$\+<=>\^~\|]+"), split(GPT2), split(r"\p{N}+"), split("[0-9][0-9][0-9]")),
    "gpt-2": pre_tokenizer(use_regex=True),
    "starcoder": pre_tokenizer(Digits(True), use_regex=True),
    "falcon": pre_tokenizer(Punctuation("contiguous"), ByteLevel(add_prefix_space=False, use_regex=True),
                            Digits(False), split("[0-9][0-9][0-9]")),
    "llama-bpe": pre_tokenizer(split(LLAMA3)),
    "qwen2": pre_tokenizer(split(QWEN2)),
    "qwen35": pre_tokenizer(split(QWEN35)),
    "tekken": pre_tokenizer(split(TEKKEN)),
    "gpt-4o": pre_tokenizer(split(GPT4O)),
    "deepseek-llm": pre_tokenizer(split("[\r\n]"), split(r"\s?" + CASED), split(r"\s?" + DEEPSEEK_PUNCTUATION),
                                  split(r"\s+$"), split(DEEPSEEK_EAST), Digits(True)),
    "deepseek-coder": pre_tokenizer(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(DEEPSEEK_EAST),
                                    Digits(True)),
    "deepseek-v3": pre_tokenizer(split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK3)),
    "bloom": pre_tokenizer(split(BLOOM)),
    "viking": pre_tokenizer(split(BLOOM), Digits(True)),
}
WHOLE_WORDS = {"llama-bpe", "tekken"}

TEXTS = [
    "", " ", "  ", "\t", "\n", "\r\n", " \n \n", "   x", "x   ", "x   y", "x \n y", "x\t\ty", " \u00a0 x", "x\u3000\u3000y",
    "We'll see: it's THEY'RE, 'tis, y'all'd've, o'Clock's 'S", "'ſ 'ſt 'LL 'Ll 'l l", "don't''s'", "x'sy 's", "'", "''",
    "1 12 123 1234 12345678", "a1b22c333", "3.14, 1,000.50; ½ ²³ Ⅷ ٣٤٥ १२३४", "x²1234", "1²³45", "¼¾", "①②③④",
    "Hello, world! (and #hash, $5 + 3 <= 9 | `code` ~ ^)", "...?!\n\n//\n/", " //\r\n/x", "a/b\n/c", "--- ===>\n", "$+<=>^~|`",
    "CamelCaseWORDSAndACRONYMSs", "ÉCOLE École éCOLE ǅungla", "ªʰAªBʰ", "\u0301A\u0301Ab", "A\u0301\u0301B", "e\u0301e\u0301",
    "日本語のテスト、カタカナ。 漢字123", "한국어 텍스트", "ไทยภาษา កាន់តែ", "हिन्दी में", "مرحبا بالعالم ١٢٣", "Привет, мир",
    "🦙🦙 👨\u200d👩\u200d👧 ❤\ufe0f", "¡hola! «quoted» “smart” ‘q’ — dash…", "Ω\u2126K\u212aµ ℃ ℵ", "ӹზაᲐ\u10a0", "\u2028x\u2029 \u0085y\x0bz",
    "\x00\x1c\x1f\x7f\u0080\u00ad\ufeff\u200b", "\U0010ffff\ufffd\ue000", "=(a)=\t[b] {c}_d", "।۔،؟", " (x", "x )|y",
    "\u9fa5\u9fa6\u07ff\u0800\uabff\uac00\ud7a3", "！／：～\u3000\u3001\u3002\u3003x", " \u3000!", "x\u3000", "café naïve ßtraße",
]
ALPHABET = list("  \t\n\r''aAbsSTtreEvVmLld019.,!/-$=|`(") + list("éſªʰ漢か한ไា\u0301\u0903²½Ⅳ٣\u00a0\u3000🦙\u200d€“—。！")


def random_texts(n):
    rng = random.Random(1)
    for _ in range(n):
        letters = rng.sample(ALPHABET, 7)
        yield "".join(rng.choice(letters) * rng.choice([1, 1, 1, 2, 3, 4]) for _ in range(rng.randrange(4, 16)))


def lengths(name, text):
    # One character of the byte-level alphabet is one byte.
    return [len(word) for word, _ in PRE_TOKENIZERS[name].pre_tokenize_str(text)]


def escaped(text):
    return "".join(c if " " < c < "\x7f" and c != "\\" else f"\\{ord(c):X};" for c in text)


def digest(numbers):
    hash = 0xCBF29CE484222325
    for byte in struct.pack(f"<{len(numbers)}I", *numbers):
        hash = (hash ^ byte) * 0x100000001B3 % 2**64
    return f"{len(numbers)} {hash:016x}"


def metadata(path):
    """The metadata of a GGUF file."""
    file, at = path.read_bytes(), 24

    def number(format):
        nonlocal at
        at += struct.calcsize(format)
        return struct.unpack_from("<" + format, file, at - struct.calcsize(format))[0]

    def value(kind):
        nonlocal at
        if kind == 8:
            length = number("Q")
            at += length
            return file[at - length : at].decode()
        if kind == 9:
            kind, length = number("I"), number("Q")
            return [value(kind) for _ in range(length)]
        return number("BbHhIif?__Qqd"[kind])

    return {value(8): value(number("I")) for _ in range(struct.unpack_from("<Q", file, 16)[0])}


def tokenizer(name, vocabulary):
    pieces = {piece: id for id, piece in enumerate(vocabulary["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in vocabulary["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(pieces, merges, ignore_merges=name in WHOLE_WORDS))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[name]
    return tokenizer


def main():
    for text in TEXTS + list(random_texts(60)):
        cuts = collections.defaultdict(list)
        for name in PRE_TOKENIZERS:
            cuts[tuple(lengths(name, text))].append(name)
        print("text", escaped(text))
        for cut, names in cuts.items():
            print("  ", ",".join(names), *cut)
    published = DATA / "vocab/ggml-vocab-gpt-2.gguf.inp"
    published = published.read_bytes().decode().split("\n__ggml_vocab_test__\n")[:46]
    play = (DATA / "text/tinyshakespeare.txt").read_bytes()[: 1 << 18].decode()
    vocabulary = metadata(DATA / "vocab/ggml-vocab-gpt-2.gguf")
    for name in PRE_TOKENIZERS:
        print("words", name, digest([length for text in published for length in lengths(name, text)]))
        encode = tokenizer(name, vocabulary).encode
        print("ids", name, digest([id for text in [*published, play] for id in encode(text).ids]))


main()
