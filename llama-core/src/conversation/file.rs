//! A conversation in a file, to go on another day: what was said, the tokens, and the cache of their keys and values.
//!
//! All numbers are little-endian. Magic, version, what it must fit (the model by a hash of its header and the length
//! of its file, the cache by its types and its context, the rotation, the format), what was said, the tokens, the
//! logits of the last one if all are evaluated, the cache layer by layer, and a checksum of everything before it.
//! The file is checked as a whole before anything of it is believed.

use super::{Answer, ChatFormat, Conversation, Turn};
use crate::gguf::Gguf;
use crate::rope::Rope;
use crate::tokenizer::Token;
use crate::{Error, Result, Sampler};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"LLM CHAT";
const VERSION: u32 = 2;

/// Bytes of a text in such a file.
const MAX_TEXT: u64 = 1 << 30;

impl Conversation {
    /// Writes the conversation to a file, with the place in the sampler's random stream, so that what is loaded goes
    /// on as this would have gone on. An existing file is replaced when the new one is complete.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>, sampler: &Sampler) -> Result<()> {
        let path = path.as_ref();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let written = self.write(&temporary, sampler).and_then(|()| fs::rename(&temporary, path));
        written.map_err(|source| {
            let _ = fs::remove_file(&temporary);
            Error::Io { action: "write", path: path.to_owned(), source }
        })
    }

    fn write(&self, path: &Path, sampler: &Sampler) -> io::Result<()> {
        let mut out = Hashed::new(BufWriter::with_capacity(1 << 16, File::create(path)?));
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        for (_, value) in self.circumstances() {
            out.text(&value)?;
        }
        let evaluation = &self.session.evaluation;
        out.number(evaluation.stage as u64)?;
        out.number(evaluation.stats.forgotten_tokens as u64)?;
        for part in sampler.rng_state() {
            out.number(part)?;
        }
        out.number(u64::from(self.stale))?;
        out.number(u64::from(self.every_turn))?;
        out.number(u64::from(self.system.is_some()))?;
        out.text(self.system.as_deref().unwrap_or_default())?;
        out.number(self.turns.len() as u64)?;
        for turn in &self.turns {
            out.text(&turn.user)?;
            out.number(turn.start as u64)?;
            out.number(turn.end as u64)?;
            // One more, so that zero is none.
            out.number(turn.question.map_or(0, |question| question as u64 + 1))?;
            out.number(u64::from(turn.answer.is_some()))?;
            if let Some(answer) = &turn.answer {
                out.text(&answer.text)?;
                out.tokens(&answer.tokens)?;
                out.number(u64::from(answer.ended))?;
            }
        }
        out.tokens(&evaluation.tokens)?;
        let len = evaluation.kv.len();
        out.number(len as u64)?;
        if len > 0 && len == evaluation.tokens.len() {
            for logit in evaluation.logits() {
                out.write_all(&logit.to_le_bytes())?;
            }
        }
        for part in evaluation.kv.layers().iter().flat_map(|layer| layer.saved(len)) {
            out.write_all(part)?;
        }
        let sum = out.hash.sum();
        out.inner.write_all(&sum.to_le_bytes())?;
        out.inner.flush()?;
        out.inner.get_ref().sync_all()
    }

    /// Replaces the conversation by one that was [saved](Self::save), in a session of the same model, cache types,
    /// context, rotation and format.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::SavedChat`] if it is damaged, of another version, or does
    /// not fit: the conversation is unchanged, unless reading fails half-way, after which it is empty.
    pub fn load(&mut self, path: impl AsRef<Path>, sampler: &mut Sampler) -> Result<()> {
        let path = path.as_ref();
        let file =
            File::open(path).map_err(|source| Error::Io { action: "open", path: path.to_owned(), source })?;
        let read = |source| Error::Io { action: "read", path: path.to_owned(), source };
        let bytes = file.metadata().map_err(read)?.len();
        let mut file = BufReader::with_capacity(1 << 16, file);
        check(&mut file, path, bytes)?;
        file.seek(io::SeekFrom::Start(12)).map_err(read)?;
        let mut input = Input { inner: file, left: bytes.saturating_sub(12 + 8), path };

        for (what, expected) in self.circumstances() {
            let found = input.text()?;
            if found != expected {
                return Err(input.error(what, expected, found));
            }
        }
        let vocab = self.session.model().config().vocab;
        let context = self.session.context();
        // Without end in rotations that never change.
        let stage = usize::try_from(input.number()?).unwrap_or(usize::MAX);
        let forgotten = input.size()?;
        let mut rng = [0; 4];
        for part in &mut rng {
            *part = input.number()?;
        }
        if rng == [0; 4] {
            return Err(input.error("random state", "one that is not zero".into(), "zero".into()));
        }
        let stale = input.number()? != 0;
        let every_turn = input.number()? != 0;
        let has_system = input.number()? != 0;
        let system = Some(input.text()?).filter(|_| has_system);
        let mut turns = Vec::new();
        for _ in 0..input.size()? {
            let mut turn = Turn::new(input.text()?, input.size()?);
            turn.end = input.size()?;
            turn.question = input.size()?.checked_sub(1);
            if input.number()? != 0 {
                let (text, tokens) = (input.text()?, input.tokens(vocab, u64::MAX)?);
                turn.answer = Some(Answer { shown: text.len(), text, tokens, ended: input.number()? != 0 });
            }
            turns.push(turn);
        }
        let tokens = input.tokens(vocab, context as u64)?;
        let len = input.size()?;
        if len > tokens.len() {
            return Err(input.error("cached tokens", format!("at most {}", tokens.len()), len.to_string()));
        }
        let mut logits = None;
        if len > 0 && len == tokens.len() {
            let mut bytes = vec![0; 4 * vocab];
            input.fill(&mut bytes)?;
            let float = |bytes: &[u8]| bytes.try_into().map_or(0.0, f32::from_le_bytes);
            logits = Some(bytes.chunks_exact(4).map(float).collect::<Vec<f32>>());
        }

        // From here on only the system can fail.
        self.clear();
        let evaluation = &mut self.session.evaluation;
        for part in evaluation.kv.layers_mut().flat_map(|layer| layer.saved_mut(len)) {
            input.fill(part)?;
        }
        evaluation.kv.restored(len);
        evaluation.tokens = tokens;
        evaluation.stats.forgotten_tokens = forgotten;
        evaluation.stopped = None;
        let divisors = evaluation.model.parts().weights.rope_freqs.clone();
        evaluation.rotation = evaluation.rope.rotation(stage, divisors.as_deref());
        evaluation.stage = stage;
        if let Some(logits) = logits {
            evaluation.state.restore_logits(logits);
        }
        sampler.set_rng_state(rng);
        (self.system, self.every_turn, self.turns, self.stale) = (system, every_turn, turns, stale);
        for at in 0..self.turns.len() {
            self.turns[at].view = self.view(at + 1, true)?;
        }
        self.keep_system()
    }

    /// What a file must agree in with the session, by name.
    fn circumstances(&self) -> [(&'static str, String); 6] {
        let model = self.session.model();
        let evaluation = &self.session.evaluation;
        let shape = evaluation.kv.layers().first().map(|layer| *layer.shape());
        let types =
            shape.map_or(String::new(), |shape| format!("{} and {}", shape.key_type, shape.value_type));
        let format = match &self.format {
            ChatFormat::Llama2 => "Llama 2's".into(),
            ChatFormat::Template(template) => {
                format!("the template {:016x}", sum_of(template.source().as_bytes()))
            }
        };
        [
            ("model", format!("{:016x}", header_sum(model.gguf()))),
            ("model's bytes", model.gguf().file_bytes().to_string()),
            ("cache types", types),
            ("context", self.session.context().to_string()),
            ("rotary embedding", rotation(&evaluation.rope)),
            ("chat format", format),
        ]
    }
}

