//! `size`: how large the volumes of a set must be.

use clap::Args;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use serde::Serialize;
use umbra_actions::{Question, Sizes, bytes, size};
use umbra_crds::{ChunkSize, Mode, Size};

use crate::error::Failure;
use crate::output::Answer;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Size of the master, for example 1Ti or 500G.
    #[arg(long)]
    master_size: String,
    /// Unit of tracking and copying.
    #[arg(long, default_value = ChunkSize::KiB64.as_str(), value_parser = chunk_parser())]
    chunk: ChunkSize,
    /// How the image is kept.
    #[arg(long, default_value = Mode::Dependent.as_str(), value_parser = mode_parser())]
    mode: Mode,
}

fn chunk_parser() -> impl TypedValueParser<Value = ChunkSize> {
    let names = ChunkSize::ALL.iter().map(|chunk| chunk.as_str());
    let of_name = |name: String| ChunkSize::ALL.iter().copied().find(|chunk| chunk.as_str() == name);
    PossibleValuesParser::new(names).try_map(move |name| of_name(name).ok_or("no chunk size"))
}

fn mode_parser() -> impl TypedValueParser<Value = Mode> {
    let names = Mode::ALL.iter().map(|mode| mode.as_str());
    let of_name = |name: String| Mode::ALL.iter().copied().find(|mode| mode.as_str() == name);
    PossibleValuesParser::new(names).try_map(move |name| of_name(name).ok_or("no mode"))
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
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        if headings {
            table.set_header(["VOLUME", "AT LEAST", "FOR"]);
        }
        let of_master = format!("every chunk of a master of {}", show(master_bytes));
        let of_bits = format!("{chunks} chunks of {}, superblocks, journal", self.chunk);
        table.add_row(["shadow".to_owned(), show(shadow_bytes), of_master]);
        table.add_row(["bitmap".to_owned(), show(bitmap_bytes), of_bits]);
        table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    fn names(&self) -> Option<Vec<String>> {
        None
    }
}
