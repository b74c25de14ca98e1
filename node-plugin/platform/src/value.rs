//! Checked values: names, paths, sizes, bounds. One text form each, the same on the command line, in JSON and
//! in the fields of an error.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use thiserror::Error;
use uuid::Uuid;

/// Longest name of a master, a set, a namespace or a cluster, in bytes: what Kubernetes allows for a name.
pub const LABEL_BYTES_MAX: usize = 253;
/// Longest device path, in bytes. Short enough that an error naming two of them fits the trailers of an answer.
pub const PATH_BYTES_MAX: usize = 512;
/// Longest free text inside an error or a state, in bytes; more is cut off.
pub const DETAIL_BYTES_MAX: usize = 512;

/// Why a text or number cannot be a value of the type asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what}: {problem}")]
pub struct InvalidValue {
    /// What was to be read, as a word for people: "chunk size".
    pub what: &'static str,
    /// What is wrong with it, quoting it.
    pub problem: String,
}

impl InvalidValue {
    /// The value `what` has this problem.
    pub fn new(what: &'static str, problem: impl Into<String>) -> Self {
        Self { what, problem: problem.into() }
    }
}

macro_rules! text_form {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = InvalidValue;
            fn try_from(text: String) -> Result<Self, InvalidValue> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}
pub(crate) use text_form;

/// An enum of plain words, with one text form for the command line, JSON and errors.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value, in order of definition.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word for it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::value::InvalidValue;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    other => Err($crate::value::InvalidValue::new(
                        $what,
                        format!("{other:.64?} is none of {}", [$($word),+].join(", ")),
                    )),
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        $crate::value::text_form!($name);
    };
}
pub(crate) use words;