/// All that decides how keys turn.
fn rotation(rope: &Rope) -> String {
    format!(
        "{} {:?} base {} {} by {} from {}, {} {} {} {}",
        rope.dims,
        rope.pairs,
        rope.freq_base,
        rope.scaling.name(),
        rope.factor,
        rope.original_context,
        rope.ext_factor,
        rope.attn_factor,
        rope.beta_fast,
        rope.beta_slow
    )
}

/// A hash of all that a model's files hold before their tensors' data.
fn header_sum(gguf: &Gguf) -> u64 {
    let mut hash = Hash::default();
    for (part, bytes) in gguf.contents().enumerate() {
        let offsets =
            gguf.tensors().iter().filter(|tensor| tensor.part() == part).map(|tensor| tensor.offset());
        hash.update(&bytes[..offsets.min().unwrap_or(bytes.len())]);
        hash.update(&(bytes.len() as u64).to_le_bytes());
    }
    hash.sum()
}

pub(super) fn sum_of(bytes: &[u8]) -> u64 {
    let mut hash = Hash::default();
    hash.update(bytes);
    hash.sum()
}

/// Magic, version and checksum of a file of so many bytes.
fn check(file: &mut impl Read, path: &Path, bytes: u64) -> Result<()> {
    let error = |what, expected, found| Error::SavedChat { path: path.to_owned(), what, expected, found };
    let read = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let smallest = MAGIC.len() as u64 + 4 + 8;
    if bytes < smallest {
        return Err(error("length", format!("at least {smallest} bytes"), bytes.to_string()));
    }
    let mut start = [0; 12];
    file.read_exact(&mut start).map_err(read)?;
    if start[..8] != MAGIC {
        return Err(error(
            "magic",
            "a saved conversation".into(),
            format!("{:?}", start[..8].escape_ascii().to_string()),
        ));
    }
    let version = u32::from_le_bytes([start[8], start[9], start[10], start[11]]);
    if version != VERSION {
        return Err(error("version", VERSION.to_string(), version.to_string()));
    }
    let mut hash = Hash::default();
    hash.update(&start);
    let mut left = bytes - smallest;
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        let part = left.min(buffer.len() as u64) as usize;
        file.read_exact(&mut buffer[..part]).map_err(read)?;
        hash.update(&buffer[..part]);
        left -= part as u64;
    }
    let mut sum = [0; 8];
    file.read_exact(&mut sum).map_err(read)?;
    let (expected, found) = (u64::from_le_bytes(sum), hash.sum());
    if expected != found {
        return Err(error("damaged, its checksum", format!("{expected:016x}"), format!("{found:016x}")));
    }
    Ok(())
}

