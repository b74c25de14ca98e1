//! Values of options that more than one command has.

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use umbra_crds::{ChunkSize, Mode, WaitFor};

/// Short for the mode with the long name.
const COMPACT: &str = "compact";

pub(super) fn chunk_parser() -> impl TypedValueParser<Value = ChunkSize> {
    let names = ChunkSize::ALL.iter().map(|chunk| chunk.as_str());
    let of_name = |name: String| ChunkSize::ALL.iter().copied().find(|chunk| chunk.as_str() == name);
    PossibleValuesParser::new(names).try_map(move |name| of_name(name).ok_or("no chunk size"))
}

/// For an option that takes its value in letters of any size.
pub(super) fn mode_parser() -> impl TypedValueParser<Value = Mode> {
    let value = |mode: &Mode| {
        let value = PossibleValue::new(mode.as_str());
        if *mode == Mode::CompactDependent { value.alias(COMPACT) } else { value }
    };
    let named = |mode: &Mode, name: &str| {
        mode.as_str().eq_ignore_ascii_case(name)
            || (*mode == Mode::CompactDependent && COMPACT.eq_ignore_ascii_case(name))
    };
    let of_name = move |name: &str| Mode::ALL.iter().copied().find(|mode| named(mode, name));
    PossibleValuesParser::new(Mode::ALL.iter().map(value))
        .try_map(move |name| of_name(&name).ok_or("no mode"))
}

/// When an operation counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Until {
    /// When the image is there; a copy goes on behind.
    Cut,
    /// When the copy is done, too.
    Copy,
}

impl From<Until> for WaitFor {
    fn from(until: Until) -> Self {
        match until {
            Until::Cut => Self::Cut,
            Until::Copy => Self::Copy,
        }
    }
}