/// A name: 1 to 253 letters, digits, `.`, `_` or `-`, beginning with a letter or digit, and no UUID.
///
/// A UUID is refused because every place that takes a name takes a UUID too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = |problem: &str| Err(InvalidValue::new("name", format!("{problem}: {:.64?}", text)));
        if text.is_empty() || text.len() > LABEL_BYTES_MAX {
            return bad("not 1 to 253 bytes long");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return bad("only letters, digits, '.', '_' and '-' are allowed");
        }
        if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return bad("must begin with a letter or digit");
        }
        if Uuid::parse_str(text).is_ok() {
            return bad("looks like a UUID");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
text_form!(Label);

/// Absolute path of a device or file: no `.` or `..`, no control characters, at most [`PATH_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DevicePath(String);

impl DevicePath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path for the file system.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl FromStr for DevicePath {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = |problem: &str| Err(InvalidValue::new("path", format!("{problem}: {:.64?}", text)));
        if text.len() > PATH_BYTES_MAX {
            return bad("longer than 512 bytes");
        }
        if !text.starts_with('/') {
            return bad("not absolute");
        }
        if text.chars().any(char::is_control) {
            return bad("holds a control character");
        }
        if text.split('/').any(|part| matches!(part, "." | "..")) {
            return bad("holds '.' or '..'");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for DevicePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
text_form!(DevicePath);

impl AsRef<Path> for DevicePath {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

/// Free text for people inside an error or a state: one line, at most [`DETAIL_BYTES_MAX`] bytes.
///
/// Building one never fails: control characters become blanks and the end is cut off.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Detail(String);

impl Detail {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Detail {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&str> for Detail {
    fn from(text: &str) -> Self {
        let mut clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        clean.truncate(clean.floor_char_boundary(DETAIL_BYTES_MAX));
        Self(clean)
    }
}

impl From<Detail> for String {
    fn from(detail: Detail) -> Self {
        detail.0
    }
}

impl FromStr for Detail {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Ok(Self::from(text))
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was found on a device that is neither empty nor Umbra's own: the type of the content, and what tells
/// it from others of its type. Text form `type:id`, for example `ext4:1b4e28ba-2fa1-11d2-883f-0016d3cca427`.
///
/// Whoever repeats it exactly says that this content, and no other, may be overwritten. Both parts hold only
/// characters that a shell leaves alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature(String);

/// Longest text of a [`Signature`], in bytes.
pub const SIGNATURE_BYTES_MAX: usize = 128;

impl Signature {
    /// A signature of this type and id. Characters that the text form does not have become `_`, and what is too
    /// long is cut off: it is read from a device that anybody may have written.
    pub fn new(kind: &str, id: &str) -> Self {
        let clean = |text: &str, most: usize| -> String {
            let mut clean: String =
                text.chars().map(|c| if Self::is_plain(c) { c } else { '_' }).take(most).collect();
            if clean.is_empty() {
                clean.push('_');
            }
            clean
        };
        Self(format!("{}:{}", clean(kind, 31).replace(':', "_"), clean(id, SIGNATURE_BYTES_MAX - 32)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_plain(c: char) -> bool {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':')
    }
}

impl FromStr for Signature {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = |problem: &str| Err(InvalidValue::new("signature", format!("{problem}: {text:.64?}")));
        match text.split_once(':') {
            Some((kind, id)) if !kind.is_empty() && !id.is_empty() => {}
            _ => return bad("not like ext4:UUID"),
        }
        if text.len() > SIGNATURE_BYTES_MAX || !text.chars().all(Self::is_plain) {
            return bad(
                "longer than 128 bytes, or with other characters than letters, digits, '.', '_', '-', ':'",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
text_form!(Signature);

/// Most signatures that one refusal names, or one call confirms. A disk has a handful at most.
pub const SIGNATURES_MAX: usize = 16;

/// One to [`SIGNATURES_MAX`] signatures. Text form: with blanks between.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signatures(Vec<Signature>);

impl Signatures {
    /// These, without those that are there twice.
    ///
    /// # Errors
    /// If there is none, or there are too many.
    pub fn new(mut signatures: Vec<Signature>) -> Result<Self, InvalidValue> {
        signatures.sort();
        signatures.dedup();
        match signatures.len() {
            1..=SIGNATURES_MAX => Ok(Self(signatures)),
            count => {
                let problem = format!("{count} signatures named, 1 to {SIGNATURES_MAX} are allowed");
                Err(InvalidValue::new("signatures", problem))
            }
        }
    }

    /// The signatures, ordered.
    pub fn as_slice(&self) -> &[Signature] {
        &self.0
    }

    /// The arguments of `umbra-io ctl enable` that confirm them all.
    pub fn flags(&self) -> String {
        self.0.iter().map(|one| format!("--wipe-signature {one}")).collect::<Vec<_>>().join(" ")
    }
}

impl FromStr for Signatures {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::new(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    }
}

impl fmt::Display for Signatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(Signature::as_str).collect::<Vec<_>>().join(" "))
    }
}
text_form!(Signatures);

/// A number of bytes. Text form: `1Ti`, `64Ki`, `4k`, `512B`, `512`.
///
/// Suffixes of either case, with or without `i` and `B`, are powers of 1024: chunks and devices come in them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

const BYTE_SUFFIXES: [(&str, u32); 6] =
    [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];

impl FromStr for ByteCount {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = |problem: &str| InvalidValue::new("size", format!("{problem}: {:.64?}", text));
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad("does not begin with a whole number below 2^64"))?;
        let shift = match suffix.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "ki" | "kib" => 10,
            "m" | "mi" | "mib" => 20,
            "g" | "gi" | "gib" => 30,
            "t" | "ti" | "tib" => 40,
            "p" | "pi" | "pib" => 50,
            "e" | "ei" | "eib" => 60,
            _ => return Err(bad("suffix is none of k, M, G, T, P, E (powers of 1024)")),
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| bad("more than 2^64 bytes"))
    }
}

impl fmt::Display for ByteCount {
    /// Exact: the largest suffix that divides the number, or `B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (suffix, shift) in BYTE_SUFFIXES {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Debug for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Size of a chunk: a power of two from 4 KiB to 4 MiB. Default 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct ChunkSize(u32);

impl ChunkSize {
    /// A chunk of `bytes`.
    ///
    /// # Errors
    /// If that is no power of two from 4 KiB to 4 MiB.
    pub fn new(bytes: u64) -> Result<Self, InvalidValue> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (4 << 10..=4 << 20).contains(&size) => Ok(Self(size)),
            _ => Err(InvalidValue::new(
                "chunk size",
                format!("{} is no power of two from 4Ki to 4Mi", ByteCount(bytes)),
            )),
        }
    }

    /// Bytes of a whole chunk.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// Chunks of a master of `size`, a short last one included.
    pub fn chunks_of(self, size: ByteCount) -> u64 {
        size.0.div_ceil(self.bytes())
    }
}

impl Default for ChunkSize {
    fn default() -> Self {
        Self(64 << 10)
    }
}

impl FromStr for ChunkSize {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::new(text.parse::<ByteCount>()?.0)
    }
}

impl fmt::Display for ChunkSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&ByteCount(self.bytes()), f)
    }
}

impl TryFrom<u64> for ChunkSize {
    type Error = InvalidValue;
    fn try_from(bytes: u64) -> Result<Self, InvalidValue> {
        Self::new(bytes)
    }
}

impl From<ChunkSize> for u64 {
    fn from(size: ChunkSize) -> Self {
        size.bytes()
    }
}

macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident($inner:ty), $what:literal, $range:expr, default $default:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name($inner);

        impl $name {
            /// The value, if it is in bounds.
            ///
            /// # Errors
            /// If it is out of bounds; the error says what they are.
            pub fn new(value: u64) -> Result<Self, InvalidValue> {
                let range = $range;
                <$inner>::try_from(value).ok().filter(|v| range.contains(v)).map(Self).ok_or_else(|| {
                    let (low, high) = (range.start(), range.end());
                    InvalidValue::new($what, format!("{value} is not from {low} to {high}"))
                })
            }

            /// The number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self($default)
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;
            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                let number = text.parse();
                Self::new(number.map_err(|_| InvalidValue::new($what, format!("no whole number: {text:.64?}")))?)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl TryFrom<u64> for $name {
            type Error = InvalidValue;
            fn try_from(value: u64) -> Result<Self, InvalidValue> {
                Self::new(value)
            }
        }

        impl From<$name> for u64 {
            fn from(value: $name) -> u64 {
                value.0.into()
            }
        }
    };
}

