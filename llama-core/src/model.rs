//! A model: a file's weights, configuration and tokenizer, for any number of sessions.

use crate::forward::ModelParts;
use crate::gguf::Gguf;
use crate::session::{Options, Session};
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use crate::{Chat, ChatFormat, Config, Error, Infill, Result, Template};
use llama_kernels::{Cpu, CpuOptions};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// A loaded model, immutable and shareable: clones are cheap and mean the same weights.
///
/// ```
/// # use llama_core::Model;
/// fn is_shareable<T: Clone + Send + Sync + 'static>() {}
/// is_shareable::<Model>();
/// ```
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    gguf: Gguf,
    tokenizer: Tokenizer,
    parts: ModelParts,
    /// Shared by the sessions that bring none of their own; made for the first of them.
    cpu: Mutex<Option<Arc<Cpu>>>,
}

impl Model {
    /// Maps a GGUF file (of a split model, its first part): nothing is copied, and the weights are
    /// loaded from disk as they are needed.
    ///
    /// # Errors
    /// Those of [`Gguf::map`] and [`from_gguf`](Self::from_gguf).
    ///
    /// # Safety
    /// While the model, a clone or a session of it lives, nobody may write to the file or truncate
    /// it, in this process or another.
    #[expect(unsafe_code, reason = "mapping a file is unsafe: another process may change it")]
    pub unsafe fn map(path: impl AsRef<Path>) -> Result<Model> {
        // SAFETY: our caller keeps the file as it is for as long as the model lives.
        Model::from_gguf(unsafe { Gguf::map(path) }?)
    }

    /// The same, reading the file into memory: the safe twin of [`map`](Self::map).
    ///
    /// # Errors
    /// Those of [`Gguf::read`] and [`from_gguf`](Self::from_gguf).
    pub fn read(path: impl AsRef<Path>) -> Result<Model> {
        Model::from_gguf(Gguf::read(path)?)
    }

    /// The model of an opened file.
    ///
    /// # Errors
    /// [`Error::Key`] or [`Error::Tensor`] if the file does not hold a complete Llama model.
    pub fn from_gguf(gguf: Gguf) -> Result<Model> {
        let config = Config::new(&gguf)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let weights = Weights::load(&gguf, &config)?;
        let parts = ModelParts { config, weights };
        Ok(Model(Arc::new(Inner { gguf, tokenizer, parts, cpu: Mutex::new(None) })))
    }

    /// Starts a conversation.
    ///
    /// # Errors
    /// [`Error::Option`] if an option makes no sense or asks for more memory than there is,
    /// [`Error::Cpu`] if the default [`Cpu`] cannot be made.
    pub fn session(&self, options: Options) -> Result<Session> {
        Session::new(self, options)
    }

    /// An empty conversation in Llama 2's native chat format, for chat-tuned models.
    ///
    /// # Errors
    /// [`Error::Key`] if the vocabulary lacks one of the two special tokens of this format.
    pub fn chat(&self) -> Result<Chat> {
        let special = |token: Option<_>, key: &str| {
            token.ok_or_else(|| Error::Key {
                key: format!("tokenizer.ggml.{key}_token_id"),
                offset: None,
                expected: "the id of a token, for Llama 2's chat format".into(),
                found: "none".into(),
            })
        };
        let tokenizer = self.tokenizer();
        Ok(Chat::new(special(tokenizer.bos(), "bos")?, special(tokenizer.eos(), "eos")?))
    }

    /// The Jinja source of the file's chat template, if it has one.
    ///
    /// # Errors
    /// [`Error::Key`] if the key is there and holds no text.
    pub fn chat_template(&self) -> Result<Option<&str>> {
        self.gguf().opt_str("tokenizer.chat_template")
    }

    /// How this model's conversations become prompts: by the file's template, or natively as Llama 2's if it has none.
    ///
    /// # Errors
    /// [`Error::Key`] if the key holds no text, [`Error::Template`] if the template does not compile.
    pub fn chat_format(&self) -> Result<ChatFormat> {
        Ok(match self.chat_template()? {
            Some(source) => ChatFormat::Template(Box::new(Template::new(source, self.tokenizer())?)),
            None => ChatFormat::Llama2,
        })
    }

    /// A gap without text around it yet, for models that were trained to fill gaps in.
    ///
    /// # Errors
    /// [`Error::Key`] if the vocabulary lacks a token of infill, as those of most models do.
    pub fn infill(&self) -> Result<Infill> {
        Infill::new(self.tokenizer())
    }

    /// Dimensions and constants.
    pub fn config(&self) -> &Config {
        &self.0.parts.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// The weights, where they lie.
    pub fn weights(&self) -> &Weights {
        &self.0.parts.weights
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.0.gguf
    }

    pub(crate) fn parts(&self) -> &ModelParts {
        &self.0.parts
    }

    /// What computes for sessions that name nothing.
    pub(crate) fn default_cpu(&self) -> Result<Arc<Cpu>> {
        // A panic while the lock was held leaves `None` or a complete `Cpu`.
        let mut cpu = self.0.cpu.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cpu) = &*cpu {
            return Ok(cpu.clone());
        }
        Ok(cpu.insert(Arc::new(Cpu::new(&CpuOptions::default()).map_err(Error::Cpu)?)).clone())
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("gguf", self.gguf())
            .field("config", self.config())
            .finish_non_exhaustive()
    }
}
