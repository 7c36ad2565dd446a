//! One layer's cache of keys and values, and the number formats that it may have.
//!
//! What lies in memory, for each KV head, is a sequence of *blocks of sixteen positions*:
//!
//! | type        | keys of a block                              | values of a block                            |
//! |-------------|----------------------------------------------|----------------------------------------------|
//! | f32 .. bf16 | `[feature][16 positions]`                    | `[16 positions][feature]`                    |
//! | q8_0, q4_0  | for each 32 features: 16 scales, then `[byte][16 positions]` | for each 32 features: 16 scales, then `[16 positions][byte]` |
//!
//! So the scores of sixteen positions are sums over whole registers, without one horizontal sum, and so
//! are the features of a weighted sum of values. The numbers are those of ggml's formats, to the bit;
//! only their order differs: `byte` is the byte of a ggml block. A token's key touches every line of its
//! block, which costs little beside the weights that a token reads.

use crate::buffer::Buffer;
use crate::format::Format;
use crate::ops::attention::KvHead;
use crate::simd::LANES;
use std::ops::Range;

/// A number format for cached keys or values.
///
/// What it costs a trained model, against a cache in single precision, over 512 tokens of text: the mean
/// divergence of the probabilities (Kullback-Leibler), how often another token is the likeliest, and what the
/// perplexity is multiplied by. The model is stories260K, a tiny one with heads of eight features.
///
/// | keys | values | nats per token | other favourite | perplexity |
/// |------|--------|----------------|-----------------|------------|
/// | f16  | f16    | 0.0000057      | 0.4 %           | 0.99996    |
/// | bf16 | bf16   | 0.00028        | 1.0 %           | 1.0018     |
/// | q8_0 | q8_0   | 0.0029         | 3.1 %           | 1.0001     |
/// | q8_0 | f32    | 0.0028         | 2.9 %           | 0.9991     |
/// | f32  | q8_0   | 0.0000091      | 0.2 %           | 0.9998     |
/// | q8_0 | q4_0   | 0.0051         | 3.9 %           | 1.0034     |
/// | f32  | q4_0   | 0.0027         | 1.4 %           | 1.0047     |
/// | q4_0 | f32    | 0.83           | 41 %            | 2.07       |
/// | q4_0 | q4_0   | 0.82           | 40 %            | 2.18       |
///
/// So this model's values take four bits, and its keys eight at least.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[allow(non_camel_case_types, reason = "ggml's own names")]
pub enum KvType {
    /// Single precision.
    F32,
    /// Half precision. Values beyond 65504 are cut down to it.
    #[default]
    F16,
    /// The upper half of single precision.
    BF16,
    /// Bytes, with a scale in half precision for each 32 features. Values beyond 127 * 65504 are cut down to it.
    Q8_0,
    /// Four bits, with a scale in half precision for each 32 features. Values beyond 8 * 65504 are cut down to it.
    Q4_0,
}

impl KvType {
    /// Every type.
    pub const ALL: [KvType; 5] = [KvType::F32, KvType::F16, KvType::BF16, KvType::Q8_0, KvType::Q4_0];

    /// The name that llama.cpp's users know.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::BF16 => "bf16",
            KvType::Q8_0 => "q8_0",
            KvType::Q4_0 => "q4_0",
        }
    }

    /// The type with this name, in any case.
    pub fn from_name(name: &str) -> Option<KvType> {
        KvType::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// The format that defines its numbers.
    pub fn format(self) -> Format {
        match self {
            KvType::F32 => Format::F32,
            KvType::F16 => Format::F16,
            KvType::BF16 => Format::BF16,
            KvType::Q8_0 => Format::Q8_0,
            KvType::Q4_0 => Format::Q4_0,
        }
    }

    /// Features that a row of `dim` is stored as: padded with zeros to sixteen, or to whole blocks of 32.
    /// Saturates.
    pub fn padded(self, dim: usize) -> usize {
        dim.checked_next_multiple_of(self.format().block_len().max(LANES)).unwrap_or(usize::MAX)
    }

    /// Bytes of one position's row of `dim` features; saturates.
    pub fn row_bytes(self, dim: usize) -> usize {
        let format = self.format();
        (self.padded(dim) / format.block_len()).saturating_mul(format.block_bytes())
    }

    /// The largest magnitude that is kept as it is; what lies beyond is cut down to it, so that no
    /// finite value becomes infinite.
    pub(crate) fn limit(self) -> f32 {
        const F16_MAX: f32 = 65504.0;
        match self {
            KvType::F32 => f32::INFINITY,
            KvType::F16 => F16_MAX,
            KvType::BF16 => half::bf16::MAX.to_f32_const(),
            KvType::Q8_0 => 127.0 * F16_MAX,
            KvType::Q4_0 => 8.0 * F16_MAX,
        }
    }
}

