//! What every role may do, not only the connected one: a server's default privileges may have given strangers
//! our functions and tables.

use std::fmt;

use super::{
    Inspection, Object, Purpose,
    functions::{signature, signatures},
    grants,
    grants::{FOR_APPLICATIONS, quoted},
    rights,
};
use crate::storage::StorageError;

/// Who may write it changes balances.
const BALANCES: &str = "company_subscriptions";

/// A role that may call or write something, other than the connected one, superusers, the owner, and who may
/// become the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherRole {
    /// `None`: everybody, `PUBLIC`.
    pub role: Option<String>,
    /// The server's default privileges name it: nobody may have meant these rights.
    pub by_default: bool,
    /// What it may write by SQL of the application's balances, as privileges.
    pub balances: Vec<String>,
    /// What it has on our own objects that no printed grant gives.
    pub excess: Vec<String>,
    /// SQL that takes that away.
    pub revoke: String,
}

impl OtherRole {
    /// Whether it must not stay so.
    pub fn is_too_much(&self) -> bool {
        !self.excess.is_empty() || !self.balances.is_empty() && !self.is_meant()
    }

    /// Somebody named this very role.
    fn is_meant(&self) -> bool {
        self.role.is_some() && !self.by_default
    }
}

#[derive(Debug, sqlx::FromRow)]
struct Right {
    role: Option<String>,
    by_default: bool,
    /// `table`, `sequence`, `function`, or `role` for a membership.
    kind: String,
    object: String,
    privilege: String,
    column: Option<String>,
}

/// $1 tables, $2 sequences, $3 functions. Only direct grants: who is a member of a role that is named has what
/// that role has.
const RIGHTS: &str = include_str!("others.sql");

impl Inspection {
    /// Every other role that may execute one of our functions, write one of our tables, or change a balance.
    pub async fn other_roles(&mut self) -> Result<Vec<OtherRole>, StorageError> {
        let tables: Vec<&str> = rights::GUARDED
            .into_iter()
            .chain(["dead_letters_with_charges"])
            .collect();
        let rights: Vec<Right> = self
            .ask(async |connection| {
                sqlx::query_as(RIGHTS)
                    .bind(&tables)
                    .bind(&rights::SEQUENCES[..])
                    .bind(signatures())
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let of_one = rights.chunk_by(|one, next| one.role == next.role);
        Ok(of_one.map(other_role).collect())
    }
}

fn other_role(rights: &[Right]) -> OtherRole {
    let role = rights.first().and_then(|right| right.role.clone());
    let mut other = OtherRole {
        by_default: rights.first().is_some_and(|right| right.by_default),
        balances: Vec::new(),
        excess: Vec::new(),
        revoke: String::new(),
        role,
    };
    let is_balance = |right: &&Right| right.kind == "table" && right.object == BALANCES;
    for right in rights {
        let (list, text) = if is_balance(&right) {
            (&mut other.balances, right.privilege.clone())
        } else if is_granted(right) {
            continue;
        } else {
            (&mut other.excess, right.to_string())
        };
        if !list.contains(&text) {
            list.push(text);
        }
    }
    let (of_balances, ours): (Vec<&Right>, Vec<&Right>) = rights.iter().partition(is_balance);
    // Of a stranger all of it: what it has of what others are granted is too much as well.
    let mut taken = ours;
    if other.is_meant() {
        taken.retain(|right| !is_granted(right));
    } else {
        taken.extend(of_balances);
    }
    other.revoke = revoke(other.role.as_deref(), &taken);
    other
}

fn revoke(role: Option<&str>, taken: &[&Right]) -> String {
    let name = role.map_or_else(|| "public".to_owned(), quoted);
    let mut statements = Vec::new();
    for kind in ["table", "sequence", "function"] {
        let of_kind = taken.iter().filter(|right| right.kind == kind);
        let mut names: Vec<&str> = of_kind.map(|right| right.object.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            statements.push(format!(
                "revoke all on {kind} {} from {name}",
                names.join(", ")
            ));
        }
    }
    let memberships = taken.iter().filter(|right| right.kind == "role");
    statements.extend(memberships.map(|right| format!("revoke {} from {name}", right.object)));
    let mut sql = statements.join("; ");
    if role.is_some() && taken.iter().any(|right| is_granted(right)) {
        sql.push_str(
            " -- then, if it is meant to work with these: token-billing migrate --print-grants",
        );
    }
    sql
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (privilege, object) = (&self.privilege, &self.object);
        match self.kind.as_str() {
            "role" => write!(f, "member of {object}"),
            "table" => write!(f, "{privilege} on {object}"),
            kind => write!(f, "{privilege} on {kind} {object}"),
        }
    }
}

/// Whether somebody may have it by a printed grant, whatever for.
fn is_granted(right: &Right) -> bool {
    if right.role.is_none() {
        return false;
    }
    if right.object == signature(FOR_APPLICATIONS) {
        return true;
    }
    [Purpose::Serve, Purpose::Operator, Purpose::Http]
        .into_iter()
        .flat_map(grants)
        .any(|grant| {
            grant.privilege == right.privilege
                && match grant.object {
                    Object::Function(name) => signature(name) == right.object,
                    Object::Table(name, columns) => {
                        let has = |column: &String| columns.contains(&column.as_str());
                        name == right.object
                            && (columns.is_empty() || right.column.as_ref().is_some_and(has))
                    }
                }
        })
}
