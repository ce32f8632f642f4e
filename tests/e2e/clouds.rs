//! Connections that come by a cloud's private endpoint: the id that its load balancer puts into the PROXY header stands in their lines.

use tidegate_tests::eventually::SOON;
use tidegate_tests::task::spawn;
use tidegate_tests::{HOST, Site, World, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const REQUIRED: &str = "proxy = \"required\"\nproxy_from = [\"127.0.0.1\"]";

/// A header of 203.0.113.7's with what Amazon, Google and Azure add.
fn header() -> Vec<u8> {
    let mut rest = b"\xcb\0\x71\x07\xc6\x33\x64\x01\xdc\x04\x01\xbb".to_vec();
    rest.extend_from_slice(b"\xea\0\x17\x01vpce-08d2bf15fac5001c9");
    rest.extend_from_slice(b"\xe0\0\x08\0\0\0\0\x49\x96\x02\xd2");
    rest.extend_from_slice(b"\xee\0\x05\x01\x07\0\0\0");
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0".to_vec();
    header.push(u8::try_from(rest.len()).unwrap());
    [header, rest].concat()
}

async fn asks(world: &World, listener: &str, header: &[u8], request: &str) {
    let to = world.gateway.address(listener).unwrap();
    let mut visitor = TcpStream::connect(to).await.unwrap();
    visitor.write_all(header).await.unwrap();
    visitor.write_all(request.as_bytes()).await.unwrap();
    visitor.shutdown().await.unwrap();
    let _ended = within(SOON, "the end", visitor.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn the_lines_of_what_came_by_a_private_endpoint_name_it() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = app.local_addr().unwrap();
    let _app = spawn(async move {
        while let Ok((mut tcp, _)) = app.accept().await {
            let _gone = tcp.read_to_end(&mut Vec::new()).await;
        }
    });
    let config = format!(
        "[listeners.due]\naddress = \"127.0.0.1:0\"\n{REQUIRED}\n\
         [listeners.raw]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nservers = [\"{server}\"]\n{REQUIRED}\n"
    );
    let request = format!("GET /hello HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let plain = b"PROXY TCP4 203.0.113.8 198.51.100.1 56324 443\r\n";
    for (log, shown) in [
        (
            "human",
            &[" aws_vpce=vpce-08d2bf15fac5001c9 gcp_psc=1234567890 azure_link=7 "][..],
        ),
        (
            "json",
            &[
                "\"aws_vpce\":\"vpce-08d2bf15fac5001c9\"",
                "\"gcp_psc\":\"1234567890\"",
                "\"azure_link\":7,",
            ],
        ),
    ] {
        let gateway = World::builder().config(&config).option("--log", log);
        let site = Site::start_with(gateway, &[]).await;
        let log = &site.world.gateway;
        for (listener, what) in [("due", "/hello"), ("raw", "raw")] {
            asks(&site.world, listener, &header(), &request).await;
            let words = [&["access", "203.0.113.7:56324", what], shown].concat();
            log.wait_log(&words).await;
            asks(&site.world, listener, plain, &request).await;
            let line = log.wait_log(&["access", "203.0.113.8:56324", what]).await;
            for none in ["aws_vpce", "gcp_psc", "azure_link"] {
                assert!(!line.contains(none), "{line}");
            }
        }
    }
}
