//! What a kubelet says of the host that it calls, put right before the HTTP/2 library sees it.
//!
//! Where it asks a plugin who it is, a kubelet sends the path of the socket as `:authority`. That is not allowed, and the library
//! refuses such a request, as it should. No authority means anything on a Unix socket, so it is replaced by `localhost`.
//!
//! ```text
//!  client's bytes ──> frames ──HEADERS──> header block: value of :authority replaced ──> library
//!                        └───all others, as they are ────────────────────────────────────>
//! ```
//!
//! The client refers to a header that it has sent before by its place in a table, which both ends keep: the new value is in the
//! library's table then. It is shorter than any path of a socket of ours, so the library never drops an entry that the client
//! still counts on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

const AUTHORITY: &[u8] = b"localhost";
/// Place of `:authority` in the table that every connection begins with.
const AUTHORITY_INDEX: usize = 1;
/// Length of HTTP/2's connection preface.
const PREFACE_BYTES: usize = 24;
/// Length of a frame's header.
const FRAME_BYTES: usize = 9;
/// The type of the frame that begins a request.
const HEADERS: u8 = 1;
/// Flags of a HEADERS frame with something before or behind its header block. A kubelet does not send them.
const PADDED_OR_PRIORITY: u8 = 0x8 | 0x20;
/// What a frame holds at most; the library refuses larger ones.
const PAYLOAD_BYTES_MAX: usize = 16384;

/// The bytes of one connection from the client, as far as they have come.
#[derive(Debug)]
struct Incoming {
    /// Bytes that go through unseen.
    passing: usize,
    /// The beginning of a frame that has not come whole.
    held: Vec<u8>,
}

impl Incoming {
    fn new() -> Self {
        Self { passing: PREFACE_BYTES, held: Vec::new() }
    }

    /// Takes in what has come, and appends what goes on to the library.
    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (through, rest) = bytes.split_at(self.passing.min(bytes.len()));
                out.extend_from_slice(through);
                self.passing -= through.len();
                bytes = rest;
                continue;
            }
            let (more, rest) = bytes.split_at(self.missing().min(bytes.len()));
            self.held.extend_from_slice(more);
            bytes = rest;
            if self.missing() == 0 {
                self.pass_on(out);
            }
        }
    }

    /// The length of the payload and whether it is looked at, once the frame's header is there.
    fn frame(&self) -> Option<(usize, bool)> {
        let header = self.held.get(..FRAME_BYTES)?;
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let is_plain = header[3] == HEADERS && header[4] & PADDED_OR_PRIORITY == 0;
        Some((length, is_plain && length <= PAYLOAD_BYTES_MAX))
    }

    /// Bytes without which nothing can be passed on.
    fn missing(&self) -> usize {
        let wanted = match self.frame() {
            Some((length, true)) => FRAME_BYTES + length,
            Some((_, false)) | None => FRAME_BYTES,
        };
        wanted - self.held.len()
    }

    fn pass_on(&mut self, out: &mut Vec<u8>) {
        let (length, is_seen) = self.frame().unwrap_or_default();
        let (header, block) = self.held.split_at(FRAME_BYTES);
        match replaced(block).filter(|_| is_seen) {
            Some(block) => {
                // It has not grown, so its length has three bytes as before.
                out.extend_from_slice(&u32::try_from(block.len()).unwrap_or(u32::MAX).to_be_bytes()[1..]);
                out.extend_from_slice(&header[3..]);
                out.extend_from_slice(&block);
            }
            // What cannot be read is for the library to refuse.
            None => out.extend_from_slice(&self.held),
        }
        self.passing = if is_seen { 0 } else { length };
        self.held.clear();
    }
}

/// The header block with another authority; none where it cannot be read, or would grow.
fn replaced(block: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(block.len());
    let mut at = 0;
    while at < block.len() {
        let (begin, kind) = (at, block[at]);
        if kind & 0x80 != 0 {
            // A field of the table.
            at = integer(block, at, 7)?.1;
        } else if kind & 0xe0 == 0x20 {
            // The size of the table.
            at = integer(block, at, 5)?.1;
        } else {
            let (name, behind) = integer(block, at, if kind & 0x40 != 0 { 6 } else { 4 })?;
            let value = if name == 0 { behind_string(block, behind)? } else { behind };
            at = behind_string(block, value)?;
            if name == AUTHORITY_INDEX {
                out.extend_from_slice(&block[begin..value]);
                // Below 127, so one byte says it; and without the bit that says that the text is compressed.
                out.push(u8::try_from(AUTHORITY.len()).ok()?);
                out.extend_from_slice(AUTHORITY);
                continue;
            }
        }
        out.extend_from_slice(&block[begin..at]);
    }
    (out.len() <= block.len()).then_some(out)
}

