//! A folder behind TLS, for tests.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// Serves a folder by openssl, with a certificate for 127.0.0.1 from an authority of its own.
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
