//! A mirror over HTTP for tests, which breaks off as often as it is told.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
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
