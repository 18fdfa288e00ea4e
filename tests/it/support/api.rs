//! The HTTP API of a running process, asked through its socket.

use std::net::SocketAddr;

use reqwest::{Method, RequestBuilder, Response, StatusCode, header::CONTENT_TYPE};
use serde_json::Value;
use uuid::Uuid;

use super::{command::Ran, eventually::PATIENCE, process::Process, site::Site};

/// A process with the role `http`, and whatever others it was started with.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    client: reqwest::Client,
}

/// A server, as the holder of one key sees it.
#[derive(Clone)]
pub(crate) struct Caller {
    base: String,
    client: reqwest::Client,
    token: Option<String>,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Site {
    /// Starts `serve` with these roles (none: all), and waits until it answers HTTP.
    pub(crate) async fn serve_http(&mut self, roles: &[&str]) -> Server {
        self.set("HTTP__LISTEN", "127.0.0.1:0");
        let roles = roles.iter().flat_map(|role| ["--role", role]);
        let args: Vec<&str> = ["serve"].into_iter().chain(roles).collect();
        let mut process = Process::start(&args, &self.environment());
        let address = address(&mut process, "http").await;
        Server {
            process,
            address,
            client: reqwest::Client::new(),
        }
    }

    /// A new key.
    pub(crate) async fn key(&self, scopes: &[&str], company: Option<Uuid>) -> String {
        let company = company.map(|company| company.to_string());
        let mut args = vec!["keys", "add", "test"];
        args.extend(scopes.iter().flat_map(|scope| ["--scope", scope]));
        if let Some(company) = &company {
            args.extend(["--company", company]);
        }
        let ran: Ran = self.run(&args).await;
        ran.done().trim().to_owned()
    }
}

/// Where the process listens for that.
pub(crate) async fn address(process: &mut Process, section: &str) -> SocketAddr {
    let said = format!("{section} listens on http://");
    let line = process.wait_for_log(&said, PATIENCE).await;
    let (_, address) = line.split_once(&said).expect("just found");
    address.trim().parse().expect("an address")
}

impl Server {
    pub(crate) fn with(&self, token: &str) -> Caller {
        Caller {
            token: Some(token.to_owned()),
            ..self.without_key()
        }
    }

    pub(crate) fn without_key(&self) -> Caller {
        Caller {
            base: format!("http://{}", self.address),
            client: self.client.clone(),
            token: None,
        }
    }
}

impl Caller {
    /// A request of this caller's.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn post_as(&self, path: &str, media_type: &str, body: &str) -> Answer {
        let request = self.request(Method::POST, path);
        let request = request.header(CONTENT_TYPE, media_type);
        Answer::of(request.body(body.to_owned())).await
    }
}

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        Self::read(request.send().await.expect("an answer")).await
    }

    async fn read(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.expect("its body");
        let text = || Value::from(String::from_utf8_lossy(&body).into_owned());
        let answer = Self {
            status,
            headers,
            body: serde_json::from_slice(&body).unwrap_or_else(|_| text()),
        };
        if status.is_client_error() || status.is_server_error() {
            answer.is_a_problem();
        }
        answer
    }

    /// Every error looks the same.
    fn is_a_problem(&self) {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self:#?}"
        );
        assert_eq!(self.body["status"], self.status.as_u16(), "{self:#?}");
        let code = self.code();
        let kind = format!("urn:token-billing:problem:{code}");
        assert_eq!(self.body["type"], kind, "{self:#?}");
        for field in ["title", "detail"] {
            assert!(
                self.body[field]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{self:#?}"
            );
        }
        assert!(!self.header("x-request-id").is_empty(), "{self:#?}");
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self
            .headers
            .get(name)
            .map(|value| value.to_str().expect("text"));
        value.unwrap_or_default()
    }

    /// Of a problem.
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// Status and code of a problem.
    pub(crate) fn refusal(&self) -> (u16, &str) {
        (self.status.as_u16(), self.code())
    }

    /// The body of what went well.
    pub(crate) fn ok(&self) -> &Value {
        assert_eq!(self.status, StatusCode::OK, "{self:#?}");
        &self.body
    }
}
