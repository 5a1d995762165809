//! How a bench was started: `cargo bench` measures, `cargo test` only sees that it runs.

/// What a bench is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Its question, in full size.
    Full,
    /// The same with small numbers, whose figures mean nothing.
    Small,
    /// Nothing: the tests that were asked for by name are others.
    Skipped,
}

/// From the program's arguments: only `cargo bench` passes `--bench`. A first word that is no
/// option is a name of tests.
pub(crate) fn mode() -> Mode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--bench") {
        let small = arguments.iter().any(|argument| argument == "--small");
        return if small { Mode::Small } else { Mode::Full };
    }
    match arguments.first() {
        Some(first) if !first.starts_with('-') => Mode::Skipped,
        _ => Mode::Small,
    }
}
