//! The `basalt` program: dispatch only.

use basalt::cli::{self, Outcome};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::run_process() {
        Outcome::Exit(code) => ExitCode::from(code),
        Outcome::Start(start) => ExitCode::from(cli::start::run(*start)),
    }
}
