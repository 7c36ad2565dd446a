"""Writes dequantize.txt and quantize.txt: what ggml's Python package and reference quantizer make of
seeded inputs. Run it when a format is added: python generate.py

Needs the packages gguf, llama-cpp-python and numpy. A format joins by a line in FORMATS.
"""

import ctypes
import pathlib
import warnings

import gguf
import llama_cpp
import numpy as np

BLOCKS = 256
COLS, ROWS = 1024, 8


def f16(*offsets):
    """Half-precision scales at these bytes of a block: zero, the smallest, the largest."""
    return lambda block, case: place(block, offsets, [b"\x00\x00", b"\x01\x00", b"\xff\x7b"][case])


def bf16(*offsets):
    return lambda block, case: place(block, offsets, [b"\x00\x00", b"\x01\x00", b"\x7f\x7f"][case])


def f32(*offsets):
    patterns = [b"\x00\x00\x00\x00", b"\x01\x00\x00\x00", b"\xff\xff\x7f\x7f"]
    return lambda block, case: place(block, offsets, patterns[case])


def place(block, offsets, pattern):
    for offset in offsets:
        block[offset : offset + len(pattern)] = pattern


# The format, and how to give a block an extreme scale.
FORMATS = {
    "F32": f32(0),
    "F16": f16(0),
    "Q4_0": f16(0),
    "Q4_1": f16(0, 2),
    "Q5_0": f16(0),
    "Q5_1": f16(0, 2),
    "Q8_0": f16(0),
    "Q2_K": f16(80, 82),
    "Q3_K": f16(108),
    "Q4_K": f16(0, 2),
    "Q5_K": f16(0, 2),
    "Q6_K": f16(208),
    "Q8_K": f32(0),
    "BF16": bf16(0),
    "TQ1_0": f16(52),
    "TQ2_0": f16(64),
}

# Encoders that are equal byte for byte, and those that may only not be worse.
EQUAL = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"]
COMPARED = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


class Lcg:
    """Knuth's linear congruential generator, modulo 2^64; vectors.rs has the same."""

    def __init__(self, seed):
        self.state = seed

    def bits(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return self.state >> (64 - n)

    def bytes(self, n):
        return bytearray(self.bits(8) for _ in range(n))

    def gaussian(self):
        """Nearly: the sum of four uniform values, exact in single precision."""
        return np.float32(sum(self.bits(16) for _ in range(4)) - 131070) * np.float32(2.0**-15)


def fnv(data):
    """FNV-1a of 64 bits."""
    state = 0xCBF29CE484222325
    for byte in bytes(data):
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return f"{state:016x}"


def dequantize(name, data):
    """One row of weights for each block. The package lacks Q8_K: a scale, then 256 signed bytes."""
    kind = gguf.GGMLQuantizationType[name]
    blocks = np.frombuffer(bytes(data), dtype=np.uint8).reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
    if name == "Q8_K":
        return blocks[:, :4].copy().view("<f4") * blocks[:, 4:260].copy().view("i1").astype(np.float32)
    return gguf.quants.dequantize(blocks, kind).astype("<f4")


def dequantize_line(name):
    kind = gguf.GGMLQuantizationType[name]
    size = gguf.GGML_QUANT_SIZES[kind][1]
    lcg = Lcg(int(kind))
    values = dequantize(name, lcg.bytes(BLOCKS * size))
    finite = values[np.isfinite(values).all(axis=1)]
    edges = bytearray()
    for case in range(3):
        block = lcg.bytes(size)
        FORMATS[name](block, case)
        edges += block
    return f"{name} {fnv(finite.tobytes())} {edges.hex()} {fnv(dequantize(name, edges).tobytes())}"


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


def main():
    warnings.simplefilter("ignore", RuntimeWarning)  # scales that are infinite are left out below
    here = pathlib.Path(__file__).parent
    (here / "dequantize.txt").write_text("".join(dequantize_line(name) + "\n" for name in FORMATS))

    gaussian, heavy, importance = rows()
    lines = []
    for name in EQUAL:
        kind = gguf.GGMLQuantizationType[name]
        digests = [fnv(gguf.quants.quantize(x, kind).tobytes()) for x in (gaussian, heavy)]
        lines.append(f"{name} equal {' '.join(digests)}")
    for name in COMPARED:
        errors = [reference(name, x, w) for w in (None, importance) for x in (gaussian, heavy)]
        lines.append(f"{name} compared {' '.join(f'{error:.6e}' for error in errors)}")
    (here / "quantize.txt").write_text("".join(line + "\n" for line in lines))


main()
