//! Reads the lines and events of a stream of server-sent events. The bytes may be cut anywhere. Pure.

use memchr::memchr2;

/// Longest line in bytes. Longer lines are skipped.
pub const MAX_LINE: usize = 4 * 1024 * 1024;

/// Data of the last event of a chat.
pub const DONE: &[u8] = b"[DONE]";

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Splits bytes into lines, which end with LF, CRLF or CR. Takes time linear in the length of the bytes.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is independent of the others")]
pub struct LineReader {
    partial: Vec<u8>,
    has_begun: bool,
    after_cr: bool,
    skips_line: bool,
    has_overflowed: bool,
}

/// One line of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// The line without its end.
    pub text: &'a [u8],
    /// True if the last bytes passed to the reader contain the whole line, ended by LF.
    pub is_verbatim: bool,
}

impl Line<'_> {
    /// The empty line, which ends an event.
    pub const EMPTY: Self = Self { text: &[], is_verbatim: false };
}

impl LineReader {
    /// Calls `on_line` with each line that ends in `bytes`.
    pub fn read(&mut self, bytes: &[u8], mut on_line: impl FnMut(Line)) {
        let mut rest = bytes;
        while let Some(length) = self.read_line(rest, &mut on_line) {
            rest = &rest[length..];
        }
    }

    /// Calls `on_line` with the first line that ends in `bytes`, and returns the position after it. If no line ends there,
    /// keeps the bytes for the next call.
    pub fn read_line(&mut self, bytes: &[u8], on_line: impl FnOnce(Line)) -> Option<usize> {
        let first = bytes.first()?;
        let start = usize::from(std::mem::take(&mut self.after_cr) && *first == b'\n');
        let Some(found) = memchr2(b'\n', b'\r', &bytes[start..]) else {
            self.keep(&bytes[start..]);
            return None;
        };
        let stop = start + found;
        let mut end = stop + 1;
        let is_lf = bytes[stop] == b'\n';
        if !is_lf {
            self.after_cr = end == bytes.len();
            end += usize::from(bytes.get(end) == Some(&b'\n'));
        }
        self.end_line(&bytes[start..stop], |text, is_whole| {
            on_line(Line { text, is_verbatim: is_lf && start == 0 && is_whole });
        });
        Some(end)
    }

    /// Calls `on_line` with the last line if the stream ended without a line end.
    pub fn end(&mut self, mut on_line: impl FnMut(Line)) {
        if !self.partial.is_empty() {
            self.end_line(&[], |text, _| on_line(Line { text, is_verbatim: false }));
        }
    }

    /// True if the next byte starts a line.
    #[must_use]
    pub fn is_at_start(&self) -> bool {
        self.partial.is_empty() && !self.skips_line && !self.after_cr
    }

    /// Returns the value of a `data` line whose end has not come yet.
    #[must_use]
    pub fn unended_data(&self) -> Option<&[u8]> {
        data_of(&self.partial)
    }

    /// True if the bytes so far end with the last event of a chat, without its line end.
    #[must_use]
    pub fn ends_with_done(&self) -> bool {
        self.unended_data().is_some_and(is_done)
    }

    /// True if a line was skipped because it was too long.
    #[must_use]
    pub fn has_overflowed(&self) -> bool {
        self.has_overflowed
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.skips_line {
            return;
        }
        if self.partial.len() + piece.len() > MAX_LINE {
            (self.skips_line, self.has_overflowed) = (true, true);
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(piece);
        }
    }

    fn end_line(&mut self, piece: &[u8], on_line: impl FnOnce(&[u8], bool)) {
        let is_whole = self.partial.is_empty() && !self.skips_line && piece.len() <= MAX_LINE;
        if !is_whole {
            self.keep(piece);
        }
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if !std::mem::take(&mut self.skips_line) {
            let line = if is_whole { piece } else { self.partial.as_slice() };
            let text = line.strip_prefix(BYTE_ORDER_MARK).filter(|_| is_first).unwrap_or(line);
            on_line(text, is_whole && text.len() == line.len());
        }
        self.partial.clear();
    }
}

/// Returns the position of the first byte that is neither white space nor part of a byte order mark.
#[must_use]
pub fn start_of(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| !byte.is_ascii_whitespace() && !BYTE_ORDER_MARK.contains(byte))
}

/// True for the data of the last event of a chat.
#[must_use]
pub fn is_done(data: &[u8]) -> bool {
    data.trim_ascii() == DONE
}

/// Returns the value of a `data` line.
#[must_use]
pub fn data_of(line: &[u8]) -> Option<&[u8]> {
    field(line, b"data")
}

/// Reads the status that an error gives for itself. Some servers give an error the status of a success, which says nothing.
#[must_use]
pub fn error_status(text: &str) -> Option<u16> {
    text.trim().parse().ok().filter(|status| (400..600).contains(status))
}

