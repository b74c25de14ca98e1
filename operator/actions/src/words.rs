//! Amounts as people read them.

/// An amount of bytes in the largest unit in which it has at most four digits: `894Gi`.
#[must_use]
pub fn bytes(amount: u64) -> String {
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let mut value = amount;
    let mut unit = 0;
    // Rounded down: a volume is never shown larger than it is.
    while value >= 10_000 || (value >= 1024 && value.is_multiple_of(1024)) {
        if unit + 1 == units.len() {
            break;
        }
        value /= 1024;
        unit += 1;
    }
    format!("{value}{}", units[unit])
}

/// A length of time in its two largest units: `2d02h`, `2h10m`, `41s`.
#[must_use]
pub fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short_and_never_too_large() {
        assert_eq!(bytes(0), "0");
        assert_eq!(bytes(512), "512");
        assert_eq!(bytes(4096), "4Ki");
        assert_eq!(bytes(894 << 30), "894Gi");
        assert_eq!(bytes((894 << 30) - 1), "893Gi");
        assert_eq!(bytes((1 << 20) + 1), "1Mi");
        assert_eq!(bytes(u64::MAX), "16383Pi");
    }

    #[test]
    fn ages_have_two_units() {
        assert_eq!(age(-5), "0s");
        assert_eq!(age(41), "41s");
        assert_eq!(age(125), "2m05s");
        assert_eq!(age(7800), "2h10m");
        assert_eq!(age(180_000), "2d02h");
    }
}
