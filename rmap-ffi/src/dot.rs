//! Pictures: the reverse map of one page, for Graphviz.

use crate::handle::{need, open_ctx, open_page_of, put, rmap_ctx, rmap_page};
use crate::held::Inside;
use crate::page::need_locked;
use crate::sized::Text;
use crate::status::rmap_status::RMAP_ERR_NULL;
use crate::status::{Outcome, boundary, rmap_status};
use core::ffi::{CStr, c_char};
use core::fmt::{self, Write};

/// A text of the program's, shown as far as it is UTF-8.
pub(crate) struct Caption<'a>(&'a [u8]);

impl Caption<'_> {
    /// # Safety
    /// `text` is NULL or a string, as long as the result is used.
    pub(crate) unsafe fn new(text: *const c_char) -> Self {
        // SAFETY: the caller's contract.
        Self(if text.is_null() { &[] } else { unsafe { CStr::from_ptr(text) }.to_bytes() })
    }
}

impl fmt::Display for Caption<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.utf8_chunks().try_for_each(|chunk| {
            f.write_str(chunk.valid())?;
            if chunk.invalid().is_empty() { Ok(()) } else { f.write_char(char::REPLACEMENT_CHARACTER) }
        })
    }
}

/// Where a picture goes, and where its length.
pub(crate) struct Output {
    pub(crate) text: Text,
    length: *mut usize,
}

impl Output {
    /// # Safety
    /// `out` is NULL or valid for `size` bytes, `length` NULL or valid, as long as the result is used.
    pub(crate) unsafe fn new(out: *mut c_char, size: usize, length: *mut usize) -> Outcome<Self> {
        need(length)?;
        if out.is_null() && size != 0 {
            return Err(RMAP_ERR_NULL);
        }
        // SAFETY: the caller's contract.
        Ok(Self { text: unsafe { Text::new(out, size) }, length })
    }

    /// The picture is complete.
    pub(crate) fn finish(self) {
        // SAFETY: not NULL, and valid (`new`).
        unsafe { put(self.length, self.text.finish()) };
    }
}

/// Draws the reverse map of a page, in the language of Graphviz (dot -Tsvg makes a picture of it): the page with its
/// mapping word, and what that leads to; what the engine keeps for it, with anon_vma the chains of the VMAs and all
/// anon_vmas in them; the VMAs that a walk visits; and the entries at the candidate addresses, those that map the page
/// with a thick border, the others dashed. Names in it are small and in order of appearance, so equal states make equal
/// texts.
///
/// Parameters: ctx; page, of a compound page any; caption, a text to stand above it, or NULL; out and size, where it is
/// written to, cut off if need be, with a terminating NUL, when size is above 0; length, receives its length, which may
/// be more than fits. Other threads may make it another until the next call.
/// Returns: RMAP_OK, also when it was cut off; RMAP_ERR_LOCK when the page is not locked; RMAP_ERR_FOREIGN for a page
/// of another context; RMAP_ERR_NOMEM.
/// Ownership: the buffer is the program's.
/// Context: the page lock held, a reference to the page; no anon_vma, i_mmap or page-table lock. Waits. Takes
/// page-table locks. Calls the allocator, under the page lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_dump_dot(
    ctx: *mut rmap_ctx,
    page: *mut rmap_page,
    caption: *const c_char,
    out: *mut c_char,
    size: usize,
    length: *mut usize,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a buffer of `size` bytes, an output, and a string or NULL (Parameters).
        let (mut output, caption) = unsafe { (Output::new(out, size, length)?, Caption::new(caption)) };
        // SAFETY: a living context, and a descriptor (Parameters).
        let (context, page) = unsafe {
            let context = open_ctx(ctx)?;
            (context, open_page_of(context, page)?)
        };
        need_locked(page)?;
        let inside = Inside::new();
        context.rmap.dump_dot(page, caption, &mut output.text)?;
        drop(inside);
        output.finish();
        Ok(())
    })
}
