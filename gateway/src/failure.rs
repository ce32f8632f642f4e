//! Every way in which a request fails, folded once: from here follow its status, its reason (one word for header, log
//! and metric), what the visitor is told, and whether another tunnel may be tried.

use http::StatusCode;
use tidegate_shared::message::BadLength;

/// Why a visitor does not get the app's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The head could not be parsed as HTTP.
    Malformed,
    /// HTTP/1.1 without Host, or HTTP/2 without `:authority` and Host (RFC 9112 §3.2).
    NoHost,
    /// More than one Host field.
    ManyHosts,
    /// Host and the target's authority name different hosts.
    ConflictingHost,
    /// A Host that is no host.
    BadHost,
    /// Both Content-Length and Transfer-Encoding (RFC 9112 §6.1), or Transfer-Encoding that is not `chunked` alone, or several
    /// Content-Length.
    AmbiguousFraming,
    /// CONNECT without `:protocol`: visitors cannot open TCP connections here.
    ConnectRefused,
    /// The head did not arrive in time.
    HeadTimeout,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The declared body is larger than is allowed.
    BodyTooLarge,
    /// The target is longer than is allowed.
    TargetTooLong,
    /// Too many fields, or too long ones.
    HeadTooLarge,
    /// A host that the certificate of this connection does not cover (RFC 9110 §15.5.20).
    Misdirected,
    /// One source has too many connections.
    TooManyConnections,
    /// One source has too many requests, at once or within some time.
    TooManyRequests,
    /// One source has caused too many errors.
    TooManyErrors,
    /// The source is on the operator's list of those who are not served.
    Denied,
    /// One connection's requests are cancelled faster than is allowed.
    TooManyCancelled,
    /// No route takes the request, and there are no tunnels whose names could.
    NoRoute,
    /// No agent ever brought this name.
    NoSuchName,
    /// The name's last tunnel left.
    AgentGone,
    /// The name's tunnels stopped answering.
    AllEjected,
    /// A limit of the gateway: streams, held requests, connections.
    Limit,
    /// The gateway is shutting down.
    Draining,
    /// The tunnel was lost before a response began, and the request could not be repeated.
    TunnelLost,
    /// The tunnel stopped answering before a response began, and the request could not be repeated.
    TunnelSilent,
    /// The agent answered with what is not HTTP/2, or reset the stream.
    BadResponse,
    /// The agent cannot carry an upgrade (it did not announce RFC 8441).
    NoUpgrade,
    /// No response within the limit that the operator set.
    ResponseTimeout,
    /// From here on what an agent says: it has no connection to its app.
    AppUnreachable,
    /// The app closed the connection without an answer.
    AppClosed,
    /// What the app answered is not HTTP.
    AppInvalid,
    /// The app did not answer within the agent's limit.
    AppTimeout,
    /// The app answered a change of protocol as if it were an ordinary request.
    UpgradeIgnored,
    /// The app answered a change of protocol wrongly.
    UpgradeInvalid,
    /// CONNECT to somewhere, which an agent does not offer.
    ConnectUnsupported,
    /// An HTTP request, to an agent that carries TCP connections only.
    TcpOnly,
    /// From here on what concerns a backend: none of its servers may be used.
    NoServer,
    /// The checks of all servers that have a share fail.
    ServersDown,
    /// DNS has given none of its servers an address.
    NoAddress,
    /// Every fit server has as many connections as it may, and none became free in time.
    BackendBusy,
    /// No connection to a server.
    BackendUnreachable,
    /// The server closed the connection without an answer.
    BackendClosed,
    /// What the server answered is not HTTP as it should be.
    BackendInvalid,
    /// The server did nothing for too long: no answer, or no more of it.
    BackendTimeout,
    /// What else came on the same HTTP/2 connection ended it.
    ConnectionError,
    /// The visitor left.
    VisitorGone,
    /// The visitor took nothing of a response that had begun, or sent nothing of a body that was still due.
    VisitorStalled,
    /// A response that had begun broke off on its way from the app.
    ResponseCut,
    /// Neither side of an upgraded connection has said anything for too long.
    UpgradedTimeout,
}

