//! Structs that begin with their size, so that later versions can append members; and texts of the program's size.

use crate::status::Outcome;
use crate::status::rmap_status::{RMAP_ERR_INVAL, RMAP_ERR_NULL};
use core::ffi::c_char;
use core::fmt::{self, Write};

/// A struct that begins with its size.
///
/// # Safety
/// `repr(C)`, its first member is a `usize`, and every pattern of bytes that a C program may write is one of its
/// values.
pub(crate) unsafe trait Growing: Copy {
    /// The size of its first version: none that is smaller was ever in a header.
    const FIRST: usize;
}

/// Reads such a struct: members that the program does not know are as in `otherwise`.
///
/// # Safety
/// `from` is NULL or valid for as many bytes as its first member says.
pub(crate) unsafe fn read<T: Growing>(from: *const T, otherwise: T) -> Outcome<T> {
    if from.is_null() {
        return Err(RMAP_ERR_NULL);
    }
    if !from.is_aligned() {
        return Err(RMAP_ERR_INVAL);
    }
    // SAFETY: the struct begins with its size (`Growing`).
    let size = unsafe { from.cast::<usize>().read() };
    if size < T::FIRST {
        return Err(RMAP_ERR_INVAL);
    }
    let mut value = otherwise;
    // SAFETY: `from` is valid for `size` bytes, `value` for its own.
    unsafe {
        core::ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut value).cast::<u8>(), size.min(size_of::<T>()));
    }
    Ok(value)
}

/// The size that the program has given a struct which is to be filled.
///
/// # Safety
/// As for [`read`].
pub(crate) unsafe fn size_of_output<T: Growing>(to: *const T) -> Outcome<usize> {
    if to.is_null() {
        return Err(RMAP_ERR_NULL);
    }
    if !to.is_aligned() {
        return Err(RMAP_ERR_INVAL);
    }
    // SAFETY: as in `read`.
    let size = unsafe { to.cast::<usize>().read() };
    if size < T::FIRST { Err(RMAP_ERR_INVAL) } else { Ok(size) }
}

/// Writes as much of a struct as the program knows. The size stays the program's.
///
/// # Safety
/// `to` is aligned and valid for `size` bytes, at least `T::FIRST`.
pub(crate) unsafe fn write<T: Growing>(to: *mut T, size: usize, value: T) {
    // SAFETY: the caller's contract; the struct begins with its size (`Growing`).
    unsafe {
        core::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), to.cast::<u8>(), size.min(size_of::<T>()));
        to.cast::<usize>().write(size);
    }
}

/// A text of the program's: `size` bytes, the last of them 0. What does not fit is cut off between two characters.
pub(crate) struct Text {
    out: *mut c_char,
    size: usize,
    /// Bytes written.
    used: usize,
    /// Bytes that came; more when some did not fit.
    length: usize,
}

impl Text {
    /// A text of which nothing is written yet.
    ///
    /// # Safety
    /// `out` is NULL or valid for `size` bytes, as long as the text is used.
    pub(crate) unsafe fn new(out: *mut c_char, size: usize) -> Self {
        Self { out, size: if out.is_null() { 0 } else { size }, used: 0, length: 0 }
    }

    /// Writes the 0 at its end. Returns its length had there been room, without the 0.
    pub(crate) fn finish(self) -> usize {
        if self.size != 0 {
            // SAFETY: `used` is below `size`, for which `out` is valid (`new`).
            unsafe { self.out.add(self.used).write(0) };
        }
        self.length
    }
}

/// Never fails, and takes no memory.
impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.size.saturating_sub(1) - self.used;
        let fits = if self.used == self.length { text.floor_char_boundary(room) } else { 0 };
        if fits != 0 {
            // SAFETY: `used + fits` is below `size`, for which `out` is valid (`new`).
            unsafe { core::ptr::copy_nonoverlapping(text.as_ptr().cast(), self.out.add(self.used), fits) };
        }
        self.used += fits;
        self.length += text.len();
        Ok(())
    }
}

/// Writes a text, and the 0 at its end. Takes no memory.
///
/// # Safety
/// `out` is NULL or valid for `size` bytes.
pub(crate) unsafe fn write_text(out: *mut c_char, size: usize, text: fmt::Arguments<'_>) {
    // SAFETY: the caller's contract.
    let mut target = unsafe { Text::new(out, size) };
    // Never fails.
    let _ = target.write_fmt(text);
    target.finish();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(size: usize, text: &str) -> String {
        let mut out = [0x55; 16];
        // SAFETY: `out` is at least as large.
        unsafe { write_text(out.as_mut_ptr(), size, format_args!("{}{text}", "")) };
        let end = out.iter().position(|&byte| byte == 0).unwrap_or(0);
        assert!(out[end + 1..].iter().all(|&byte| byte == 0x55));
        String::from_utf8(out[..end].iter().map(|&byte| byte as u8).collect()).unwrap()
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(written(16, "abc"), "abc");
        assert_eq!(written(3, "abc"), "ab");
        assert_eq!(written(1, "abc"), "");
        assert_eq!(written(3, "aéb"), "a");
        assert_eq!(written(4, "aéb"), "aé");
    }
}
