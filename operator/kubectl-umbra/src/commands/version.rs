//! `version`: which version this is.

use serde::Serialize;
use umbra_crds::{GROUP, VERSION, definitions};

use crate::output::Answer;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Version {
    version: &'static str,
    api_version: String,
    kinds: Vec<String>,
}

pub(crate) fn run() -> Version {
    Version {
        version: env!("CARGO_PKG_VERSION"),
        api_version: format!("{GROUP}/{VERSION}"),
        kinds: definitions().iter().map(|definition| definition.kind().to_owned()).collect(),
    }
}

impl Answer for Version {
    fn table(&self, _: bool, wide: bool) -> String {
        let kinds = if wide { format!(" ({})", self.kinds.join(", ")) } else { String::new() };
        format!("kubectl-umbra {}, kinds of {}{kinds}\n", self.version, self.api_version)
    }

    fn names(&self) -> Option<Vec<String>> {
        None
    }
}
