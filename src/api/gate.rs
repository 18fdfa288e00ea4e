//! Who calls, what he may, and how often.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header::AUTHORIZATION, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::StateInformationMiddleware,
};
use uuid::Uuid;

use super::{Api, extract, problem::Problem};
use crate::operations::{
    Actor, BearerKey, Dependency, LiveApiKey, OperationError, PortalTokenClaim, Scope,
};

/// Of a request that brings none, one is made.
pub(super) const REQUEST_ID: &str = "x-request-id";
/// Callers that are remembered before those that were idle are forgotten.
const CALLERS: usize = 10_000;

/// What a call asks of its caller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    pub(super) scope: Scope,
    /// A portal token will do as well.
    pub(super) portal: bool,
    /// It is about all companies: a key of one company is not enough.
    pub(super) all_companies: bool,
    pub(super) database: Database,
}

impl Needs {
    /// For a look at one company, or at one job.
    pub(super) const READ: Self = Self {
        scope: Scope::Read,
        portal: false,
        all_companies: false,
        database: Database::Connection,
    };
}

/// What a call takes of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Database {
    Nothing,
    /// A query that it shares with whoever asks at the same time.
    Shared,
    /// A connection of its own.
    Connection,
}

#[derive(Clone)]
pub(super) struct Caller {
    pub(super) key: Arc<LiveApiKey>,
    /// The only company that is seen; `None`: all.
    pub(super) company: Option<Uuid>,
    is_portal: bool,
}

impl Caller {
    pub(super) fn sees(&self, company: Uuid) -> bool {
        self.company.is_none_or(|own| own == company)
    }

    /// For the record of what people do by hand.
    pub(super) fn actor(&self) -> Result<Actor, OperationError> {
        Actor::new(&format!("key:{}", self.key.key.name))
    }

    fn may(&self, needs: Needs) -> Result<(), Problem> {
        let forbidden = |code, detail: String| Problem::new(StatusCode::FORBIDDEN, code, detail);
        if self.is_portal {
            return if needs.portal {
                Ok(())
            } else {
                let detail = "a portal token only reads the balance of its company".to_owned();
                Err(forbidden("insufficient_scope", detail))
            };
        }
        let scope = needs.scope.as_str();
        if !needs.scope.is_among(&self.key.key.scopes) {
            let detail = format!("the key lacks the scope {scope}");
            return Err(forbidden("insufficient_scope", detail).with("scope", scope));
        }
        if needs.all_companies && self.company.is_some() {
            let detail = "this call is about all companies, and the key is of one".to_owned();
            return Err(forbidden("key_of_one_company", detail));
        }
        Ok(())
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Put there by `gate`, which stands before every call that asks for it.
        let caller = parts.extensions.get::<Self>().cloned();
        let missing = || OperationError::Internal("a call without its gate".to_owned());
        caller.ok_or_else(|| missing().into())
    }
}

/// How often each may call.
pub(super) struct Limits {
    callers: DefaultKeyedRateLimiter<Uuid, StateInformationMiddleware>,
    burst: u32,
    per_second: u32,
}

/// What is left of it.
struct Left {
    burst: u32,
    per_second: u32,
    remaining: u32,
}

impl Limits {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(per_second)).allow_burst(at_least_one(burst));
        Self {
            callers: RateLimiter::keyed(quota).with_middleware(),
            burst,
            per_second,
        }
    }

    fn take(&self, caller: Uuid) -> (Left, Result<(), Problem>) {
        if self.callers.len() > CALLERS {
            self.callers.retain_recent();
        }
        let left = |remaining| Left {
            burst: self.burst,
            per_second: self.per_second,
            remaining,
        };
        match self.callers.check_key(&caller) {
            Ok(state) => (left(state.remaining_burst_capacity()), Ok(())),
            Err(until) => {
                let wait = until.wait_time_from(DefaultClock::default().now());
                let detail = "too many requests with this key";
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail);
                (left(0), Err(problem.retry_after(wait)))
            }
        }
    }
}

