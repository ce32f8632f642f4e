//! What two Tidegates tell each other of themselves in their first SETTINGS, by a parameter that nobody else knows and that
//! everybody else ignores (RFC 9113 §6.5.2). No visitor can say it: SETTINGS are of one hop, and a gateway writes its own.
//! Pure; the seam puts it into what `h2` writes ([`Marking`]), and [`super::PeerSettings`] has what the peer said.

use super::HEAD;

/// Of those that are kept for experiments (RFC 7540 §11.3).
pub(super) const PARAMETER: u16 = 0xf744;

/// Stands in the upper half of the value, so that somebody else's experiment with the same parameter is not taken for ours.
const OURS: u32 = 0x5447_0000;

/// What one end says of itself. Bits that are not known here are kept and mean nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u16);

impl Marks {
    /// Of a peer that is no Tidegate, or has nothing to say.
    pub const NONE: Self = Self(0);

    /// Of a gateway: no visitor's field of the name [`crate::visitor::VISITOR`] passes here. Of an agent: it wants to be
    /// told of visitors in that field.
    pub const VISITOR: Self = Self(1);

    /// Whether all of `other` is said.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) fn read(value: u32) -> Self {
        if value & 0xffff_0000 == OURS {
            Self(value as u16)
        } else {
            Self::NONE
        }
    }

    /// Puts what is said behind the other parameters of a SETTINGS frame that is there in full.
    pub(super) fn put(self, frame: &mut Vec<u8>) {
        frame.extend_from_slice(&PARAMETER.to_be_bytes());
        frame.extend_from_slice(&(OURS | u32::from(self.0)).to_be_bytes());
        // `h2` writes eight parameters at most: their length is far from what two octets can say.
        let length = frame.len() - HEAD;
        frame[1] = (length >> 8) as u8;
        frame[2] = length as u8;
    }
}

/// What `h2` writes first, kept until its SETTINGS are whole and can be marked.
#[derive(Debug)]
pub(crate) struct Marking {
    marks: Marks,
    settings: Vec<u8>,
}

/// `h2` has written something else than SETTINGS first, against RFC 9113 §3.4.
#[derive(Debug, thiserror::Error)]
#[error("h2 did not write SETTINGS first")]
pub(crate) struct NoSettings;

impl Marking {
    /// `None` where there is nothing to say.
    pub(crate) fn of(marks: Marks) -> Option<Self> {
        (marks != Marks::NONE).then_some(Self {
            marks,
            settings: Vec::new(),
        })
    }

    /// Takes as many of these octets as still belong to the SETTINGS.
    pub(crate) fn take(&mut self, octets: &[u8]) -> Result<usize, NoSettings> {
        let mut rest = octets;
        loop {
            let (run, behind) = rest.split_at(self.missing()?.min(rest.len()));
            if run.is_empty() {
                return Ok(octets.len() - rest.len());
            }
            self.settings.extend_from_slice(run);
            rest = behind;
        }
    }

    /// Octets without which nothing more can be said; none where they are whole.
    fn missing(&self) -> Result<usize, NoSettings> {
        let due = match self.settings.first_chunk::<HEAD>() {
            Some([0, high, low, 4, 0, ..]) => HEAD + usize::from(u16::from_be_bytes([*high, *low])),
            Some(_) => return Err(NoSettings),
            None => HEAD,
        };
        Ok(due - self.settings.len())
    }

    /// The marked SETTINGS, or itself, if they are not whole.
    pub(crate) fn marked(mut self) -> Result<Vec<u8>, Self> {
        if !matches!(self.missing(), Ok(0)) {
            return Err(self);
        }
        self.marks.put(&mut self.settings);
        Ok(self.settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_marked_when_they_are_whole_and_not_before() {
        let plain = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100, 0, 0, 4];
        for piece in 1..=plain.len() {
            let mut marking = Marking::of(Marks::VISITOR).unwrap();
            let mut taken = 0;
            let marked = loop {
                let next = &plain[taken..(taken + piece).min(plain.len())];
                taken += marking.take(next).unwrap();
                match marking.marked() {
                    Ok(marked) => break marked,
                    Err(unfinished) => marking = unfinished,
                }
            };
            assert_eq!(taken, 15, "what follows is left");
            assert_eq!(marked[..3], [0, 0, 12]);
            assert_eq!(marked[3..15], plain[3..15]);
            assert_eq!(marked[15..], [0xf7, 0x44, 0x54, 0x47, 0, 1]);
        }
        let mut other = Marking::of(Marks::VISITOR).unwrap();
        assert!(other.take(&[0, 0, 4, 8, 0, 0, 0, 0, 0]).is_err());
        assert!(Marking::of(Marks::NONE).is_none());
    }
}
