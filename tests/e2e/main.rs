//! End-to-end tests: real programs, real sockets, peers of raw bytes. One module per theme of the product's promises.

mod harness;
