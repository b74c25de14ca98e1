//! The number by which a node tells the present leader from one that was.

use std::fmt;
use std::str::FromStr;
use umbra_platform::error::Field;
use umbra_platform::value::InvalidValue;

/// A leader's fence: each leader has a higher one than those before it. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(u64);

impl Fence {
    /// The fence with this number.
    ///
    /// # Errors
    /// If it is 0: nobody leads then.
    pub fn new(number: u64) -> Result<Self, InvalidValue> {
        if number == 0 {
            return Err(InvalidValue::new("fence", "missing; a leader has one above 0"));
        }
        Ok(Self(number))
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Fence {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let number = text.parse();
        Self::new(number.map_err(|_| InvalidValue::new("fence", format!("no whole number: {text:.64?}")))?)
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Field for Fence {
    fn write(&self) -> String {
        self.to_string()
    }

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: InvalidValue| error.to_string())
    }
}
