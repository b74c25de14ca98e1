//! Spans and moments of time, in whole milliseconds.

use crate::value::{InvalidValue, text_form};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A span of time in whole milliseconds. Text form: `250ms`, `5s`, `2m`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// A number of seconds.
    pub const fn from_secs(seconds: u32) -> Self {
        // Widening, and `From` is not const.
        Self(1000 * seconds as u64)
    }

    /// As a duration of the standard library.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl From<Duration> for Millis {
    /// Rounds down to milliseconds; longer than 2^64 ms becomes the largest value.
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl FromStr for Millis {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = |problem: &str| InvalidValue::new("time", format!("{problem}: {:.64?}", text));
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad("does not begin with a whole number"))?;
        let unit = match suffix {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(bad("needs a unit: ms, s, m or h")),
        };
        number.checked_mul(unit).map(Self).ok_or_else(|| bad("too long"))
    }
}

impl fmt::Display for Millis {
    /// Exact: seconds where they are whole, else milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}s", self.0 / 1000) } else { write!(f, "{}ms", self.0) }
    }
}

/// A moment by the wall clock, in whole milliseconds since 1970 (UTC). For people; no decision rests on it.
///
/// Text form: RFC 3339, `2001-09-21T08:00:00.250Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WallTime(u64);

impl WallTime {
    /// So many milliseconds after the beginning of 1970, UTC. What the calendar of the text form does not reach, late
    /// in the year 9999, counts as its last moment.
    pub fn from_unix_millis(millis: u64) -> Self {
        let last = u64::try_from(Timestamp::MAX.as_millisecond()).unwrap_or_default();
        Self(millis.min(last))
    }

    /// Milliseconds since the beginning of 1970, UTC.
    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    /// What the wall clock shows now.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix_millis(Millis::from(since).0)
    }
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        write!(f, "{:.3}", Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX))
    }
}

impl FromStr for WallTime {
    type Err = InvalidValue;
    /// Reads exactly the form that `Display` writes.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = || InvalidValue::new("moment", format!("not like 2001-09-21T08:00:00.250Z: {text:.64?}"));
        let moment = text.parse::<Timestamp>().map_err(|_| bad())?;
        let time = u64::try_from(moment.as_millisecond()).map(Self).map_err(|_| bad())?;
        // One moment, one text: other forms of RFC 3339 are for people who do not compare texts.
        if time.to_string() == text { Ok(time) } else { Err(bad()) }
    }
}
text_form!(WallTime);

/// Time limit of device I/O on behalf of a master write: 1 ms to 1 h. Default 5 s (E11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct IoDeadline(Millis);

impl IoDeadline {
    /// A limit of this length.
    ///
    /// # Errors
    /// If it is not from 1 ms to 1 h.
    pub fn new(limit: Millis) -> Result<Self, InvalidValue> {
        if (1..=3_600_000).contains(&limit.0) {
            Ok(Self(limit))
        } else {
            Err(InvalidValue::new("deadline", format!("{limit} is not from 1ms to 1h")))
        }
    }

    /// The limit.
    pub const fn get(self) -> Millis {
        self.0
    }
}

impl Default for IoDeadline {
    fn default() -> Self {
        Self(Millis::from_secs(5))
    }
}

impl FromStr for IoDeadline {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::new(text.parse()?)
    }
}

impl fmt::Display for IoDeadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl TryFrom<u64> for IoDeadline {
    type Error = InvalidValue;
    fn try_from(millis: u64) -> Result<Self, InvalidValue> {
        Self::new(Millis(millis))
    }
}

impl From<IoDeadline> for u64 {
    fn from(deadline: IoDeadline) -> Self {
        deadline.0.0
    }
}
