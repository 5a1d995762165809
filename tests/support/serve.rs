//! A server of one text.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

/// Serves a text to whoever asks, until the test ends; its URL.
pub(crate) fn serve(text: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/basalt.toml", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 2048];
            let read = stream.read(&mut buffer).unwrap();
            assert!(buffer[..read].starts_with(b"GET /basalt.toml "));
            let length = text.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all((head + text).as_bytes()).unwrap();
        }
    });
    url
}
