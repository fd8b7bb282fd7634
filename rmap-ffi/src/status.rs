//! Status codes.

use rmap_core::base::error::Error;

/// What a function answers. Values never change their meaning; programs treat unknown ones as errors.
///
/// A function that returns anything but `RMAP_OK` has changed nothing and has written no output, except where its own
/// documentation says otherwise. Every function may return `RMAP_ERR_NULL`, `RMAP_ERR_INVAL` for a misaligned handle,
/// `RMAP_ERR_STALE` and `RMAP_ERR_INTERNAL`; these are not repeated.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum rmap_status {
    /// Done.
    RMAP_OK = 0,
    /// Out of memory.
    RMAP_ERR_NOMEM = 1,
    /// An argument is malformed: unaligned, empty, overflowing, outside the VMA, or a contradiction of flags.
    RMAP_ERR_INVAL = 2,
    /// Nothing is mapped at the address, or the page is not mapped.
    RMAP_ERR_NOT_MAPPED = 3,
    /// The range, offset or frame is occupied.
    RMAP_ERR_EXISTS = 4,
    /// The VMA forbids the access.
    RMAP_ERR_ACCESS = 5,
    /// Nothing stands behind the address: past the end of a file.
    RMAP_ERR_BUS = 6,
    /// The object is still linked or in use.
    RMAP_ERR_BUSY = 7,
    /// The object belongs to another address space or context.
    RMAP_ERR_FOREIGN = 8,
    /// The address space is being torn down.
    RMAP_ERR_UNSTABLE = 9,
    /// No free range of that size, or a limit is reached.
    RMAP_ERR_NOSPACE = 10,
    /// Reading or writing a file failed.
    RMAP_ERR_IO = 11,
    /// The handle names something that is gone. Detected by builds with the feature `checked` or with debug assertions,
    /// and by others only where it costs nothing: elsewhere a stale handle is undefined behaviour.
    RMAP_ERR_STALE = 12,
    /// A lock is held by another thread, and the caller asked not to wait.
    RMAP_ERR_AGAIN = 13,
    /// Not defined for this object, or not known to this version.
    RMAP_ERR_NOT_SUPPORTED = 14,
    /// A pointer that must not be NULL is.
    RMAP_ERR_NULL = 15,
    /// A lock that the function needs is not held, or one that it must not meet is.
    RMAP_ERR_LOCK = 16,
    /// A bug in librmap: it panicked. The panic stopped at this boundary; what the function was about is undefined,
    /// locks that it took are released.
    RMAP_ERR_INTERNAL = 17,
}

use rmap_status::{RMAP_ERR_INTERNAL, RMAP_OK};

/// What the inner part of a C function answers.
pub(crate) type Outcome<T = ()> = Result<T, rmap_status>;

impl From<Error> for rmap_status {
    fn from(error: Error) -> Self {
        match error {
            Error::NoMemory => Self::RMAP_ERR_NOMEM,
            Error::Invalid => Self::RMAP_ERR_INVAL,
            Error::NotMapped => Self::RMAP_ERR_NOT_MAPPED,
            Error::Exists => Self::RMAP_ERR_EXISTS,
            Error::Access => Self::RMAP_ERR_ACCESS,
            Error::Bus => Self::RMAP_ERR_BUS,
            Error::Busy => Self::RMAP_ERR_BUSY,
            Error::Foreign => Self::RMAP_ERR_FOREIGN,
            Error::Unstable => Self::RMAP_ERR_UNSTABLE,
            Error::NoSpace => Self::RMAP_ERR_NOSPACE,
            Error::Io => Self::RMAP_ERR_IO,
            Error::Stale => Self::RMAP_ERR_STALE,
            Error::Again => Self::RMAP_ERR_AGAIN,
            Error::NotSupported => Self::RMAP_ERR_NOT_SUPPORTED,
            // An error that this version of the boundary does not know.
            _ => Self::RMAP_ERR_INTERNAL,
        }
    }
}

/// Describes a status code.
///
/// Parameters: status, any number.
/// Returns: a short English sentence without a full stop; "unknown status" for a number that is no status. Never NULL.
/// Ownership: static; never freed.
/// Context: any. Takes no lock.
#[unsafe(no_mangle)]
pub extern "C" fn rmap_strerror(status: i32) -> *const core::ffi::c_char {
    let text = match status {
        0 => c"success",
        1 => c"out of memory",
        2 => c"invalid argument",
        3 => c"address, range or page is not mapped",
        4 => c"range, offset or frame is already occupied",
        5 => c"access is not permitted by the VMA",
        6 => c"nothing stands behind the address",
        7 => c"object is still linked or in use",
        8 => c"object belongs to another address space or context",
        9 => c"address space is being torn down",
        10 => c"no free range of that size, or a limit is reached",
        11 => c"input or output failed",
        12 => c"handle names an object that is gone",
        13 => c"lock is held by another thread",
        14 => c"operation is not supported",
        15 => c"pointer is NULL",
        16 => c"a lock that is needed is not held, or one that must not be held is",
        17 => c"internal error",
        _ => c"unknown status",
    };
    text.as_ptr()
}

/// Runs the inner part of a C function. This is where panics stop.
#[inline]
pub(crate) fn boundary(inner: impl FnOnce() -> Outcome) -> rmap_status {
    // What a panic leaves half-done is the context's, and the status says so.
    match std::panic::catch_unwind(core::panic::AssertUnwindSafe(inner)) {
        Ok(Ok(())) => RMAP_OK,
        Ok(Err(status)) => status,
        Err(_) => RMAP_ERR_INTERNAL,
    }
}

/// As [`boundary`], for a function that answers a value and `otherwise` when it cannot.
#[inline]
pub(crate) fn boundary_or<T>(otherwise: T, inner: impl FnOnce() -> Outcome<T>) -> T {
    match std::panic::catch_unwind(core::panic::AssertUnwindSafe(inner)) {
        Ok(Ok(value)) => value,
        _ => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_text_and_unknown_ones_say_so() {
        let text = |status| {
            // SAFETY: `rmap_strerror` returns static strings.
            unsafe { core::ffi::CStr::from_ptr(rmap_strerror(status)) }.to_str().unwrap()
        };
        let last = RMAP_ERR_INTERNAL as i32;
        let mut seen = std::collections::HashSet::new();
        assert!((0..=last).all(|status| seen.insert(text(status)) && text(status) != text(-1)));
        assert_eq!(text(last + 1), "unknown status");
    }

    #[test]
    fn a_panic_stops_at_the_boundary() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        assert_eq!(boundary(|| panic!("on purpose")), RMAP_ERR_INTERNAL);
        assert_eq!(boundary_or(7, || panic!("on purpose")), 7);
        std::panic::set_hook(hook);
    }
}
