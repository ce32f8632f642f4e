//! What must pass a tunnel unharmed, over HTTP/1 (issue §4). Backpressure has a module of its own.
