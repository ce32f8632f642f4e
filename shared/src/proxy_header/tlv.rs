//! What version 2 says beyond addresses: type, length, value, one after the other (proxy-protocol.txt §2.2). Pure. What is read
//! here was checked as a whole when its header was parsed, so looking something up cannot fail.

use std::num::TryFromIntError;

use bytes::Bytes;

use super::{Malformed, Unwritable};

/// The protocol above, as in TLS ALPN.
const ALPN: u8 = 0x01;
/// The host that the visitor asked for: the server name of its TLS, or what the sender knows otherwise.
const AUTHORITY: u8 = 0x02;
/// Over the whole header with these four octets zero.
pub(super) const CRC32C: u8 = 0x03;
/// Padding.
const NOOP: u8 = 0x04;
/// A connection's id, opaque, up to 128 octets.
const UNIQUE_ID: u8 = 0x05;
/// Facts about the visitor's TLS.
const SSL: u8 = 0x20;
/// The Linux network namespace.
const NETNS: u8 = 0x30;
/// Google Cloud, Private Service Connect: the connection's id, eight octets, big-endian.
const GCP: u8 = 0xe0;
/// Amazon Web Services: subtype 1 is the VPC endpoint's id as text.
const AWS: u8 = 0xea;
/// Azure Private Link: subtype 1 is the LINKID, four octets, little-endian.
const AZURE: u8 = 0xee;

const UNIQUE_ID_MOST: usize = 128;

/// Type and length.
const HEAD: usize = 3;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    pub kind: u8,
    pub value: &'a [u8],
}

/// All of a header's, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tlvs(Bytes);

impl Tlvs {
    /// Types that are known by name.
    pub const ALPN: u8 = ALPN;
    pub const AUTHORITY: u8 = AUTHORITY;
    pub const CRC32C: u8 = CRC32C;
    pub const NOOP: u8 = NOOP;
    pub const UNIQUE_ID: u8 = UNIQUE_ID;
    pub const SSL: u8 = SSL;

    /// Checks that each fits, and what the specification says of those that it names. Where the checksum is, if there is one.
    pub(super) fn check(octets: &[u8]) -> Result<Option<usize>, Malformed> {
        let bad = |what| Err(Malformed::Binary(what));
        let (mut crc, mut once) = (None, [false; 256]);
        let mut at = 0;
        for tlv in Walk(octets) {
            let Ok(Tlv { kind, value }) = tlv else {
                return bad("has a TLV that is longer than the header");
            };
            if matches!(kind, ALPN | AUTHORITY | CRC32C | UNIQUE_ID | SSL | NETNS)
                && std::mem::replace(&mut once[usize::from(kind)], true)
            {
                return bad("says the same thing twice (a TLV of the same type)");
            }
            match kind {
                CRC32C if value.len() != 4 => {
                    return bad("has a CRC-32C that is not of four octets");
                }
                CRC32C => crc = Some(at + HEAD),
                AUTHORITY if std::str::from_utf8(value).is_err() => {
                    return bad("has an authority that is not UTF-8");
                }
                NETNS if !value.is_ascii() => {
                    return bad("has a network namespace that is not ASCII");
                }
                UNIQUE_ID if value.len() > UNIQUE_ID_MOST => {
                    return bad("has a unique id of more than 128 octets");
                }
                SSL if Ssl::read(value).is_none() => {
                    return bad("has SSL facts that are cut short or longer than their room");
                }
                _ => {}
            }
            at += HEAD + value.len();
        }
        Ok(crc)
    }

    /// Of octets that have been checked.
    pub(super) fn checked(octets: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(octets))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, known or not, padding included.
    pub fn iter(&self) -> impl Iterator<Item = Tlv<'_>> {
        Walk(&self.0).map_while(Result::ok)
    }

    fn first(&self, kind: u8) -> Option<&[u8]> {
        self.iter()
            .find(|tlv| tlv.kind == kind)
            .map(|tlv| tlv.value)
    }

    /// The protocol above, as in TLS ALPN; somebody else's octets.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.first(ALPN)
    }

    /// The host that the visitor asked for. UTF-8, and otherwise whatever the sender wrote: parse it before you believe it.
    pub fn authority(&self) -> Option<&str> {
        std::str::from_utf8(self.first(AUTHORITY)?).ok()
    }

    /// The sender's id of the connection: up to 128 octets of any kind.
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.first(UNIQUE_ID)
    }

    /// Facts about the visitor's TLS, where the sender ended it.
    pub fn ssl(&self) -> Option<Ssl<'_>> {
        Ssl::read(self.first(SSL)?)
    }

    /// The sender's network namespace.
    pub fn netns(&self) -> Option<&str> {
        std::str::from_utf8(self.first(NETNS)?).ok()
    }

    /// The id of the AWS VPC endpoint through which the visitor came, such as `vpce-08d2bf15fac5001c9`.
    pub fn aws_vpc_endpoint(&self) -> Option<&str> {
        let (subtype, id) = self.first(AWS)?.split_first()?;
        let id = std::str::from_utf8(id).ok()?;
        let member = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-';
        (*subtype == 1 && id.bytes().all(member)).then_some(id)
    }

    /// The id of the Google Cloud Private Service Connect connection.
    pub fn gcp_psc_connection(&self) -> Option<u64> {
        self.first(GCP)?.try_into().ok().map(u64::from_be_bytes)
    }

    /// The LINKID of the Azure Private Endpoint.
    pub fn azure_link(&self) -> Option<u32> {
        match self.first(AZURE)?.split_first()? {
            (1, id) => id.try_into().ok().map(u32::from_le_bytes),
            _ => None,
        }
    }
}

