//! Server-sent events: what happens is told as it happens, and after a break from where it was broken off.

use futures_util::StreamExt as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::Caller,
    dead_letters::{malformed, refused},
    eventually::PATIENCE,
    site::Site,
};

/// An open stream.
struct Listening {
    bytes: std::pin::Pin<Box<dyn futures_util::Stream<Item = Vec<u8>>>>,
    text: String,
}

/// One event.
struct Told {
    event: String,
    id: Option<i64>,
    data: Value,
}

impl Listening {
    async fn open(caller: &Caller, last: Option<i64>) -> Self {
        let mut request = caller.request(Method::GET, "/v1/stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        let bytes = response.bytes_stream();
        let bytes = bytes.filter_map(async |chunk| chunk.ok().map(|chunk| chunk.to_vec()));
        Self {
            bytes: Box::pin(bytes),
            text: String::new(),
        }
    }

    /// The next of this kind; `None`: it ended.
    async fn next(&mut self, kind: &str) -> Option<Told> {
        let told = async {
            loop {
                while let Some((event, rest)) = self.text.split_once("\n\n") {
                    let told = Told::read(event);
                    self.text = rest.to_owned();
                    if told.event == kind {
                        return Some(told);
                    }
                }
                let chunk = self.bytes.next().await?;
                self.text
                    .push_str(&String::from_utf8(chunk).expect("UTF-8"));
            }
        };
        tokio::time::timeout(PATIENCE, told)
            .await
            .expect("told in time")
    }
}

impl Told {
    fn read(text: &str) -> Self {
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        Self {
            event: field("event").unwrap_or_default().to_owned(),
            id: field("id").map(|id| id.parse().expect("a number")),
            data: field("data").map_or(Value::Null, |data| {
                serde_json::from_str(data).expect("JSON")
            }),
        }
    }
}

#[tokio::test]
async fn whoever_listens_is_told_of_dead_letters_counts_and_replays_and_after_a_break_what_he_missed()
 {
    let mut site = Site::new().await;
    site.declare().await;
    let company = site.company(0, 5).await;
    let token = site.key(&["read", "operate"], None).await;
    let mut server = site.serve_http(&["http"]).await;
    let caller = server.with(&token);
    let (mut one, mut other) = (
        Listening::open(&caller, None).await,
        Listening::open(&caller, None).await,
    );
    assert_eq!(one.next("counts").await.expect("counts").data["open"], 0);
    let first = site.archive(&[refused(Uuid::new_v4(), company, 70)]).await[0];
    let mut last = None;
    for listening in [&mut one, &mut other] {
        let told = listening.next("dead_letter").await.expect("told");
        assert_eq!(told.data["id"], first);
        last = told.id;
    }
    // While nobody of this one's listens.
    drop(other);
    let missed = site
        .archive(&[malformed(b"1", "a"), malformed(b"2", "b")])
        .await;
    let mut back = Listening::open(&caller, last).await;
    let now = site.archive(&[malformed(b"3", "c")]).await;
    for id in missed.into_iter().chain(now) {
        assert_eq!(back.next("dead_letter").await.expect("told").data["id"], id);
    }
    let plan = caller
        .post("/v1/dead-letters/replay", &json!({ "ids": [first] }))
        .await;
    let run = json!({ "plan_id": plan.ok()["plan_id"] });
    let running = caller.post("/v1/dead-letters/replay", &run).await;
    let told = back.next("replay").await.expect("told").data;
    assert_eq!(told["action_id"], running.body["action_id"]);
    // Stopping doesn't wait for listeners.
    server.process.terminate().await;
    while one.next("counts").await.is_some() {}
    assert_eq!(server.process.wait(PATIENCE).await, Some(0));
}

#[tokio::test]
async fn a_key_has_so_many_streams_and_no_more() {
    let mut site = Site::new().await;
    site.set("HTTP__STREAMS_PER_KEY", "2");
    let token = site.key(&["read"], None).await;
    let server = site.serve_http(&["http"]).await;
    let caller = server.with(&token);
    let open = [
        Listening::open(&caller, None).await,
        Listening::open(&caller, None).await,
    ];
    let third = caller.get("/v1/stream").await;
    assert_eq!(third.refusal(), (429, "too_many_streams"));
    drop(open);
    let again = async || {
        let answer = caller.request(Method::GET, "/v1/stream").send().await;
        answer.expect("an answer").status().as_u16()
    };
    crate::support::eventually::eventually("there is room", PATIENCE, again, |status| {
        *status == 200
    })
    .await;
    let request = caller
        .request(Method::GET, "/v1/stream")
        .header("last-event-id", "x");
    let answer = crate::support::api::Answer::of(request).await;
    assert_eq!(answer.refusal(), (400, "invalid_request"));
}
