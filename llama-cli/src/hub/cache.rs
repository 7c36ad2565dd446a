//! Where downloads are kept: the layout of Hugging Face's own tools, so that they share them.
//!
//! ```text
//! models--USER--MODEL/blobs/ETAG                  the bytes; ETAG.incomplete while they come
//! models--USER--MODEL/refs/main                   the newest commit that was seen
//! models--USER--MODEL/snapshots/COMMIT/FILE       a link to the blob, or where links fail the file itself
//! .locks/models--USER--MODEL/ETAG.lock            held while the blob is downloaded
//! ```
//!
//! A URL's file is no repository's: it lies in a folder of its own, beside the hub's cache.

use super::{Error, Repo};
use crate::source::variable;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

pub(crate) struct Cache {
    /// Of repositories.
    root: PathBuf,
    /// Of files from elsewhere.
    urls: PathBuf,
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}

impl Cache {
    /// The cache that the environment names.
    pub(crate) fn locate() -> Result<Cache, Error> {
        let path = |name: &str| variable(name).map(PathBuf::from);
        if let Some(root) = path("LLAMA_CACHE") {
            return Ok(Cache { urls: root.join("urls"), root });
        }
        let caches = path("XDG_CACHE_HOME").or_else(|| Some(home()?.join(".cache")));
        let hub = path("HF_HUB_CACHE")
            .or_else(|| Some(path("HF_HOME")?.join("hub")))
            .or_else(|| Some(caches.clone()?.join("huggingface/hub")));
        let root = hub.ok_or(Error::NoCache)?;
        let urls = caches.unwrap_or_else(|| root.clone()).join("llama-rs/urls");
        Ok(Cache { root, urls })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn urls(&self) -> &Path {
        &self.urls
    }

    pub(super) fn repo(&self, repo: &Repo) -> PathBuf {
        self.root.join(repo.folder())
    }

    /// The repositories of the cache, and their folders; links and what is no folder are nobody's.
    pub(crate) fn repos(&self) -> Vec<(Repo, PathBuf)> {
        let mut repos: Vec<(Repo, PathBuf)> = folders(&self.root)
            .into_iter()
            .filter_map(|path| Some((Repo::from_folder(path.file_name()?.to_str()?)?, path)))
            .collect();
        repos.sort_by(|a, b| a.1.cmp(&b.1));
        repos
    }

    pub(super) fn blob(&self, repo: &Repo, etag: &str) -> PathBuf {
        self.repo(repo).join("blobs").join(etag)
    }

    pub(crate) fn lock(&self, repo: &Repo, etag: &str) -> PathBuf {
        self.root.join(".locks").join(repo.folder()).join(format!("{etag}.lock"))
    }

    pub(super) fn snapshot(&self, repo: &Repo, commit: &str) -> PathBuf {
        self.repo(repo).join("snapshots").join(commit)
    }

    /// The commit that `main` was when it was last seen.
    pub(super) fn commit(&self, repo: &Repo) -> Option<String> {
        let commit = fs::read_to_string(self.repo(repo).join("refs/main")).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    pub(super) fn set_commit(&self, repo: &Repo, commit: &str) -> Result<(), Error> {
        let path = self.repo(repo).join("refs/main");
        if fs::read_to_string(&path).is_ok_and(|old| old == commit) {
            return Ok(());
        }
        // Under another name first: a reader finds the old commit or the new one.
        let new = path.with_file_name(format!("main.{}", std::process::id()));
        create_parents(&path)?;
        fs::write(&new, commit).and_then(|()| fs::rename(&new, &path)).map_err(failed("write", &path))
    }
}

/// The user's own directory.
fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| !home.as_os_str().is_empty())
}

/// Whether a text is a commit, and so a safe name.
pub(super) fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a text that a server gave is a path that stays below its folder, on every system.
pub(super) fn is_safe_path(text: &str) -> bool {
    let plain = |part: Component| matches!(part, Component::Normal(_));
    !text.is_empty()
        && !text.contains(['\\', ':', '\0'])
        && !text.split('/').any(|part| part.is_empty() || part == "." || part == "..")
        && !text.chars().any(char::is_control)
        && Path::new(text).components().all(plain)
}

