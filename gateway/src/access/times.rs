//! Where a request's time went: one part after the other, without a gap.

use std::time::{Duration, Instant};

use super::Record;
use crate::line;

impl Record {
    pub(super) fn times(&self, ended: Instant) -> Times {
        let answered = self.answered.unwrap_or(ended);
        let upload = self.upload.until(answered);
        let asked = self.headed + self.hold + self.pick + self.connect + upload;
        Times {
            head: self.headed.saturating_duration_since(self.began),
            hold: self.hold,
            pick: self.pick,
            connect: self.connect,
            upload,
            first: answered.saturating_duration_since(asked),
            body: ended.saturating_duration_since(answered),
            total: ended.saturating_duration_since(self.began),
        }
    }
}

/// See the module's head.
pub(super) struct Times {
    pub(super) head: Duration,
    pub(super) hold: Duration,
    pub(super) pick: Duration,
    pub(super) connect: Duration,
    pub(super) upload: Duration,
    pub(super) first: Duration,
    pub(super) body: Duration,
    pub(super) total: Duration,
}

impl Times {
    /// In milliseconds. Connections are opened to a backend's servers only, and few uploads are waited for.
    pub(super) fn write(&self, to_server: bool, out: &mut Vec<u8>) {
        let mut one = |name: &[u8], time| {
            out.extend_from_slice(name);
            line::milliseconds(time, out);
        };
        one(b" head=", self.head);
        one(b" hold=", self.hold);
        one(b" pick=", self.pick);
        if to_server {
            one(b" connect=", self.connect);
        }
        if !self.upload.is_zero() {
            one(b" upload=", self.upload);
        }
        one(b" first=", self.first);
        one(b" body=", self.body);
        one(b" total=", self.total);
        out.extend_from_slice(b"ms");
    }
}