impl Failure {
    /// One word for the response header `tidegate-reason`, the access log and the metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed-request",
            Self::NoHost => "no-host",
            Self::ManyHosts => "many-hosts",
            Self::ConflictingHost => "conflicting-host",
            Self::BadHost => "bad-host",
            Self::AmbiguousFraming => "ambiguous-framing",
            Self::ConnectRefused => "connect-refused",
            Self::HeadTimeout => "head-timeout",
            Self::BodyTimeout => "body-timeout",
            Self::BodyTooLarge => "body-too-large",
            Self::TargetTooLong => "target-too-long",
            Self::HeadTooLarge => "head-too-large",
            Self::Misdirected => "misdirected",
            Self::TooManyConnections => "too-many-connections",
            Self::TooManyRequests => "too-many-requests",
            Self::TooManyErrors => "too-many-errors",
            Self::Denied => "denied",
            Self::TooManyCancelled => "too-many-cancelled",
            Self::NoRoute => "no-route",
            Self::NoSuchName => "no-such-name",
            Self::AgentGone => "agent-gone",
            Self::AllEjected => "all-ejected",
            Self::Limit => "limit",
            Self::Draining => "draining",
            Self::TunnelLost => "tunnel-lost",
            Self::TunnelSilent => "tunnel-silent",
            Self::BadResponse => "bad-response",
            Self::NoUpgrade => "no-upgrade",
            Self::ResponseTimeout => "response-timeout",
            Self::AppUnreachable => "app-unreachable",
            Self::AppClosed => "app-closed",
            Self::AppInvalid => "app-invalid-response",
            Self::AppTimeout => "app-timeout",
            Self::UpgradeIgnored => "upgrade-ignored",
            Self::UpgradeInvalid => "upgrade-invalid",
            Self::ConnectUnsupported => "connect-unsupported",
            Self::TcpOnly => "tcp-only",
            Self::NoServer => "no-server",
            Self::ServersDown => "servers-down",
            Self::NoAddress => "no-address",
            Self::BackendBusy => "backend-busy",
            Self::BackendUnreachable => "backend-unreachable",
            Self::BackendClosed => "backend-closed",
            Self::BackendInvalid => "backend-invalid-response",
            Self::BackendTimeout => "backend-timeout",
            Self::ConnectionError => "connection-error",
            Self::VisitorGone => "visitor-gone",
            Self::VisitorStalled => "visitor-stalled",
            Self::ResponseCut => "response-cut",
            Self::UpgradedTimeout => "upgraded-timeout",
        }
    }

    /// The status that the visitor sees. `VisitorGone` and `ConnectionError` have the one that nginx made usual in logs; nobody receives it. Those
    /// that end a response have the one that was sent with its head, and this one nowhere.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed
            | Self::NoHost
            | Self::ManyHosts
            | Self::ConflictingHost
            | Self::BadHost
            | Self::AmbiguousFraming => StatusCode::BAD_REQUEST,
            Self::ConnectRefused => StatusCode::METHOD_NOT_ALLOWED,
            Self::HeadTimeout | Self::BodyTimeout | Self::VisitorStalled => {
                StatusCode::REQUEST_TIMEOUT
            }
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::TooManyConnections
            | Self::TooManyRequests
            | Self::TooManyErrors
            | Self::TooManyCancelled => StatusCode::TOO_MANY_REQUESTS,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoSuchName
            | Self::AgentGone
            | Self::AllEjected
            | Self::Limit
            | Self::NoServer
            | Self::ServersDown
            | Self::NoAddress
            | Self::BackendBusy
            | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::TunnelLost
            | Self::BadResponse
            | Self::NoUpgrade
            | Self::AppUnreachable
            | Self::AppClosed
            | Self::AppInvalid
            | Self::UpgradeIgnored
            | Self::UpgradeInvalid
            | Self::TcpOnly
            | Self::BackendUnreachable
            | Self::BackendClosed
            | Self::BackendInvalid
            | Self::ResponseCut => StatusCode::BAD_GATEWAY,
            Self::TunnelSilent
            | Self::ResponseTimeout
            | Self::AppTimeout
            | Self::BackendTimeout
            | Self::UpgradedTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::ConnectUnsupported => StatusCode::NOT_IMPLEMENTED,
            Self::ConnectionError | Self::VisitorGone => {
                StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
            }
        }
    }

    /// Seconds after which it makes sense to ask again (RFC 9110 §10.2.3).
    pub fn retry_after(self) -> Option<u64> {
        match self {
            Self::NoSuchName => Some(30),
            Self::AgentGone
            | Self::AllEjected
            | Self::ServersDown
            | Self::TooManyConnections
            | Self::TooManyRequests
            | Self::TooManyErrors
            | Self::TooManyCancelled => Some(5),
            Self::NoServer => Some(30),
            Self::Limit | Self::NoAddress | Self::BackendBusy | Self::Draining => Some(1),
            _ => None,
        }
    }

    /// Whether the connection of an HTTP/1 visitor can take another request afterwards.
    pub fn closes_connection(self) -> bool {
        matches!(
            self,
            Self::Malformed
                | Self::AmbiguousFraming
                | Self::HeadTimeout
                | Self::BodyTimeout
                | Self::BodyTooLarge
                | Self::TargetTooLong
                | Self::HeadTooLarge
                | Self::TooManyConnections
                | Self::Denied
                | Self::TooManyCancelled
                | Self::Draining
                | Self::VisitorGone
        )
    }

    /// One sentence for the visitor, who may be the app's developer.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Malformed => "The request is not well-formed HTTP.",
            Self::NoHost => "The request names no host.",
            Self::ManyHosts => "The request names more than one host.",
            Self::ConflictingHost => {
                "The request's target and its Host field name different hosts."
            }
            Self::BadHost => "The request's host is not a host name.",
            Self::AmbiguousFraming => "The request states the length of its body in two ways.",
            Self::ConnectRefused => "CONNECT is not available here.",
            Self::HeadTimeout => "The request's head did not arrive in time.",
            Self::BodyTimeout => "The request's body did not arrive in time.",
            Self::BodyTooLarge => "The request's body is larger than this gateway takes.",
            Self::TargetTooLong => "The request's target is longer than this gateway takes.",
            Self::HeadTooLarge => "The request's head is larger than this gateway takes.",
            Self::Misdirected => {
                "This connection's certificate does not cover the requested host; connect anew."
            }
            Self::TooManyConnections => "There are too many connections from your address.",
            Self::TooManyRequests => {
                "There are too many requests from your address; try again later."
            }
            Self::TooManyErrors => {
                "Too many requests from your address have failed; try again later."
            }
            Self::Denied => "Visitors from your address are not served here.",
            Self::TooManyCancelled => "Requests on this connection are cancelled too often.",
            Self::NoRoute => "No route of this gateway is for this host and path.",
            Self::NoSuchName => "No agent has brought this name to the gateway.",
            Self::AgentGone => "The agent of this name is not connected at the moment.",
            Self::AllEjected => "The agent of this name has stopped answering.",
            Self::Limit => "The gateway is at a limit; try again.",
            Self::Draining => "The gateway is shutting down; try again.",
            Self::TunnelLost => "The connection to the agent was lost before the app answered.",
            Self::TunnelSilent => "The agent stopped answering before the app did.",
            Self::BadResponse => "The agent's answer was broken.",
            Self::NoUpgrade => "The agent of this name cannot carry WebSockets.",
            Self::ResponseTimeout => "The app did not answer in time.",
            Self::AppUnreachable => "The agent of this name is connected, its app is not.",
            Self::AppClosed => "The app closed the connection without an answer.",
            Self::AppInvalid => "The app's answer is not HTTP as it should be.",
            Self::AppTimeout => "The app did not answer in time.",
            Self::UpgradeIgnored => "The app did not change the protocol as it was asked to.",
            Self::UpgradeInvalid => "The app answered a change of protocol wrongly.",
            Self::ConnectUnsupported => "The agent of this name passes requests to its app only.",
            Self::TcpOnly => "The agent of this name carries TCP connections and no HTTP requests.",
            Self::NoServer => "No server is set to take this request.",
            Self::ServersDown => "The servers do not pass their health checks at the moment.",
            Self::NoAddress => "The servers have no address at the moment; try again.",
            Self::BackendBusy => "The servers have as much to do as they may; try again.",
            Self::BackendUnreachable => "The server cannot be reached.",
            Self::BackendClosed => "The server closed the connection without an answer.",
            Self::BackendInvalid => "The server's answer is not HTTP as it should be.",
            Self::BackendTimeout => "The server did not answer in time.",
            Self::ConnectionError => "The connection broke for what else came on it.",
            Self::VisitorGone => "The visitor left.",
            Self::VisitorStalled => "The visitor took nothing of the response for too long.",
            Self::ResponseCut => "The response broke off.",
            Self::UpgradedTimeout => "Neither side has said anything for too long.",
        }
    }

    /// What an agent means by this reason, where it is one of an agent's.
    pub fn of_agent(reason: &[u8]) -> Option<Self> {
        [
            Self::AppUnreachable,
            Self::AppClosed,
            Self::AppInvalid,
            Self::AppTimeout,
            Self::UpgradeIgnored,
            Self::UpgradeInvalid,
            Self::ConnectUnsupported,
            Self::TcpOnly,
        ]
        .into_iter()
        .find(|failure| failure.reason().as_bytes() == reason)
    }
}

