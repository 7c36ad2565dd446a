//! Zeroed memory aligned to cache lines, and to huge pages where it is large.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A cache line, and the widest register.
const LINE: usize = 64;
/// A huge page: the kernel backs an aligned allocation with them where it may.
const HUGE_PAGE: usize = 2 << 20;

/// A type whose zero bytes are a value.
///
/// # Safety
/// All-zero bytes are a valid value, and the type needs no drop.
pub unsafe trait Zero: Copy + Send + Sync + 'static {}

// SAFETY: plain numbers.
unsafe impl Zero for f32 {}
// SAFETY: plain numbers.
unsafe impl Zero for i32 {}
// SAFETY: plain numbers.
unsafe impl Zero for u8 {}
// SAFETY: an array of such values is one too.
unsafe impl<T: Zero, const N: usize> Zero for [T; N] {}

/// A value that begins with a cache line. Registers that are stored across two take some CPUs long.
#[repr(align(64))]
pub(crate) struct Aligned<T>(pub T);

/// Words as the lines that they are; what is left of the last one is left out.
pub(crate) fn lines_mut(words: &mut [i32]) -> &mut [[u8; LINE]] {
    let (lines, _) = words.as_chunks_mut::<{ LINE / 4 }>();
    // SAFETY: the same bytes, every one of which is initialised; they need no alignment.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len()) }
}

/// A fixed-length array, zeroed, that starts on a cache line.
///
/// What kernels read and write lies best in one: registers that cross two lines take some CPUs twice as long or more. (On
/// Zen 4, F16 weights times 64 tokens whose activations lay sixteen bytes off ran at 0.75 to 0.95 of the speed.)
///
/// Untouched pages of a large buffer cost no memory: the system maps them at the first write. That
/// holds because the allocator is asked for zeroes with an ordinary alignment, and the start is moved
/// up by hand: asked for an aligned block it would write the zeroes itself.
pub struct Buffer<T: Zero> {
    ptr: NonNull<T>,
    len: usize,
    /// What the allocator gave; null for an empty buffer.
    block: *mut u8,
}

// SAFETY: a buffer owns its memory as a `Box<[T]>` does, and `Zero` types are `Send`.
unsafe impl<T: Zero> Send for Buffer<T> {}
// SAFETY: as above; shared access yields only `&T`.
unsafe impl<T: Zero> Sync for Buffer<T> {}

impl<T: Zero> Buffer<T> {
    /// `len` zeroes.
    ///
    /// # Panics
    /// If the system has no room for them.
    pub fn new(len: usize) -> Buffer<T> {
        Self::try_new(len).unwrap_or_else(|| panic!("no room for {len} values of {} bytes", size_of::<T>()))
    }

    /// `len` zeroes; `None` if the system has no room for them.
    pub(crate) fn try_new(len: usize) -> Option<Buffer<T>> {
        let (layout, align) = Self::layout(len)?;
        if len == 0 {
            return Some(Buffer { ptr: NonNull::dangling(), len, block: std::ptr::null_mut() });
        }
        // SAFETY: the layout has a size.
        let block = unsafe { alloc_zeroed(layout) };
        if block.is_null() {
            return None;
        }
        // SAFETY: the block is longer than the array by `align` bytes.
        let start = unsafe { block.add(block.align_offset(align)) };
        Some(Buffer { ptr: NonNull::new(start.cast())?, len, block })
    }

    /// At least `len` values; a buffer that is too small is replaced by zeroes.
    ///
    /// # Panics
    /// If the system has no room for them.
    pub(crate) fn room(&mut self, len: usize) -> &mut [T] {
        if self.len < len {
            *self = Buffer::new(0); // the old block goes before the new one comes
            *self = Buffer::new(len);
        }
        &mut self[..len]
    }

    /// The block to ask for, and the alignment to find within it.
    fn layout(len: usize) -> Option<(Layout, usize)> {
        let size = Layout::array::<T>(len).ok()?.size();
        let align = if size >= 2 * HUGE_PAGE { HUGE_PAGE } else { LINE };
        Some((Layout::from_size_align(size.checked_add(align)?, align_of::<usize>()).ok()?, align))
    }
}

impl<T: Zero> Default for Buffer<T> {
    fn default() -> Self {
        Buffer::new(0)
    }
}

impl<T: Zero> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Some((layout, _)) = Self::layout(self.len)
            && !self.block.is_null()
        {
            // SAFETY: allocated in `try_new` with the layout of the same length.
            unsafe { dealloc(self.block, layout) }
        }
    }
}

impl<T: Zero> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `new` allocated `len` values, and zero bytes are valid ones.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Zero> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_and_aligned() {
        for len in [0, 1, 17, HUGE_PAGE] {
            let mut b = Buffer::<f32>::new(len);
            assert_eq!(b.len(), len);
            assert!(b.iter().all(|&x| x == 0.0));
            assert!(len == 0 || (b.as_ptr() as usize).is_multiple_of(LINE));
            b.fill(1.0);
        }
        assert_eq!(Buffer::<f32>::new(HUGE_PAGE).as_ptr() as usize % HUGE_PAGE, 0);
    }
}
