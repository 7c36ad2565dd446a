//! The flags of what is about downloads, and of the completions.

use crate::hub::Reference;
use clap::Args;

#[derive(Args)]
pub(crate) struct Models {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Remove {
    /// Which; without a TYPE all of its files
    #[arg(value_name = "USER/MODEL[:TYPE]")]
    pub(crate) model: Reference,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Args)]
pub(crate) struct Completions {
    /// Whose
    pub(crate) shell: clap_complete::Shell,
}
