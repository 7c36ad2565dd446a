//! What a model is called, and which of its files is meant.

use super::Error;
use std::fmt;
use std::str::FromStr;

/// Types that are tried, in this order, where none is named.
const DEFAULTS: [&str; 2] = ["Q4_K_M", "Q8_0"];

/// `USER/MODEL`: both of letters, digits, `.`, `_` and `-`, so that they are safe in paths and URLs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Repo {
    user: String,
    name: String,
}

/// `USER/MODEL[:TYPE]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Reference {
    pub(crate) repo: Repo,
    /// What the file's name has to contain; `None` stands for the default.
    pub(crate) tag: Option<String>,
}

impl Repo {
    /// The repository's folder in a cache.
    pub(super) fn folder(&self) -> String {
        format!("models--{}--{}", self.user, self.name)
    }

    /// The inverse of [`folder`](Self::folder).
    pub(super) fn from_folder(folder: &str) -> Option<Repo> {
        let (user, name) = folder.strip_prefix("models--")?.split_once("--")?;
        format!("{user}/{name}").parse().ok()
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.user, self.name)
    }
}

impl FromStr for Repo {
    type Err = String;

    fn from_str(text: &str) -> Result<Repo, String> {
        let plain = |part: &str| {
            let letters = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            (1..=96).contains(&part.len())
                && part.chars().all(letters)
                && !part.starts_with(['.', '-'])
                && !part.contains("--")
                && !part.contains("..")
        };
        match text.split_once('/') {
            Some((user, name)) if plain(user) && plain(name) => {
                Ok(Repo { user: user.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("expected USER/MODEL or USER/MODEL:TYPE, found {text:?}")),
        }
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Reference, String> {
        let (repo, tag) = text.split_once(':').map_or((text, None), |(repo, tag)| (repo, Some(tag)));
        if tag.is_some_and(|tag| tag.is_empty() || tag.contains(':')) {
            return Err(format!("expected USER/MODEL or USER/MODEL:TYPE, found {text:?}"));
        }
        let tag = tag.filter(|tag| !tag.eq_ignore_ascii_case("latest")).map(str::to_owned);
        Ok(Reference { repo: repo.parse()?, tag })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tag {
            Some(tag) => write!(f, "{}:{tag}", self.repo),
            None => write!(f, "{}", self.repo),
        }
    }
}

/// Of these files the one that is meant, with all of its parts if it is split.
///
/// # Errors
/// [`Error::NoFile`] if there is none.
pub(super) fn choose(reference: &Reference, files: &[String]) -> Result<Vec<String>, Error> {
    let mut models: Vec<&String> = files.iter().filter(|file| is_model(file)).collect();
    models.sort();
    let with = |tag: &str| models.iter().find(|file| is_of_type(file, tag)).copied();
    let found = match &reference.tag {
        Some(tag) => with(tag),
        None => DEFAULTS.iter().find_map(|tag| with(tag)).or(models.first().copied()),
    };
    let wanted = match &reference.tag {
        Some(tag) => format!("whose name contains {tag}"),
        None => "with a model".into(),
    };
    match found {
        Some(file) => Ok(parts(file)),
        None => Err(no_file(&reference.repo, wanted, files)),
    }
}

/// The file of this name, with all of its parts if it is split.
pub(super) fn named(repo: &Repo, name: &str, files: &[String]) -> Result<Vec<String>, Error> {
    let parts = parts(name);
    if parts.iter().all(|part| files.contains(part)) {
        return Ok(parts);
    }
    Err(no_file(repo, format!("{name:?}"), files))
}

fn no_file(repo: &Repo, wanted: String, files: &[String]) -> Error {
    const SHOWN: usize = 12;
    let models: Vec<&str> = files.iter().map(String::as_str).filter(|file| is_model(file)).collect();
    let mut found =
        if models.is_empty() { "none".to_owned() } else { models[..models.len().min(SHOWN)].join(", ") };
    if models.len() > SHOWN {
        found += &format!(" and {} more", models.len() - SHOWN);
    }
    Error::NoFile { repo: repo.to_string(), wanted, found }
}

/// Whether it is a GGUF file with weights of its own: projectors of images and matrices of importance are not, and
/// of a split file it is the first part.
fn is_model(file: &str) -> bool {
    let lower = file.to_ascii_lowercase();
    let name = lower.rsplit('/').next().unwrap_or(&lower);
    name.ends_with(".gguf")
        && !name.contains("mmproj")
        && !name.contains("imatrix")
        && split(file).is_none_or(|(_, part, _)| part == 1)
}

/// Whether a file's name contains a type, in any case, and not as a part of another one.
pub(crate) fn is_of_type(file: &str, tag: &str) -> bool {
    let (file, tag) = (file.to_ascii_lowercase(), tag.to_ascii_lowercase());
    let part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    file.match_indices(&tag)
        .any(|(at, _)| !part(file[..at].chars().next_back()) && !part(file[at + tag.len()..].chars().next()))
}

/// Of `model-00002-of-00005.gguf`: `model`, 2 and 5.
fn split(file: &str) -> Option<(&str, u32, u32)> {
    let (stem, count) = file.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = stem.rsplit_once('-')?;
    let number = |text: &str| if text.len() == 5 { text.parse().ok() } else { None };
    let (part, count) = (number(part)?, number(count)?);
    (1 <= part && part <= count).then_some((stem, part, count))
}

/// All parts of a file: itself, or those of a split file that it is a part of.
pub(super) fn parts(file: &str) -> Vec<String> {
    match split(file) {
        Some((stem, _, count)) => {
            (1..=count).map(|part| format!("{stem}-{part:05}-of-{count:05}.gguf")).collect()
        }
        None => vec![file.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(reference: &str, files: &[&str]) -> Option<Vec<String>> {
        let files: Vec<String> = files.iter().map(|&file| file.into()).collect();
        choose(&reference.parse().unwrap(), &files).ok()
    }

    #[test]
    fn references() {
        let reference: Reference = "TheBloke/Llama-2-7B-GGUF:q5_k_m".parse().unwrap();
        assert_eq!(reference.to_string(), "TheBloke/Llama-2-7B-GGUF:q5_k_m");
        assert_eq!(reference.repo.folder(), "models--TheBloke--Llama-2-7B-GGUF");
        assert_eq!(Repo::from_folder(&reference.repo.folder()), Some(reference.repo));
        assert_eq!("a/b:latest".parse::<Reference>().unwrap().tag, None);
        let bad = [
            "", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a/b--c", "a/.b", "a/b:", "a/b:c:d", "a b/c",
            "a/b?c",
        ];
        for bad in bad {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_default_is_q4_k_m_then_q8_0_then_the_first() {
        let all = ["README.md", "m.Q8_0.gguf", "m.Q4_K_M.gguf", "m.Q2_K.gguf", "mmproj-m.Q4_K_M.gguf"];
        assert_eq!(chosen("a/b", &all), Some(vec!["m.Q4_K_M.gguf".into()]));
        assert_eq!(chosen("a/b", &[all[0], all[1], all[3]]), Some(vec!["m.Q8_0.gguf".into()]));
        assert_eq!(chosen("a/b", &["z.gguf", "b.gguf", "a.txt"]), Some(vec!["b.gguf".into()]));
        assert_eq!(chosen("a/b", &["mmproj.gguf", "x.imatrix.gguf", "model.safetensors"]), None);
    }

    #[test]
    fn a_type_is_a_whole_word_of_the_name() {
        let files =
            ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-UD-Q4_K_XL.gguf", "sub/Q6_K/m.gguf", "m.IQ4_0.gguf"];
        assert_eq!(chosen("a/b:q4_k_s", &files), Some(vec!["m-Q4_K_S.gguf".into()]));
        assert_eq!(chosen("a/b:UD-Q4_K_XL", &files), Some(vec!["m-UD-Q4_K_XL.gguf".into()]));
        assert_eq!(chosen("a/b:Q6_K", &files), Some(vec!["sub/Q6_K/m.gguf".into()]));
        for absent in ["Q4_K", "Q4_0", "K_M"] {
            assert_eq!(chosen(&format!("a/b:{absent}"), &files), None, "{absent}");
        }
    }

    #[test]
    fn a_split_file_is_all_of_its_parts() {
        let parts = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"];
        assert_eq!(chosen("a/b:Q8_0", &[parts[1], parts[0]]), Some(parts.map(String::from).to_vec()));
        let files = parts.map(String::from);
        let repo = "a/b".parse().unwrap();
        assert_eq!(named(&repo, parts[1], &files).unwrap(), files);
        assert!(named(&repo, parts[0], &files[..1]).is_err());
        for whole in ["m-1-of-2.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf", "m.gguf"] {
            assert_eq!(super::parts(whole), [whole]);
        }
    }
}
