//! What agents stand in front of: an HTTP/1 app with a route for every kind of answer ([`HttpApp`]), an app whose
//! bytes a test scripts ([`RawApp`]), an HTTP/2 app in clear text ([`H2cApp`]), one that is not there ([`AbsentApp`]), and what
//! makes of any of them one that expects a PROXY header ([`Doorman`]).

mod absent;
mod doorman;
mod h2c;
mod http;
mod raw;
mod routes;

pub use absent::AbsentApp;
pub use doorman::{Doorman, Greeted};
pub use h2c::H2cApp;
pub use http::{HttpApp, Seen};
pub use raw::RawApp;
