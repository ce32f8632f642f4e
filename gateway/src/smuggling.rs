//! The forms in which one request is made to look like two, or like another one, to different readers (RFC 9112 §11.2): which one
//! a refused request had, so that an operator sees by the numbers what is tried. Pure. Whether a request is refused is not decided
//! here: `h2` and `visitor` do that.

use prometheus_client::metrics::counter::Counter;
use tidegate_shared::http1::LONGEST;

/// See the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A field without a name (CVE-2023-25725).
    EmptyName,
    /// Transfer-Encoding beside Content-Length.
    LengthAndCoding,
    SeveralLengths,
    SeveralCodings,
    /// Transfer-Encoding that is not `chunked` alone, or one where HTTP/1.0 has none.
    OtherCoding,
    /// Content-Length that is no number.
    OddLength,
    /// White space in a name, or between it and its colon.
    SpaceInName,
    FoldedLine,
    /// CR or NUL within a line.
    ControlOctet,
    /// A line that ends with LF alone.
    BareLineFeed,
    /// More than one Host, or one that is not the target's.
    SeveralHosts,
    /// The body's own framing: sizes, line ends.
    Chunks,
    /// What HTTP/2 refuses of a head and does not tell apart: an empty name, a line end in a value, two paths, a field that would
    /// frame a request in HTTP/1 (RFC 9113 §8.2).
    MalformedHttp2,
}

impl Form {
    /// In the order of their counters.
    pub const ALL: [Self; 13] = [
        Self::EmptyName,
        Self::LengthAndCoding,
        Self::SeveralLengths,
        Self::SeveralCodings,
        Self::OtherCoding,
        Self::OddLength,
        Self::SpaceInName,
        Self::FoldedLine,
        Self::ControlOctet,
        Self::BareLineFeed,
        Self::SeveralHosts,
        Self::Chunks,
        Self::MalformedHttp2,
    ];

    /// The word for it in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::EmptyName => "empty-name",
            Self::LengthAndCoding => "length-and-coding",
            Self::SeveralLengths => "several-lengths",
            Self::SeveralCodings => "several-codings",
            Self::OtherCoding => "other-coding",
            Self::OddLength => "odd-length",
            Self::SpaceInName => "space-in-name",
            Self::FoldedLine => "folded-line",
            Self::ControlOctet => "control-octet",
            Self::BareLineFeed => "bare-line-feed",
            Self::SeveralHosts => "several-hosts",
            Self::Chunks => "chunks",
            Self::MalformedHttp2 => "malformed-http2",
        }
    }

    /// The form of a head that was refused, as its octets came; `None` where it is wrong in some other way. Of several the one
    /// that stands first in [`Self::ALL`].
    pub fn of_head(head: &[u8]) -> Option<Self> {
        let mut lines = head.split_inclusive(|octet| *octet == b'\n');
        let first = lines.next()?;
        let old = first.trim_ascii_end().ends_with(b"HTTP/1.0");
        let mut found = Found::default();
        found.note(is_bare(first).then_some(Self::BareLineFeed));
        let (mut lengths, mut codings, mut hosts) = (0, 0, 0);
        for line in lines {
            found.note(is_bare(line).then_some(Self::BareLineFeed));
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                break;
            }
            found.note(of_line(line));
            let Some((name, value)) = divided(line) else {
                continue;
            };
            if name.eq_ignore_ascii_case(b"content-length") {
                lengths += 1;
                found.note(of_length(value));
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                codings += 1;
                let chunked = value.eq_ignore_ascii_case(b"chunked");
                found.note((old || !chunked).then_some(Self::OtherCoding));
            } else if name.eq_ignore_ascii_case(b"host") {
                hosts += 1;
            }
        }
        found.note((lengths > 0 && codings > 0).then_some(Self::LengthAndCoding));
        found.note((lengths > 1).then_some(Self::SeveralLengths));
        found.note((codings > 1).then_some(Self::SeveralCodings));
        found.note((hosts > 1).then_some(Self::SeveralHosts));
        found.0
    }
}

/// The worst so far.
#[derive(Default)]
struct Found(Option<Form>);

impl Found {
    fn note(&mut self, form: Option<Form>) {
        if let Some(form) = form
            && self.0.is_none_or(|other| (form as usize) < other as usize)
        {
            self.0 = Some(form);
        }
    }
}

