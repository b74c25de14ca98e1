//! Bars of running copies, on a terminal's stderr.

use super::figures::{human_bytes, human_time};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use tokio_stream::StreamExt;
use umbra_platform::Client;
use umbra_platform::call::{Cadence, Scope, Watch};
use umbra_platform::id::{SetId, SetRef};
use umbra_platform::status::{SetState, SetStatus};
use umbra_platform::time::Millis;

/// How often bars move.
const PERIOD: Millis = Millis(250);

/// Draws a bar for each of these sets until dropped by the caller; without a watch there are no bars.
pub(crate) async fn draw(client: Client, sets: Vec<SetRef>) {
    let watch = Watch { scope: Scope::All, cadence: Cadence::Every(PERIOD) };
    let Ok(mut statuses) = client.watch(watch).await else { return };
    let mut bars = Bars::default();
    while let Some(Ok(status)) = statuses.next().await {
        for set in
            status.sets.iter().filter(|set| sets.iter().any(|wanted| wanted.matches(set.id, &set.name)))
        {
            bars.update(set);
        }
    }
}

#[derive(Default)]
struct Bars {
    all: MultiProgress,
    bars: HashMap<SetId, ProgressBar>,
}

impl Bars {
    fn update(&mut self, set: &SetStatus) {
        let bar = self.bars.entry(set.id).or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {percent:>3}% {msg}");
            let style = style.expect("the template is constant").progress_chars("=> ");
            self.all.add(ProgressBar::new(0).with_style(style).with_prefix(set.name.to_string()))
        });
        match set.state.progress() {
            Some(progress) => {
                bar.set_length(progress.total());
                bar.set_position(progress.done());
            }
            // Nothing is pending any more: all there was is done.
            None => bar.set_position(bar.length().unwrap_or(0)),
        }
        bar.set_message(message(set));
    }
}

/// What stands behind a bar: the speed and the time left, or how it ended.
pub(crate) fn message(set: &SetStatus) -> String {
    match &set.state {
        SetState::Copying(progress) | SetState::Restoring(progress) => {
            let speed = progress.bytes_per_second();
            let left = (progress.total() - progress.done()).saturating_mul(set.chunk.bytes());
            match left.checked_div(speed) {
                Some(seconds) => format!("{}/s, {} left", human_bytes(speed), human_time(seconds)),
                None => format!("{} left", human_bytes(left)),
            }
        }
        SetState::Idle
        | SetState::CopyAborted(_)
        | SetState::RestoreAborted(_)
        | SetState::Offline { .. }
        | SetState::GivenUp { .. }
        | SetState::Blocked(_) => set.state.word().to_owned(),
    }
}
