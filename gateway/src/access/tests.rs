use super::*;
use std::io::Write;
use std::sync::mpsc;

struct Lines(mpsc::Sender<Vec<u8>>);

impl Write for Lines {
    fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
        self.0.send(part.to_vec()).map_err(std::io::Error::other)?;
        Ok(part.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn line(format: Format, fill: impl FnOnce(&mut Record)) -> String {
    let (send, lines) = mpsc::channel();
    let sink = Sink::start(Lines(send), format).unwrap();
    let access = Arc::new(Access::new(
        Some(sink),
        format,
        Arc::new(Metrics::new()),
        0xab,
    ));
    let mut record = access.record(&Arc::new("192.0.2.1:5".into()), false, Instant::now());
    fill(&mut record);
    drop(record);
    String::from_utf8(lines.recv_timeout(Duration::from_secs(10)).unwrap()).unwrap()
}

#[test]
fn a_dropped_record_is_a_line_and_nobody_can_forge_another() {
    let text = line(Format::Human, |record| {
        record.method = Some(Method::GET);
        record.host = Some(HeaderValue::from_static("app.test"));
        record.path = Some(PathAndQuery::from_static("/a?b=1"));
        record.failed(Failure::AgentGone);
    });
    assert!(
        text.contains("access 000000ab-1 192.0.2.1:5 \"GET app.test/a?b=1 HTTP/1.1\""),
        "{text}"
    );
    assert!(text.contains("status=503 reason=agent-gone"), "{text}");
    let forged = line(Format::Human, |record| {
        record.unparsed(b"\x16x\"\nstatus=200")
    });
    assert_eq!(forged.lines().count(), 1, "{forged}");
    assert!(forged.contains(r#" "\x16x\"\nstatus=200" "#), "{forged}");
    let json = line(Format::Json, |record| {
        record.unparsed(b"x\"\n{\"status\":200}")
    });
    let value: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(value["status"], 499);
    assert_eq!(value["id"], "000000ab-1");
    let path = "/\u{2028}\u{202e}x";
    let odd = |record: &mut Record| record.path = path.parse().ok();
    let human = line(Format::Human, odd);
    assert!(human.contains(r#"-/\u{2028}\u{202e}x HTTP"#), "{human:?}");
    let json = line(Format::Json, odd);
    assert!(json.contains(r#""/\u2028\u202ex""#), "{json:?}");
    let value: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(value["path"], path);
}
