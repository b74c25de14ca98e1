//! What host and guest say to each other on the virtio port: frames of a length, a kind, an id and a body.
//!
//! Every job and transfer has an id of the host's choice, and frames of different ids may be mixed freely: a load
//! generator streams its output while other commands come and go. All integers are little-endian.

use std::io::{self, Read, Write};

/// The name of the virtio port the agent looks for.
pub const PORT_NAME: &str = "umbra.agent";
/// Said in [`Frame::Hello`]; host and agent are built from one tree, so a difference means a stale image.
pub const VERSION: u32 = 1;
/// Largest frame on the wire in bytes, the four length bytes not counted.
pub const MAX_FRAME: usize = 1 << 20;
/// Largest piece of output or of a file that one frame carries, in bytes.
pub const CHUNK: usize = 64 << 10;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Exit code, or -1 where a signal ended it.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// The agent killed it because its time was over.
    pub timed_out: bool,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Guest: the agent is up.
    Hello {
        /// [`VERSION`] of the agent.
        version: u32,
    },
    /// Host: run a command in a process group of its own.
    Exec {
        /// Id of the job.
        id: u32,
        /// Milliseconds until the whole group is killed, 0 for never.
        timeout_ms: u32,
        /// Program and arguments.
        argv: Vec<String>,
        /// Variables added to the agent's environment.
        env: Vec<(String, String)>,
    },
    /// Guest: the command runs.
    Started {
        /// Id of the job.
        id: u32,
        /// Process id, which is the group's id too.
        pid: u32,
    },
    /// Guest: a piece of standard output.
    Stdout {
        /// Id of the job.
        id: u32,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Guest: a piece of standard error.
    Stderr {
        /// Id of the job.
        id: u32,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Guest: the command ended.
    Exit {
        /// Id of the job.
        id: u32,
        /// How.
        status: Status,
    },
    /// Host: send a signal to the job's process group.
    Kill {
        /// Id of the job.
        id: u32,
        /// Signal number.
        signal: i32,
    },
    /// Host: a file follows; it appears under its name when it is complete.
    Put {
        /// Id of the transfer.
        id: u32,
        /// Permission bits.
        mode: u32,
        /// Where to.
        path: String,
    },
    /// Host: send me this file.
    Get {
        /// Id of the transfer.
        id: u32,
        /// Where from.
        path: String,
    },
    /// Either: a piece of a file.
    Data {
        /// Id of the transfer.
        id: u32,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Either: the file is complete; from the guest also: and safely in place.
    Done {
        /// Id of the transfer.
        id: u32,
    },
    /// Guest: this job or transfer could not be done.
    Failed {
        /// Id of the job or transfer.
        id: u32,
        /// Why.
        reason: String,
    },
}

impl Frame {
    /// The job or transfer this frame belongs to; `Hello` belongs to none.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        match self {
            Frame::Hello { .. } => None,
            Frame::Exec { id, .. }
            | Frame::Started { id, .. }
            | Frame::Stdout { id, .. }
            | Frame::Stderr { id, .. }
            | Frame::Exit { id, .. }
            | Frame::Kill { id, .. }
            | Frame::Put { id, .. }
            | Frame::Get { id, .. }
            | Frame::Data { id, .. }
            | Frame::Done { id }
            | Frame::Failed { id, .. } => Some(*id),
        }
    }

    /// Writes the frame with one call to `to`, so that frames of several threads behind one lock never mix.
    ///
    /// # Errors
    /// Of `to`, and `InvalidInput` for a frame above [`MAX_FRAME`].
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let body = self.encode();
        let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_FRAME);
        let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "frame too large"))?;
        let mut wire = Vec::with_capacity(body.len() + 4);
        wire.extend_from_slice(&length.to_le_bytes());
        wire.extend_from_slice(&body);
        to.write_all(&wire)?;
        to.flush()
    }

    /// Reads the next frame.
    ///
    /// # Errors
    /// Of `from`, `UnexpectedEof` at its end, `InvalidData` for what is no frame.
    pub fn read(from: &mut impl Read) -> io::Result<Frame> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_FRAME {
            return Err(invalid("length"));
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        Frame::decode(&body)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder(Vec::new());
        match self {
            Frame::Hello { version } => out.kind(0, 0).u32(*version),
            Frame::Exec { id, timeout_ms, argv, env } => {
                out.kind(1, *id).u32(*timeout_ms).count(argv.len());
                argv.iter().for_each(|word| {
                    out.text(word);
                });
                out.count(env.len());
                env.iter().for_each(|(name, value)| {
                    out.text(name).text(value);
                });
                &mut out
            }
            Frame::Started { id, pid } => out.kind(2, *id).u32(*pid),
            Frame::Stdout { id, bytes } => out.kind(3, *id).rest(bytes),
            Frame::Stderr { id, bytes } => out.kind(4, *id).rest(bytes),
            Frame::Exit { id, status } => {
                out.kind(5, *id).i32(status.code).i32(status.signal).u32(u32::from(status.timed_out))
            }
            Frame::Kill { id, signal } => out.kind(6, *id).i32(*signal),
            Frame::Put { id, mode, path } => out.kind(7, *id).u32(*mode).text(path),
            Frame::Get { id, path } => out.kind(8, *id).text(path),
            Frame::Data { id, bytes } => out.kind(9, *id).rest(bytes),
            Frame::Done { id } => out.kind(10, *id),
            Frame::Failed { id, reason } => out.kind(11, *id).text(reason),
        };
        out.0
    }

    fn decode(body: &[u8]) -> io::Result<Frame> {
        let mut from = Decoder(body);
        let kind = from.take(1)?[0];
        let id = from.u32()?;
        let frame = match kind {
            0 => Frame::Hello { version: from.u32()? },
            1 => Frame::Exec {
                id,
                timeout_ms: from.u32()?,
                argv: from.list(Decoder::text)?,
                env: from.list(|from| Ok((from.text()?, from.text()?)))?,
            },
            2 => Frame::Started { id, pid: from.u32()? },
            3 => Frame::Stdout { id, bytes: from.rest() },
            4 => Frame::Stderr { id, bytes: from.rest() },
            5 => Frame::Exit {
                id,
                status: Status { code: from.i32()?, signal: from.i32()?, timed_out: from.u32()? != 0 },
            },
            6 => Frame::Kill { id, signal: from.i32()? },
            7 => Frame::Put { id, mode: from.u32()?, path: from.text()? },
            8 => Frame::Get { id, path: from.text()? },
            9 => Frame::Data { id, bytes: from.rest() },
            10 => Frame::Done { id },
            11 => Frame::Failed { id, reason: from.text()? },
            _ => return Err(invalid("kind")),
        };
        if from.0.is_empty() { Ok(frame) } else { Err(invalid("tail")) }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a frame of the lab: bad {what}"))
}

