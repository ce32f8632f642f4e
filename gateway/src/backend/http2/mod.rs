//! HTTP/2 to servers: many requests at once share a connection, which a task of its worker drives. Frames, windows and the like are
//! `h2`'s; which server a request goes to, and whether it goes to another one, is `exchange`'s.

pub(super) mod links; // connections with room

mod last_word; // what a server says before it hangs up

mod settling; // whether a server has understood how a connection begins

mod pulse; // whether the server is there

pub(super) mod doubts; // what is told of one that may not be

pub(super) mod seat; // a request's place on a connection

pub(super) mod ask; // a request on one of them

pub(super) mod answer; // what comes back
