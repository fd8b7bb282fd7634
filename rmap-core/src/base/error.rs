//! The one error type of the core.

use core::fmt;

/// Why an operation was refused. An operation that returns an error has changed nothing that its caller can see
/// (guarantee G4), except where its own documentation says how far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// Memory ran out, or a charge hook refused the page (ENOMEM).
    NoMemory,
    /// An argument is malformed: unaligned, empty, overflowing, or a contradiction of flags (EINVAL).
    Invalid,
    /// Nothing is mapped at the address, or the range has a hole where none may be (ENOMEM in mprotect, EFAULT in
    /// mremap).
    NotMapped,
    /// The range is occupied and must not be (EEXIST).
    Exists,
    /// The protection of the VMA forbids the access (EACCES; SIGSEGV for a program).
    Access,
    /// There is nothing behind the address: past the end of a file, or a shared VMA without operations (SIGBUS).
    Bus,
    /// The object is still linked or in use (EBUSY).
    Busy,
    /// The object belongs to another address space or context.
    Foreign,
    /// The address space is being torn down; its layout is not to be trusted (SIGSEGV for a faulting thread).
    Unstable,
    /// No free range of that size (ENOMEM), or a limit is reached.
    NoSpace,
    /// Reading or writing a file failed (EIO).
    Io,
    /// The object is gone: a handle outlived what it named.
    Stale,
    /// A lock was held by another thread and the caller asked not to wait (EAGAIN).
    Again,
    /// The operation is not defined for this object.
    NotSupported,
}

impl Error {
    /// A short English sentence without a full stop.
    pub const fn message(self) -> &'static str {
        match self {
            Self::NoMemory => "out of memory",
            Self::Invalid => "invalid argument",
            Self::NotMapped => "address or range is not mapped",
            Self::Exists => "range is already mapped",
            Self::Access => "access is not permitted by the VMA",
            Self::Bus => "nothing stands behind the address",
            Self::Busy => "object is still linked or in use",
            Self::Foreign => "object belongs to another address space or context",
            Self::Unstable => "address space is being torn down",
            Self::NoSpace => "no free range of that size",
            Self::Io => "input or output failed",
            Self::Stale => "handle names an object that is gone",
            Self::Again => "lock is held by another thread",
            Self::NotSupported => "operation is not supported for this object",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl core::error::Error for Error {}

/// A result of the core.
pub type Result<T, E = Error> = core::result::Result<T, E>;
