"""Writes the trained model as GGUF.

    python3 export_demo.py WEIGHTS.pickle VOCAB.model OUT.gguf

Matrices are Q8_0, norms F32. The output is the embedding, so there is no tensor for it.
"""

import pickle
import sys

import gguf
import numpy as np

from corpus import tokenizer
from llama import STUDENT as C

NOTE = (
    "A demo of 1.4 million parameters that tells little stories in English and knows nothing else. Trained from "
    "nothing on 2,100 stories of TinyStories (CDLA-Sharing-1.0, which does not bind results such as this model) and "
    "on text that stories260K wrote."
)
NAMES = {
    "attn_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
    "ffn_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}  # fmt: skip


def main(weights, vocabulary, out):
    params = pickle.load(open(weights, "rb"))
    params = params[0] if isinstance(params, tuple) else params
    sp = tokenizer(vocabulary)
    assert sp.vocab_size() == C.vocab
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name("llama-rs demo")
    writer.add_description(NOTE)
    writer.add_license("MIT OR Apache-2.0")
    writer.add_context_length(512)
    writer.add_embedding_length(C.dim)
    writer.add_block_count(C.layers)
    writer.add_feed_forward_length(C.hidden)
    writer.add_head_count(C.heads)
    writer.add_head_count_kv(C.kv_heads)
    writer.add_rope_dimension_count(C.head)
    writer.add_rope_freq_base(C.base)
    writer.add_layer_norm_rms_eps(C.eps)
    writer.add_vocab_size(C.vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(2)

    def kind(i):
        if sp.is_unknown(i):
            return gguf.TokenType.UNKNOWN
        if sp.is_control(i):
            return gguf.TokenType.CONTROL
        return gguf.TokenType.BYTE if sp.is_byte(i) else gguf.TokenType.NORMAL

    ids = range(C.vocab)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([sp.id_to_piece(i).encode() for i in ids])
    writer.add_token_scores([sp.get_score(i) for i in ids])
    writer.add_token_types([int(kind(i)) for i in ids])
    writer.add_bos_token_id(sp.bos_id())
    writer.add_eos_token_id(sp.eos_id())
    writer.add_unk_token_id(sp.unk_id())
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)

    def matrix(name, rows):
        kind = gguf.GGMLQuantizationType.Q8_0
        rows = np.ascontiguousarray(rows, np.float32)
        writer.add_tensor(name, gguf.quants.quantize(rows, kind), raw_dtype=kind)

    matrix("token_embd.weight", params["embed"])
    for i, layer in enumerate(params["layers"]):
        for ours, name in NAMES.items():
            if layer[ours].ndim == 2:
                matrix(f"blk.{i}.{name}.weight", np.asarray(layer[ours]).T)
            else:
                writer.add_tensor(f"blk.{i}.{name}.weight", np.asarray(layer[ours], np.float32))
    writer.add_tensor("output_norm.weight", np.asarray(params["norm"], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main(*sys.argv[1:])
