//! `llama models` and `llama rm`: what is in the cache of downloads, and away with it.

use crate::args::{Models, Remove};
use crate::bench::scaled;
use crate::failure::Failure;
use crate::hub::cache::{self, Cache};
use crate::hub::{self, Reference, Repo};
use crate::load;
use crate::output::{note, print, printable};
use llama_core::Mix;
use llama_core::gguf::Gguf;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

/// A GGUF file of a repository's snapshot.
struct Entry {
    repo: Repo,
    /// The path in the snapshot.
    name: String,
    path: PathBuf,
    size: u64,
}

/// The files of all snapshots, each once; of a link whose blob is gone nothing is told.
fn entries(repo: &Repo, folder: &Path) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for snapshot in cache::folders(&folder.join("snapshots")) {
        for name in cache::files(&snapshot) {
            let path = snapshot.join(&name);
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let known = |entry: &Entry| entry.name == name && same(&entry.path, &path);
            if name.to_ascii_lowercase().ends_with(".gguf") && !entries.iter().any(known) {
                entries.push(Entry { repo: repo.clone(), name, path, size: metadata.len() });
            }
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

fn same(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

pub(crate) fn models(args: &Models) -> Result<(), Failure> {
    let cache = Cache::locate()?;
    let mut rows = Vec::new();
    for (repo, folder) in cache.repos() {
        for entry in entries(&repo, &folder) {
            rows.push(Row::of(entry.repo.to_string(), &entry.name, &entry.path, entry.size));
        }
        for (path, size) in partials(&folder.join("blobs")) {
            let kind = Some("incomplete".to_owned());
            rows.push(Row {
                group: repo.to_string(),
                name: "?".into(),
                path,
                size,
                architecture: None,
                kind,
            });
        }
    }
    for folder in cache::folders(cache.urls()) {
        for name in cache::files(&folder).into_iter().filter(|name| name.ends_with(".gguf")) {
            let path = folder.join(&name);
            let size = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            rows.push(Row::of(folder.display().to_string(), &name, &path, size));
        }
    }
    if args.json {
        let rows = rows.iter().map(Row::json).collect::<Vec<_>>();
        return print(format_args!("{:#}\n", Value::from(rows)));
    }
    if rows.is_empty() {
        note(format_args!("no models in {}: llama run -hf USER/MODEL downloads one", cache.root().display()));
        return Ok(());
    }
    let mut out = format!("{:>10}  {:12}  {:10}  file\n", "size", "architecture", "type");
    // A repository's name beside each of its files would not leave them on a line.
    let mut group = None;
    for row in &rows {
        if group.replace(&row.group) != Some(&row.group) {
            out += &format!("{}\n", row.group);
        }
        let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let (size, architecture, kind) = (bytes(row.size), known(&row.architecture), known(&row.kind));
        out += &format!("{size:>10}  {architecture:12}  {kind:10}  {}\n", row.name);
    }
    let total: u64 = rows.iter().map(|row| row.size).sum();
    print(out)?;
    note(format_args!("{} in {}", bytes(total), cache.root().display()));
    Ok(())
}

struct Row {
    /// The repository, or the folder of what came from elsewhere.
    group: String,
    name: String,
    path: PathBuf,
    size: u64,
    architecture: Option<String>,
    kind: Option<String>,
}

impl Row {
    fn of(group: String, name: &str, path: &Path, size: u64) -> Row {
        // A file that is no model, or a part of one whose others are missing, is listed all the same.
        let gguf = load::map(path).ok();
        let architecture =
            gguf.as_ref().and_then(|gguf| gguf.opt_str("general.architecture").ok()?.map(printable));
        let kind = gguf.as_ref().and_then(kind);
        Row {
            group: printable(&group),
            name: printable(name),
            path: path.to_owned(),
            size,
            architecture,
            kind,
        }
    }

    fn json(&self) -> Value {
        json!({
            "name": format!("{}/{}", self.group, self.name),
            "path": self.path.display().to_string(),
            "bytes": self.size,
            "architecture": self.architecture,
            "type": self.kind,
        })
    }
}

/// The name of the file's mix, or else the format that most of its bytes are in.
fn kind(gguf: &Gguf) -> Option<String> {
    let number = gguf.opt_u32("general.file_type").ok().flatten();
    let mixes = || Mix::names().filter_map(Mix::from_name);
    // Where a mix and a format share a number, the mix is what files of it are called.
    let found = number.and_then(|number| mixes().filter(|mix| mix.file_type() == Some(number)).last());
    found.map(|mix| mix.name().to_owned()).or_else(|| {
        let mut sums: Vec<(llama_kernels::Format, usize)> = Vec::new();
        for tensor in gguf.tensors() {
            match sums.iter_mut().find(|(format, _)| *format == tensor.format()) {
                Some((_, sum)) => *sum += tensor.size(),
                None => sums.push((tensor.format(), tensor.size())),
            }
        }
        sums.into_iter().max_by_key(|(_, sum)| *sum).map(|(format, _)| format.name().to_owned())
    })
}

/// What has not been downloaded to its end.
fn partials(blobs: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(blobs).into_iter().flatten().flatten();
    let partials = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".incomplete"));
    partials.map(|entry| (entry.path(), entry.metadata().map_or(0, |metadata| metadata.len()))).collect()
}

fn bytes(size: u64) -> String {
    scaled(size as f64, 1024.0, ["KiB", "MiB", "GiB"])
}

pub(crate) fn remove(args: &Remove) -> Result<(), Failure> {
    let cache = Cache::locate()?;
    let Reference { repo, tag } = &args.model;
    let found = cache.repos().into_iter().find(|(known, _)| known == repo);
    let absent = || Failure::NotCached { model: args.model.to_string(), cache: cache.root().to_owned() };
    let (_, folder) = found.ok_or_else(absent)?;
    // Without a type, all that there is; with one, its files.
    let chosen: Vec<Entry> = entries(repo, &folder)
        .into_iter()
        .filter(|entry| tag.as_ref().is_none_or(|tag| hub::is_of_type(&entry.name, tag)))
        .collect();
    if tag.is_some() && chosen.is_empty() {
        return Err(absent());
    }
    let partials = if tag.is_none() { partials(&folder.join("blobs")) } else { Vec::new() };
    for (path, _) in &partials {
        refuse_busy(&cache, repo, path)?;
    }
    let size: u64 = chosen.iter().map(|entry| entry.size).chain(partials.iter().map(|(_, size)| *size)).sum();
    let names: Vec<&str> = chosen.iter().map(|entry| entry.name.as_str()).collect();
    note(format_args!(
        "{}: {} ({})",
        args.model,
        if names.is_empty() { "no file".into() } else { names.join(", ") },
        bytes(size)
    ));
    if !args.yes && !confirmed()? {
        return Err(Failure::NotConfirmed);
    }
    match tag {
        None => remove_all(&folder)?,
        Some(tag) => remove_type(&folder, tag)?,
    }
    note(format_args!("removed {}", args.model));
    Ok(())
}

/// Asks on the terminal.
fn confirmed() -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    crate::output::complain("remove? [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.map_err(|source| Failure::File { action: "read", path: "standard input".into(), source })?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// A partial file that a process is filling is not to be taken from it.
fn refuse_busy(cache: &Cache, repo: &Repo, partial: &Path) -> Result<(), Failure> {
    let Some(etag) = partial.file_stem().and_then(|name| name.to_str()) else { return Ok(()) };
    let lock = File::open(cache.lock(repo, etag));
    match lock.map(|file| file.try_lock()) {
        Ok(Err(fs::TryLockError::WouldBlock)) => Err(Failure::Busy { model: repo.to_string() }),
        _ => Ok(()),
    }
}

/// Removes a repository's folder, which is a folder of the cache and no link: `remove_dir_all` follows none.
fn remove_all(folder: &Path) -> Result<(), Failure> {
    fs::remove_dir_all(folder).map_err(|e| failed(folder, e))
}

/// Removes the files of a type from all snapshots, and then the blobs to which nothing leads any more.
fn remove_type(folder: &Path, tag: &str) -> Result<(), Failure> {
    let mut gone = Vec::new();
    let snapshots = cache::folders(&folder.join("snapshots"));
    for snapshot in &snapshots {
        for name in cache::files(snapshot).into_iter().filter(|name| hub::is_of_type(name, tag)) {
            let path = snapshot.join(name);
            gone.extend(blob_of(folder, &path));
            fs::remove_file(&path).map_err(|e| failed(&path, e))?;
        }
    }
    let rest = |snapshot: &PathBuf| {
        cache::files(snapshot).into_iter().map(|name| snapshot.join(name)).collect::<Vec<_>>()
    };
    let used: Vec<PathBuf> =
        snapshots.iter().flat_map(rest).filter_map(|path| blob_of(folder, &path)).collect();
    for blob in gone.iter().filter(|blob| !used.contains(blob)) {
        match fs::remove_file(blob) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(blob, e)),
            _ => {}
        }
    }
    Ok(())
}

/// The blob of this repository that a link leads to; a link that leads elsewhere has none.
fn blob_of(folder: &Path, link: &Path) -> Option<PathBuf> {
    fs::read_link(link).ok()?;
    let target = fs::canonicalize(link).ok()?;
    let blobs = fs::canonicalize(folder.join("blobs")).ok()?;
    (target.parent() == Some(&blobs)).then_some(target)
}

fn failed(path: &Path, source: io::Error) -> Failure {
    Failure::File { action: "remove", path: path.to_owned(), source }
}