/// A value that runs past the end of its room.
struct Overrun;

/// One after the other; ends after the first that does not fit.
struct Walk<'a>(&'a [u8]);

impl<'a> Iterator for Walk<'a> {
    type Item = Result<Tlv<'a>, Overrun>;

    fn next(&mut self) -> Option<Self::Item> {
        let octets = std::mem::take(&mut self.0);
        let (kind, rest) = octets.split_first()?;
        let Some((length, rest)) = rest.split_first_chunk() else {
            return Some(Err(Overrun));
        };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((value, rest)) = rest.split_at_checked(length) else {
            return Some(Err(Overrun));
        };
        self.0 = rest;
        Some(Ok(Tlv { kind: *kind, value }))
    }
}

/// Facts about a visitor's TLS, as the one who ended it tells them (proxy-protocol.txt §2.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ssl<'a> {
    client: u8,
    verify: u32,
    facts: &'a [u8],
}

const VERSION: u8 = 0x21;
const CN: u8 = 0x22;
const CIPHER: u8 = 0x23;
const SIG_ALG: u8 = 0x24;
const KEY_ALG: u8 = 0x25;
const GROUP: u8 = 0x26;
const SIG_SCHEME: u8 = 0x27;
const CLIENT_CERT: u8 = 0x28;

const CLIENT_SSL: u8 = 1;
const CLIENT_CERT_CONN: u8 = 2;
const CLIENT_CERT_SESS: u8 = 4;

impl<'a> Ssl<'a> {
    fn read(value: &'a [u8]) -> Option<Self> {
        let (client, rest) = value.split_first()?;
        let (verify, facts) = rest.split_first_chunk()?;
        Walk(facts).all(|fact| fact.is_ok()).then_some(Self {
            client: *client,
            verify: u32::from_be_bytes(*verify),
            facts,
        })
    }

    fn text(&self, kind: u8) -> Option<&'a str> {
        std::str::from_utf8(self.octets(kind)?).ok()
    }

    fn octets(&self, kind: u8) -> Option<&'a [u8]> {
        Walk(self.facts)
            .map_while(Result::ok)
            .find(|fact| fact.kind == kind)
            .map(|fact| fact.value)
    }

    /// Whether the visitor came over TLS at all.
    pub fn is_tls(&self) -> bool {
        self.client & CLIENT_SSL != 0
    }

    /// Whether it showed a certificate on this very connection.
    pub fn has_certificate(&self) -> bool {
        self.client & CLIENT_CERT_CONN != 0
    }

    /// Whether it showed one at least once in its TLS session.
    pub fn had_certificate(&self) -> bool {
        self.client & CLIENT_CERT_SESS != 0
    }

    /// Whether it showed a certificate and the sender found it good.
    pub fn is_verified(&self) -> bool {
        self.verify == 0 && (self.has_certificate() || self.had_certificate())
    }

    /// As in `TLSv1.3`.
    pub fn version(&self) -> Option<&'a str> {
        self.text(VERSION)
    }

    /// The common name in the visitor's certificate.
    pub fn common_name(&self) -> Option<&'a str> {
        self.text(CN)
    }

    /// As in `TLS_AES_128_GCM_SHA256`.
    pub fn cipher(&self) -> Option<&'a str> {
        self.text(CIPHER)
    }

    /// How the server's certificate was signed, as in `SHA256`.
    pub fn signature(&self) -> Option<&'a str> {
        self.text(SIG_ALG)
    }

    /// The server's key, as in `RSA2048`.
    pub fn key(&self) -> Option<&'a str> {
        self.text(KEY_ALG)
    }

    /// The key exchange's group, as in `X25519MLKEM768`.
    pub fn group(&self) -> Option<&'a str> {
        self.text(GROUP)
    }

    /// The handshake's signature scheme, as in `ecdsa_secp256r1_sha256`.
    pub fn signature_scheme(&self) -> Option<&'a str> {
        self.text(SIG_SCHEME)
    }

    /// The visitor's certificate, DER.
    pub fn certificate(&self) -> Option<&'a [u8]> {
        self.octets(CLIENT_CERT)
    }
}

/// Puts a header's TLVs together.
#[derive(Clone, Debug, Default)]
pub struct TlvWriter {
    octets: Vec<u8>,
    crc: bool,
    too_long: Option<usize>,
}

