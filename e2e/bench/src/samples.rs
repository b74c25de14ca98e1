//! What the load program measured.

use serde::{Deserialize, Serialize};

/// Per request: when it was due and how long after that it was done, in microseconds of the machine's clock since
/// boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples {
    /// When each request was due.
    pub due_us: Vec<u64>,
    /// How long each took from then on.
    pub took_us: Vec<u64>,
}

/// The middle and the ends of some times, in device operations (D).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Mean.
    pub mean: f64,
    /// Half took no longer.
    pub p50: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Samples {
    /// The times in units of `unit_ms`; none without a request.
    #[must_use]
    pub fn latency(&self, unit_ms: u32) -> Option<Latency> {
        let mut sorted = self.took_us.clone();
        sorted.sort_unstable();
        let unit = f64::from(unit_ms) * 1000.0;
        let units = |us: u64| us as f64 / unit;
        let last = sorted.len().checked_sub(1)?;
        let at = |hundredths: usize| units(sorted[last.min(sorted.len() * hundredths / 100)]);
        let mean = sorted.iter().map(|&us| units(us)).sum::<f64>() / sorted.len() as f64;
        Some(Latency { mean, p50: at(50), p99: at(99), max: units(sorted[last]) })
    }

    /// The longest of those requests that were under way at some moment between two times, in microseconds.
    #[must_use]
    pub fn longest_between(&self, from_us: u64, to_us: u64) -> Option<u64> {
        self.each().filter(|(due, took)| *due <= to_us && due + took >= from_us).map(|(_, took)| took).max()
    }

    /// The longest of those that were under way at no moment between any of these times.
    #[must_use]
    pub fn longest_outside(&self, spans: &[(u64, u64)]) -> Option<u64> {
        let outside = |due: u64, took: u64| spans.iter().all(|&(from, to)| due > to || due + took < from);
        self.each().filter(|&(due, took)| outside(due, took)).map(|(_, took)| took).max()
    }

    /// Adds those of another load.
    pub fn append(&mut self, other: Self) {
        self.due_us.extend(other.due_us);
        self.took_us.extend(other.took_us);
    }

    fn each(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.due_us.iter().copied().zip(self.took_us.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_in_units() {
        let samples = Samples { due_us: vec![0; 4], took_us: vec![60_000, 120_000, 60_000, 240_000] };
        let latency = samples.latency(60).unwrap();
        assert!((latency.mean - 2.0).abs() < 1e-9 && (latency.max - 4.0).abs() < 1e-9);
        assert!((latency.p50 - 2.0).abs() < 1e-9);
        assert_eq!(Samples::default().latency(60), None);
    }

    #[test]
    fn a_write_under_way_at_a_moment_is_found() {
        let samples = Samples { due_us: vec![0, 100, 300], took_us: vec![50, 100, 10] };
        assert_eq!(samples.longest_between(120, 130), Some(100));
        assert_eq!(samples.longest_between(210, 290), None);
        assert_eq!(samples.longest_outside(&[(120, 130)]), Some(50));
    }
}
