//! HTTP: who is asked, who is told the token, and what the answers mean.
//!
//! `ureq` because it blocks, as this program does, and brings no runtime along. TLS is rustls with Graviola, which
//! is Rust and inline assembly: no C, no assembler, nothing but the compiler. Ring and aws-lc need a C compiler;
//! `rustls-rustcrypto`, all Rust, is an unreviewed alpha. The price is a CPU with AES instructions (see
//! [`Error::Tls`]). Roots are those of Mozilla, or of the file that `SSL_CERT_FILE` names.
//!
//! Redirects are followed here: the token goes to the hub and to nobody whom it redirects to, and the headers that
//! say what a file is stand in the hub's answer, not in the one of the server that has the bytes.

use super::{Error, Repo, cache};
use crate::source::variable;
use serde_json::Value;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::{Response, Uri, header};
use ureq::{Agent, Body};

const ENDPOINT: &str = "https://huggingface.co";
/// Redirects of one request.
const REDIRECTS: usize = 10;
/// How long a server may be silent; `HF_HUB_DOWNLOAD_TIMEOUT` says otherwise, in seconds.
const SILENCE: u64 = 30;
/// Tries of a request that a server in trouble did not answer.
const TRIES: u32 = 3;
/// Bytes of a list of files.
const LARGEST_LIST: u64 = 32 << 20;

pub(super) struct Client {
    agent: Agent,
    /// Whether this CPU can do what https takes.
    can_tls: bool,
    endpoint: String,
    token: Option<String>,
}

/// What a server says of a file without sending it.
#[derive(Default, Debug)]
pub(super) struct Head {
    /// Names the content: of a large file on the hub its SHA-256.
    pub(super) etag: Option<String>,
    pub(super) size: Option<u64>,
}

impl Head {
    /// The content's SHA-256, if that is what its name is.
    pub(super) fn sha256(&self) -> Option<&str> {
        let hash = |etag: &&str| etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
        self.etag.as_deref().filter(hash)
    }
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Ask<'a> {
    method: &'a str,
    /// The first byte.
    from: u64,
    /// The `ETag` that the bytes before it belong to.
    version: Option<&'a str>,
}

/// The files of a repository.
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