/// A checksum of 64 bits over words of eight bytes. Each step is a bijection of the state and of the word, so that
/// bytes changed within one word never go unnoticed. For accidents, not against forgery.
#[derive(Default)]
struct Hash {
    state: u64,
    /// Bytes that are no whole word yet.
    word: [u8; 8],
    len: u64,
}

impl Hash {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let at = (self.len % 8) as usize;
            let part = bytes.len().min(8 - at);
            self.word[at..at + part].copy_from_slice(&bytes[..part]);
            self.len += part as u64;
            bytes = &bytes[part..];
            if at + part == 8 {
                self.step(u64::from_le_bytes(self.word));
            }
            if at + part == 8 || at == 0 {
                let (words, rest) = bytes.as_chunks::<8>();
                if (self.len).is_multiple_of(8) {
                    words.iter().for_each(|word| self.step(u64::from_le_bytes(*word)));
                    self.len += 8 * words.len() as u64;
                    bytes = rest;
                }
            }
        }
    }

    fn step(&mut self, word: u64) {
        self.state = (self.state ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    fn sum(&self) -> u64 {
        let mut end = Hash { state: self.state, ..Hash::default() };
        let mut word = [0; 8];
        let rest = (self.len % 8) as usize;
        word[..rest].copy_from_slice(&self.word[..rest]);
        end.step(u64::from_le_bytes(word));
        end.step(self.len);
        end.step(0);
        end.state
    }
}

/// A writer that sums up what passes through.
struct Hashed<W> {
    inner: W,
    hash: Hash,
}

impl<W: Write> Hashed<W> {
    fn new(inner: W) -> Hashed<W> {
        Hashed { inner, hash: Hash::default() }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.inner.write_all(bytes)
    }

    fn number(&mut self, number: u64) -> io::Result<()> {
        self.write_all(&number.to_le_bytes())
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        self.number(text.len() as u64)?;
        self.write_all(text.as_bytes())
    }

    fn tokens(&mut self, tokens: &[Token]) -> io::Result<()> {
        self.number(tokens.len() as u64)?;
        tokens.iter().try_for_each(|token| self.write_all(&token.0.to_le_bytes()))
    }
}

/// A reader that knows how much there is.
struct Input<'a> {
    inner: BufReader<File>,
    left: u64,
    path: &'a Path,
}