impl From<BadLength> for Failure {
    fn from(bad: BadLength) -> Self {
        match bad {
            BadLength::Several => Self::AmbiguousFraming,
            BadLength::NoNumber => Self::Malformed,
        }
    }
}

/// All of them, for the metrics to show at zero.
pub const ALL: [Failure; 50] = [
    Failure::Malformed,
    Failure::NoHost,
    Failure::ManyHosts,
    Failure::ConflictingHost,
    Failure::BadHost,
    Failure::AmbiguousFraming,
    Failure::ConnectRefused,
    Failure::HeadTimeout,
    Failure::BodyTimeout,
    Failure::BodyTooLarge,
    Failure::TargetTooLong,
    Failure::HeadTooLarge,
    Failure::Misdirected,
    Failure::TooManyConnections,
    Failure::TooManyRequests,
    Failure::TooManyErrors,
    Failure::Denied,
    Failure::TooManyCancelled,
    Failure::NoRoute,
    Failure::NoSuchName,
    Failure::AgentGone,
    Failure::AllEjected,
    Failure::Limit,
    Failure::Draining,
    Failure::TunnelLost,
    Failure::TunnelSilent,
    Failure::BadResponse,
    Failure::NoUpgrade,
    Failure::ResponseTimeout,
    Failure::AppUnreachable,
    Failure::AppClosed,
    Failure::AppInvalid,
    Failure::AppTimeout,
    Failure::UpgradeIgnored,
    Failure::UpgradeInvalid,
    Failure::ConnectUnsupported,
    Failure::TcpOnly,
    Failure::NoServer,
    Failure::ServersDown,
    Failure::NoAddress,
    Failure::BackendBusy,
    Failure::BackendUnreachable,
    Failure::BackendClosed,
    Failure::BackendInvalid,
    Failure::BackendTimeout,
    Failure::ConnectionError,
    Failure::VisitorGone,
    Failure::VisitorStalled,
    Failure::ResponseCut,
    Failure::UpgradedTimeout,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_failure_has_a_word_of_its_own() {
        let words: HashSet<&str> = ALL.iter().map(|failure| failure.reason()).collect();
        assert_eq!(words.len(), ALL.len());
        for failure in ALL {
            assert!(failure.status().is_client_error() || failure.status().is_server_error());
            assert!(
                failure.status() != StatusCode::SERVICE_UNAVAILABLE
                    || failure.retry_after().is_some()
            );
        }
    }
}
