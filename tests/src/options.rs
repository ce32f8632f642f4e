//! Names of options and metrics that the end-to-end tests rely on, in one place.

/// `tidegated`: how long a name without tunnels holds its visitors.
pub const HOLD: &str = "--hold";
