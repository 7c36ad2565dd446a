//! Downloads from a server that plays the hub: each fault leaves a partial file that is resumed, or nothing.

use crate::fixture::{Fixture, assert_refused, llama, names, stderr};
use crate::hub_server::{COMMIT, Fault, Server, sha256};
use assert_cmd::Command;
use std::fs;
use std::path::PathBuf;
use std::process::Output;

const FILE: &str = "model.Q4_K_M.gguf";

/// A model, a server that has it, and a cache.
struct Case {
    fixture: Fixture,
    bytes: Vec<u8>,
    server: Server,
}

impl Case {
    fn new(fault: Fault) -> Case {
        let fixture = Fixture::new();
        let bytes = fs::read(&fixture.model).unwrap();
        let other = b"no model";
        let server =
            Server::start(&[("README.md", other), ("model.Q8_0.gguf", other), (FILE, &bytes)], fault);
        Case { fixture, bytes, server }
    }

    /// The command with the hub and the cache of this case, and nobody else's.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = llama(args);
        for name in [
            "HF_TOKEN",
            "HF_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "http_proxy",
            "HTTP_PROXY",
            "all_proxy",
            "ALL_PROXY",
        ] {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.fixture.path("home")).env("LLAMA_CACHE", self.cache());
        command.env("HF_ENDPOINT", format!("http://{}", self.server.hub)).env("HF_HUB_DOWNLOAD_TIMEOUT", "2");
        command
    }

    fn output(&self, more: &[&str]) -> Output {
        self.command(&[&["tokenize", "-hf", "user/model", "-p", "a"], more].concat()).output().unwrap()
    }

    fn cache(&self) -> PathBuf {
        self.fixture.path("cache")
    }

    fn repo(&self) -> PathBuf {
        self.cache().join("models--user--model")
    }

    fn blobs(&self) -> Vec<String> {
        let blobs = self.repo().join("blobs");
        if blobs.exists() { names(&blobs) } else { Vec::new() }
    }

    fn partial(&self) -> PathBuf {
        self.repo().join("blobs").join(sha256(&self.bytes) + ".incomplete")
    }

    /// The file is where it belongs, whole, and nothing else is.
    #[track_caller]
    fn assert_complete(&self, output: &Output) {
        assert!(output.status.success() && !output.stdout.is_empty(), "{}", stderr(output));
        assert_eq!(self.blobs(), [sha256(&self.bytes)]);
        let snapshot = self.repo().join("snapshots").join(COMMIT);
        assert_eq!(fs::read(snapshot.join(FILE)).unwrap(), self.bytes);
        assert_eq!(names(&snapshot), [FILE]);
        assert_eq!(fs::read_to_string(self.repo().join("refs/main")).unwrap(), COMMIT);
        assert!(!stderr(output).contains('\u{1b}'), "{}", stderr(output));
    }

    /// There is neither a file nor a part of one.
    #[track_caller]
    fn assert_nothing(&self) {
        assert!(self.blobs().is_empty(), "{:?}", self.blobs());
        assert!(!self.repo().join("snapshots").exists());
    }
}

/// The last line, which says what went wrong; before it may stand what is being downloaded.
fn refused(mut output: Output, what: &str) {
    let message = stderr(&output);
    output.stderr = message.lines().last().unwrap_or_default().as_bytes().to_vec();
    assert_refused(&output, what);
}

#[test]
fn a_model_is_downloaded_once_into_the_layout_of_the_hub() {
    let case = Case::new(Fault::None);
    case.assert_complete(&case.output(&[]));
    assert_eq!(case.server.downloads(), 1);
    #[cfg(unix)]
    {
        let link = fs::read_link(case.repo().join("snapshots").join(COMMIT).join(FILE)).unwrap();
        assert_eq!(link, PathBuf::from("../../blobs").join(sha256(&case.bytes)));
    }
    case.assert_complete(&case.output(&[]));
    assert_eq!(case.server.downloads(), 1);
    // Without the server, by request or not.
    let asked = case.server.requests().len();
    case.assert_complete(&case.output(&["--offline"]));
    assert_eq!(case.server.requests().len(), asked);
    let gone = case
        .command(&["tokenize", "-hf", "user/model", "-p", "a"])
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .output();
    case.assert_complete(gone.as_ref().unwrap());
    assert!(stderr(&gone.unwrap()).contains("from the cache"));
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let case = Case::new(Fault::Gated("hf_secret"));
    refused(case.output(&[]), "set HF_TOKEN");
    case.assert_nothing();
    let with = |token| {
        case.command(&["tokenize", "-hf", "user/model", "-p", "a"]).env("HF_TOKEN", token).output().unwrap()
    };
    refused(with("hf_wrong"), "token in HF_TOKEN is not valid");
    let before = case.server.requests().len();
    case.assert_complete(&with("hf_secret"));
    for request in &case.server.requests()[before..] {
        assert_eq!(request.headers.contains_key("authorization"), request.of_hub, "{request:?}");
    }
    assert!(case.server.requests().iter().any(|request| !request.of_hub));
    // The token that the hub's own tools keep.
    fs::remove_dir_all(case.cache()).unwrap();
    fs::create_dir_all(case.fixture.path("home")).unwrap();
    fs::write(case.fixture.path("home/token"), "hf_secret\n").unwrap();
    case.assert_complete(&case.output(&[]));
}

