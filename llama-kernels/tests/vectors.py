"""Writes vectors.txt, what the reference implementations decode: python vectors.py > vectors.txt

Needs the PyPI packages gguf (0.19) and, for the two formats that it lacks, llama-cpp-python.
A line is: the format, the digest of 1,000 random blocks' weights, three blocks with the smallest and
the largest scales in hexadecimal, and the digest of their weights.
"""

import ctypes
import pathlib

import gguf
import llama_cpp
import numpy as np

FORMATS = """F32 F16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S
IQ4_NL IQ3_S IQ2_S IQ4_XS IQ1_M BF16 TQ1_0 TQ2_0 MXFP4 NVFP4 Q1_0""".split()

# Where the half-precision scales lie, if they are not the first two bytes alone.
HALVES = {"Q4_1": [0, 2], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2],
          "Q6_K": [208], "TQ1_0": [52], "TQ2_0": [64]}
# Zero, the smallest and the largest number, of either sign.
EDGES = [0x0000, 0x0001, 0xFBFF]


def dequantize(name, blocks):
    if name in ("Q1_0", "Q8_K"):
        ggml = ctypes.CDLL(str(pathlib.Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
        out = np.zeros((len(blocks), {"Q1_0": 128, "Q8_K": 256}[name]), np.float32)
        decode = getattr(ggml, f"dequantize_row_{name.replace('Q', 'q')}")
        decode(ctypes.c_void_p(blocks.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_int64(out.size))
        return out
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])


def block_bytes(name):
    return {"Q1_0": 18}.get(name) or gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]


def random_blocks(name, n):
    """The highest bytes of the states of Knuth's 64-bit linear congruential generator, from 1."""
    state, out = 1, bytearray()
    for _ in range(n * block_bytes(name)):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out.append(state >> 56)
    return np.frombuffer(bytes(out), np.uint8).reshape(n, -1)


def edge_blocks(name):
    blocks = random_blocks(name, 3).copy()
    for block, edge in zip(blocks, EDGES):
        if name == "MXFP4":
            block[0] = {0x0001: 1, 0xFBFF: 252}.get(edge, 0)
        elif name == "NVFP4":
            block[:4] = {0x0001: [1, 7, 8, 9], 0xFBFF: [0x7D, 0x7E, 0x7F, 0xFF]}.get(edge, [0, 0x80, 0, 0x81])
        elif name == "IQ1_M":
            block[49:56:2] = [block[49 + 2 * i] & 15 | (edge >> 4 * i & 15) << 4 for i in range(4)]
        elif name == "BF16":
            block[:] = {0x0001: [1, 0], 0xFBFF: [0x7F, 0xFF]}.get(edge, [0, 0])
        elif name in ("F32", "Q8_K"):
            block[:4] = {0x0001: [1, 0, 0, 0], 0xFBFF: [0xFF, 0xFF, 0x7F, 0xFF]}.get(edge, [0] * 4)
        else:
            for at in HALVES.get(name, [0]):
                block[at : at + 2] = [edge & 255, edge >> 8]
    return blocks


def digest(weights):
    """FNV-1a, 64 bits, a float's bits at a time."""
    hash = 0xCBF29CE484222325
    for bits in weights.astype(np.float32).ravel().view(np.uint32).tolist():
        hash = (hash ^ bits) * 0x100000001B3 % 2**64
    return f"{hash:016x}"


for name in FORMATS:
    weights = dequantize(name, random_blocks(name, 1000)).reshape(1000, -1)
    # Blocks with a scale that is no finite number are left out.
    random = digest(weights[np.isfinite(weights).all(axis=1)])
    edges = edge_blocks(name)
    print(name, random, " ".join(bytes(block).hex() for block in edges), digest(dequantize(name, edges)))
