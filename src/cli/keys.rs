//! `keys`: who may call the HTTP API.

use clap::{Args, Subcommand};
use secrecy::ExposeSecret as _;
use uuid::Uuid;

use super::actor::ActorArgs;
use super::output::{Format, Table, note, text};
use super::{Ended, moment, operating};
use crate::config::Settings;
use crate::operations::{ApiKey, ApiKeys, Scope};

#[derive(Debug, Args)]
#[command(
    about = "Add, list or revoke keys for the HTTP API",
    after_help = "Examples:\n  token-billing keys add shop --scope read --scope publish\n  token-billing keys list"
)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Add(AddArgs),
    /// List all keys, revoked ones too
    List,
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
#[command(
    about = "Add a key, and print it: nothing shows it a second time",
    after_help = "A key is sent as `Authorization: Bearer tb_…`. To rotate one, add another of the same name, and \
        revoke the first once nobody uses it any more."
)]
struct AddArgs {
    /// What people call it
    name: String,

    /// What it allows; repeat for several
    #[arg(long = "scope", value_enum, value_name = "SCOPE", required = true)]
    scopes: Vec<Scope>,

    /// The only company that it sees [default: all]
    #[arg(long, value_name = "UUID")]
    company: Option<Uuid>,

    #[command(flatten)]
    actor: ActorArgs,
}

#[derive(Debug, Args)]
#[command(about = "Revoke a key: processes that run refuse it within http.keys_ttl")]
struct RevokeArgs {
    /// Its id, which `keys list` shows
    id: Uuid,

    #[command(flatten)]
    actor: ActorArgs,
}

pub(super) fn run(args: KeysArgs, settings: &Settings, format: Format) -> anyhow::Result<Ended> {
    operating(settings, async |operations| {
        match args.verb {
            Verb::Add(args) => {
                let AddArgs {
                    name,
                    scopes,
                    company,
                    actor,
                } = args;
                let (scopes, actor) = (&scopes, actor.actor()?);
                let new = operations
                    .add_api_key(&name, scopes, company, &actor)
                    .await?;
                note(&format!(
                    "key {}: keep what follows, it is not shown again",
                    new.key.id
                ));
                format.print(&new, |new| new.token.expose_secret().to_owned())?;
            }
            Verb::List => format.print(&operations.api_keys().await?, for_people)?,
            Verb::Revoke(args) => {
                let actor = args.actor.actor()?;
                let revoked = operations.revoke_api_key(args.id, &actor).await?;
                format.print(&revoked, |revoked| {
                    format!("key {}: revoked {}", revoked.id, moment(revoked.revoked_at))
                })?;
            }
        }
        Ok(Ended::Done)
    })
}

fn for_people(keys: &ApiKeys) -> String {
    if keys.keys.is_empty() {
        return "no keys; add one with: token-billing keys add NAME --scope read".to_owned();
    }
    let heads = [
        "id",
        "name",
        "scopes",
        "company",
        "created",
        "last used",
        "revoked",
    ];
    let mut table = Table::new(heads.map(text));
    for key in &keys.keys {
        table.row(row(key).map(|cell| text(&cell)));
    }
    table.render()
}

fn row(key: &ApiKey) -> [String; 7] {
    let at = |at: Option<_>, none: &str| at.map_or_else(|| none.to_owned(), moment);
    [
        key.id.to_string(),
        key.name.clone(),
        key.scopes.join(", "),
        key.company_id
            .map_or_else(|| "all".to_owned(), |id| id.to_string()),
        moment(key.created_at),
        at(key.last_used_at, "never"),
        at(key.revoked_at, ""),
    ]
}
