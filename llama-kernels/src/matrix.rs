//! A weight matrix where it lies: validated once, then trusted.

use crate::Format;
use std::ops::Range;

/// A read-only view of `rows` rows of `cols` weights each, row-major, in one [`Format`].
///
/// It exists only if its bytes have exactly the right length, so kernels need not check again.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    /// Bytes from one row to the next.
    stride: usize,
    bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// A view of `bytes`; `None` if they are not `rows` whole rows of `cols` weights in `format`.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Matrix<'a>> {
        let stride = format.row_bytes(cols)?;
        (bytes.len() == stride.checked_mul(rows)?).then_some(Matrix { format, rows, cols, stride, bytes })
    }

    /// The storage format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Output features: a product yields this many values per token.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features: the length of an activation.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes of consecutive rows.
    ///
    /// # Panics
    /// If the range does not lie within the matrix.
    pub fn rows_bytes(&self, rows: Range<usize>) -> &'a [u8] {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        &self.bytes[rows.start * self.stride..rows.end * self.stride]
    }

    /// Bytes from one row to the next.
    pub fn row_stride(&self) -> usize {
        self.stride
    }

    /// Decodes one row, by the definition of its format.
    ///
    /// # Panics
    /// If there is no such row, or `out.len() != self.cols()`.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "a row has {} weights", self.cols);
        self.format.dequantize(self.rows_bytes(row..row + 1), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_length_is_a_matrix() {
        let bytes = [0u8; 72];
        assert!(Matrix::new(Format::Q4_0, 2, 64, &bytes).is_some());
        assert!(Matrix::new(Format::Q4_0, 2, 32, &bytes).is_none());
        assert!(Matrix::new(Format::Q4_0, 2, 36, &bytes).is_none());
        assert!(Matrix::new(Format::Q4_0, usize::MAX, 64, &bytes).is_none());
    }
}
