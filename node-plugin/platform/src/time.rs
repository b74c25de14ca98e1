//! Spans and moments of time, in whole milliseconds.

use crate::value::{InvalidValue, text_form};
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
    /// The last moment that the text form can show: the end of the year 9999.
    const LAST: u64 = 253_402_300_799_999;

    /// So many milliseconds after the beginning of 1970, UTC; the year 9999 ends before anything later.
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(if millis < Self::LAST { millis } else { Self::LAST })
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
        let (year, month, day) = date_of(self.0 / 86_400_000);
        let (minutes, millis) = (self.0 / 60_000, self.0 % 60_000);
        let (hour, minute) = (minutes / 60 % 24, minutes % 60);
        let (second, milli) = (millis / 1000, millis % 1000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

impl FromStr for WallTime {
    type Err = InvalidValue;
    /// Reads exactly the form that `Display` writes.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = || InvalidValue::new("moment", format!("not like 2001-09-21T08:00:00.250Z: {text:.64?}"));
        let part = |range: std::ops::Range<usize>| -> Option<u64> { text.get(range)?.parse().ok() };
        let read = || -> Option<u64> {
            let days = days_to(part(0..4)?, part(5..7)?, part(8..10)?)?;
            let seconds = (part(11..13)? * 60 + part(14..16)?) * 60 + part(17..19)?;
            Some((days * 86_400 + seconds) * 1000 + part(20..23)?)
        };
        // Writing it again is the check of separators and of every bound.
        read().map(Self::from_unix_millis).filter(|time| time.to_string() == text).ok_or_else(bad)
    }
}
text_form!(WallTime);

/// Year, month and day so many days after the beginning of 1970.
///
/// Counts in eras of 400 years from the first of March of the year 0, where the leap day is the last of a year
/// and every month but the last of a cycle of five has a fixed place.
fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Days from the beginning of 1970 to a date; the inverse of [`date_of`]. None before 1970.
fn days_to(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || !(1970..=9999).contains(&year) {
        return None;
    }
    let year = year - u64::from(month <= 2);
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let year_of_era = year % 400;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (year / 400 * 146_097 + day_of_era).checked_sub(719_468)
}

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
