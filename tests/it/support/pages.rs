//! The pages on a socket, with a balance that the test decides on. Only [`Pages::url`] is asked by whoever opens a
//! page, so that a real `serve --role http` can take its place.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use token_billing::{api::pages, config::Upgrade};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// As strict as a page can be; scripts of its own origin only.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                           base-uri 'none'; require-trusted-types-for 'script'";

/// Below a base path, as behind a proxy.
#[derive(Debug)]
pub(crate) struct Pages {
    url: String,
    shared: Arc<Mutex<Shared>>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    page: String,
    answer: Answer,
    asked: Vec<Asked>,
}

/// What the balance call answers.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Balance(Value),
    Status(u16),
    Wait {
        status: u16,
        seconds: u32,
    },
    Text(&'static str),
    Never,
    /// 401, unless this token is given.
    For(&'static str, Value),
}

/// One balance call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) company: String,
    pub(crate) authorization: String,
}

/// A balance with this much available, all of it monthly.
pub(crate) fn balance(available: i64) -> Value {
    json!({"monthly": available, "purchased": 0, "total": available, "held": 0, "available": available,
           "period_end": "2027-01-01T12:00:00Z"})
}

impl Pages {
    pub(crate) async fn serve(upgrade: &Upgrade) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            page: String::new(),
            answer: Answer::Balance(balance(50_500)),
            asked: Vec::new(),
        }));
        let stub = Router::new()
            .route("/page", get(page))
            .route("/v1/companies/{company}/balance", get(answer))
            .with_state(Arc::clone(&shared))
            .route(
                "/clock.js",
                get(async || {
                    let kind = [(header::CONTENT_TYPE, "text/javascript")];
                    (kind, include_str!("../web/clock.js"))
                }),
            );
        let router = Router::new().nest("/tokens", pages::router(upgrade).merge(stub));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves");
        });
        Self {
            url: format!("http://{address}/tokens"),
            shared,
            server,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// A page of somebody's application that has this in its body.
    pub(crate) fn set_page(&self, body: &str) {
        let head = "<!doctype html><html lang=en><meta charset=utf-8><title>An application</title>
            <script src=widget/token-balance.js defer></script>";
        self.lock().page = format!("{head}<main><h1>An application</h1>{body}</main></html>");
    }

    /// The same with a clock that is turned by hand.
    pub(crate) fn set_page_with_clock(&self, body: &str) {
        self.set_page(&format!("<script src=clock.js></script>{body}"));
    }

    pub(crate) fn set_answer(&self, answer: Answer) {
        self.lock().answer = answer;
    }

    /// The calls since it was last asked.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.lock().asked)
    }

    /// How many calls there were since then.
    pub(crate) fn times_asked(&self) -> usize {
        self.lock().asked.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().expect("no panic while it is held")
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn page(State(shared): State<Arc<Mutex<Shared>>>) -> Response {
    let page = shared
        .lock()
        .expect("no panic while it is held")
        .page
        .clone();
    let headers = [
        (header::CONTENT_TYPE, "text/html"),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
    ];
    (headers, page).into_response()
}

async fn answer(
    State(shared): State<Arc<Mutex<Shared>>>,
    Path(company): Path<String>,
    headers: HeaderMap,
) -> Response {
    let authorization = headers.get(header::AUTHORIZATION);
    let authorization = authorization.map_or("", |value| value.to_str().expect("ASCII"));
    let answer = {
        let mut shared = shared.lock().expect("no panic while it is held");
        shared.asked.push(Asked {
            company,
            authorization: authorization.to_owned(),
        });
        shared.answer.clone()
    };
    let code = |status| StatusCode::from_u16(status).expect("a status");
    match answer {
        Answer::Balance(balance) => Json(balance).into_response(),
        Answer::For(token, balance) if authorization == format!("Bearer {token}") => {
            Json(balance).into_response()
        }
        Answer::For(..) => StatusCode::UNAUTHORIZED.into_response(),
        Answer::Status(status) => code(status).into_response(),
        Answer::Wait { status, seconds } => {
            let after = HeaderValue::from(seconds);
            (code(status), [(header::RETRY_AFTER, after)]).into_response()
        }
        Answer::Text(text) => text.into_response(),
        Answer::Never => std::future::pending().await,
    }
}
