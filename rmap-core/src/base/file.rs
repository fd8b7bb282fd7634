//! Positioned reading and writing of a file: what swap needs of an operating system.
//!
//! A [`FileStore`] has no position of its own, so any number of threads may use it at once. By default it is a
//! temporary file that is unlinked while it is open: its contents are nobody else's, and are gone with the process.

use crate::base::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A file of a given length. See the [module](self).
#[derive(Debug)]
pub struct FileStore {
    file: File,
    len: u64,
}

fn io(_: std::io::Error) -> Error {
    Error::Io
}

impl FileStore {
    /// A file of `len` zero bytes without a name, in the directory for temporary files. It takes disk space as it is
    /// written.
    pub fn temporary(len: u64) -> Result<Self> {
        loop {
            // When two threads come at the same time, the later one finds the name taken and tries a later time.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let name = format!("rmap-{}-{}", std::process::id(), now.as_nanos());
            let path = std::env::temp_dir().join(name);
            match Self::options().create_new(true).open(&path) {
                Ok(file) => {
                    std::fs::remove_file(&path).map_err(io)?;
                    return Self::sized(file, len);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io(error)),
            }
        }
    }

    /// The file at `path`, made if there is none, with a length of `len` bytes from now on. What it held stays, as far
    /// as it is not cut off.
    pub fn open(path: &str, len: u64) -> Result<Self> {
        let file = Self::options().create(true).truncate(false).open(Path::new(path)).map_err(io)?;
        Self::sized(file, len)
    }

    /// A file of zeros that cannot be written.
    #[cfg(test)]
    pub(crate) fn unwritable(len: u64) -> Self {
        Self { file: File::open("/dev/zero").expect("the zero device"), len }
    }

    /// Files made are for their owner's eyes only: swap holds what was in memory.
    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        options
    }

    fn sized(file: File, len: u64) -> Result<Self> {
        file.set_len(len).map_err(io)?;
        Ok(Self { file, len })
    }

    /// Bytes in the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn check(&self, offset: u64, len: usize) -> Result<()> {
        let end = offset.checked_add(len as u64);
        if end.is_some_and(|end| end <= self.len) { Ok(()) } else { Err(Error::Invalid) }
    }

    /// Reads `out.len()` bytes from `offset` on; they lie in the file.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.check(offset, out.len())?;
        self.file.read_exact_at(out, offset).map_err(io)
    }

    /// Writes `data` from `offset` on, within the file.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check(offset, data.len())?;
        self.file.write_all_at(data, offset).map_err(io)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_file_reads_as_zero_and_keeps_what_is_written() {
        let file = FileStore::temporary(8_192).unwrap();
        assert_eq!((file.len(), file.is_empty()), (8_192, false));
        let mut back = [7; 4];
        file.read_at(8_188, &mut back).unwrap();
        assert_eq!(back, [0; 4]);
        file.write_at(4_096, &[1, 2, 3, 4]).unwrap();
        file.read_at(4_096, &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4]);
    }

    #[test]
    fn nothing_lies_outside_the_file() {
        let file = FileStore::temporary(100).unwrap();
        assert_eq!(file.write_at(98, &[0; 3]), Err(Error::Invalid));
        assert_eq!(file.read_at(u64::MAX, &mut [0; 2]), Err(Error::Invalid));
    }

    #[test]
    fn two_temporary_files_are_two_and_a_named_one_keeps_its_bytes() {
        let (a, b) = (FileStore::temporary(4).unwrap(), FileStore::temporary(4).unwrap());
        a.write_at(0, &[1; 4]).unwrap();
        let mut back = [9; 4];
        b.read_at(0, &mut back).unwrap();
        assert_eq!(back, [0; 4]);

        let path = std::env::temp_dir().join(format!("rmap-named-{}", std::process::id()));
        let name = path.to_str().unwrap();
        FileStore::open(name, 4).unwrap().write_at(0, &[5; 4]).unwrap();
        FileStore::open(name, 4).unwrap().read_at(0, &mut back).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(back, [5; 4]);
        assert_eq!(FileStore::open("/nowhere/at/all", 4).unwrap_err(), Error::Io);
    }
}
