//! What a task passes on to the program that does it, its `--help` too.

use clap::Args;

#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Words {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl Words {
    pub(crate) fn all(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }
}
