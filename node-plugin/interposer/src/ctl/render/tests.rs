//! What people and programs see, as snapshots.