/// What is said of a visitor's TLS; what is `None` is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct SslFacts<'a> {
    /// As in `TLSv1.3`.
    pub version: Option<&'a str>,
    /// As in `TLS_AES_128_GCM_SHA256`.
    pub cipher: Option<&'a str>,
    /// How the server's certificate was signed, as in `SHA256`.
    pub signature: Option<&'a str>,
    /// The server's key, as in `RSA2048`.
    pub key: Option<&'a str>,
    /// The key exchange's group, as in `X25519MLKEM768`.
    pub group: Option<&'a str>,
    /// The handshake's signature scheme, as in `ecdsa_secp256r1_sha256`.
    pub signature_scheme: Option<&'a str>,
    /// The certificate that the visitor showed.
    pub client: Option<Client<'a>>,
}

/// A visitor's own certificate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client<'a> {
    /// It was shown on this very connection, and not on one whose TLS session goes on.
    pub now: bool,
    /// It was found good.
    pub verified: bool,
    /// The common name in it.
    pub common_name: Option<&'a str>,
    /// DER.
    pub certificate: Option<&'a [u8]>,
}

impl TlvWriter {
    /// Appends one of any type. Where it is longer than its length field can say, nothing can be written.
    pub fn put(&mut self, kind: u8, value: &[u8]) -> &mut Self {
        if append(&mut self.octets, kind, value).is_err() {
            self.too_long = Some(value.len());
        }
        self
    }

    pub fn alpn(&mut self, protocol: &[u8]) -> &mut Self {
        self.put(ALPN, protocol)
    }

    pub fn authority(&mut self, host: &str) -> &mut Self {
        self.put(AUTHORITY, host.as_bytes())
    }

    /// Cut after 128 octets.
    pub fn unique_id(&mut self, id: &[u8]) -> &mut Self {
        self.put(UNIQUE_ID, &id[..id.len().min(UNIQUE_ID_MOST)])
    }

    /// Pads by so many octets in all, at least three.
    pub fn padding(&mut self, octets: usize) -> &mut Self {
        self.put(NOOP, &vec![0; octets.saturating_sub(HEAD)])
    }

    /// The sender's network namespace, in ASCII.
    pub fn netns(&mut self, name: &str) -> &mut Self {
        self.put(NETNS, name.as_bytes())
    }

    /// The id of an AWS VPC endpoint.
    pub fn aws_vpc_endpoint(&mut self, id: &str) -> &mut Self {
        self.put(AWS, &[&[1], id.as_bytes()].concat())
    }

    /// The id of a Google Cloud Private Service Connect connection.
    pub fn gcp_psc_connection(&mut self, id: u64) -> &mut Self {
        self.put(GCP, &id.to_be_bytes())
    }

    /// The LINKID of an Azure Private Endpoint.
    pub fn azure_link(&mut self, id: u32) -> &mut Self {
        let [a, b, c, d] = id.to_le_bytes();
        self.put(AZURE, &[1, a, b, c, d])
    }

    /// That the visitor came over TLS, and what is known of it.
    pub fn ssl(&mut self, facts: &SslFacts<'_>) -> &mut Self {
        let (shown, verified) = match facts.client {
            Some(client) if client.now => (CLIENT_CERT_CONN | CLIENT_CERT_SESS, client.verified),
            Some(client) => (CLIENT_CERT_SESS, client.verified),
            // Without a certificate nothing was verified, which is not zero (§2.2.6).
            None => (0, false),
        };
        let mut value = vec![CLIENT_SSL | shown, 0, 0, 0, u8::from(!verified)];
        let client = facts.client.unwrap_or_default();
        for (kind, fact) in [
            (VERSION, facts.version.map(str::as_bytes)),
            (CN, client.common_name.map(str::as_bytes)),
            (CIPHER, facts.cipher.map(str::as_bytes)),
            (SIG_ALG, facts.signature.map(str::as_bytes)),
            (KEY_ALG, facts.key.map(str::as_bytes)),
            (GROUP, facts.group.map(str::as_bytes)),
            (SIG_SCHEME, facts.signature_scheme.map(str::as_bytes)),
            (CLIENT_CERT, client.certificate),
        ] {
            if let Some(fact) = fact
                && append(&mut value, kind, fact).is_err()
            {
                self.too_long = Some(fact.len());
            }
        }
        self.put(SSL, &value)
    }

    /// Adds a checksum over the whole header, when it is written.
    pub fn crc32c(&mut self) -> &mut Self {
        self.crc = true;
        self
    }

    /// The octets, and where in them the checksum is to be.
    pub(super) fn finish(&self) -> Result<(Vec<u8>, Option<usize>), Unwritable> {
        if let Some(octets) = self.too_long {
            return Err(Unwritable::TooLong(octets));
        }
        let mut octets = self.octets.clone();
        if !self.crc {
            return Ok((octets, None));
        }
        let at = octets.len() + HEAD;
        octets.extend_from_slice(&[CRC32C, 0, 4, 0, 0, 0, 0]);
        Ok((octets, Some(at)))
    }
}

fn append(octets: &mut Vec<u8>, kind: u8, value: &[u8]) -> Result<(), TryFromIntError> {
    let length = u16::try_from(value.len())?;
    octets.push(kind);
    octets.extend_from_slice(&length.to_be_bytes());
    octets.extend_from_slice(value);
    Ok(())
}
