//! End-to-end tests: real programs, real sockets, peers of raw bytes. One module per theme of the product's promises.
#![expect(
    clippy::unwrap_used,
    reason = "a failing step of a test is a failing test"
)]

mod agent_failures;
mod agent_target;
mod agent_tunnels;
mod app_connections;
mod authorities;
mod back_pressure;
mod backend_http2;
mod backend_proxy;
mod backends;
mod balancing;
mod chain_a;
mod checks;
mod clouds;
mod command_line;
mod configuration;
mod control_socket;
mod dns;
mod early_answers;
mod expiry;
mod forwarded_headers;
mod gateway_addresses;
mod grpc;
mod haproxy;
mod harness;
mod held;
mod hints;
mod hostile_agent;
mod hostile_answers;
mod hostile_http1;
mod hostile_http2;
mod intent;
mod interim;
mod introductions;
mod lifetime;
mod limits;
mod liveness;
mod max_body;
mod mismatches;
mod names_and_certs;
mod nginx;
mod observability;
mod odd_apps;
mod pace;
mod pass_through;
mod places;
mod probe;
mod proxy_header;
mod rates;
mod refused_http2;
mod reversal;
mod routing;
mod silence;
mod source_lists;
mod stampede;
mod stopping;
mod strays;
mod tcp;
mod tcp_agent;
mod trailers;
mod vanished;
mod visitor_address;
mod websocket;
