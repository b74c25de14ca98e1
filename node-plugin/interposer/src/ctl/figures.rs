//! Numbers as people read them. Pure.

use umbra_platform::value::ByteCount;

/// A size with one decimal where it is not exact: `1.5Gi`, `64Ki`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let exact = ByteCount(bytes).to_string();
    let shift = (63 - bytes.max(1).leading_zeros()) / 10 * 10;
    if exact.len() <= 6 || shift == 0 {
        return exact;
    }
    let tenths = (u128::from(bytes) * 10) >> shift;
    let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][usize::try_from(shift / 10).expect("at most 6")];
    format!("{}.{}{suffix}", tenths / 10, tenths % 10)
}

/// Seconds as hours, minutes and seconds.
pub(crate) fn human_time(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest:02}s"),
        (_, _) => format!("{hours}h{minutes:02}m"),
    }
}

/// A share in percent. Shows nothing as none and something as all only where it is so.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0%".into();
    }
    if part == whole {
        return "100%".into();
    }
    let tenths = (u128::from(part) * 1000 / u128::from(whole)).clamp(1, 999);
    format!("{}.{}%", tenths / 10, tenths % 10)
}
