//! Where a model comes from: a file, Hugging Face's hub, a URL, or nobody said.

use crate::failure::Failure;
use crate::hub::{self, Reference};
use clap::Args;
use std::env;
use std::path::PathBuf;

/// A model, by its file or by where it is downloaded from.
#[derive(Args, Clone, Default, Debug)]
#[command(next_help_heading = "Model")]
pub(crate) struct Source {
    /// The GGUF file (of a split model, its first part) [env: LLAMA_ARG_MODEL]
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["hf_repo", "model_url"])]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) hub: Hub,
}

/// Models that are downloaded, once, into the cache that Hugging Face's tools share.
#[derive(Args, Clone, Default, Debug)]
#[command(next_help_heading = "Model")]
pub(crate) struct Hub {
    /// A model of Hugging Face's hub, also spelled -hf; without a TYPE its file of type Q4_K_M, else Q8_0, else
    /// its first [env: LLAMA_ARG_HF_REPO]
    #[arg(long, value_name = "USER/MODEL[:TYPE]")]
    pub(crate) hf_repo: Option<Reference>,
    /// That file of the model, also spelled -hff [env: LLAMA_ARG_HF_FILE]
    #[arg(long, value_name = "FILE", requires = "hf_repo")]
    pub(crate) hf_file: Option<String>,
    /// A file anywhere on the web, also spelled -mu [env: LLAMA_ARG_MODEL_URL]
    #[arg(long, value_name = "URL", conflicts_with = "hf_repo")]
    pub(crate) model_url: Option<String>,
    /// Use what is in the cache and ask no server [env: LLAMA_ARG_OFFLINE, HF_HUB_OFFLINE]
    #[arg(long)]
    pub(crate) offline: bool,
}

impl Source {
    /// Whoever names the model, a flag or else the environment; `None` if nobody does.
    ///
    /// # Errors
    /// If the environment names none that there can be.
    pub(crate) fn named(&self) -> Result<Option<Source>, Failure> {
        if self.model.is_some() || self.hub.is_named() {
            return Ok(Some(self.clone()));
        }
        if let Some(path) = variable("LLAMA_ARG_MODEL") {
            return Ok(Some(Source { model: Some(path.into()), hub: Hub::default() }));
        }
        let hub = Hub::from_environment(self.hub.offline)?;
        Ok(hub.is_named().then_some(Source { model: None, hub }))
    }

    /// The model's file, downloaded if need be; `None` if nobody names it.
    pub(crate) fn locate(&self) -> Result<Option<PathBuf>, Failure> {
        match self.named()? {
            Some(Source { model: Some(path), .. }) => Ok(Some(path)),
            Some(Source { model: None, hub }) => hub.locate(),
            None => Ok(None),
        }
    }
}

impl Hub {
    fn is_named(&self) -> bool {
        self.hf_repo.is_some() || self.model_url.is_some()
    }

    /// The file, downloaded if need be; `None` if no flag names one.
    pub(crate) fn locate(&self) -> Result<Option<PathBuf>, Failure> {
        let offline = self.offline || hub::offline();
        let found = match (&self.hf_repo, &self.model_url) {
            (Some(reference), _) => hub::fetch(reference, self.hf_file.as_deref(), offline),
            (None, Some(url)) => hub::fetch_url(url, offline),
            (None, None) => return Ok(None),
        };
        Ok(Some(found?))
    }

    /// What the environment says: less than any flag, so that these variables are no arguments to clap, to whom
    /// one of them would contradict another flag.
    fn from_environment(offline: bool) -> Result<Hub, Failure> {
        let reference = variable("LLAMA_ARG_HF_REPO").map(|text| text.parse()).transpose();
        Ok(Hub {
            hf_repo: reference.map_err(hub::Error::Reference)?,
            hf_file: variable("LLAMA_ARG_HF_FILE"),
            model_url: variable("LLAMA_ARG_MODEL_URL"),
            offline,
        })
    }
}

/// An environment variable that is set to some text.
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
