//! Traces and snapshots as files, compressed by gzip or not: the only place of this folder that needs an operating
//! system.

use super::{Lines, TraceError};
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// No line of either format comes near it: what is longer is no trace.
const LINE_LIMIT: u64 = 64 * 1024;

enum Input {
    Plain(BufReader<File>),
    Gzip(Box<BufReader<MultiGzDecoder<BufReader<File>>>>),
}

impl Input {
    fn read_line(&mut self, line: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.take(LINE_LIMIT).read_until(b'\n', line),
            Self::Gzip(input) => input.take(LINE_LIMIT).read_until(b'\n', line),
        }
    }
}

/// The lines of a file.
pub struct FileLines {
    name: String,
    input: Input,
    bytes: Vec<u8>,
}

impl FileLines {
    /// The lines of the file at `path`, decompressed if it begins like gzip.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TraceError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let open = || {
            let mut file = BufReader::new(File::open(path)?);
            Ok(if file.fill_buf()?.starts_with(&GZIP_MAGIC) {
                Input::Gzip(Box::new(BufReader::new(MultiGzDecoder::new(file))))
            } else {
                Input::Plain(file)
            })
        };
        match open() {
            Ok(input) => Ok(Self { name, input, bytes: Vec::new() }),
            Err(error) => Err(unopened(name, &error)),
        }
    }
}

fn unopened(file: String, error: &io::Error) -> TraceError {
    TraceError { file, line: 0, reason: format!("cannot be opened: {error}") }
}

impl Lines for FileLines {
    fn name(&self) -> &str {
        &self.name
    }

    fn next_line(&mut self, line: &mut String) -> Result<bool, String> {
        self.bytes.clear();
        self.input.read_line(&mut self.bytes).map_err(|error| format!("cannot be read: {error}"))?;
        if self.bytes.is_empty() {
            return Ok(false);
        }
        if self.bytes.pop() != Some(b'\n') {
            return Err("the line has no end".to_string());
        }
        let text = core::str::from_utf8(&self.bytes).map_err(|_| "the line is not UTF-8".to_string())?;
        line.clear();
        line.push_str(text);
        Ok(true)
    }
}

/// The snapshot of a mark: the file `label.gz` or `label.snap.gz` beside the trace.
pub fn snapshot_beside(trace: impl AsRef<Path>, label: &str) -> Result<PathBuf, TraceError> {
    let folder = trace.as_ref().parent().unwrap_or(Path::new(""));
    let names = [format!("{label}.gz"), format!("{label}.snap.gz")];
    let found = names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        unopened(folder.join(&names[0]).display().to_string(), &io::Error::from(io::ErrorKind::NotFound))
    })
}
