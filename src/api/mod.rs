//! HTTP calls. They parse, authorise and render; what they do is in [`operations`](crate::operations).
//!
//! `calls` is the one list of them: the router and the `OpenAPI` document are made from it.

#[allow(unused_qualifications, reason = "in what utoipa writes")]
mod companies;
mod dead_letter_acts;
#[allow(unused_qualifications, reason = "in what utoipa writes")]
mod dead_letters;
mod document;
mod events;
mod extract;
mod gate;
#[allow(unused_qualifications, reason = "in what utoipa writes")]
mod holds;
mod jobs;
mod keyring;
mod ledger;
mod ops;
pub mod pages;
mod portal_tokens;
mod problem;
mod replays;
mod server;
mod stream;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{from_fn, from_fn_with_state},
    response::IntoResponse as _,
    routing::get,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::{
    cors::{AllowOrigin, CorsLayer},
    request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    config::Settings,
    operations::{EventPublisher, OperationError, Operations, Scope},
    telemetry::{metrics::Metrics, requests::observe},
};
use gate::{Database, Limits, Needs, gate};
use keyring::Keyring;
pub use ops::Vitals;
use problem::Problem;
use replays::Plans;
pub(crate) use server::{Bounds, serve};
use stream::Feed;

/// Large bodies in memory at once.
const LARGE_BODIES: usize = 16;

/// What every call has at hand. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Parts>);

/// See [`Api`].
pub struct Parts {
    settings: Settings,
    operations: Arc<Operations>,
    events: EventPublisher,
    keyring: Keyring,
    limits: Limits,
    plans: Plans,
    feed: Feed,
    /// Streams end with it; all else is finished.
    stop: CancellationToken,
    /// So many calls may use the database at once: others in the process need it as well.
    turns: Semaphore,
    /// So many requests with a large body may be answered at once: each may have megabytes in memory.
    large_bodies: Semaphore,
    /// One audit at a time: it reads the whole ledger.
    audits: Semaphore,
}

impl std::ops::Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Api {
    /// On these operations.
    ///
    /// # Errors
    ///
    /// [`OperationError::Internal`] without `broker.url`.
    pub fn new(
        settings: &Settings,
        operations: Arc<Operations>,
        stop: CancellationToken,
    ) -> Result<Self, OperationError> {
        let http = &settings.http;
        let turns = (settings.database.max_connections / 2).max(1);
        Ok(Self(Arc::new(Parts {
            settings: settings.clone(),
            events: EventPublisher::new(settings)?,
            keyring: Keyring::new(operations.clone(), http.keys_ttl),
            limits: Limits::new(http.requests_per_second, http.burst),
            plans: Plans::default(),
            feed: Feed::default(),
            stop,
            turns: Semaphore::new(turns as usize),
            large_bodies: Semaphore::new(LARGE_BODIES),
            audits: Semaphore::new(1),
            operations,
        })))
    }

    /// A call's path, below `http.base_path`.
    fn path(&self, path: &str) -> String {
        let base = self.settings.http.base_path.trim_end_matches('/');
        format!("{base}{path}")
    }

    /// Gives the connections back.
    pub async fn close(&self) {
        self.events.close().await;
        self.operations.stop().await;
    }
}

/// Every call, by what it asks of its caller.
fn calls(api: Option<&Api>) -> OpenApiRouter<Api> {
    let behind = |needs: Needs, calls: OpenApiRouter<Api>| match api {
        Some(api) => calls.route_layer(from_fn_with_state((api.clone(), needs), gate)),
        // For the document.
        None => calls,
    };
    let read = Needs::READ;
    let preflight = Needs {
        database: Database::Shared,
        ..read
    };
    let portal = Needs {
        portal: true,
        ..preflight
    };
    let publish = Needs {
        scope: Scope::Publish,
        database: Database::Nothing,
        ..read
    };
    let hold = Needs {
        database: Database::Connection,
        ..publish
    };
    let operate = Needs {
        scope: Scope::Operate,
        ..read
    };
    let all = |needs: Needs| Needs {
        all_companies: true,
        ..needs
    };
    let new = OpenApiRouter::new;
    let of_one_balance = new().routes(routes!(companies::balance));
    let before_work = new().routes(routes!(companies::preflight));
    let looking = new().routes(routes!(jobs::job));
    let looking_at_all = new()
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::groups))
        .routes(routes!(dead_letters::stats))
        .routes(routes!(dead_letters::show))
        .routes(routes!(replays::show))
        .routes(routes!(stream::stream))
        .routes(routes!(ledger::audit));
    let publishing = new().routes(routes!(events::publish));
    let holding = new()
        .routes(routes!(holds::hold))
        .routes(routes!(holds::release));
    let operating = new()
        .routes(routes!(ledger::credit))
        .routes(routes!(portal_tokens::issue));
    let operating_on_all = new()
        .routes(routes!(ledger::refund))
        .routes(routes!(replays::replay))
        .routes(routes!(dead_letter_acts::edit))
        .routes(routes!(dead_letter_acts::discard))
        .routes(routes!(dead_letter_acts::restore));
    new()
        .merge(behind(portal, of_one_balance))
        .merge(behind(preflight, before_work))
        .merge(behind(read, looking))
        .merge(behind(all(read), looking_at_all))
        .merge(behind(publish, publishing))
        .merge(behind(hold, holding))
        .merge(behind(operate, operating))
        .merge(behind(all(operate), operating_on_all))
}

