//! `tidegate-certs`: makes and shows the certificates that gateways and agents know each other by.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate_certs::cli::run(std::env::args_os())
}