fn is_bare(line: &[u8]) -> bool {
    line.ends_with(b"\n") && !line.ends_with(b"\r\n")
}

/// Name and value of a field, without the space that may stand around either.
fn divided(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|octet| *octet == b':')?;
    Some((line[..colon].trim_ascii(), line[colon + 1..].trim_ascii()))
}

/// What a field's line is, whatever the field.
fn of_line(line: &[u8]) -> Option<Form> {
    let colon = line.iter().position(|octet| *octet == b':');
    let name = &line[..colon.unwrap_or(line.len())];
    if colon == Some(0) {
        Some(Form::EmptyName)
    } else if matches!(line[0], b' ' | b'\t') {
        Some(Form::FoldedLine)
    } else if colon.is_some() && name.iter().any(|octet| matches!(octet, b' ' | b'\t')) {
        Some(Form::SpaceInName)
    } else if line.iter().any(|octet| matches!(octet, b'\r' | 0)) {
        Some(Form::ControlOctet)
    } else {
        None
    }
}

fn of_length(value: &[u8]) -> Option<Form> {
    if value.contains(&b',') {
        return Some(Form::SeveralLengths);
    }
    let number = std::str::from_utf8(value).ok();
    let number =
        number.filter(|text| !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit()));
    number
        .and_then(|text| text.parse().ok())
        .is_none_or(|length: u64| length > LONGEST)
        .then_some(Form::OddLength)
}

/// How often each form was refused.
#[derive(Debug, Default)]
pub struct Refused([Counter; Form::ALL.len()]);

impl Refused {
    pub fn count(&self, form: Form) {
        self.0[form as usize].inc();
    }

    /// Each form and how often.
    pub fn all(&self) -> impl Iterator<Item = (Form, u64)> {
        Form::ALL.into_iter().zip(self.0.iter().map(Counter::get))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_form_is_told_from_the_others() {
        for (fields, form) in [
            (": x\r\n", Some(Form::EmptyName)),
            (" : x\r\n", Some(Form::FoldedLine)),
            (
                "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
                Some(Form::LengthAndCoding),
            ),
            (
                "transfer-encoding:chunked\r\nCONTENT-LENGTH:6\r\n",
                Some(Form::LengthAndCoding),
            ),
            (
                "Content-Length: 5\r\nContent-Length: 6\r\n",
                Some(Form::SeveralLengths),
            ),
            ("Content-Length: 5, 6\r\n", Some(Form::SeveralLengths)),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Some(Form::SeveralCodings),
            ),
            ("Transfer-Encoding: xchunked\r\n", Some(Form::OtherCoding)),
            ("Content-Length: +5\r\n", Some(Form::OddLength)),
            (
                "Content-Length: 18446744073709551616\r\n",
                Some(Form::OddLength),
            ),
            (
                "Content-Length: 9223372036854775808\r\n",
                Some(Form::OddLength),
            ),
            ("Content-Length: 9223372036854775807\r\n", None),
            ("X Y: z\r\n", Some(Form::SpaceInName)),
            ("X : z\r\n", Some(Form::SpaceInName)),
            ("X: a\r\n b\r\n", Some(Form::FoldedLine)),
            ("X: a\rb\r\n", Some(Form::ControlOctet)),
            ("X: a\0b\r\n", Some(Form::ControlOctet)),
            ("X: a\n", Some(Form::BareLineFeed)),
            (
                "X: a\nContent-Length: 1\r\nContent-Length: 2\r\n",
                Some(Form::SeveralLengths),
            ),
            ("Host: a\r\n", Some(Form::SeveralHosts)),
            ("host: b\r\nX: a\n", Some(Form::BareLineFeed)),
            ("nothing\r\n", None),
            ("X: y\r\nContent-Length: 5\r\n", None),
            ("Transfer-Encoding: chunked\r\n", None),
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\nContent-Length: x\r\n");
            assert_eq!(Form::of_head(head.as_bytes()), form, "{fields:?}");
        }
        let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(Form::of_head(old), Some(Form::OtherCoding));
        assert_eq!(Form::of_head(b""), None);
        for (at, form) in Form::ALL.into_iter().enumerate() {
            assert_eq!(form as usize, at);
        }
    }

    proptest! {
        #[test]
        fn no_head_is_too_odd(head in prop::collection::vec(any::<u8>(), 0..200)) {
            let _form = Form::of_head(&head);
        }
    }
}
