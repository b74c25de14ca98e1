//! `size`: how large the volumes of a set must be.

use clap::Args;
use serde::Serialize;
use umbra_actions::{Question, Sizes, bytes, size};
use umbra_crds::{ChunkSize, Mode, Size};

use super::values;
use crate::error::Failure;
use crate::output::{Answer, table};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Size of the master, for example 1Ti or 500G.
    #[arg(long)]
    master_size: String,
    /// Unit of tracking and copying.
    #[arg(long, default_value = ChunkSize::KiB64.as_str(), value_parser = values::chunk_parser())]
    chunk: ChunkSize,
    /// How the image is kept.
    #[arg(long, default_value = Mode::Dependent.as_str(), ignore_case = true, value_parser = values::mode_parser())]
    mode: Mode,
}

/// The question and its answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Needed {
    chunk: ChunkSize,
    mode: Mode,
    #[serde(flatten)]
    sizes: Sizes,
}

pub(crate) fn run(options: &Options) -> Result<Needed, Failure> {
    let question =
        Question { master: Size::new(options.master_size.clone()), chunk: options.chunk, mode: options.mode };
    let sizes = size(&question).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(Needed { chunk: options.chunk, mode: options.mode, sizes })
}

impl Answer for Needed {
    fn table(&self, headings: bool, wide: bool) -> String {
        let Sizes { master_bytes, chunks, bitmap_bytes, shadow_bytes, .. } = self.sizes;
        let show = |amount: u64| if wide { amount.to_string() } else { bytes(amount) };
        let of_master = format!("every chunk of a master of {}", show(master_bytes));
        let of_bits = format!("{chunks} chunks of {}, superblocks, journal", self.chunk);
        let rows = [
            ["shadow".to_owned(), show(shadow_bytes), of_master],
            ["bitmap".to_owned(), show(bitmap_bytes), of_bits],
        ];
        table(headings.then_some(["VOLUME", "AT LEAST", "FOR"]), rows)
    }

    fn names(&self) -> Option<Vec<String>> {
        None
    }
}
