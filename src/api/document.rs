//! What all calls have in common, in the `OpenAPI` document.

use utoipa::{
    PartialSchema as _, ToSchema as _,
    openapi::{
        ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder, Server,
        path::{Operation, Parameter, ParameterIn},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use super::problem::{MEDIA_TYPE, ProblemDocument};
use crate::config::Settings;

/// What any call may answer besides.
const ANY: [(&str, &str); 7] = [
    (
        "400",
        "`invalid_request`: a parameter or a body that can't be read; `field` names it",
    ),
    (
        "401",
        "`unauthorized`: no key, or one that is not known, revoked or expired",
    ),
    (
        "403",
        "`insufficient_scope`, or `key_of_one_company` where a call is about all",
    ),
    ("405", "`method_not_allowed`"),
    ("429", "`rate_limited`: again after `Retry-After` seconds"),
    ("500", "`internal`: an error of the server's"),
    (
        "503",
        "`database_unavailable`, `broker_unavailable` or `timeout`: again after `Retry-After` seconds",
    ),
];
/// What any call may answer that is told something in its query or in a body.
const ANY_WITH_FIELDS: [(&str, &str); 1] =
    [("422", "`invalid_request`: `field` names what is wrong")];
/// What any call with a body may answer besides.
const ANY_WITH_BODY: [(&str, &str); 3] = [
    ("408", "`request_timeout`: the body did not come in time"),
    ("413", "`payload_too_large`"),
    ("415", "`unsupported_media_type`"),
];

const KEY: &str = "key";

pub(super) fn complete(mut document: OpenApi, settings: &Settings) -> OpenApi {
    document.info.title = "token-billing".to_owned();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document.info.description = Some(
        "Charges companies tokens, once for each job. Errors are `application/problem+json` (RFC 9457)."
            .to_owned(),
    );
    // utoipa writes its own author there.
    document.info.contact = None;
    document.info.license = None;
    document.servers = Some(vec![Server::new(&settings.http.base_path)]);
    let components = document.components.get_or_insert_default();
    components.schemas.insert(
        ProblemDocument::name().into_owned(),
        ProblemDocument::schema(),
    );
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "A key (`token-billing keys add`), or for a company's balance a token of `POST /v1/portal-tokens`",
        ))
        .build();
    components
        .security_schemes
        .insert(KEY.to_owned(), SecurityScheme::Http(scheme).into());
    for path in document.paths.paths.values_mut() {
        let operations = [&mut path.get, &mut path.post, &mut path.delete];
        for operation in operations.into_iter().flatten() {
            complete_operation(operation);
        }
    }
    document
}

fn complete_operation(operation: &mut Operation) {
    operation.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(
        KEY,
        [],
    )]);
    let with_body = operation.request_body.is_some();
    let parameters = operation.parameters.iter().flatten();
    let in_query = |parameter: &RefOr<Parameter>| {
        matches!(
            parameter,
            RefOr::T(Parameter {
                parameter_in: ParameterIn::Query,
                ..
            })
        )
    };
    let with_fields = with_body || parameters.clone().any(in_query);
    let mut answers = ANY.to_vec();
    if with_fields {
        answers.extend(ANY_WITH_FIELDS);
    }
    if with_body {
        answers.extend(ANY_WITH_BODY);
    }
    for (status, description) in answers {
        let responses = &mut operation.responses.responses;
        if !responses.contains_key(status) {
            responses.insert(status.to_owned(), problem(description).into());
        }
    }
}

fn problem(description: &str) -> Response {
    let schema = Ref::from_schema_name(ProblemDocument::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new()
        .description(description)
        .content(MEDIA_TYPE, content)
        .build()
}