impl Input<'_> {
    fn error(&self, what: &'static str, expected: String, found: String) -> Error {
        Error::SavedChat { path: PathBuf::from(self.path), what, expected, found }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        let len = bytes.len() as u64;
        let Some(left) = self.left.checked_sub(len) else {
            return Err(self.error("length", format!("{len} bytes more"), self.left.to_string()));
        };
        self.left = left;
        let read = |source| Error::Io { action: "read", path: self.path.to_owned(), source };
        self.inner.read_exact(bytes).map_err(read)
    }

    fn number(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A number that this machine can count to, with room to add two.
    fn size(&mut self) -> Result<usize> {
        let number = self.number()?;
        let size = usize::try_from(number).ok().filter(|&size| size <= usize::MAX / 4);
        size.ok_or_else(|| self.error("count", "one that can be".into(), number.to_string()))
    }

    /// Bytes of so many elements of a size, of which there are at most as many as the file is long.
    fn bytes(&mut self, count: u64, size: u64) -> Result<Vec<u8>> {
        let bytes = count.checked_mul(size).filter(|&bytes| bytes <= self.left.min(MAX_TEXT));
        let Some(bytes) = bytes else {
            return Err(self.error(
                "count",
                format!("one that fits into {} bytes", self.left),
                count.to_string(),
            ));
        };
        let mut out = vec![0; bytes as usize];
        self.fill(&mut out)?;
        Ok(out)
    }

    fn text(&mut self) -> Result<String> {
        let len = self.number()?;
        let bytes = self.bytes(len, 1)?;
        String::from_utf8(bytes).map_err(|_| self.error("text", "UTF-8".into(), "other bytes".into()))
    }

    fn tokens(&mut self, vocab: usize, most: u64) -> Result<Vec<Token>> {
        let count = self.number()?;
        if count > most {
            return Err(self.error("tokens", format!("at most {most}"), count.to_string()));
        }
        let bytes = self.bytes(count, 4)?;
        let id = |bytes: &[u8]| bytes.try_into().map_or(u32::MAX, u32::from_le_bytes);
        let tokens: Vec<Token> = bytes.chunks_exact(4).map(|bytes| Token(id(bytes))).collect();
        match tokens.iter().find(|token| token.0 as usize >= vocab) {
            Some(token) => Err(self.error("tokens", format!("ids below {vocab}"), token.0.to_string())),
            None => Ok(tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_does_not_depend_on_the_pieces_and_notices_every_bit() {
        let bytes: Vec<u8> = (0..100u8).map(|i| i.wrapping_mul(37)).collect();
        for cut in 0..bytes.len() {
            let mut hash = Hash::default();
            hash.update(&bytes[..cut]);
            hash.update(&bytes[cut..cut]);
            hash.update(&bytes[cut..]);
            assert_eq!(hash.sum(), sum_of(&bytes), "{cut}");
            assert_ne!(sum_of(&bytes[..cut]), sum_of(&bytes));
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[cut] ^= 1 << bit;
                assert_ne!(sum_of(&changed), sum_of(&bytes));
            }
        }
        assert_ne!(sum_of(b""), sum_of(b"\0"));
    }
}