struct Encoder(Vec<u8>);

impl Encoder {
    fn kind(&mut self, kind: u8, id: u32) -> &mut Self {
        self.0.push(kind);
        self.u32(id)
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.rest(&value.to_le_bytes())
    }

    fn i32(&mut self, value: i32) -> &mut Self {
        self.rest(&value.to_le_bytes())
    }

    fn count(&mut self, count: usize) -> &mut Self {
        // A count that does not fit makes a frame above MAX_FRAME, which `write` refuses.
        self.u32(u32::try_from(count).unwrap_or(u32::MAX))
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.count(text.len()).rest(text.as_bytes())
    }

    fn rest(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count).ok_or_else(|| invalid("length of a field"))?;
        self.0 = tail;
        Ok(head)
    }

    fn word(&mut self) -> io::Result<[u8; 4]> {
        self.take(4)?.try_into().map_err(|_| invalid("word"))
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.word()?))
    }

    fn i32(&mut self) -> io::Result<i32> {
        Ok(i32::from_le_bytes(self.word()?))
    }

    fn text(&mut self) -> io::Result<String> {
        let length = self.u32()? as usize;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| invalid("text"))
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> io::Result<T>) -> io::Result<Vec<T>> {
        (0..self.u32()?).map(|_| item(self)).collect()
    }

    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Frame> {
        let status = Status { code: -1, signal: 9, timed_out: true };
        vec![
            Frame::Hello { version: VERSION },
            Frame::Exec {
                id: 7,
                timeout_ms: 30_000,
                argv: vec!["sh".into(), "-c".into(), "echo ünïcode".into()],
                env: vec![("A".into(), String::new())],
            },
            Frame::Started { id: 7, pid: 4711 },
            Frame::Stdout { id: 7, bytes: vec![0, 255, 10] },
            Frame::Stderr { id: 7, bytes: vec![] },
            Frame::Exit { id: 7, status },
            Frame::Kill { id: 7, signal: 15 },
            Frame::Put { id: 8, mode: 0o755, path: "/bin/x".into() },
            Frame::Get { id: 9, path: "/etc/passwd".into() },
            Frame::Data { id: 9, bytes: vec![1; CHUNK] },
            Frame::Done { id: 9 },
            Frame::Failed { id: u32::MAX, reason: "no such file".into() },
        ]
    }

    #[test]
    fn a_stream_of_frames_reads_back_as_written() {
        let mut wire = Vec::new();
        all().iter().for_each(|frame| frame.write(&mut wire).unwrap());
        let mut from = wire.as_slice();
        for frame in all() {
            assert_eq!(Frame::read(&mut from).unwrap(), frame);
        }
        assert_eq!(Frame::read(&mut from).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn every_cut_or_lengthened_frame_is_refused() {
        for frame in all() {
            let body = frame.encode();
            let fixed = !matches!(frame, Frame::Stdout { .. } | Frame::Stderr { .. } | Frame::Data { .. });
            let cuts = if fixed { 0..body.len() } else { 0..5 };
            for cut in cuts {
                assert!(Frame::decode(&body[..cut]).is_err(), "{frame:?} cut to {cut}");
            }
            let longer: Vec<u8> = body.iter().copied().chain([0]).collect();
            assert_eq!(Frame::decode(&longer).is_err(), fixed, "{frame:?} with a byte more");
        }
    }

    #[test]
    fn a_giant_length_is_refused_before_memory_is_taken() {
        let mut from: &[u8] = &[0xff, 0xff, 0xff, 0x7f, 0];
        assert_eq!(Frame::read(&mut from).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let argv = vec!["x".repeat(MAX_FRAME)];
        let frame = Frame::Exec { id: 1, timeout_ms: 0, argv, env: vec![] };
        assert_eq!(frame.write(&mut Vec::new()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