/// Returns the value of a field. A line without a colon has an empty value.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    if rest.is_empty() {
        return Some(rest);
    }
    let value = rest.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// An event, as far as it has been read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SseEvent {
    /// True if the event is named `error`.
    pub is_error: bool,
    /// The error status that `DashScope` gives in a comment (`:HTTP_STATUS/429`).
    pub status: Option<u16>,
    /// The values of its `data` lines, joined by LF.
    pub data: Vec<u8>,
}

impl SseEvent {
    /// Empties the event and keeps its memory.
    pub fn clear(&mut self) {
        self.data.clear();
        (self.is_error, self.status) = (false, None);
    }

    /// Adds a line. Returns true if the line ends the event.
    pub fn add(&mut self, line: &[u8]) -> bool {
        if let Some(data) = data_of(line) {
            if self.data.len() + data.len() <= MAX_LINE {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(data);
            }
        } else if let Some(name) = field(line, b"event") {
            self.is_error = name.trim_ascii().eq_ignore_ascii_case(b"error");
        } else if let Some(status) = line.strip_prefix(b":HTTP_STATUS/") {
            self.status = std::str::from_utf8(status).ok().and_then(error_status);
        }
        line.is_empty()
    }
}

/// Reads the events of a stream.
#[derive(Debug, Default)]
pub struct EventReader {
    lines: LineReader,
    event: SseEvent,
}

impl EventReader {
    /// Calls `on_event` with each event that ends in `bytes`.
    pub fn read(&mut self, bytes: &[u8], mut on_event: impl FnMut(SseEvent)) {
        let Self { lines, event } = self;
        lines.read(bytes, |line| {
            if event.add(line.text) {
                on_event(std::mem::take(event));
            }
        });
    }

    /// Calls `on_event` with the last event if the stream ended without an empty line.
    pub fn end(&mut self, mut on_event: impl FnMut(SseEvent)) {
        let Self { lines, event } = self;
        lines.end(|line| {
            event.add(line.text);
        });
        on_event(std::mem::take(event));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(bytes: &[u8], chunk: usize) -> Vec<Vec<u8>> {
        let (mut reader, mut found) = (LineReader::default(), Vec::new());
        for piece in bytes.chunks(chunk.max(1)) {
            reader.read(piece, |line| found.push(line.text.to_vec()));
        }
        reader.end(|line| found.push(line.text.to_vec()));
        found
    }

    #[test]
    fn lines_end_with_lf_crlf_or_cr_and_the_last_line_needs_no_end() {
        for chunk in 1..20 {
            assert_eq!(
                lines(b"\xef\xbb\xbfa\r\nb\rc\n\r\n\n\xef\xbb\xbfd", chunk),
                [&b"a"[..], b"b", b"c", b"", b"", b"\xef\xbb\xbfd"]
            );
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped() {
        let long = vec![b'x'; MAX_LINE + 1];
        let stream = [b"a\n", long.as_slice(), b"\nb\n"].concat();
        for chunk in [stream.len(), 65_536] {
            assert_eq!(lines(&stream, chunk), [b"a", b"b"]);
        }
        let mut reader = LineReader::default();
        reader.read(&long, |_| {});
        assert!(reader.has_overflowed() && reader.partial.capacity() == 0);
    }

    #[test]
    fn an_event_has_a_name_a_status_and_data() {
        let mut reader = EventReader::default();
        let mut found = Vec::new();
        let stream = b"id:1\nevent:error\n:HTTP_STATUS/429\ndata:{\ndata: }\n\n:HTTP_STATUS/200\ndata: x\n";
        reader.read(stream, |event| found.push(event));
        reader.end(|event| found.push(event));
        assert_eq!(
            found,
            [
                SseEvent { is_error: true, status: Some(429), data: b"{\n}".to_vec() },
                SseEvent { data: b"x".to_vec(), ..SseEvent::default() },
            ]
        );
    }

    proptest! {
        #[test]
        fn the_lines_do_not_depend_on_the_chunks(bytes in "(\u{feff}|[a\r\n]){0,20}", chunk in 1_usize..9) {
            prop_assert_eq!(lines(bytes.as_bytes(), chunk), lines(bytes.as_bytes(), bytes.len()));
        }

        #[test]
        fn a_verbatim_line_is_a_part_of_the_bytes(bytes in "[a\r\n]{0,20}", chunk in 1_usize..9) {
            let mut reader = LineReader::default();
            for mut piece in bytes.as_bytes().chunks(chunk) {
                let mut written = None;
                while let Some(end) = reader.read_line(piece, |line| {
                    written = line.is_verbatim.then(|| [line.text, b"\n"].concat());
                }) {
                    prop_assert!(written.take().is_none_or(|written| written == piece[..end]));
                    piece = &piece[end..];
                }
            }
        }
    }
}