impl Left {
    /// As draft-ietf-httpapi-ratelimit-headers has it: so many requests (`q`) in so many seconds (`w`); so many remain
    /// (`r`), and all of them again after `t` seconds.
    fn tell(&self, headers: &mut HeaderMap) {
        let seconds = |requests: u32| requests.div_ceil(self.per_second.max(1));
        let (burst, used) = (self.burst, self.burst.saturating_sub(self.remaining));
        let policy = format!("\"key\";q={burst};w={}", seconds(burst).max(1));
        let left = format!("\"key\";r={};t={}", self.remaining, seconds(used));
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", left)] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }
}

/// Stands before every call that asks for a key.
pub(super) async fn gate(
    State((api, needs)): State<(Api, Needs)>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match caller(&api, request.headers()).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    // Pages share the key that their tokens were made from, but not its quota.
    let bucket = match caller.company {
        Some(company) if caller.is_portal => company,
        _ => caller.key.key.id,
    };
    let (left, allowed) = api.limits.take(bucket);
    let allowed = allowed.and_then(|()| caller.may(needs));
    request.extensions_mut().insert(caller);
    let answer = match allowed {
        Ok(()) => answer(&api, needs, request, next).await,
        Err(problem) => Err(problem),
    };
    let mut response = answer.unwrap_or_else(Problem::into_response);
    left.tell(response.headers_mut());
    response
}

async fn answer(
    api: &Api,
    needs: Needs,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    // So many of the large ones are in memory, until they are answered.
    let _room = match extract::is_small(&request) {
        true => None,
        false => api.large_bodies.acquire().await.ok(),
    };
    if needs.database == Database::Nothing {
        return Ok(next.run(request).await);
    }
    let request = extract::whole(request, api).await?;
    let answer = async {
        // What waits here has no connection that a worker might want.
        let _turn = match needs.database {
            Database::Connection => api.turns.acquire().await.ok(),
            Database::Shared | Database::Nothing => None,
        };
        next.run(request).await
    };
    unless_away(api, answer).await
}

/// What needs the database, unless that is away, or goes away meanwhile: a pool would wait for it much longer.
async fn unless_away<T>(api: &Api, work: impl Future<Output = T>) -> Result<T, Problem> {
    let mut trouble = api.operations.database_trouble();
    tokio::select! {
        biased;
        Ok(_) = trouble.wait_for(Option::is_some) => Err(Problem::unavailable(Dependency::Database)),
        done = work => Ok(done),
    }
}

/// Whoever sends this key or token.
async fn caller(api: &Api, headers: &HeaderMap) -> Result<Caller, Problem> {
    let unknown = || {
        let challenge = "Bearer realm=\"token-billing\", error=\"invalid_token\"";
        Problem::unauthorized(challenge, "the key is not known, or is revoked or expired")
    };
    let Some(sent) = headers.get(AUTHORIZATION) else {
        let detail = "send a key: Authorization: Bearer tb_…";
        return Err(Problem::unauthorized(
            "Bearer realm=\"token-billing\"",
            detail,
        ));
    };
    let bearer = sent.to_str().ok().and_then(|sent| {
        let (scheme, token) = sent.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then_some(token.trim())
    });
    let token = bearer.ok_or_else(unknown)?;
    if let Some(bearer) = BearerKey::parse(token) {
        let key = api.keyring.find(&bearer).await?.ok_or_else(unknown)?;
        return Ok(Caller {
            company: key.key.company_id,
            key,
            is_portal: false,
        });
    }
    let claim = PortalTokenClaim::parse(token).ok_or_else(unknown)?;
    let key = api.keyring.of_portal(&claim).await?.ok_or_else(unknown)?;
    Ok(Caller {
        company: Some(claim.company_id),
        key,
        is_portal: true,
    })
}

/// Around everything: no request takes longer than `http.request_timeout`, and each is in the log.
pub(super) async fn bounded(
    State(within): State<Duration>,
    request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("none", MatchedPath::as_str).to_owned();
    let id = request.headers().get(REQUEST_ID).cloned();
    let response = tokio::time::timeout(within, next.run(request)).await;
    let response = response.unwrap_or_else(|_| {
        let within = humantime::format_duration(within);
        let detail =
            format!("there was no answer within {within}; what was asked may still be done");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail)
            .retry_after(Duration::from_secs(1))
            .into_response()
    });
    // Not to be ready is an answer like another, to whoever asks every few seconds.
    if response.status().is_server_error() && !route.ends_with("/readyz") {
        tracing::warn!(
            http.request_id = id.and_then(|id| id.to_str().map(str::to_owned).ok()),
            http.method = %method,
            http.route = %route,
            http.status = response.status().as_u16(),
            "a call was answered with an error of the server's"
        );
    }
    tracing::debug!(
        http.method = %method,
        http.path = %path,
        http.route = %route,
        http.status = response.status().as_u16(),
        duration_ms = began.elapsed().as_millis() as u64,
        "answered"
    );
    response
}
