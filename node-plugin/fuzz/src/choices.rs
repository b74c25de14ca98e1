//! Bytes of a case, as choices. When they have run out every choice is the first one.

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn number(&mut self) -> u64 {
        u64::from_le_bytes([(); 8].map(|()| self.byte()))
    }

    /// An index below `len`, which is not 0.
    pub(crate) fn below(&mut self, len: usize) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()])) % len
    }

    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[usize::from(self.byte()) % items.len()]
    }

    /// A number, mostly one at some edge.
    pub(crate) fn edge(&mut self) -> u64 {
        match self.byte() % 5 {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (self.byte() % 64),
            3 => (1 << (self.byte() % 64)) - 1,
            _ => self.number(),
        }
    }

    /// Text that somebody could have written, or not.
    pub(crate) fn text(&mut self) -> String {
        match self.byte() % 8 {
            0 => String::new(),
            1 => self
                .pick(&["/", "/dev/x", "/dev/../etc/passwd", "//", "x", "..", "a/b", "-1", "\u{7f}\0", "ü"])
                .to_owned(),
            2 => "x".repeat(self.pick(&[63_usize, 64, 128, 129, 4096, 70_000])),
            3 => self.edge().to_string(),
            4 => format!("-{}", self.edge()),
            5 => uuid::Uuid::from_u64_pair(self.number(), self.number()).to_string(),
            6 => self
                .pick(&[
                    "enabled",
                    "commit",
                    "void",
                    "true",
                    "null",
                    "18446744073709551616",
                    "1e999",
                    "8:0:0",
                ])
                .to_owned(),
            _ => (0..self.byte() % 12).map(|_| char::from(self.byte())).collect(),
        }
    }
}
