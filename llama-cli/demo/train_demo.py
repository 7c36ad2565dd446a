"""Trains the demo model.

    python3 train_demo.py TINYSTORIES.txt SAMPLED.txt OUT_FOLDER STEPS

The data are the real stories of the first 90 % of the text, of which every fortieth is kept to watch the training
(`dev`), and sampled stories (filter_samples.py). The matrices of the layers are trained with Muon, the embedding and
the norms with Adam. The rate rises over 60 steps, stays until 45 % of the steps, and falls in a straight line to zero.
While it falls, the share of real rows grows from 15 to 45 %, and below 0.5 windows are 512 tokens instead of 256.
OUT_FOLDER gets the vocabulary, a checkpoint every two minutes (a second start resumes there), the loss curve and, at
the end, the weights.
"""

import argparse
import csv
import os
import pickle
import time

import jax
import jax.numpy as jnp
import numpy as np

import corpus
import llama

CONFIG = llama.STUDENT
BATCH, SHORT, LONG = 4096, 256, 512
MUON_RATE, ADAM_RATE, DECAY, WARMUP = 8e-3, 4e-3, 0.1, 60
STAY = 0.45
COLUMNS = ("step", "tokens", "rate", "train_nats_per_token", "dev_bits_per_byte", "real_epochs", "sampled_tokens")
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


def loss_sum(params, tokens, target, doc):
    """Nats over all targets, and their number."""
    out = llama.logits(CONFIG, params, tokens, doc)
    picked = jnp.take_along_axis(out, jnp.maximum(target, 0)[..., None], -1)[..., 0]
    nats = jax.nn.logsumexp(out, -1) - picked
    known = target >= 0
    return jnp.where(known, nats, 0.0).sum(), known.sum()


def mean_loss(params, *batch):
    nats, count = loss_sum(params, *batch)
    return nats / count


def orthogonal(m):
    """The nearest matrix whose singular values are about one, by five steps of Newton and Schulz (Muon's quintic)."""
    tall = m.shape[0] > m.shape[1]
    x = m.T if tall else m
    x = x / (jnp.linalg.norm(x) + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


@jax.jit
def train_step(params, state, step, rate, tokens, target, doc):
    loss, grads = jax.value_and_grad(mean_loss)(params, tokens, target, doc)

    def muon(p, g, m):
        m = 0.95 * m + g
        update = orthogonal(g + 0.95 * m) * 0.2 * max(p.shape) ** 0.5
        return p - rate * MUON_RATE * (update + DECAY * p), m

    def adam(p, g, s):
        m, v = 0.9 * s[0] + 0.1 * g, 0.98 * s[1] + 0.02 * g * g
        update = (m / (1 - 0.9 ** (step + 1))) / (jnp.sqrt(v / (1 - 0.98 ** (step + 1))) + 1e-8)
        return p - rate * ADAM_RATE * update, (m, v)

    new, kept = dict(layers=[]), dict(layers=[])
    for name in ("embed", "norm"):
        new[name], kept[name] = adam(params[name], grads[name], state[name])
    for p, g, s in zip(params["layers"], grads["layers"], state["layers"]):
        pairs = {n: (muon if n in MATRICES else adam)(p[n], g[n], s[n]) for n in p}
        new["layers"].append({n: pair[0] for n, pair in pairs.items()})
        kept["layers"].append({n: pair[1] for n, pair in pairs.items()})
    return new, kept, loss


def fresh_state(params):
    def pair(p):
        return jnp.zeros_like(p), jnp.zeros_like(p)

    layers = [{n: jnp.zeros_like(p) if n in MATRICES else pair(p) for n, p in l.items()} for l in params["layers"]]
    return dict(embed=pair(params["embed"]), norm=pair(params["norm"]), layers=layers)


dev_sum = jax.jit(loss_sum)


def dev_bits(params, rows, size):
    """Bits per byte of the watched stories, each cut into rows of `LONG`."""
    tokens, target = rows
    nats = 0.0
    rows = BATCH // LONG
    for i in range(0, len(tokens), rows):
        part = tokens[i : i + rows], target[i : i + rows]
        short = rows - len(part[0])
        t, y = np.pad(part[0], ((0, short), (0, 0))), np.pad(part[1], ((0, short), (0, 0)), constant_values=-1)
        nats += float(dev_sum(params, t, y, np.zeros_like(t))[0])
    return nats / np.log(2) / size


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("stories")
    parser.add_argument("sampled")
    parser.add_argument("out")
    parser.add_argument("steps", type=int)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    path = lambda name: os.path.join(args.out, name)

    real, _ = corpus.split(args.stories)
    dev, real = real[::40], [s for i, s in enumerate(real) if i % 40]
    model = path("vocab.model")
    if not os.path.exists(model):
        corpus.train_tokenizer(real, model, CONFIG.vocab)
    sp = corpus.tokenizer(model)
    docs = corpus.documents(sp, real)
    size = sum(map(len, docs))
    print(f"{len(docs)} real stories, {size} tokens, {sum(len(s.encode()) for s in real) / size:.2f} bytes each")
    dev_rows = corpus.windows(corpus.documents(sp, dev), LONG)
    dev_size = sum(len(s.encode()) for s in dev)

    checkpoint = path("checkpoint.pickle")
    if os.path.exists(checkpoint):
        params, state, step, streams, rng = pickle.load(open(checkpoint, "rb"))
    else:
        params = llama.init(CONFIG, args.seed)
        state, step, rng = fresh_state(params), 0, np.random.default_rng(args.seed)
        sources = corpus.Real(docs, args.seed), corpus.Sampled(args.sampled, model, args.seed)
        streams = [corpus.Rows(source) for source in sources]
    print(f"{sum(p.size for p in jax.tree.leaves(params))} parameters", flush=True)

    saved, began, since, losses = time.time(), time.time(), step, []
    with open(path("loss.csv"), "a", newline="") as file:
        curve = csv.writer(file)
        if step == 0:
            curve.writerow(COLUMNS)
        while step < args.steps:
            rate = min(1.0, (1 - step / args.steps) / (1 - STAY))
            last = step + 1 == args.steps
            warm = min(1.0, (step + 1) / WARMUP)
            width = LONG if rate < 0.5 else SHORT
            rows = BATCH // width
            count = int(rng.binomial(rows, 0.45 - 0.30 * rate))
            parts = [s.take(n, width) for s, n in zip(streams, (count, rows - count)) if n]
            batch = [np.concatenate(p) for p in zip(*parts)]
            params, state, loss = train_step(params, state, step, warm * rate, *batch)
            losses.append(float(loss))
            step += 1
            if step % 100 == 0 or last:
                bits = dev_bits(params, dev_rows, dev_size)
                epochs = streams[0].taken / size
                figures = [rate, np.mean(losses), bits, epochs]
                row = [step, step * BATCH, *(f"{figure:.4f}" for figure in figures), streams[1].taken]
                curve.writerow(row)
                file.flush()
                speed = (step - since) * BATCH / (time.time() - began)
                print(*row, f"{speed:.0f} tokens/s", time.strftime("%H:%M:%S"), flush=True)
                losses = []
            if time.time() - saved > 120 or last:
                with open(checkpoint + ".new", "wb") as out:
                    pickle.dump((jax.device_get(params), jax.device_get(state), step, streams, rng), out)
                os.replace(checkpoint + ".new", checkpoint)
                saved = time.time()
    pickle.dump(jax.device_get(params), open(path("weights.pickle"), "wb"))


main()
