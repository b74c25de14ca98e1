//! Sectors that say what they are: every sector write of a run carries a number of its own.

/// What a sector holds, as a number: 0 for zeros, otherwise the number of the write that made it.
pub type Value = u64;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// Marks what the master held before the run.
const ORIGINAL: Value = 1 << 62;
/// Marks what a shadow or bitmap volume held before the run: nobody may ever read it through an image.
const STALE: Value = 1 << 61;

/// Marks what a sector has become by itself.
const DECAYED: Value = 1 << 60;

/// What sector `sector` of the master holds before the run.
pub fn original(sector: u64) -> Value {
    ORIGINAL | sector
}

/// What a sector has become that has rotted, one of many.
pub fn decayed(number: u64) -> Value {
    DECAYED | number >> 32
}

/// Fills sectors of a fresh master.
pub fn fill_original(sector: u64, bytes: &mut [u8]) {
    encode(original(sector), bytes);
}

/// Fills sectors of a used shadow.
pub fn fill_stale(sector: u64, bytes: &mut [u8]) {
    encode(STALE | sector, bytes);
}

/// The bytes of a sector. Every word says where in the sector it is, so that shifted bytes show.
pub fn encode(value: Value, sector: &mut [u8]) {
    if value == 0 {
        sector.fill(0);
        return;
    }
    for (n, word) in sector.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(value ^ ((n as u64) << 40)).to_le_bytes());
    }
}

/// The value of a sector; `None` if its words do not belong together.
pub fn decode(sector: &[u8]) -> Option<Value> {
    let mut words =
        sector.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
    let value = words.next()?;
    let step = u64::from(value != 0) << 40;
    let mut differs = 0;
    for (n, word) in words.enumerate() {
        differs |= word ^ value ^ ((n as u64 + 1) * step);
    }
    (differs == 0).then_some(value)
}

/// A value for people.
pub fn show(value: Option<Value>) -> String {
    match value {
        None => "torn".to_owned(),
        Some(0) => "zeros".to_owned(),
        Some(value) if value & ORIGINAL != 0 => format!("original {}", value & !ORIGINAL),
        Some(value) if value & STALE != 0 => format!("stale {}", value & !STALE),
        Some(value) if value & DECAYED != 0 => format!("decayed {:x}", value & !DECAYED),
        Some(value) => format!("w{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_tells_its_value_unless_it_was_shifted_or_mixed() {
        let mut bytes = [0; SECTOR];
        for value in [0, 1, 77, original(12), STALE | 3] {
            encode(value, &mut bytes);
            assert_eq!(decode(&bytes), Some(value));
        }
        let mut shifted = bytes;
        shifted.rotate_left(8);
        assert_eq!(decode(&shifted), None);
        let mut mixed = bytes;
        encode(9, &mut mixed);
        mixed[256..].copy_from_slice(&bytes[256..]);
        assert_eq!(decode(&mixed), None);
    }
}
