"""Text sampled from stories260K: what the demo model learns from beside the real stories.

    python3 sample_demo.py STORIES260K.bin TOK512.model TINYSTORIES.txt OUT.txt MEGABYTES SEED

Each sample begins with the first one to four words of a story of the training part, drawn anew each time, and is kept
if it ends by itself within the context and does not go round in circles. The output is appended to as batches finish.
"""

import collections
import os
import sys

import jax
import numpy as np

from corpus import BOS, EOS, split, tokenizer
from llama import read_llama2c, sample

BATCH, STEPS, WIDTH = 256, 400, 16


def good(text):
    """No phrase of six words more than twice, and some length."""
    words = text.split()
    phrases = collections.Counter(tuple(words[i : i + 6]) for i in range(len(words) - 5))
    return len(words) >= 40 and max(phrases.values(), default=0) <= 2


def main(weights, vocabulary, stories, out, megabytes, seed):
    config, params = read_llama2c(weights)
    sp = tokenizer(vocabulary)
    train, _ = split(stories)
    rng = np.random.default_rng(int(seed))
    key = jax.random.PRNGKey(int(seed))
    size = os.path.getsize(out) if os.path.exists(out) else 0
    rng = np.random.default_rng([int(seed), size])
    key = jax.random.fold_in(key, size)
    while size < float(megabytes) * 1e6:
        prompts, lengths = np.zeros((BATCH, WIDTH), np.int32), np.zeros(BATCH, np.int32)
        for i in range(BATCH):
            story = train[rng.integers(len(train))].split(" ")
            ids = [BOS, *sp.encode(" ".join(story[: rng.integers(1, 5)]))][:WIDTH]
            prompts[i, : len(ids)], lengths[i] = ids, len(ids)
        key, draw = jax.random.split(key)
        temperature = float(rng.uniform(0.6, 1.0))
        tokens = np.asarray(sample(config, params, prompts, STEPS, lengths, temperature, draw))
        kept = 0
        with open(out, "a", encoding="utf-8") as file:
            for row in tokens:
                ends = np.flatnonzero((row == EOS) | ((row == BOS) & (np.arange(STEPS) > 0)))
                if len(ends) == 0:
                    continue
                text = sp.decode([int(t) for t in row[1 : ends[0]]]).strip()
                if good(text):
                    file.write(text + "\n<|endoftext|>\n")
                    kept += 1
        size = os.path.getsize(out)
        print(f"{size / 1e6:.2f} MB, {kept} of {BATCH} kept at {temperature:.2f}", flush=True)


main(*sys.argv[1:])
