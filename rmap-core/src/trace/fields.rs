//! The fields of one line, taken from left to right. Errors are reasons that quote the field.

use super::{Object, Span};
use alloc::format;
use alloc::string::{String, ToString};

/// Pages in 64 bits of bytes: no range reaches beyond.
const ADDRESS_PAGES: u64 = 1 << 52;

pub(super) struct Fields<'a> {
    rest: Option<&'a str>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(line: &'a str) -> Self {
        Self { rest: Some(line) }
    }

    /// The next field; `what` names it.
    pub(super) fn next(&mut self, what: &str) -> Result<&'a str, String> {
        let rest = self.rest.ok_or_else(|| format!("{what} is missing"))?;
        let (field, rest) = match rest.split_once(' ') {
            Some((field, rest)) => (field, Some(rest)),
            None => (rest, None),
        };
        self.rest = rest;
        if field.is_empty() || field.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("{what} is {field:?}: fields are separated by one space"));
        }
        Ok(field)
    }

    /// Whether there is another field.
    pub(super) fn more(&self) -> bool {
        self.rest.is_some()
    }

    /// All that is left of the line; spaces are part of it.
    pub(super) fn remainder(&mut self) -> &'a str {
        self.rest.take().unwrap_or_default()
    }

    /// The line ends here.
    pub(super) fn end(self) -> Result<(), String> {
        self.rest.map_or(Ok(()), |rest| Err(format!("{rest:?} is more than the line has fields for")))
    }

    pub(super) fn hex(&mut self, what: &str) -> Result<u64, String> {
        let field = self.next(what)?;
        hex(field).ok_or_else(|| format!("{what} {field:?} is no hexadecimal number of 64 bits"))
    }

    pub(super) fn dec(&mut self, what: &str) -> Result<u64, String> {
        let field = self.next(what)?;
        dec(field).ok_or_else(|| format!("{what} {field:?} is no decimal number of 64 bits"))
    }

    /// A decimal number of 32 bits.
    pub(super) fn id(&mut self, what: &str) -> Result<u32, String> {
        let field = self.next(what)?;
        dec(field)
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| format!("{what} {field:?} is no decimal number of 32 bits"))
    }

    pub(super) fn vpn(&mut self, what: &str) -> Result<u64, String> {
        let vpn = self.hex(what)?;
        if vpn < ADDRESS_PAGES { Ok(vpn) } else { Err(format!("{what} {vpn:x} lies beyond 64 bits of address")) }
    }

    /// A first page and a number of pages, which may be 0.
    pub(super) fn span_or_empty(&mut self) -> Result<Span, String> {
        let span = Span { vpn: self.vpn("vpn")?, pages: self.hex("n")? };
        check_span(span)
    }

    /// A first page and a number of pages.
    pub(super) fn span(&mut self) -> Result<Span, String> {
        nonempty(self.span_or_empty()?)
    }

    /// The offset of the first of `pages` pages.
    pub(super) fn pgoff(&mut self, pages: u64) -> Result<u64, String> {
        let pgoff = self.hex("pgoff")?;
        match pgoff.checked_add(pages) {
            Some(end) if end <= ADDRESS_PAGES => Ok(pgoff),
            _ => Err(format!("pgoff {pgoff:x} and {pages:x} pages lie beyond 64 bits of offset")),
        }
    }
}

pub(super) fn check_span(span: Span) -> Result<Span, String> {
    match span.vpn.checked_add(span.pages) {
        Some(end) if end <= ADDRESS_PAGES => Ok(span),
        _ => Err(format!("range {span} lies beyond 64 bits of address")),
    }
}

pub(super) fn nonempty(span: Span) -> Result<Span, String> {
    if span.pages == 0 { Err("n is 0".to_string()) } else { Ok(span) }
}

fn hex(field: &str) -> Option<u64> {
    // `from_str_radix` takes a sign as well.
    field.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u64::from_str_radix(field, 16).ok())?
}

fn dec(field: &str) -> Option<u64> {
    field.bytes().all(|b| b.is_ascii_digit()).then(|| field.parse().ok())?
}

/// `major:minor`, each in hexadecimal.
fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((u32::try_from(hex(major)?).ok()?, u32::try_from(hex(minor)?).ok()?))
}

/// Device and inode in two fields; inode 0 is no object.
pub(super) fn object_of(dev: &str, ino: u64) -> Result<Option<Object>, String> {
    let (major, minor) = device(dev).ok_or_else(|| format!("dev {dev:?} is not major:minor"))?;
    Ok((ino != 0).then_some(Object { major, minor, ino }))
}

/// `major:minor:ino`.
pub(super) fn object(text: &str) -> Result<Object, String> {
    let parts = text.rsplit_once(':').and_then(|(dev, ino)| Some((device(dev)?, dec(ino)?)));
    match parts {
        Some(((major, minor), ino)) => Ok(Object { major, minor, ino }),
        None => Err(format!("object {text:?} is not major:minor:inode")),
    }
}
