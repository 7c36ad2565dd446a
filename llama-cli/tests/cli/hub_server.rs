//! A server that plays Hugging Face's hub and the one that it redirects to, with all their faults.

use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Fault {
    None,
    /// No file is named like that.
    NotFound,
    /// Nobody may have it without this token.
    Gated(&'static str),
    /// Each connection is cut at the next tenth of the file.
    CutAtTenths,
    /// Each connection is cut after so many bytes of the file.
    CutForGood(usize),
    /// The whole file is sent whatever range is asked for.
    NoRanges,
    /// Every range is refused.
    BadRange,
    /// A pause of so many milliseconds after each tenth.
    Slow(u64),
    /// The server goes silent in the middle of the file.
    Silent,
    /// The file has other bytes than its name says.
    OtherBytes,
    /// The server has fewer bytes than the hub says, or more.
    Shorter,
    Longer,
    /// The servers are in trouble, so many times.
    Trouble(usize),
}

/// A request that was made: of which server, and how.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) of_hub: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

struct State {
    files: Vec<(String, Vec<u8>)>,
    fault: Fault,
    requests: Vec<Request>,
    bytes: SocketAddr,
}

/// Both servers, on ports of their own.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) hub: SocketAddr,
    pub(crate) bytes: SocketAddr,
    state: Arc<Mutex<State>>,
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Server {
    /// Serves these files as those of the model `user/model`.
    pub(crate) fn start(files: &[(&str, &[u8])], fault: Fault) -> Server {
        let [hub, bytes] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = [&hub, &bytes].map(|listener| listener.local_addr().unwrap());
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        let state = State { files, fault, requests: Vec::new(), bytes: addresses[1] };
        let server = Server { hub: addresses[0], bytes: addresses[1], state: Arc::new(Mutex::new(state)) };
        for (listener, of_hub) in [(hub, true), (bytes, false)] {
            let server = server.clone();
            // Lives as long as the test's process.
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let server = server.clone();
                    std::thread::spawn(move || server.answer(stream, of_hub));
                }
            });
        }
        server
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.state.lock().unwrap().fault = fault;
    }

    /// The requests until now.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// How many requests for a file's bytes there were.
    pub(crate) fn downloads(&self) -> usize {
        self.requests().iter().filter(|request| !request.of_hub && request.method == "GET").count()
    }

    fn answer(&self, stream: TcpStream, of_hub: bool) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next()?, words.next()?);
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let request = Request { of_hub, method, path, headers };
        self.state.lock().unwrap().requests.push(request.clone());
        if of_hub { self.hub(stream, &request) } else { self.file(stream, &request) }
    }

    /// What the hub says: the list of the files, and where a file is.
    fn hub(&self, mut stream: TcpStream, request: &Request) -> Option<()> {
        let mut state = self.state.lock().unwrap();
        if let Fault::Trouble(n) = &mut state.fault
            && *n > 0
        {
            *n -= 1;
            return respond(&mut stream, "503 Service Unavailable", "", b"");
        }
        if let Fault::Gated(token) = state.fault
            && request.headers.get("authorization") != Some(&format!("Bearer {token}"))
        {
            return respond(&mut stream, "401 Unauthorized", "X-Error-Code: GatedRepo\r\n", b"");
        }
        if request.path == "/api/models/user/model/revision/main" && state.fault != Fault::NotFound {
            let names = state.files.iter().map(|(name, _)| format!("{{\"rfilename\": \"{name}\"}}"));
            let names = names.collect::<Vec<_>>().join(", ");
            let json = format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{names}]}}");
            return respond(&mut stream, "200 OK", "Content-Type: application/json\r\n", json.as_bytes());
        }
        let name = request.path.strip_prefix(&format!("/user/model/resolve/{COMMIT}/"));
        let file = name.and_then(|name| state.files.iter().find(|(file, _)| file == name));
        let Some((name, bytes)) = file else { return respond(&mut stream, "404 Not Found", "", b"") };
        let headers = format!(
            "Location: http://{}/{name}?signed\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{}\"\r\n\
             X-Linked-Size: {}\r\n",
            state.bytes,
            sha256(bytes),
            bytes.len()
        );
        respond(&mut stream, "302 Found", &headers, b"")
    }

    /// The bytes of a file.
    fn file(&self, mut stream: TcpStream, request: &Request) -> Option<()> {
        let (mut bytes, fault) = {
            let state = self.state.lock().unwrap();
            let name = request.path.trim_start_matches('/').split('?').next()?;
            let found = state.files.iter().find(|(file, _)| file == name).map(|(_, bytes)| bytes.clone());
            (found, state.fault)
        };
        let Some(bytes) = bytes.as_mut() else { return respond(&mut stream, "404 Not Found", "", b"") };
        match fault {
            Fault::OtherBytes => bytes.iter_mut().for_each(|byte| *byte ^= 1),
            Fault::Shorter => bytes.truncate(bytes.len() - 1),
            Fault::Longer => bytes.push(0),
            _ => {}
        }
        let (all, etag) = (bytes.len(), sha256(bytes));
        let range =
            request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        let from: usize = range.map_or(0, |from| from.parse().unwrap());
        let ranges = fault != Fault::NoRanges;
        if from > 0 && (from >= all || fault == Fault::BadRange) {
            return respond(
                &mut stream,
                "416 Range Not Satisfiable",
                &format!("Content-Range: bytes */{all}\r\n"),
                b"",
            );
        }
        let from = if ranges { from } else { 0 };
        let status = if from > 0 {
            format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{all}", all - 1)
        } else {
            "200 OK".into()
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nETag: \"{etag}\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            all - from
        );
        stream.write_all(head.as_bytes()).ok()?;
        if request.method == "HEAD" {
            return Some(());
        }
        let tenth = all.div_ceil(10);
        match fault {
            Fault::CutAtTenths => stream.write_all(&bytes[from..all.min((from / tenth + 1) * tenth)]).ok()?,
            Fault::CutForGood(at) => {
                stream.write_all(&bytes[from.min(at)..at]).ok()?;
                stream.flush().ok()?;
            }
            Fault::Silent => {
                stream.write_all(&bytes[from..all / 2]).ok()?;
                std::thread::sleep(Duration::from_secs(60));
            }
            Fault::Slow(pause) => {
                for part in bytes[from..].chunks(tenth) {
                    std::thread::sleep(Duration::from_millis(pause));
                    stream.write_all(part).ok()?;
                }
            }
            _ => stream.write_all(&bytes[from..]).ok()?,
        }
        // Whoever closes with bytes unread resets the connection, and the client may lose what was sent.
        stream.shutdown(std::net::Shutdown::Write).ok()?;
        let _ = stream.read(&mut [0]);
        Some(())
    }
}

fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> Option<()> {
    let head =
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()
}