bounded!(
    /// Requests that a presented device may have in flight: 1 to 128. Default 128. With 256 KiB each they bound the
    /// memory that a device can have locked, which is why ublk's own limit, 4096, is not ours.
    QueueDepth(u16), "queue depth", 1..=128_u16, default 128
);
bounded!(
    /// Chunk runs that a copier may have in flight: 1 to 256. Default 16.
    InFlight(u16), "copies in flight", 1..=256_u16, default 16
);
bounded!(
    /// Number of runs that a map is asked for: 1 to 16,384. Default 80. The bound keeps an answer below 1 MiB.
    Columns(u16), "columns", 1..=16_384_u16, default 80
);
bounded!(
    /// Number of a ublk device: the N of `/dev/ublkbN`.
    UblkId(u32), "ublk device number", 0..=1_048_575_u32, default 0
);

/// A copier's speed limit in bytes per second; never 0. Text form as [`ByteCount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteRate(std::num::NonZeroU64);

impl ByteRate {
    /// So many bytes per second.
    ///
    /// # Errors
    /// If that is 0: a copy that never ends is asked for by an abort.
    pub fn new(bytes_per_second: u64) -> Result<Self, InvalidValue> {
        std::num::NonZeroU64::new(bytes_per_second)
            .map(Self)
            .ok_or_else(|| InvalidValue::new("bytes per second", "0 would never end; abort the copy instead"))
    }

    /// Bytes per second.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl FromStr for ByteRate {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::new(text.parse::<ByteCount>()?.0)
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&ByteCount(self.get()), f)
    }
}

#[cfg(test)]
mod tests;
