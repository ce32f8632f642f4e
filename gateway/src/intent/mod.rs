//! What operators ask of the servers of backends while the gateway runs: to be drained, to be left alone, to have another
//! weight. It is kept over restarts, and it is all that is kept: where servers are and how they are spoken to stands in the
//! configuration alone, and no type here could say it.
//!
//! ```text
//! tidegated set ─▶ ask ─unix socket─▶ control ─▶ desk ─┬▶ book (what holds) ─▶ keep (the state file)
//!                                                      └▶ servers
//! ```
//!
//! Modules stand in the order in which an order meets them.

pub mod ask; // `tidegated set` and `get`

pub mod talk; // what the two say to each other

pub mod control; // the socket

pub mod desk; // orders are carried out

mod words; // as people read them

mod book; // what holds

mod keep; // the file

mod there; // what stands in its place

mod identity; // which server an order was for

pub(crate) use book::Bidding;
pub use book::{Mode, Note};
pub use desk::Desk;
pub use identity::Identity;
pub(crate) use keep::{beside, folder};
pub(crate) use there::{followed, in_the_way, unusable};