impl std::fmt::Display for KvType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The shape of one layer's cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvShape {
    /// KV heads.
    pub heads: usize,
    /// Positions that there is to be room for.
    pub positions: usize,
    /// Features of a key.
    pub key_dim: usize,
    /// Features of a value.
    pub value_dim: usize,
    /// What keys are stored as.
    pub key_type: KvType,
    /// What values are stored as.
    pub value_type: KvType,
}

impl KvShape {
    /// Bytes of a cache when it is full: what [`KvLayer::new`] sets aside. Saturates.
    pub fn bytes(&self) -> usize {
        self.head_bytes(self.key_block())
            .saturating_add(self.head_bytes(self.value_block()))
            .saturating_mul(self.heads)
    }

    /// Blocks of one head.
    fn blocks(&self) -> usize {
        self.positions.div_ceil(LANES)
    }

    /// Where a head's block lies, if each has so many bytes.
    pub(crate) fn block(&self, head: usize, block: usize, bytes: usize) -> Range<usize> {
        let start = (head * self.blocks() + block) * bytes;
        start..start + bytes
    }

    /// Bytes of one head's blocks of this size.
    fn head_bytes(&self, block: usize) -> usize {
        self.blocks().saturating_mul(block)
    }

    /// Bytes of sixteen positions' keys of one head.
    pub(crate) fn key_block(&self) -> usize {
        self.key_type.row_bytes(self.key_dim).saturating_mul(LANES)
    }

    /// Bytes of sixteen positions' values of one head.
    pub(crate) fn value_block(&self) -> usize {
        self.value_type.row_bytes(self.value_dim).saturating_mul(LANES)
    }
}

/// Keys and values of a whole context, preallocated.
///
/// Positions never written cost no memory, because the system maps untouched pages only when they
/// are written.
pub struct KvLayer {
    pub(crate) keys: Buffer<u8>,
    pub(crate) values: Buffer<u8>,
    shape: KvShape,
    window: usize,
}

impl KvLayer {
    /// An empty cache; `None` if the system has no room for it.
    pub fn new(shape: KvShape) -> Option<KvLayer> {
        // A size that saturated is more than any system has.
        let room = |block| Buffer::try_new(shape.head_bytes(block).checked_mul(shape.heads)?);
        let (keys, values) = (room(shape.key_block())?, room(shape.value_block())?);
        Some(KvLayer { keys, values, shape, window: usize::MAX })
    }

    /// The same cache, of which a token at position `i` sees position `j` only if `i - j < window` (sliding
    /// windows: Beltagy et al. 2020, Jiang et al. 2023). Default: all that came before it.
    ///
    /// # Panics
    /// If the window is zero: a token sees itself.
    pub fn with_window(self, window: usize) -> KvLayer {
        assert!(window > 0, "a token sees itself");
        KvLayer { window, ..self }
    }

