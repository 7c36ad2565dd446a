//! One output, many writers.

use crate::ops::place::Strided;
use std::marker::PhantomData;
use std::ops::Range;

/// A slice of which several workers write different parts.
pub(super) struct Parts<'a, T> {
    ptr: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `part`, whose callers keep the parts disjoint.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Parts { ptr: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// # Safety
    /// No two parts that live at the same time overlap.
    #[expect(clippy::mut_from_ref, reason = "the parts are disjoint")]
    pub(super) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: the range was checked, and the caller keeps parts disjoint.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }
}

impl<'a> Parts<'a, f32> {
    /// `rows` values from `start` on and the same of the tokens after it, `stride` values apart.
    ///
    /// # Safety
    /// As for [`part`](Self::part).
    pub(super) unsafe fn strided(
        &self,
        start: usize,
        stride: usize,
        rows: usize,
        tokens: usize,
    ) -> Strided<'a> {
        let end = tokens.checked_sub(1).map_or(0, |last| start + last * stride + rows);
        assert!(
            end <= self.len,
            "{rows} values at {start} of each {stride}, {tokens} times, of {}",
            self.len
        );
        // SAFETY: the last one is in bounds, and the caller keeps parts disjoint.
        unsafe { Strided::new(self.ptr.wrapping_add(start), stride, rows, tokens) }
    }
}
