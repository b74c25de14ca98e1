//! Where the operator's own certificate comes from: files that somebody else writes, or itself, as the authority of the cluster.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use umbra_facade::CredentialFiles;

/// Options of the operator's certificate.
#[derive(Clone, Debug, Args)]
#[group(id = "tls")]
#[command(group(ArgGroup::new("tls-way").args(["tls_certificate", "tls_builtin"]).required(true)))]
pub struct Options {
    /// The operator's certificate, and those between it and an authority. Read again when it changes, as the next two.
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_authorities"])]
    tls_certificate: Option<PathBuf>,
    /// The certificate's key.
    #[arg(long, value_name = "FILE", requires = "tls_certificate", conflicts_with = "tls_builtin")]
    tls_key: Option<PathBuf>,
    /// The authorities that nodes' certificates may come from.
    #[arg(long, value_name = "FILE", requires = "tls_certificate", conflicts_with = "tls_builtin")]
    tls_authorities: Option<PathBuf>,
    /// Be the authority that signs the certificates of the nodes, and the operator's own.
    #[arg(long)]
    tls_builtin: bool,
    /// Where the operator's own certificate and its key are kept: a folder of its own, in memory. Left out, it is
    /// /run/umbra-operator/tls.
    #[arg(long, value_name = "FOLDER", requires = "tls_builtin", conflicts_with = "tls_certificate")]
    tls_dir: Option<PathBuf>,
    /// The namespace where umbra-node runs: only its pods there get certificates. Left out, it is umbra-node.
    #[arg(long, value_name = "NAMESPACE", requires = "tls_builtin", conflicts_with = "tls_certificate")]
    node_namespace: Option<String>,
}

/// How the operator comes by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Somebody else writes these files.
    External(CredentialFiles),
    /// It signs it itself.
    Builtin {
        /// Where it is kept.
        folder: PathBuf,
        /// The namespace of umbra-node.
        node_namespace: String,
    },
}

impl Options {
    /// The way that the command line says.
    pub fn way(&self) -> Way {
        match (&self.tls_certificate, &self.tls_key, &self.tls_authorities) {
            (Some(certificate), Some(key), Some(authorities)) => Way::External(CredentialFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                authorities: authorities.clone(),
            }),
            // The command line has all three or none.
            _ => Way::Builtin {
                folder: self.tls_dir.clone().unwrap_or_else(|| "/run/umbra-operator/tls".into()),
                node_namespace: self.node_namespace.clone().unwrap_or_else(|| "umbra-node".into()),
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
            node_namespace: namespace.into(),
        };
        assert_eq!(way("--tls-builtin"), Ok(builtin("/run/umbra-operator/tls", "umbra-node")));
        assert_eq!(way("--tls-builtin --tls-dir d --node-namespace n"), Ok(builtin("d", "n")));
        for (arguments, named) in [
            ("", "--tls-certificate <FILE>|--tls-builtin"),
            ("--tls-certificate c --tls-key k", "--tls-authorities"),
            ("--tls-key k", "--tls-certificate"),
            ("--node-namespace n", "--tls-builtin"),
            (&format!("{three} --tls-builtin"), "cannot be used with"),
            (&format!("{three} --tls-dir d"), "cannot be used with"),
        ] {
            let refused = way(arguments).expect_err(arguments);
            assert!(refused.contains(named), "{arguments}: {refused} has no {named}");
        }
    }
}
