//! What two Tidegates tell each other of themselves in their first SETTINGS, by a parameter that nobody else knows and that
//! everybody else ignores (RFC 9113 §6.5.2). No visitor can say it: SETTINGS are of one hop, and a gateway writes its own.
//! Pure; the seam puts it into what `h2` writes, and [`super::PeerSettings`] has what the peer said.

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
    pub(crate) fn put(self, frame: &mut Vec<u8>) {
        frame.extend_from_slice(&PARAMETER.to_be_bytes());
        frame.extend_from_slice(&(OURS | u32::from(self.0)).to_be_bytes());
        // `h2` writes eight parameters at most: the length is within one octet, and stays there.
        let length = frame.len() - super::HEAD;
        frame[1] = (length >> 8) as u8;
        frame[2] = length as u8;
    }
}
