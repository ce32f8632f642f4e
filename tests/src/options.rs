//! Names of options and metrics that the end-to-end tests rely on, in one place.

/// Metrics of the gateway.
pub mod metric {
    /// Gauge: requests that are held because no tunnel of their name is there.
    pub const HELD: &str = "tidegate_held_requests";
}
