//! Handshakes in memory between the configurations of `tidegate_shared::tls`, with certificates of every kind.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail it")]

mod world;

mod tunnel;

mod visitor;

mod files;
