//! Models from Hugging Face's hub, or from anywhere on the web.
//!
//! The hub lists a repository's files ([`choose`]), says what a file is (its size, and its SHA-256 as `ETag`) and
//! redirects to who has it ([`client`]); [`download`] brings it into the [`cache`].

mod bar;
pub(crate) mod cache;
mod choose;
mod client;
mod download;
mod error;
mod tls;

pub(crate) use self::choose::{Reference, Repo, is_of_type};
pub(crate) use self::error::Error;

use self::cache::Cache;
use self::client::{Client, Listing};
use self::download::Download;
use crate::interrupt;
use crate::output::note;
use crate::source::variable;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// Whether the environment forbids to ask servers.
pub(crate) fn offline() -> bool {
    let on = |name| {
        variable(name)
            .is_some_and(|value| !["0", "false", "no", "off"].contains(&value.to_lowercase().as_str()))
    };
    on("LLAMA_ARG_OFFLINE") || on("HF_HUB_OFFLINE")
}

/// The path of a hub's model, of a split one its first part; what is missing is downloaded.
///
/// If the hub cannot be reached, the cache is enough.
pub(crate) fn fetch(reference: &Reference, file: Option<&str>, offline: bool) -> Result<PathBuf, Error> {
    let cache = Cache::locate()?;
    if offline {
        return cached(&cache, reference, file);
    }
    let client = Client::new()?;
    let listing = match client.list(&reference.repo) {
        Err(error) if error.is_unreachable() => {
            let path = cached(&cache, reference, file).map_err(|_| error)?;
            note(format_args!("the hub cannot be reached: using {reference} from the cache"));
            return Ok(path);
        }
        listing => listing?,
    };
    interrupt::at_once(|| download_all(&cache, &client, reference, file, &listing))
}

/// Every part of the file that is meant, from the hub to the cache.
fn download_all(
    cache: &Cache,
    client: &Client,
    reference: &Reference,
    file: Option<&str>,
    listing: &Listing,
) -> Result<PathBuf, Error> {
    let repo = &reference.repo;
    let names = match file {
        Some(name) => choose::named(repo, name, &listing.files)?,
        None => choose::choose(reference, &listing.files)?,
    };
    let snapshot = cache.snapshot(repo, &listing.commit);
    for name in &names {
        let pointer = snapshot.join(name);
        if pointer.exists() {
            continue;
        }
        let url = client.address(repo, &listing.commit, name);
        let head = client.head(&url, repo)?;
        let no_etag = || Error::Answer { url: url.clone(), expected: "an ETag".into(), found: "none".into() };
        let etag = head.etag.clone().ok_or_else(no_etag)?;
        let blob = cache.blob(repo, &etag);
        if !blob.exists() {
            let partial = download::incomplete(&blob);
            let lock = cache.lock(repo, &etag);
            let (name, sha256) = (format!("{repo}/{name}"), head.sha256().map(str::to_owned));
            let (target, version) = (blob.clone(), Some(etag));
            Download { client, url, name, size: head.size, sha256, version, partial, target, lock }.run()?;
        }
        cache::link(&blob, &pointer, cache::symlink)?;
    }
    cache.set_commit(repo, &listing.commit)?;
    Ok(snapshot.join(&names[0]))
}

/// The path of a model that is in the cache, with all of its parts.
fn cached(cache: &Cache, reference: &Reference, file: Option<&str>) -> Result<PathBuf, Error> {
    let repo = &reference.repo;
    let missing = || Error::Offline { repo: reference.to_string(), cache: cache.root().to_owned() };
    let snapshot = cache.snapshot(repo, &cache.commit(repo).ok_or_else(missing)?);
    // A link whose blob is gone is no file.
    let files: Vec<String> =
        cache::files(&snapshot).into_iter().filter(|name| snapshot.join(name).exists()).collect();
    let names = match file {
        Some(name) => choose::named(repo, name, &files),
        None => choose::choose(reference, &files),
    };
    let names = names.map_err(|_| missing())?;
    match names.iter().all(|name| files.contains(name)) {
        true => Ok(snapshot.join(&names[0])),
        false => Err(missing()),
    }
}

/// The path of the file at a URL, of a split one its first part; what is missing is downloaded. A file that was
/// downloaded once is not asked for again.
pub(crate) fn fetch_url(url: &str, offline: bool) -> Result<PathBuf, Error> {
    let cache = Cache::locate()?;
    let (address, query) = url.split_once('?').map_or((url, ""), |(address, query)| (address, query));
    let (parent, name) = address.rsplit_once('/').unwrap_or((address, ""));
    let wrong = |found: &str| Error::Address { url: url.into(), found: found.into() };
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        return Err(wrong("another scheme"));
    }
    if !cache::is_safe_path(name) || parent.ends_with('/') {
        return Err(wrong("one without a file's name"));
    }
    // Who has the same name elsewhere is another file.
    let folder = download::hex(&Sha256::digest(format!("{parent}?{query}"))[..8]);
    let folder = cache.urls().join(folder);
    let names = choose::parts(name);
    let missing: Vec<&String> = names.iter().filter(|name| !folder.join(name).exists()).collect();
    if !missing.is_empty() && offline {
        return Err(Error::Offline { repo: url.into(), cache: cache.urls().to_owned() });
    }
    if !missing.is_empty() {
        let client = Client::new()?;
        interrupt::at_once(|| {
            missing.into_iter().try_for_each(|name| {
                let query = if query.is_empty() { String::new() } else { format!("?{query}") };
                let url = format!("{parent}/{name}{query}");
                let head = client.head(&url, &url)?;
                let target = folder.join(name);
                // What is left of another version is not to be continued.
                let version = head.etag.as_deref().map_or("none", |etag| etag);
                let partial = download::incomplete(&folder.join(format!("{name}.{version}")));
                let lock = folder.join(format!("{name}.lock"));
                let (sha256, version) = (head.sha256().map(str::to_owned), head.etag.clone());
                Download {
                    client: &client,
                    name: url.clone(),
                    url,
                    size: head.size,
                    sha256,
                    version,
                    partial,
                    target,
                    lock,
                }
                .run()
            })
        })?;
    }
    Ok(folder.join(&names[0]))
}