#[test]
fn what_does_not_exist_leaves_nothing() {
    let case = Case::new(Fault::NotFound);
    refused(case.output(&[]), "user/model does not exist");
    case.server.set(Fault::None);
    refused(case.output(&["--hf-file", "other.gguf"]), "found model.Q8_0.gguf, model.Q4_K_M.gguf");
    let tag = case.command(&["tokenize", "-hf", "user/model:Q2_K", "-p", "a"]).output().unwrap();
    refused(tag, "whose name contains Q2_K");
    refused(case.output(&["--offline"]), "not in the cache");
    case.assert_nothing();
}

#[test]
fn a_connection_that_is_cut_at_every_tenth_is_resumed() {
    let case = Case::new(Fault::CutAtTenths);
    case.assert_complete(&case.output(&[]));
    let ranges: Vec<usize> = case
        .server
        .requests()
        .iter()
        .filter_map(|request| {
            request.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
        })
        .collect();
    let tenth = case.bytes.len().div_ceil(10);
    // Each range is asked of the hub, and of the one that it redirects to.
    let expected: Vec<usize> = (1..10).flat_map(|i| [i * tenth; 2]).collect();
    assert_eq!(ranges, expected);
}

#[test]
fn another_process_goes_on_from_every_tenth() {
    let case = Case::new(Fault::None);
    for tenth in 0..10 {
        let at = tenth * case.bytes.len() / 10;
        let _ = fs::remove_dir_all(case.cache());
        fs::create_dir_all(case.partial().parent().unwrap()).unwrap();
        fs::write(case.partial(), &case.bytes[..at]).unwrap();
        case.assert_complete(&case.output(&[]));
        let request = case.server.requests().pop().unwrap();
        let range = (at > 0).then(|| format!("bytes={at}-"));
        assert_eq!(request.headers.get("range"), range.as_ref());
    }
}

#[test]
fn what_was_downloaded_before_the_end_is_kept() {
    let case = Case::new(Fault::None);
    let half = case.bytes.len() / 2;
    case.server.set(Fault::CutForGood(half));
    refused(case.output(&[]), &format!("broke off after {half} bytes"));
    assert_eq!(fs::read(case.partial()).unwrap(), case.bytes[..half]);
    case.server.set(Fault::None);
    case.assert_complete(&case.output(&[]));

    let nothing = Case::new(Fault::CutForGood(0));
    refused(nothing.output(&[]), "broke off after 0 bytes");
    nothing.assert_nothing();
}

#[test]
fn a_server_without_ranges_starts_again() {
    for fault in [Fault::NoRanges, Fault::BadRange] {
        let case = Case::new(fault);
        fs::create_dir_all(case.partial().parent().unwrap()).unwrap();
        fs::write(case.partial(), &case.bytes[..1000]).unwrap();
        case.assert_complete(&case.output(&[]));
    }
}

#[test]
fn a_partial_file_with_other_bytes_is_discarded() {
    let case = Case::new(Fault::None);
    fs::create_dir_all(case.partial().parent().unwrap()).unwrap();
    fs::write(case.partial(), [7; 1000]).unwrap();
    refused(case.output(&[]), "with SHA-256");
    case.assert_nothing();
    // One that is too long is known not to be a part.
    fs::write(case.partial(), vec![7; case.bytes.len() + 1]).unwrap();
    case.assert_complete(&case.output(&[]));
}

#[test]
fn other_bytes_than_announced_are_discarded() {
    let case = Case::new(Fault::OtherBytes);
    refused(case.output(&[]), "with SHA-256");
    case.assert_nothing();
    let size = case.bytes.len();
    for (fault, found) in [(Fault::Shorter, size - 1), (Fault::Longer, size + 1)] {
        case.server.set(fault);
        refused(case.output(&[]), &format!("expected {size} bytes, found {found}"));
        case.assert_nothing();
    }
    case.server.set(Fault::None);
    case.assert_complete(&case.output(&[]));
}

#[test]
fn slow_servers_are_waited_for_and_silent_ones_left() {
    let case = Case::new(Fault::Slow(300));
    case.assert_complete(&case.output(&[]));
    let silent = Case::new(Fault::Silent);
    refused(silent.output(&[]), "broke off after");
    assert_eq!(fs::read(silent.partial()).unwrap(), silent.bytes[..silent.bytes.len() / 2]);
}

