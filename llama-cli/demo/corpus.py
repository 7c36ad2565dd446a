"""The data of the demo model: the split of the real text, its tokens, and documents packed into rows."""

import sys

import numpy as np
import sentencepiece

BOS, EOS = 1, 2
SEPARATOR = "<|endoftext|>"


def split(path):
    """The stories to train on, and those held out: everything after the first separator behind 90 % of the text."""
    text = open(path, encoding="utf-8", newline="").read()
    cut = text.index(SEPARATOR, int(0.9 * len(text)))

    def stories(part):
        return [story for story in (s.strip() for s in part.split(SEPARATOR)) if story]

    return stories(text[:cut]), stories(text[cut:])


def tokenizer(path):
    return sentencepiece.SentencePieceProcessor(model_file=path)


def documents(sp, stories):
    """Each story between the token that begins a text and the one that ends it."""
    return [np.array([BOS, *sp.encode(story), EOS], np.uint16) for story in stories]


def train_tokenizer(stories, out, vocab):
    """A vocabulary as Llama 2 has it: byte-pair merges, bytes for what has no piece, digits alone, no normalisation."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for story in stories for line in story.split("\n") if line),
        model_prefix=out.removesuffix(".model"), model_type="bpe", vocab_size=vocab, byte_fallback=True,
        character_coverage=0.9995, split_digits=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, num_threads=2, minloglevel=1,
    )  # fmt: skip


class Real:
    """Real stories, shuffled anew for each epoch."""

    def __init__(self, docs, seed):
        self.docs, self.rng = docs, np.random.default_rng(seed)

    def more(self):
        return [self.docs[i] for i in self.rng.permutation(len(self.docs))]


class Sampled:
    """Sampled stories in their file's order, mixed within blocks; from the beginning again when the file ends."""

    BLOCK = 1_000_000

    def __init__(self, path, model, seed):
        self.path, self.model, self.offset, self.rng = path, model, 0, np.random.default_rng(seed)

    def more(self):
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            block = file.read(self.BLOCK)
            end = block.rfind(SEPARATOR.encode()) + len(SEPARATOR)
            if end < len(SEPARATOR):
                self.offset = 0
                return self.more()
        self.offset += end
        stories = [s.strip() for s in block[:end].decode("utf-8").split(SEPARATOR)]
        docs = documents(tokenizer(self.model), [s for s in stories if s])
        return [docs[i] for i in self.rng.permutation(len(docs))]


class Rows:
    """An endless stream of windows over the documents of a source.

    A window may begin within a story. `doc` numbers the stories of a window, so that none sees another, and
    `target` is the next token of the same story, or -1 where the story has ended.
    """

    def __init__(self, source):
        self.source = source
        self.tokens = np.zeros(0, np.int32)
        self.ids = np.zeros(0, np.int32)
        self.taken = 0

    def take(self, rows, width):
        need = rows * (width + 1)
        while len(self.tokens) < need:
            docs = self.source.more()
            self.tokens = np.concatenate([self.tokens, *docs]).astype(np.int32)
            self.ids = np.concatenate([self.ids, np.repeat(np.arange(len(docs)), list(map(len, docs)))]).astype(np.int32)
        tokens = self.tokens[:need].reshape(rows, width + 1)
        ids = self.ids[:need].reshape(rows, width + 1)
        self.tokens, self.ids = self.tokens[need:], self.ids[need:]
        self.taken += need
        target = np.where(tokens[:, :-1] == EOS, -1, tokens[:, 1:])
        return tokens[:, :-1], target, ids[:, :-1]


def windows(docs, width):
    """Every document once, in rows of its own: what the held-out loss is measured on."""
    rows = []
    for doc in docs:
        for start in range(0, len(doc) - 1, width):
            part = doc[start : start + width + 1].astype(np.int32)
            row = np.zeros((2, width), np.int32)
            row[1] = -1
            row[0, : len(part) - 1], row[1, : len(part) - 1] = part[:-1], part[1:]
            rows.append(row)
    stacked = np.stack(rows)
    return stacked[:, 0], stacked[:, 1]


if __name__ == "__main__":
    # The held-out stories as a text of their own: python3 corpus.py TINYSTORIES.txt HELD_OUT.txt
    stories, out = sys.argv[1:]
    with open(out, "w", encoding="utf-8", newline="") as file:
        file.write(f"\n{SEPARATOR}\n".join(split(stories)[1]) + "\n")
