//! What we have in a database, and that nobody else has a right on it who wasn't granted one.
//!
//! `alter default privileges … grant all on functions to anon` (many hosted databases have such lines) gives a
//! stranger every function that is created after it: to credit himself, say. So `migrate` takes such rights away
//! in the transaction that creates the object. What a person grants later stays.

use std::fmt;

use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use super::{FUNCTIONS, GRANTS, Object, grants::FOR_APPLICATIONS};

/// Tables, views and sequences of ours.
pub const RELATIONS: [&str; 15] = [
    "_sqlx_migrations",
    "dead_letter_actions",
    "dead_letter_arrival_seq",
    "dead_letters",
    "dead_letters_and_money",
    "dead_letters_id_seq",
    "operator_actions",
    "operator_actions_id_seq",
    "token_billing_locks",
    "token_credits",
    "token_deduction_attempts",
    "token_deduction_attempts_id_seq",
    "token_deduction_records",
    "token_ledger_seq",
    "token_usage_logs",
];
/// The application's tables; ours where it had none.
const APPLICATIONS: [&str; 3] = ["article_jobs", "articles", "company_subscriptions"];

/// What others may do to objects of ours and shouldn't, as a REVOKE has it.
///
/// To a new object ($5 lists them), anything: it can only come from the server's defaults. To one that was there
/// ($6: look at these too), what the defaults give, what everybody has, and what neither a printed grant gives
/// ($2 to $4: privilege, object, column) nor a person would ask for: reading tables, and calling what is made to be
/// called.
const STRANGE_RIGHTS: &str = "with object as (
         select u.name, case c.relkind when 'S' then 'sequence' else 'table' end as kind, c.oid,
                c.oid::regclass::text as shown, c.relacl as acl, c.relowner as owner, c.relnamespace as namespace
         from unnest($1::text[]) u (name)
         join pg_class c on c.oid = case when u.name not like '%(%' then to_regclass(u.name) end
         union all
         select u.name, 'function', p.oid, p.oid::regprocedure::text,
                coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner, p.pronamespace
         from unnest($1::text[]) u (name)
         join pg_proc p on p.oid = case when u.name like '%(%' then to_regprocedure(u.name) end
     ), entry as (
         select o.*, x.grantee, lower(x.privilege_type) as privilege, null::text as col
         from object o cross join lateral aclexplode(o.acl) x
         union all
         select o.*, x.grantee, lower(x.privilege_type), a.attname::text
         from object o join pg_attribute a on a.attrelid = o.oid cross join lateral aclexplode(a.attacl) x
         where o.kind = 'table'
     )
     select string_agg(e.privilege || coalesce(' (' || quote_ident(e.col) || ')', ''), ', ' order by e.privilege, e.col)
                as privileges,
            e.kind, e.shown as object, case e.grantee when 0 then 'public' else e.grantee::regrole::text end as role
     from entry e
     where e.grantee <> e.owner
       and (e.name = any ($5)
            or ($6 and (e.grantee = 0
                        or exists (
                            select from pg_default_acl d cross join lateral aclexplode(d.defaclacl) x
                            where d.defaclrole = e.owner and d.defaclnamespace in (0, e.namespace)
                              and d.defaclobjtype = case e.kind when 'table' then 'r' when 'sequence' then 'S' else 'f' end
                              and x.grantee = e.grantee and lower(x.privilege_type) = e.privilege and e.col is null)
                        or not (e.kind = 'table' and e.privilege = 'select'
                                or exists (
                                    select from unnest($2::text[], $3::text[], $4::text[]) g (privilege, object, col)
                                    where g.privilege = e.privilege and g.object = e.name
                                      and g.col is not distinct from e.col)))))
     group by e.kind, e.shown, e.grantee order by role, e.kind, e.shown";

/// Rights that were taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Revoked {
    /// `execute`, or several: `insert, update (details)`.
    pub privileges: String,
    /// `table` (views too), `sequence` or `function`.
    pub kind: String,
    /// Which, a function with the types of its arguments.
    pub object: String,
    /// Who had them, as it stands in SQL; `public` is everybody.
    pub role: String,
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            privileges,
            kind,
            object,
            role,
        } = self;
        write!(f, "{privileges} on {kind} {object} from {role}")
    }
}

/// The names of what there was before a migration.
pub(in crate::storage) struct Holdings(Vec<&'static str>);

impl Holdings {
    /// What is there now.
    pub(in crate::storage) async fn read(connection: &mut PgConnection) -> sqlx::Result<Self> {
        let names = everything();
        let there: Vec<bool> = sqlx::query_scalar(
            "select case when u.name like '%(%' then to_regprocedure(u.name) is not null
                         else to_regclass(u.name) is not null end
             from unnest($1::text[]) with ordinality u (name, place) order by u.place",
        )
        .bind(&names)
        .fetch_all(connection)
        .await?;
        let there = names.into_iter().zip(there);
        Ok(Self(
            there
                .filter_map(|(name, there)| there.then_some(name))
                .collect(),
        ))
    }

    /// Takes from everybody but the owner all rights on what has come since; with `clean_old`, also rights on what
    /// was there that nobody granted on purpose. Tables that an application had stay as they are. Returns what was
    /// taken.
    pub(in crate::storage) async fn take_rights(
        self,
        connection: &mut PgConnection,
        clean_old: bool,
    ) -> sqlx::Result<Vec<Revoked>> {
        let is_new = |name: &&str| !self.0.contains(name);
        let new: Vec<&str> = everything().into_iter().filter(is_new).collect();
        let mut names = new.clone();
        names.extend(self.0.iter().filter(|name| !APPLICATIONS.contains(name)));
        let (mut privileges, mut objects, mut columns) = (Vec::new(), Vec::new(), Vec::new());
        let mut allow = |privilege, object, column| {
            privileges.push(privilege);
            objects.push(object);
            columns.push(column);
        };
        allow("execute", FOR_APPLICATIONS, None);
        for grant in GRANTS {
            match grant.object {
                Object::Function(name) | Object::Table(name, []) => {
                    allow(grant.privilege, name, None);
                }
                Object::Table(name, columns) => {
                    for column in columns {
                        allow(grant.privilege, name, Some(*column));
                    }
                }
            }
        }
        let strange: Vec<Revoked> = sqlx::query_as(STRANGE_RIGHTS)
            .bind(&names)
            .bind(&privileges)
            .bind(&objects)
            .bind(&columns)
            .bind(&new)
            .bind(clean_old)
            .fetch_all(&mut *connection)
            .await?;
        for right in &strange {
            sqlx::raw_sql(AssertSqlSafe(format!("revoke {right} cascade")))
                .execute(&mut *connection)
                .await?;
        }
        // Everybody may call a new function until it is said otherwise: that is no news.
        let news = |right: &Revoked| right.kind != "function" || right.role != "public";
        Ok(strange.into_iter().filter(news).collect())
    }
}

fn everything() -> Vec<&'static str> {
    let functions = FUNCTIONS.iter().map(|(signature, _)| *signature);
    let relations = RELATIONS.iter().chain(&APPLICATIONS).copied();
    relations.chain(functions).collect()
}