#[test]
fn trouble_passes() {
    let case = Case::new(Fault::Trouble(2));
    case.assert_complete(&case.output(&[]));
    case.server.set(Fault::Trouble(100));
    // What is in the cache is enough.
    case.assert_complete(&case.output(&[]));
    let empty = Case::new(Fault::Trouble(100));
    refused(empty.output(&[]), "the server answered 503");
    empty.assert_nothing();
}

#[test]
fn several_processes_download_a_file_once() {
    let case = Case::new(Fault::Slow(100));
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..3).map(|_| scope.spawn(|| case.output(&[]))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    outputs.iter().for_each(|output| case.assert_complete(output));
    assert_eq!(case.server.downloads(), 1);
    assert_eq!(outputs.iter().filter(|output| stderr(output).contains("another process")).count(), 2);
}

#[test]
fn a_process_that_is_killed_leaves_what_another_resumes() {
    let case = Case::new(Fault::Slow(400));
    let mut command = case.command(&["tokenize", "-hf", "user/model", "-p", "a"]);
    assert!(
        command.timeout(std::time::Duration::from_millis(1500)).output().unwrap().status.code().is_none()
    );
    let kept = fs::metadata(case.partial()).unwrap().len();
    assert!(0 < kept && kept < case.bytes.len() as u64);
    case.server.set(Fault::None);
    case.assert_complete(&case.output(&[]));
    assert_eq!(case.server.requests().pop().unwrap().headers["range"], format!("bytes={kept}-"));
}

#[test]
fn a_split_model_comes_with_all_parts() {
    let parts = ["m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00002-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf"];
    let case = Case::new(Fault::None);
    let files: Vec<(&str, &[u8])> = parts.iter().map(|&name| (name, name.as_bytes())).collect();
    let case = Case { server: Server::start(&files, Fault::None), ..case };
    // They are no models, so the command fails after the download.
    refused(case.output(&[]), parts[0]);
    let snapshot = case.repo().join("snapshots").join(COMMIT);
    assert_eq!(names(&snapshot), parts);
    assert_eq!(case.blobs().len(), 3);
}

#[test]
fn a_url_is_downloaded_once_and_resumed() {
    let case = Case::new(Fault::None);
    let url = format!("http://{}/{FILE}?download=true", case.server.bytes);
    let run = |more: &[&str]| {
        case.command(&[&["tokenize", "-mu", &url, "-p", "a"], more].concat()).output().unwrap()
    };
    refused(run(&["--offline"]), "not in the cache");
    case.server.set(Fault::CutForGood(5000));
    refused(run(&[]), "broke off after 5000 bytes");
    case.server.set(Fault::None);
    assert!(run(&[]).status.success());
    assert_eq!(case.server.requests().pop().unwrap().headers["range"], "bytes=5000-");
    let downloads = case.server.downloads();
    assert!(run(&[]).status.success() && run(&["--offline"]).status.success());
    assert_eq!(case.server.downloads(), downloads);
    let folder = case.cache().join("urls");
    let folder = folder.join(&names(&folder)[0]);
    assert_eq!(fs::read(folder.join(FILE)).unwrap(), case.bytes);
    for bad in ["ftp://a/b.gguf", "model.gguf", "http://127.0.0.1:1/", "http://127.0.0.1:1"] {
        refused(
            case.command(&["tokenize", "-mu", bad, "-p", "a"]).output().unwrap(),
            "expected an http or https",
        );
    }
}

#[test]
fn flags_outweigh_the_environment() {
    let case = Case::new(Fault::None);
    let run = |args: &[&str], name: &str, value: &str| {
        case.command(&[&["tokenize", "-p", "a"], args].concat()).env(name, value).output().unwrap()
    };
    case.assert_complete(&run(&[], "LLAMA_ARG_HF_REPO", "user/model"));
    assert!(run(&[], "LLAMA_ARG_MODEL", &case.fixture.model).status.success());
    refused(run(&[], "LLAMA_ARG_MODEL", "no/such.gguf"), "no/such.gguf");
    case.assert_complete(&run(&["-hf", "user/model"], "LLAMA_ARG_MODEL", "no/such.gguf"));
    assert!(run(&["-m", &case.fixture.model], "LLAMA_ARG_HF_REPO", "no/such").status.success());
    refused(run(&[], "LLAMA_ARG_HF_REPO", "../etc"), "expected USER/MODEL");
    let nothing = case.command(&["tokenize", "-p", "a"]).output().unwrap();
    assert!(nothing.status.success());
    assert!(stderr(&nothing).contains("no model named"), "{}", stderr(&nothing));
}
