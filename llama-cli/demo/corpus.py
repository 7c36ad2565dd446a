"""The data of the demo model: the split of the real text, its tokens, and documents packed into rows."""

import hashlib

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


def digest(path):
    return hashlib.sha256(open(path, "rb").read()).hexdigest()


def tokenizer(path):
    return sentencepiece.SentencePieceProcessor(model_file=path)


def documents(sp, stories):
    """Each story between the token that begins a text and the one that ends it."""
    return [np.array([BOS, *sp.encode(story), EOS], np.uint16) for story in stories]


class Rows:
    """An endless stream of windows over documents that are shuffled anew for each epoch.

    A window may begin within a story. `doc` numbers the stories of a window, so that none sees another, and
    `target` is the next token of the same story, or -1 where the story has ended.
    """

    def __init__(self, docs, seed):
        self.docs = docs
        self.rng = np.random.default_rng(seed)
        self.tokens = np.zeros(0, np.int32)
        self.ids = np.zeros(0, np.int32)
        self.epochs = 0.0
        self.size = sum(map(len, docs))

    def take(self, rows, width):
        need = rows * (width + 1)
        while len(self.tokens) < need:
            order = self.rng.permutation(len(self.docs))
            lengths = [len(self.docs[i]) for i in order]
            self.tokens = np.concatenate([self.tokens, *(self.docs[i] for i in order)]).astype(np.int32)
            self.ids = np.concatenate([self.ids, np.repeat(np.arange(len(order)), lengths)]).astype(np.int32)
        tokens = self.tokens[:need].reshape(rows, width + 1)
        ids = self.ids[:need].reshape(rows, width + 1)
        self.tokens, self.ids = self.tokens[need:], self.ids[need:]
        self.epochs += need / self.size
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
