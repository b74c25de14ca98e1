//! The picture of a bitmap.

use crate::ctl::figures::percent;
use umbra_platform::map::ChunkMap;
use umbra_platform::status::ChunkCounts;

/// The character of a run. What needs attention hides what does not: lost, then pending, then held.
fn character(run: &ChunkCounts) -> char {
    if run.lost > 0 {
        '!'
    } else if run.pending > 0 {
        '>'
    } else if run.held == 0 {
        '.'
    } else if run.held == run.total {
        '#'
    } else {
        '+'
    }
}

/// One line of characters, a legend and the shares.
pub(super) fn draw(map: &ChunkMap) -> String {
    let picture: String = map.columns.iter().map(character).collect();
    let sum = map.sum();
    let per_run = match (map.columns.iter().map(|c| c.total).min(), map.columns.iter().map(|c| c.total).max())
    {
        (Some(least), Some(most)) if least == most => format!("{most}"),
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (None, _) | (_, None) => "no".into(),
    };
    let share = |part| percent(part, sum.total);
    format!(
        "{picture}\n\
         # all held  + some held  . none held  > pending  ! lost   ({per_run} chunks of {} each, epoch {})\n\
         held {}  pending {}  lost {}  differs {}  of {} chunks\n",
        map.chunk,
        map.epoch,
        share(sum.held),
        share(sum.pending),
        share(sum.lost),
        share(sum.differs),
        sum.total,
    )
}
