//! Mirrors over HTTP for tests: one that breaks off, one behind TLS.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// Serves the files of a folder until the process ends.
pub(crate) struct Mirror {
    /// Of the folder.
    pub(crate) url: String,
}

impl Mirror {
    /// `breaks`: how many answers of more than 4 MiB end in the middle.
    pub(crate) fn new(folder: &Path, gives_pieces: bool, mut breaks: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let folder = folder.to_owned();
        thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &folder, gives_pieces, &mut breaks).ok();
            }
        });
        Self { url }
    }
}

fn serve(
    mut stream: TcpStream,
    folder: &Path,
    gives_pieces: bool,
    breaks: &mut usize,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap()?;
    let mut range = None;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if let Some(wanted) = line.strip_prefix("range: bytes=").filter(|_| gives_pieces) {
            let (from, to) = wanted.trim().split_once('-').unwrap();
            range = Some((from.parse::<u64>().unwrap(), to.parse::<u64>().unwrap()));
        }
        if line.is_empty() {
            break;
        }
    }
    let mut words = first.split(' ');
    words.next();
    let mut file = File::open(folder.join(words.next().unwrap().trim_start_matches('/')))?;
    let size = file.metadata()?.len();
    let (from, to) = range.map_or((0, size - 1), |(from, to)| (from, to.min(size - 1)));
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    let length = to + 1 - from;
    let mut head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n");
    if gives_pieces {
        head.push_str("accept-ranges: bytes\r\n");
        head.push_str(&format!("content-range: bytes {from}-{to}/{size}\r\n"));
    }
    stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes())?;
    file.seek(SeekFrom::Start(from))?;
    let mut kept = length;
    if length > 4 << 20 && *breaks > 0 {
        *breaks -= 1;
        kept = if *breaks > 1_000 { 0 } else { length / 2 };
    }
    std::io::copy(&mut file.take(kept), &mut stream).map(|_| ())
}

/// The same behind TLS, by openssl, with a certificate for 127.0.0.1 from an authority of its own.
pub(crate) struct Secured {
    /// Of the folder.
    pub(crate) url: String,
    server: Child,
}

impl Secured {
    /// The authority's certificate goes to `keys/authority.pem`.
    pub(crate) fn new(folder: &Path, keys: &Path) -> Self {
        let path = |name: &str| keys.join(name);
        let named = |name: &str| path(name).display().to_string();
        let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let authority = [
            "req",
            "-x509",
            "-days",
            "2",
            "-subj",
            "/CN=test authority",
            "-keyout",
            &named("authority.key"),
            "-out",
            &named("authority.pem"),
        ];
        openssl(&[&authority[..], &new_key[..]].concat());
        fs::write(path("names"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
            .unwrap();
        let request = [
            "req",
            "-subj",
            "/CN=mirror",
            "-keyout",
            &named("mirror.key"),
            "-out",
            &named("mirror.csr"),
        ];
        openssl(&[&request[..], &new_key[..]].concat());
        openssl(&[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            &named("mirror.csr"),
            "-CA",
            &named("authority.pem"),
            "-CAkey",
            &named("authority.key"),
            "-CAcreateserial",
            "-extfile",
            &named("names"),
            "-out",
            &named("mirror.pem"),
        ]);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-quiet", "-WWW", "-accept", &format!("127.0.0.1:{port}")]);
        command.args(["-cert", &named("mirror.pem"), "-key", &named("mirror.key")]);
        command.current_dir(folder).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let server = command.spawn().unwrap();
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        Self { url: format!("https://127.0.0.1:{port}"), server }
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

fn openssl(arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).output();
    let done = done.expect("openssl runs: install Debian's package openssl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
