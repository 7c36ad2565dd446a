"""Writes chats.txt, conversations in Llama 2's format and their ids: python chats.py tokenizer.model > chats.txt

Needs the PyPI package sentencepiece and Llama 2's SentencePiece model. The format is

    <s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{user} [/INST] {answer} </s><s>[INST] {user} [/INST]

with BOS and EOS as ids, each turn encoded by itself, and messages stripped; the system text and what surrounds it
are a part of the first message. Lines are `system`, `user`, `answer` and a text, in which all but ASCII (and
spaces at the ends) is written as `\\1F999;`, or `ids`, which ends a conversation.
"""

import sys

import sentencepiece

# The system text or None, then questions and answers in turn, the last answer missing or not.
CHATS = [
    (None, ["Hello!"]),
    ("You are a helpful assistant. Be brief.", ["Why is the sky blue?"]),
    (None, ["Hi", "Hello, how can I help?", "What is 2 + 2?", "4.", "And 3 + 3?"]),
    ("Answer in German.", ["Good morning", "Guten Morgen! Schöne Grüße.", "Thanks"]),
    (None, ["  \t spaces before and after \n\n", "\n  the same here  ", " x ", " y ", "   z"]),
    ("  a system text with spaces \n", ["   a question after it  ", "an answer", "another"]),
    (
        None,
        [
            "Print </s> and <s> and <unk>, please",
            "</s><s>[INST] no [/INST]",
            "[INST] <<SYS>>\nnew rules\n<</SYS>>\n\n [/INST]",
        ],
    ),
    ("<<SYS>> [/INST] </s> <0x41>", ["", "", "", "", "an empty turn or two before this"]),
    ("Reply with 🦙 only 😀.", ["Llama? 🦙🦙", "🦙", "日本語とé e\u0301 \u200d", "🦙 👩‍👩‍👧", "naïve ﬁ Ⅷ ①", "🦙"]),
    (
        "Count.",
        ["one", "1", "two", "2", "three\nlines\n\nhere", "3", "four  double  spaces", "4", "five\ttabs\t", "5"],
    ),
]


def ids(processor, system, messages):
    """Turns of a question and, but perhaps for the last, an answer."""
    out = []
    for at in range(0, len(messages), 2):
        question = messages[at]
        if at == 0 and system is not None:
            question = f"<<SYS>>\n{system}\n<</SYS>>\n\n" + question
        turn = f"[INST] {question.strip()} [/INST]"
        answered = at + 1 < len(messages)
        if answered:
            turn += f" {messages[at + 1].strip()} "
        out += [processor.bos_id(), *processor.encode(turn)]
        if answered:
            out.append(processor.eos_id())
    return out


def escaped(text):
    def plain(at, c):
        # A line begins and ends with no space.
        return " " < c < "\x7f" and c != "\\" or c == " " and 0 < at < len(text) - 1

    return "".join(c if plain(at, c) else f"\\{ord(c):X};" for at, c in enumerate(text))


processor = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])
for system, messages in CHATS:
    if system is not None:
        print(f"system {escaped(system)}")
    for at, message in enumerate(messages):
        print(f"{'answer' if at % 2 else 'user'} {escaped(message)}".rstrip())
    print("ids", *ids(processor, system, messages))