/// The document of all calls.
pub(crate) fn openapi(settings: &Settings) -> OpenApi {
    document::complete(calls(None).into_openapi(), settings)
}

/// All of what the role `http` answers: the calls, and `pages`, which ask for no key, below `http.base_path`.
/// `vitals`: what a process without an address of their own tells here.
pub fn router(api: &Api, pages: Router, vitals: Option<Vitals>, metrics: &Arc<Metrics>) -> Router {
    let http = &api.settings.http;
    let document = openapi(&api.settings);
    expect(metrics, &document, &http.base_path);
    let (calls, _) = calls(Some(api)).split_for_parts();
    let mut router = calls
        .with_state(api.clone())
        .route("/openapi.json", get(async move || axum::Json(document)))
        .merge(pages);
    router = match vitals {
        Some(vitals) => router.merge(ops::router(vitals)),
        None => router.route("/healthz", get(ops::healthz)),
    };
    router = router.method_not_allowed_fallback(no_such_method);
    if http.base_path != "/" {
        router = Router::new().nest(&http.base_path, router);
    }
    router = dressed(router, http.request_timeout, cors(&http.cors_origins));
    router.layer(from_fn_with_state(metrics.clone(), observe))
}

/// Each answer that is documented has its series from the start.
fn expect(metrics: &Metrics, document: &OpenApi, base_path: &str) {
    for (path, item) in &document.paths.paths {
        let route = format!("{}{path}", base_path.trim_end_matches('/'));
        for (method, operation) in [
            ("GET", &item.get),
            ("POST", &item.post),
            ("DELETE", &item.delete),
        ] {
            let Some(operation) = operation else { continue };
            let statuses = operation.responses.responses.keys();
            let statuses: Vec<u16> = statuses.filter_map(|status| status.parse().ok()).collect();
            metrics.expect_http(&route, method, &statuses);
        }
    }
}

/// What a process tells on `ops.listen`.
pub fn ops_router(vitals: Vitals, request_timeout: Duration) -> Router {
    let router = ops::router(vitals).method_not_allowed_fallback(no_such_method);
    dressed(router, request_timeout, None)
}

/// With what is around every call.
fn dressed(router: Router, request_timeout: Duration, cors: Option<CorsLayer>) -> Router {
    let id = HeaderName::from_static(gate::REQUEST_ID);
    let mut router = router
        .fallback(async || Problem::not_found("there is no such call; see /openapi.json"))
        .layer(from_fn_with_state(request_timeout, gate::bounded));
    if let Some(cors) = cors {
        router = router.layer(cors);
    }
    router
        .layer(from_fn(security_headers))
        .layer(PropagateRequestIdLayer::new(id.clone()))
        .layer(SetRequestIdLayer::new(id, NewRequestId))
}

async fn no_such_method() -> Problem {
    let detail = "not with this method; see the header Allow";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

/// Answers are of one caller's, and are what they say they are.
async fn security_headers(
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    let mut response = next.run(request).await.into_response();
    let headers = response.headers_mut();
    let no_store = HeaderValue::from_static("no-store");
    headers.entry(header::CACHE_CONTROL).or_insert(no_store);
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse().ok()))
    };
    let told = [
        "ratelimit",
        "ratelimit-policy",
        "retry-after",
        "x-request-id",
    ];
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("idempotency-key"),
        ])
        .expose_headers(told.map(HeaderName::from_static))
        .max_age(Duration::from_secs(600));
    Some(layer)
}

/// Of a request that brings none.
#[derive(Clone, Copy)]
struct NewRequestId;

impl MakeRequestId for NewRequestId {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        let id = Uuid::new_v4().to_string();
        id.parse().ok().map(RequestId::new)
    }
}