impl Client {
    pub(super) fn new() -> Result<Client, Error> {
        let seconds =
            variable("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|text| text.parse().ok()).unwrap_or(SILENCE);
        let silence = Some(Duration::from_secs(seconds.max(1)));
        let config = Agent::config_builder()
            .user_agent(concat!("llama-rs/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(silence)
            .timeout_recv_response(silence)
            .timeout_per_read(silence);
        let tls = super::tls::config()?;
        let can_tls = tls.is_some();
        let config = config.tls_config(tls.unwrap_or_default()).build();
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        parse(&endpoint)?;
        Ok(Client { agent: config.into(), can_tls, endpoint, token: token() })
    }

    /// The address of a repository's file.
    pub(super) fn address(&self, repo: &Repo, commit: &str, file: &str) -> String {
        format!("{}/{repo}/resolve/{commit}/{}", self.endpoint, escaped(file))
    }

    /// The files of a repository's newest commit.
    pub(super) fn list(&self, repo: &Repo) -> Result<Listing, Error> {
        let url = format!("{}/api/models/{repo}/revision/main", self.endpoint);
        let mut answer = self.persistently("GET", &url, repo)?;
        let mut text = String::new();
        let body = answer.body_mut().as_reader().take(LARGEST_LIST);
        std::io::BufReader::new(body)
            .read_to_string(&mut text)
            .map_err(|e| Error::Unreachable { url: url.clone(), why: e.to_string() })?;
        listing(&text).map_err(|found| Error::Answer {
            url,
            expected: "a list of a model's files".into(),
            found,
        })
    }

    /// What a file is. Where the server does not say, nothing.
    pub(super) fn head(&self, url: &str, what: &dyn std::fmt::Display) -> Result<Head, Error> {
        let answer = match self.persistently("HEAD", url, what) {
            // Servers that do not know the method may still send the file.
            Err(Error::Status { status: 405 | 501, .. }) => return Ok(Head::default()),
            answer => answer?,
        };
        let text = |name: &str| answer.headers().get(name)?.to_str().ok();
        let number = |name: &str| text(name)?.trim().parse().ok();
        Ok(Head {
            etag: text("x-linked-etag").or(text("etag")).and_then(plain_etag),
            size: number("x-linked-size").or_else(|| number("content-length")),
        })
    }

    /// A file from this byte on, or the first answer that is no redirect; `version` is the `ETag` that the bytes
    /// before it belong to.
    pub(super) fn get(&self, url: &str, from: u64, version: Option<&str>) -> Result<Response<Body>, Error> {
        self.follow(Ask { method: "GET", from, version }, url)
    }

    /// Asks until there is an answer that is neither a redirect nor trouble.
    fn persistently(
        &self,
        method: &str,
        url: &str,
        what: &dyn std::fmt::Display,
    ) -> Result<Response<Body>, Error> {
        let mut tries = 1;
        loop {
            let ask = Ask { method, from: 0, version: None };
            let result = self.follow(ask, url).and_then(|answer| self.accept(answer, url, what));
            match result {
                Err(e) if e.is_unreachable() && tries < TRIES => {
                    std::thread::sleep(Duration::from_millis(250 << tries));
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    /// The answer, if it is what was asked for.
    pub(super) fn accept(
        &self,
        answer: Response<Body>,
        url: &str,
        what: &dyn std::fmt::Display,
    ) -> Result<Response<Body>, Error> {
        let status = answer.status().as_u16();
        if answer.status().is_success() || answer.status().is_redirection() {
            return Ok(answer);
        }
        let hint = match status {
            401 if self.token.is_none() => format!(
                ": {what} is gated, private or does not exist; set HF_TOKEN to a token that may read it \
                 ({}/settings/tokens)",
                self.endpoint
            ),
            401 => format!(": {what} does not exist, or the token in HF_TOKEN is not valid"),
            403 => format!(
                ": the token in HF_TOKEN may not read {what}; its page may ask you to accept a licence"
            ),
            404 => format!(": {what} does not exist"),
            429 => ": too many requests; later, or with HF_TOKEN set, it may answer".into(),
            _ => String::new(),
        };
        Err(Error::Status { url: url.into(), status, hint })
    }

    /// Sends a request, and again to wherever it is redirected. An answer that tells what the file is ends a
    /// `HEAD`: those to whom it redirects may not know the method.
    fn follow(&self, ask: Ask<'_>, url: &str) -> Result<Response<Body>, Error> {
        let mut at = url.to_owned();
        for _ in 0..=REDIRECTS {
            let answer = self.send(ask, &at)?;
            let redirect = answer.status().is_redirection().then(|| answer.headers().get(header::LOCATION));
            let Some(location) = redirect.flatten() else { return Ok(answer) };
            let told =
                ["x-linked-etag", "x-linked-size"].iter().all(|name| answer.headers().contains_key(*name));
            if ask.method == "HEAD" && told {
                return Ok(answer);
            }
            let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
            let next = joined(&at, &location)?;
            if at.starts_with("https:") && !next.starts_with("https:") {
                let expected = "redirects to https addresses alone".into();
                return Err(Error::Answer { url: at, expected, found: next });
            }
            at = next;
        }
        let expected = format!("at most {REDIRECTS} redirects");
        Err(Error::Answer { url: url.into(), expected, found: "more".into() })
    }

    fn send(&self, ask: Ask<'_>, url: &str) -> Result<Response<Body>, Error> {
        let Ask { method, from, version } = ask;
        let uri = parse(url)?;
        if uri.scheme_str() == Some("https") && !self.can_tls {
            return Err(Error::Tls);
        }
        let mut request = ureq::http::Request::builder().method(method).uri(&uri);
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
            if let Some(version) = version {
                request = request.header(header::IF_RANGE, format!("\"{version}\""));
            }
        }
        if let Some(token) = self.token.as_ref().filter(|_| self.is_hub(&uri)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let unreachable = |why: String| Error::Unreachable { url: url.into(), why };
        let request = request.body(()).map_err(|e| unreachable(e.to_string()))?;
        self.agent.run(request).map_err(|e| unreachable(e.to_string()))
    }

    /// Whether an address is the hub's own, to whom the token is known.
    fn is_hub(&self, uri: &Uri) -> bool {
        parse(&self.endpoint).is_ok_and(|hub| origin(&hub) == origin(uri))
    }
}

/// Scheme, host and port.
fn origin(uri: &Uri) -> (Option<&str>, Option<String>, Option<u16>) {
    let port = uri.port_u16().or(match uri.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    });
    (uri.scheme_str(), uri.host().map(str::to_ascii_lowercase), port)
}

fn parse(url: &str) -> Result<Uri, Error> {
    let wrong = |found: &str| Error::Address { url: url.into(), found: found.into() };
    let uri: Uri = url.parse().map_err(|_| wrong("no address at all"))?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        Some(other) => Err(wrong(other)),
        None => Err(wrong("no scheme")),
    }
}

/// The token that the environment names, or that Hugging Face's own tools have put beside their cache.
fn token() -> Option<String> {
    let file = || {
        let home = variable("HF_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface")))?;
        std::fs::read_to_string(home.join("token")).ok()
    };
    let token = variable("HF_TOKEN").or_else(file)?.trim().to_owned();
    // What is no header is no token.
    (!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())).then_some(token)
}

/// The commit and the files of the hub's answer, or what it is instead.
fn listing(text: &str) -> Result<Listing, String> {
    let json: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let commit = json["sha"].as_str().filter(|sha| cache::is_commit(sha)).ok_or("no commit")?;
    let siblings = json["siblings"].as_array().ok_or("no files")?;
    let files = siblings.iter().filter_map(|file| file["rfilename"].as_str());
    // A name that would leave its folder is no file of ours.
    let files = files.filter(|name| cache::is_safe_path(name)).map(str::to_owned).collect();
    Ok(Listing { commit: commit.to_owned(), files })
}

/// What is between an `ETag`'s quotes, if it may be a file's name.
fn plain_etag(etag: &str) -> Option<String> {
    let etag = etag.trim().trim_start_matches("W/").trim_matches('"');
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    ((1..=200).contains(&etag.len()) && etag.bytes().all(plain) && !etag.starts_with('.'))
        .then(|| etag.to_owned())
}

/// A path as a URL has it.
fn escaped(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

/// The address that a `Location` stands for in an answer of `base`.
fn joined(base: &str, location: &str) -> Result<String, Error> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return Ok(location.to_owned());
    }
    let uri = parse(base)?;
    let scheme = uri.scheme_str().unwrap_or("https");
    if let Some(rest) = location.strip_prefix("//") {
        return Ok(format!("{scheme}://{rest}"));
    }
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let folder = uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    let path = if location.starts_with('/') { location.to_owned() } else { format!("{folder}/{location}") };
    Ok(format!("{scheme}://{host}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined() {
        let to = |location| joined("https://hub.example:8443/a/b?c=d", location).unwrap();
        assert_eq!(to("https://cdn.example/x?y"), "https://cdn.example/x?y");
        assert_eq!(to("//cdn.example/x"), "https://cdn.example/x");
        assert_eq!(to("/x?y=z"), "https://hub.example:8443/x?y=z");
        assert_eq!(to("x"), "https://hub.example:8443/a/x");
    }

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        let of = |url: &str| {
            let uri = parse(url).unwrap();
            let (scheme, host, port) = origin(&uri);
            (scheme.map(str::to_owned), host, port)
        };
        assert_eq!(of("https://Hub.example/a"), of("https://hub.example:443/b"));
        let others =
            ["http://hub.example", "https://hub.example:8443", "https://hub.example.org", "https://a@hub"];
        for other in others {
            assert_ne!(of("https://hub.example"), of(other), "{other}");
        }
        for bad in ["ftp://a/b", "a/b", "file:///etc/passwd", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn etags_are_names() {
        assert_eq!(plain_etag("\"abc-1\"").as_deref(), Some("abc-1"));
        assert_eq!(plain_etag("W/\"abc\"").as_deref(), Some("abc"));
        for bad in ["", "\"\"", "\"../x\"", "\"a/b\"", "\".hidden\""] {
            assert_eq!(plain_etag(bad), None, "{bad}");
        }
    }

    #[test]
    fn listings_hold_safe_names_alone() {
        let text =
            r#"{"sha": "0123456789", "siblings": [{"rfilename": "a.gguf"}, {"rfilename": "../b.gguf"}, {}]}"#;
        let list = listing(text).unwrap();
        assert_eq!((list.commit.as_str(), &list.files[..]), ("0123456789", &["a.gguf".to_owned()][..]));
        for bad in ["", "[]", r#"{"sha": "main", "siblings": []}"#, r#"{"sha": "0123456"}"#] {
            assert!(listing(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escaped("a b/ü#?.gguf"), "a%20b/%C3%BC%23%3F.gguf");
    }
}