/// The folders in a folder, links to folders not among them.
pub(crate) fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// The files below a folder, by their paths within it with `/` between the parts; links to files count, links to
/// folders are not followed.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    fn below(folder: &Path, prefix: &str, out: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{prefix}{name}");
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => below(&entry.path(), &format!("{path}/"), out),
                Ok(_) => out.push(path),
                Err(_) => {}
            }
        }
    }
    let mut out = Vec::new();
    below(folder, "", &mut out);
    out.sort();
    out
}

pub(super) fn create_parents(path: &Path) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed("create", parent))
}

/// Makes `pointer` name the blob: by a relative link, or where `symlink` fails by moving the blob there.
pub(super) fn link(
    blob: &Path,
    pointer: &Path,
    symlink: fn(&Path, &Path) -> io::Result<()>,
) -> Result<(), Error> {
    create_parents(pointer)?;
    // From the pointer's folder to the folder of `blobs` and `snapshots`.
    let repo = blob.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let depth = pointer.strip_prefix(repo).map_or(0, |path| path.components().count());
    let name = blob.file_name().unwrap_or_default();
    let target: PathBuf = (1..depth).map(|_| Path::new("..")).collect::<PathBuf>().join("blobs").join(name);
    // A link whose blob is gone is in the way.
    if !pointer.exists() && pointer.symlink_metadata().is_ok() {
        fs::remove_file(pointer).map_err(failed("remove", pointer))?;
    }
    match symlink(&target, pointer) {
        Ok(()) => Ok(()),
        // Another process was faster.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => fs::rename(blob, pointer).map_err(failed("move", blob)),
    }
}

/// The system's own way to link to a file.
pub(super) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::symlink(target, link);
    #[cfg(windows)]
    return std::os::windows::fs::symlink_file(target, link);
    #[cfg(not(any(unix, windows)))]
    return Err(io::Error::from(io::ErrorKind::Unsupported));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_blob() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let blob = directory.path().join("blobs/abc");
        create_parents(&blob).unwrap();
        fs::write(&blob, "bytes").unwrap();
        let pointer = directory.path().join("snapshots/0123456/sub/m.gguf");
        (directory, blob, pointer)
    }

    #[test]
    #[cfg(unix)]
    fn a_link_is_relative_and_may_be_made_twice() {
        let (_directory, blob, pointer) = with_blob();
        for _ in 0..2 {
            link(&blob, &pointer, symlink).unwrap();
            assert_eq!(fs::read_link(&pointer).unwrap(), Path::new("../../../blobs/abc"));
            assert_eq!(fs::read(&pointer).unwrap(), b"bytes");
        }
        // A link to nothing is replaced.
        fs::remove_file(&pointer).unwrap();
        symlink(Path::new("nowhere"), &pointer).unwrap();
        link(&blob, &pointer, symlink).unwrap();
        assert_eq!(fs::read(&pointer).unwrap(), b"bytes");
    }

    #[test]
    fn where_links_fail_the_file_moves() {
        let (_directory, blob, pointer) = with_blob();
        link(&blob, &pointer, |_, _| Err(io::ErrorKind::PermissionDenied.into())).unwrap();
        assert!(!blob.exists() && pointer.symlink_metadata().unwrap().is_file());
        assert_eq!(fs::read(&pointer).unwrap(), b"bytes");
    }

    #[test]
    fn names_from_a_server_stay_in_their_folder() {
        for good in ["m.gguf", "sub/m.gguf", "a b/ü.gguf", "..m.gguf"] {
            assert!(is_safe_path(good), "{good}");
        }
        for bad in
            ["", "/m", "../m", "a/../../m", "a//b", "a/", "./a", "a\\..\\b", "C:m", "a\0", "a\n.gguf", ".."]
        {
            assert!(!is_safe_path(bad), "{bad:?}");
        }
        assert!(
            is_commit("0123456789abcdef0123456789abcdef01234567")
                && !is_commit("../../etc")
                && !is_commit("")
        );
    }
}
