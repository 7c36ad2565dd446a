"""Writes encoders.txt, what ggml's own encoders make of seeded rows: python encoders.py > encoders.txt

Needs the PyPI packages gguf (0.19) and llama-cpp-python. A line is the format, then either `equal` and
the digests of the bytes that the former makes of Gaussian and of heavy-tailed rows, or `compared` and the
mean squared errors of the latter's quantizer on both, without and with importance weights.
"""

import ctypes
import pathlib

import gguf
import llama_cpp
import numpy as np

COLS, ROWS = 1024, 8

# Encoders that are equal byte for byte, and those that may only not be worse.
EQUAL = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"]
COMPARED = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]


class Lcg:
    """Knuth's linear congruential generator, modulo 2^64; encoders.rs has the same."""

    def __init__(self, seed):
        self.state = seed

    def bits(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return self.state >> (64 - n)

    def gaussian(self):
        """Nearly: the sum of four uniform values, exact in single precision."""
        return np.float32(sum(self.bits(16) for _ in range(4)) - 131070) * np.float32(2.0**-15)


def fnv(data):
    """FNV-1a of 64 bits."""
    state = 0xCBF29CE484222325
    for byte in bytes(data):
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return f"{state:016x}"


def rows():
    """Gaussian rows, heavy-tailed rows (their cubes), and an importance for each column."""
    lcg = Lcg(1)
    gaussian = np.array([lcg.gaussian() for _ in range(ROWS * COLS)], dtype=np.float32)
    importance = np.array([(lcg.bits(16) + 1) * 2.0**-16 for _ in range(COLS)], dtype=np.float32)
    return gaussian.reshape(ROWS, COLS), (gaussian * gaussian * gaussian).reshape(ROWS, COLS), importance


def reference(name, x, importance):
    """Mean squared error of ggml's own quantizer."""
    library = pathlib.Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"
    quantize = ctypes.CDLL(str(library)).ggml_quantize_chunk
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    quantize.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    quantize.restype = ctypes.c_size_t
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros((ROWS, COLS // block * size), dtype=np.uint8)
    weights = None if importance is None else importance.ctypes.data
    quantize(int(kind), x.ctypes.data, out.ctypes.data, 0, ROWS, COLS, weights)
    error = (gguf.quants.dequantize(out, kind).astype(np.float64) - x) ** 2
    return float((error if importance is None else error * importance).mean())


gaussian, heavy, importance = rows()
for name in EQUAL:
    kind = gguf.GGMLQuantizationType[name]
    digests = [fnv(gguf.quants.quantize(x, kind).tobytes()) for x in (gaussian, heavy)]
    print(name, "equal", *digests)
for name in COMPARED:
    errors = [reference(name, x, w) for w in (None, importance) for x in (gaussian, heavy)]
    print(name, "compared", *(f"{error:.6e}" for error in errors))