/// The integer that begins in the last bits of a byte, and where it ends.
fn integer(block: &[u8], at: usize, bits: u32) -> Option<(usize, usize)> {
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(*block.get(at)?) & most;
    let mut next = at + 1;
    if value < most {
        return Some((value, next));
    }
    for shift in [0, 7, 14] {
        let byte = *block.get(next)?;
        next += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, next));
        }
    }
    // Larger than any frame.
    None
}

/// Where the string ends that begins there.
fn behind_string(block: &[u8], at: usize) -> Option<usize> {
    let (length, begin) = integer(block, at, 7)?;
    let end = begin + length;
    (end <= block.len()).then_some(end)
}

/// A connection from a kubelet.
#[derive(Debug)]
pub(crate) struct FromKubelet<C> {
    connection: C,
    incoming: Incoming,
    /// What the library has not read yet.
    ready: Vec<u8>,
}

impl<C> FromKubelet<C> {
    pub(crate) fn new(connection: C) -> Self {
        Self { connection, incoming: Incoming::new(), ready: Vec::new() }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for FromKubelet<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ready.is_empty() {
            let mut chunk = [0; 4096];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.connection).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.incoming.take(chunk.filled(), &mut this.ready);
        }
        let count = this.ready.len().min(buf.remaining());
        buf.put_slice(&this.ready[..count]);
        this.ready.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for FromKubelet<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().connection).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_shutdown(cx)
    }
}

impl<C: Connected> Connected for FromKubelet<C> {
    type ConnectInfo = C::ConnectInfo;

    fn connect_info(&self) -> C::ConnectInfo {
        self.connection.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const PATH: &[u8] = b"var%2Flib%2Fkubelet%2Fplugins_registry%2Fx-reg.sock";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// `:method: POST`, the authority, and the same again by its place in the table.
    fn block(authority: &[u8]) -> Vec<u8> {
        [&[0x83, 0x41, u8::try_from(authority.len()).unwrap()], authority, &[0xbe]].concat()
    }

    /// What the library gets where the client's bytes come in pieces of this size.
    fn passed(bytes: &[u8], piece: usize) -> Vec<u8> {
        let (mut incoming, mut out) = (Incoming::new(), Vec::new());
        bytes.chunks(piece).for_each(|piece| incoming.take(piece, &mut out));
        out
    }

    #[test]
    fn a_path_as_authority_is_replaced_and_nothing_else() {
        let around = |headers: &[u8]| {
            let settings = frame(4, 0, &[0, 3, 0, 0, 0, 100]);
            let data = frame(0, 1, &block(PATH));
            [PREFACE, &settings, headers, &data].concat()
        };
        let sent = around(&frame(HEADERS, 4, &block(PATH)));
        let expected = around(&frame(HEADERS, 4, &block(AUTHORITY)));
        for piece in [1, 7, sent.len()] {
            assert_eq!(passed(&sent, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_cannot_be_read_goes_through_as_it_is() {
        let cut_off = &block(PATH)[..20];
        let endless = [0x7f, 0xff, 0xff, 0xff, 0xff];
        let padded = frame(HEADERS, 4 | 8, &block(PATH));
        let frames =
            [frame(HEADERS, 4, cut_off), frame(HEADERS, 4, &endless), frame(HEADERS, 4, &[]), padded];
        let sent = [PREFACE, &frames.concat()].concat();
        assert_eq!(passed(&sent, 5), sent);
    }

    proptest! {
        /// Whatever comes, and however it is cut up: nothing panics, nothing grows, and it makes no difference.
        #[test]
        fn any_bytes_pass(
            frames in vec((0u8..3, any::<u8>(), vec(any::<u8>(), 0..40), any::<bool>()), 0..6),
            rest in vec(any::<u8>(), 0..30),
            piece in 1_usize..50,
        ) {
            let made = |(kind, flags, bytes, is_block): &(u8, u8, Vec<u8>, bool)| {
                frame(*kind, *flags, &if *is_block { block(bytes) } else { bytes.clone() })
            };
            let sent = [PREFACE, &frames.iter().map(made).collect::<Vec<_>>().concat(), &rest].concat();
            let out = passed(&sent, piece);
            prop_assert!(out.len() <= sent.len());
            prop_assert_eq!(out, passed(&sent, sent.len()));
        }
    }

    #[test]
    fn a_short_authority_stays_so_that_nothing_grows() {
        let sent = [PREFACE, &frame(HEADERS, 4, &block(b"x"))].concat();
        assert_eq!(passed(&sent, 3), sent);
    }
}
