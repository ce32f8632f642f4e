//! What a visitor reads when there is no answer of the app's: a small page or one line of text, by `Accept`. Pure. Called by
//! the gateway, and by the agent for gateways that have no page of their own.

use http::header::ACCEPT;
use http::{HeaderMap, StatusCode};

/// In which form an error is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    Page,
    Text,
}

impl Wants {
    /// A page for those who list `text/html`, as browsers do; text for programs.
    pub fn of(headers: &HeaderMap) -> Self {
        let page = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|accept| {
                accept.split(',').any(|range| {
                    let mut parts = range.split(';').map(str::trim);
                    parts
                        .next()
                        .is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"))
                        && !parts.any(|parameter| parameter == "q=0" || parameter == "q=0.0")
                })
            });
        if page { Self::Page } else { Self::Text }
    }

    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Page => "text/html; charset=utf-8",
            Self::Text => "text/plain; charset=utf-8",
        }
    }
}

/// What is told. None of it needs to be escaped by whoever fills it in.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    pub status: StatusCode,
    pub sentence: &'a str,
    /// What else is known of this case.
    pub about: Option<&'a str>,
    /// The word of `tidegate-reason`.
    pub reason: &'a str,
    /// The id under which an access log has the request.
    pub request: Option<&'a str>,
}

impl Page<'_> {
    /// The body, in the form that is wanted.
    pub fn render(&self, wants: Wants) -> String {
        match (wants, self.about) {
            (Wants::Page, _) => self.html(),
            (Wants::Text, Some(about)) => format!("{} {about}\n", self.sentence),
            (Wants::Text, None) => format!("{}\n", self.sentence),
        }
    }

    fn html(&self) -> String {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let about = self
            .about
            .map(|about| format!("<p>{}</p>\n", escaped(about)))
            .unwrap_or_default();
        let request = self
            .request
            .map(|id| format!(", request <code>{}</code>", escaped(id)))
            .unwrap_or_default();
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{code} {title}</title>\n\
             <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1em;color:#223}}\
             h1{{font-size:1.3em}}small{{color:#667}}code{{background:#eef;padding:0 .3em}}</style>\n\
             <h1>{code} {title}</h1>\n<p>{sentence}</p>\n{about}\
             <p><small>Reason <code>{reason}</code>{request}. Tidegate.</small></p>\n</html>\n",
            code = self.status.as_u16(),
            sentence = escaped(self.sentence),
            reason = escaped(self.reason),
        )
    }
}

/// What `text` lacks to be the end of a sentence.
pub fn full_stop(text: &str) -> &'static str {
    if text.ends_with(['.', '?', '!']) {
        ""
    } else {
        "."
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn browsers_get_a_page_and_programs_a_line() {
        let accept = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(value).unwrap());
            Wants::of(&headers)
        };
        assert_eq!(
            accept("text/html,application/xhtml+xml,*/*;q=0.8"),
            Wants::Page
        );
        assert_eq!(accept("*/*"), Wants::Text);
        assert_eq!(accept("text/html;q=0, application/json"), Wants::Text);
        assert_eq!(Wants::of(&HeaderMap::new()), Wants::Text);
    }

    #[test]
    fn a_sentence_ends_once() {
        assert_eq!((full_stop("is it?"), full_stop("it is")), ("", "."));
    }

    #[test]
    fn no_part_can_write_html() {
        let evil = "<script>alert(\"1\")&</script>";
        let page = Page {
            status: StatusCode::BAD_GATEWAY,
            sentence: evil,
            about: Some(evil),
            reason: evil,
            request: Some(evil),
        };
        let html = page.render(Wants::Page);
        assert!(!html.contains("<script>"), "{html}");
        let escaped = "&lt;script&gt;alert(&quot;1&quot;)&amp;&lt;/script&gt;";
        assert_eq!(html.matches(escaped).count(), 4);
        assert_eq!(page.render(Wants::Text), format!("{evil} {evil}\n"));
    }
}
