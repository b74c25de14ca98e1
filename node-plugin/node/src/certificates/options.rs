//! Options of the node's certificate.

use clap::{ArgGroup, Args};
use std::path::PathBuf;
use umbra_facade::CredentialFiles;

/// Where this node's certificate comes from.
#[derive(Clone, Debug, Args)]
#[group(id = "tls")]
#[command(group(ArgGroup::new("tls-way").args(["tls_certificate", "tls_builtin"]).required(true)))]
pub(crate) struct Options {
    /// This node's certificate, and those between it and an authority. Read again when it changes, as the next two.
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_authorities"])]
    tls_certificate: Option<PathBuf>,
    /// The certificate's key.
    #[arg(long, value_name = "FILE", requires = "tls_certificate", conflicts_with = "tls_builtin")]
    tls_key: Option<PathBuf>,
    /// The authorities that callers' certificates may come from.
    #[arg(long, value_name = "FILE", requires = "tls_certificate", conflicts_with = "tls_builtin")]
    tls_authorities: Option<PathBuf>,
    /// Have the operator sign a certificate for this node, over the API of the cluster.
    #[arg(long)]
    tls_builtin: bool,
    /// Where the signed certificate and its key are kept: a folder of its own, in memory. Left out, it is /run/umbra/tls.
    #[arg(long, value_name = "FOLDER", requires = "tls_builtin", conflicts_with = "tls_certificate")]
    tls_dir: Option<PathBuf>,
    /// The operator's namespace: the authorities are published there. Left out, it is umbra-system.
    #[arg(long, value_name = "NAMESPACE", requires = "tls_builtin", conflicts_with = "tls_certificate")]
    system_namespace: Option<String>,
}

/// How the node comes by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Somebody else writes these files.
    External(CredentialFiles),
    /// The operator signs it.
    Builtin {
        /// Where it is kept.
        folder: PathBuf,
        /// The operator's namespace.
        namespace: String,
    },
}

impl Options {
    /// The way that the command line says.
    pub(crate) fn way(&self) -> Way {
        match (&self.tls_certificate, &self.tls_key, &self.tls_authorities) {
            (Some(certificate), Some(key), Some(authorities)) => Way::External(CredentialFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                authorities: authorities.clone(),
            }),
            // The command line has all three or none.
            _ => Way::Builtin {
                folder: self.tls_dir.clone().unwrap_or_else(|| "/run/umbra/tls".into()),
                namespace: self.system_namespace.clone().unwrap_or_else(|| "umbra-system".into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        tls: Options,
    }

    fn way(arguments: &str) -> Result<Way, String> {
        let line = Line::try_parse_from(std::iter::once("x").chain(arguments.split_whitespace()));
        line.map(|line| line.tls.way()).map_err(|error| error.to_string())
    }

    #[test]
    fn there_are_two_ways_and_one_is_chosen() {
        let files = CredentialFiles { certificate: "c".into(), key: "k".into(), authorities: "a".into() };
        let three = "--tls-certificate c --tls-key k --tls-authorities a";
        assert_eq!(way(three), Ok(Way::External(files)));
        let builtin = |folder: &str, namespace: &str| Way::Builtin {
            folder: folder.into(),
            namespace: namespace.into(),
        };
        assert_eq!(way("--tls-builtin"), Ok(builtin("/run/umbra/tls", "umbra-system")));
        assert_eq!(way("--tls-builtin --tls-dir d --system-namespace n"), Ok(builtin("d", "n")));
        for (arguments, named) in [
            ("", "--tls-certificate <FILE>|--tls-builtin"),
            ("--tls-certificate c", "--tls-key"),
            ("--tls-certificate c --tls-key k", "--tls-authorities"),
            ("--tls-key k", "--tls-certificate"),
            ("--tls-dir d", "--tls-builtin"),
            ("--system-namespace n", "--tls-builtin"),
            (&format!("{three} --tls-builtin"), "cannot be used with"),
            (&format!("{three} --tls-dir d"), "cannot be used with"),
            ("--tls-builtin --tls-key k", "cannot be used with"),
        ] {
            let refused = way(arguments).expect_err(arguments);
            assert!(refused.contains(named), "{arguments}: {refused} has no {named}");
        }
    }
}