    /// The first position that a token at this position sees.
    pub(crate) fn first_visible(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window)
    }

    /// What it was made for.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Writes the key at a position, as it is cached, to `out`.
    ///
    /// # Panics
    /// If there is no such head or position, or `out` is not `key_dim` long.
    pub fn key(&self, head: usize, position: usize, out: &mut [f32]) {
        let (kind, slot) = (self.shape.key_type, position % LANES);
        assert_eq!(out.len(), self.shape.key_dim, "features of a key");
        let block = &self.keys[self.block(head, position, self.shape.key_block())];
        read(kind, block, slot, out, |byte, _| byte * LANES + slot);
    }

    /// Writes the value at a position, as it is cached, to `out`.
    ///
    /// # Panics
    /// If there is no such head or position, or `out` is not `value_dim` long.
    pub fn value(&self, head: usize, position: usize, out: &mut [f32]) {
        let (kind, slot) = (self.shape.value_type, position % LANES);
        assert_eq!(out.len(), self.shape.value_dim, "features of a value");
        let block = &self.values[self.block(head, position, self.shape.value_block())];
        read(kind, block, slot, out, |byte, row| slot * row + byte);
    }

    /// The bytes of the first `positions`, in whole blocks of sixteen: each head's keys, then each head's values. What
    /// they are depends on the shape alone, not on the CPU.
    ///
    /// # Panics
    /// If there are not so many positions.
    pub fn saved(&self, positions: usize) -> impl Iterator<Item = &[u8]> {
        let (keys, values) = self.saved_lengths(positions);
        let heads = |buffer, (whole, part): (usize, usize)| {
            <[u8]>::chunks_exact(buffer, whole.max(1)).map(move |head| &head[..part])
        };
        heads(&self.keys, keys).chain(heads(&self.values, values))
    }

    /// The same bytes, to be filled with those of a cache of the same shape.
    ///
    /// # Panics
    /// If there are not so many positions.
    pub fn saved_mut(&mut self, positions: usize) -> impl Iterator<Item = &mut [u8]> {
        let (keys, values) = self.saved_lengths(positions);
        let heads = |buffer, (whole, part): (usize, usize)| {
            <[u8]>::chunks_exact_mut(buffer, whole.max(1)).map(move |head| &mut head[..part])
        };
        heads(&mut self.keys, keys).chain(heads(&mut self.values, values))
    }

    /// Bytes of a head and of its first positions, of keys and of values.
    fn saved_lengths(&self, positions: usize) -> ((usize, usize), (usize, usize)) {
        let shape = &self.shape;
        assert!(positions <= shape.positions, "{positions} of {} positions", shape.positions);
        let lengths = |block| (shape.head_bytes(block), positions.div_ceil(LANES) * block);
        (lengths(shape.key_block()), lengths(shape.value_block()))
    }

    /// Where the block of a position lies, if each has so many bytes.
    pub(crate) fn block(&self, head: usize, position: usize, bytes: usize) -> Range<usize> {
        assert!(
            head < self.shape.heads && position < self.shape.positions,
            "head {head}, position {position}"
        );
        self.shape.block(head, position / LANES, bytes)
    }

    /// One head's blocks.
    pub(crate) fn head(&self, head: usize) -> KvHead<'_> {
        let shape = &self.shape;
        let range = |block| head * shape.head_bytes(block)..(head + 1) * shape.head_bytes(block);
        KvHead {
            keys: &self.keys[range(shape.key_block())],
            values: &self.values[range(shape.value_block())],
            shape,
        }
    }
}

/// The definition of a block: where each number lies that position `slot` of it has, and what it is.
/// `place(i, n)` is the place of unit `i` of `n`: a unit is a float, or a byte of a quantized block.
fn read(kind: KvType, block: &[u8], slot: usize, out: &mut [f32], place: impl Fn(usize, usize) -> usize) {
    let format = kind.format();
    let (len, bytes) = (format.block_len(), format.block_bytes());
    if len == 1 {
        let features = kind.padded(out.len());
        for (i, out) in out.iter_mut().enumerate() {
            let start = place(i, features) * bytes;
            format.dequantize(&block[start..start + bytes], std::slice::from_mut(out));
        }
        return;
    }
    for (group, out) in block.chunks_exact(LANES * bytes).zip(out.chunks_mut(len)) {
        let (scales, quants) = group.split_at(2 * LANES);
        let mut ggml = vec![scales[2 * slot], scales[2 * slot + 1]];
        ggml.extend((0..bytes - 2).map(|i| quants[place(i, bytes - 2)]));
        let mut weights = vec![0.0; len];
        format.dequantize(&ggml, &mut weights);
        out.copy_from_slice(&weights[..out.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for kind in KvType::ALL {
            assert_eq!(KvType::from_name(&kind.to_string().to_uppercase()), Some(kind));
        }
        assert_eq!(KvType::from_name("q9_0"), None);
        assert_eq!(KvType::default(), KvType::F16);
    }

    #[test]
    fn rows_are_whole_registers_and_blocks() {
        let bytes = |dim| KvType::ALL.map(|kind| kind.row_bytes(dim));
        assert_eq!(bytes(64), [256, 128, 128, 68, 36]);
        assert_eq!(bytes(20), [128, 64, 64, 34, 18]);
        assert_eq!(bytes(0), [0; 5]);
        assert_eq!(KvType::Q4_0.row_bytes(usize::MAX), usize::MAX / 32 * 18);
    }

    #[test]
    fn a_cache_has_the_bytes_of_its_positions() {
        let shape = |key_type, value_type| KvShape {
            heads: 3,
            positions: 33,
            key_dim: 64,
            value_dim: 32,
            key_type,
            value_type,
        };
        for key_type in KvType::ALL {
            for value_type in KvType::ALL {
                let shape = shape(key_type, value_type);
                let expected = 3 * 48 * (key_type.row_bytes(64) + value_type.row_bytes(32));
                assert_eq!(shape.bytes(), expected);
                let layer = KvLayer::new(shape).unwrap();
                assert_eq!(layer.keys.len() + layer.values.len(), expected);
            }
        }
        let huge = KvShape { positions: usize::MAX, ..shape(KvType::F32, KvType::F32) };
        assert_eq!(huge.bytes(), usize::MAX);
        assert!(KvLayer::new(huge).is_none());
    }
}
