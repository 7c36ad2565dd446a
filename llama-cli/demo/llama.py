"""A Llama in JAX: the graph and its initial weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Config(NamedTuple):
    vocab: int
    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    eps: float = 1e-5
    base: float = 10000.0

    @property
    def head(self):
        return self.dim // self.heads


STUDENT = Config(vocab=2048, dim=128, hidden=352, layers=6, heads=4, kv_heads=2)


def init(config, seed):
    """Matrices are [in, out]; those that write to the residual stream begin as zero; the output is the embedding."""
    rng = np.random.default_rng(seed)

    def normal(rows, cols, std):
        return jnp.asarray(rng.normal(0.0, std, (rows, cols)), jnp.float32)

    d, h, kv = config.dim, config.hidden, config.kv_heads * config.head
    layers = [
        dict(
            attn_norm=jnp.ones(d), q=normal(d, d, d**-0.5), k=normal(d, kv, d**-0.5), v=normal(d, kv, d**-0.5),
            o=jnp.zeros((d, d)), ffn_norm=jnp.ones(d), gate=normal(d, h, d**-0.5), up=normal(d, h, d**-0.5),
            down=jnp.zeros((h, d)),
        )
        for _ in range(config.layers)
    ]  # fmt: skip
    return dict(embed=normal(config.vocab, d, 0.02), layers=layers, norm=jnp.ones(d))


def rms_norm(x, weight, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * weight


def rotate(x, cos, sin):
    """Neighbouring pairs turn, as GGUF's Llama has it. x: [..., head]; cos, sin: [..., head/2]."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)


def angles(config, positions):
    inverse = config.base ** (-np.arange(0, config.head, 2) / config.head)
    angle = positions[:, None] * jnp.asarray(inverse, jnp.float32)
    return jnp.cos(angle), jnp.sin(angle)


def block(config, layer, x, attend):
    """One layer; `attend` maps q, k, v of [batch, n, heads, head] to what the heads have read."""
    b, n, _ = x.shape
    h = rms_norm(x, layer["attn_norm"], config.eps)
    q = (h @ layer["q"]).reshape(b, n, config.heads, config.head)
    k = (h @ layer["k"]).reshape(b, n, config.kv_heads, config.head)
    v = (h @ layer["v"]).reshape(b, n, config.kv_heads, config.head)
    x = x + attend(q, k, v).reshape(b, n, -1) @ layer["o"]
    h = rms_norm(x, layer["ffn_norm"], config.eps)
    return x + (jax.nn.silu(h @ layer["gate"]) * (h @ layer["up"])) @ layer["down"]


# Queries are taken in chunks, so that about half of the scores that causality hides are never computed.
CHUNK = 128


def logits(config, params, tokens, doc):
    """[batch, n] tokens and the numbers of their documents; [batch, n, vocab] logits."""
    n = tokens.shape[1]
    cos, sin = (t[None, :, None] for t in angles(config, jnp.arange(n, dtype=jnp.float32)))
    group = config.heads // config.kv_heads

    def attend(q, k, v):
        q = rotate(q, cos, sin) * config.head**-0.5
        k = rotate(k, cos, sin).transpose(0, 2, 3, 1)  # [b, kv, head, n]
        v = v.transpose(0, 2, 1, 3)  # [b, kv, n, head]
        b = q.shape[0]
        q = q.reshape(b, n, config.kv_heads, group, config.head).transpose(0, 2, 3, 1, 4)
        out = []
        for start in range(0, n, CHUNK):
            end = min(n, start + CHUNK)
            part = q[..., start:end, :].reshape(b, config.kv_heads, -1, config.head)
            scores = (part @ k[..., :end]).reshape(b, config.kv_heads, group, end - start, end)
            same = doc[:, start:end, None] == doc[:, None, :end]
            seen = same & (jnp.arange(end)[None, :] <= jnp.arange(start, end)[:, None])
            p = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -1e30), -1)
            read = p.reshape(b, config.kv_heads, -1, end) @ v[:, :, :end]
            out.append(read.reshape(b, config.kv_heads, group, end - start, config.head))
        return jnp.concatenate(out, 3).transpose(0, 3, 1, 2, 4)

    x = params["embed"][tokens]
    for layer in params["layers"]:
        x = block(config, layer, x, attend)
    return rms_norm(x, params["norm"], config.eps) @ params["embed"].T
