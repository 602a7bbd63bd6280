//! Tells from an event's bytes if it has to be read: most need not be, once an answer has begun. Pure.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// The end of a key, and if a value that begins with a byte has to be read.
type KeyRule = (Finder<'static>, fn(u8) -> bool);

/// The ends of keys, and what their values begin with where an event has to be read. The search objects are costly to make.
static READ_IF: LazyLock<[KeyRule; 3]> = LazyLock::new(|| {
    [
        (Finder::new(b"finish_reason\""), |first| first != b'n'),
        (Finder::new(b"error\""), |first| first != b'n'),
        (Finder::new(b"content\""), |first| first == b'['),
    ]
});
static CHOICES: LazyLock<Finder> = LazyLock::new(|| Finder::new(b"choices\""));
static CALLS: LazyLock<Finder> = LazyLock::new(|| Finder::new(b"tool_calls\""));

/// True if an event may end the answer, holds the first call, or has a form that the host does not understand.
pub(super) fn has_to_be_read(data: &[u8], has_call: bool) -> bool {
    READ_IF.iter().any(|(key, is_wanted)| values(key, data).any(*is_wanted))
        || values(&CALLS, data).any(|first| first == b'{' || (first == b'[' && !has_call))
        || values(&CHOICES, data).next() != Some(b'[')
}

/// The first bytes of the values of a key.
fn values<'a>(key: &'a Finder, data: &'a [u8]) -> impl Iterator<Item = u8> + 'a {
    key.find_iter(data).filter_map(|at| {
        let rest = data[at + key.needle().len()..].trim_ascii_start().strip_prefix(b":")?;
        rest.trim_ascii_start().first().copied()
    })
}
