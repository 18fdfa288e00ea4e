//! A database for each test, copied from a migrated template.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::sync::Mutex;

use super::servers::Servers;
use super::{finish, is_alive};

/// Names are this, the number of the process, and a number within it.
const PREFIX: &str = "token_billing_test_";

/// Server and migration → the template made for them in this process.
static TEMPLATES: LazyLock<Mutex<HashMap<(String, &str), String>>> = LazyLock::new(Mutex::default);

/// A database of one test's own, dropped with it, also when it panics.
#[derive(Debug)]
pub(crate) struct TestDb {
    name: String,
    url: String,
    admin_url: String,
    pool: PgPool,
}

impl TestDb {
    /// Copies the template, for which `migrate` is run once for each process and server. Pass a
    /// named function: a closure would be another migration, with another template, each time.
    pub(crate) async fn create(servers: &Servers, migrate: impl AsyncFn(&PgPool)) -> Self {
        let admin_url = servers.database_url.clone();
        let template = template(&admin_url, migrate).await;
        let name = next_name();
        create_database(&admin_url, &name, &template).await;
        let url = with_database(&admin_url, &name);
        let pool = connect(&url).await;
        Self {
            name,
            url,
            admin_url,
            pool,
        }
    }

    /// Up to 10 connections to it.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// As the product's setting wants it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        finish(&self.name, async {
            let mut admin = PgConnection::connect(&self.admin_url).await?;
            let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut admin)
                .await?;
            Ok(admin.close().await?)
        });
    }
}

async fn template(admin_url: &str, migrate: impl AsyncFn(&PgPool)) -> String {
    let key = (admin_url.to_owned(), std::any::type_name_of_val(&migrate));
    let mut templates = TEMPLATES.lock().await;
    if let Some(name) = templates.get(&key) {
        return name.clone();
    }
    drop_abandoned(admin_url).await;
    let name = next_name();
    create_database(admin_url, &name, "template0").await;
    let pool = connect(&with_database(admin_url, &name)).await;
    migrate(&pool).await;
    pool.close().await;
    templates.insert(key, name.clone());
    name
}

fn next_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}_{number}", std::process::id())
}

async fn create_database(admin_url: &str, name: &str, template: &str) {
    let mut admin = PgConnection::connect(admin_url)
        .await
        .expect("the database server can be reached");
    for sql in [
        // One of that name can only be what a dead process of the same number left.
        format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
        format!("CREATE DATABASE {name} TEMPLATE {template}"),
    ] {
        sqlx::raw_sql(AssertSqlSafe(sql.as_str()))
            .execute(&mut admin)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// Drops the databases of runs that were killed. Several may be at it at once, so a failure is
/// nothing to speak of: whoever comes next tries again.
async fn drop_abandoned(admin_url: &str) {
    let mut admin = PgConnection::connect(admin_url)
        .await
        .expect("the database server can be reached");
    let names: Vec<String> =
        sqlx::query_scalar("SELECT datname::text FROM pg_database WHERE starts_with(datname, $1)")
            .bind(PREFIX)
            .fetch_all(&mut admin)
            .await
            .expect("databases can be listed");
    for name in names {
        let pid = name[PREFIX.len()..].split('_').next().unwrap_or_default();
        if !is_alive(pid) {
            let sql = format!("DROP DATABASE IF EXISTS {name}");
            let _ = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await;
        }
    }
}

async fn connect(url: &str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(10)
        .connect(url)
        .await
        .unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// `postgres://…/old?parameters` → `postgres://…/name?parameters`.
fn with_database(url: &str, name: &str) -> String {
    let (path, parameters) = match url.split_once('?') {
        Some((path, parameters)) => (path, format!("?{parameters}")),
        None => (url, String::new()),
    };
    let (server, _) = path
        .rsplit_once('/')
        .expect("a database URL names a database");
    format!("{server}/{name}{parameters}")
}

mod tests {
    use super::*;

    async fn one_table(pool: &PgPool) {
        sqlx::raw_sql("CREATE TABLE balances AS SELECT 1::bigint AS tokens")
            .execute(pool)
            .await
            .expect("migrated");
    }

    async fn tokens(db: &TestDb) -> i64 {
        sqlx::query_scalar("SELECT sum(tokens)::bigint FROM balances")
            .fetch_one(db.pool())
            .await
            .expect("the template's table is there")
    }

    #[tokio::test]
    async fn two_tests_never_see_each_other() {
        let first = TestDb::create(Servers::shared(), one_table).await;
        let second = TestDb::create(Servers::shared(), one_table).await;
        sqlx::raw_sql("UPDATE balances SET tokens = 5")
            .execute(first.pool())
            .await
            .expect("updated");
        assert_eq!((tokens(&first).await, tokens(&second).await), (5, 1));
    }

    #[tokio::test]
    async fn a_test_database_is_dropped_while_it_is_in_use() {
        let db = TestDb::create(Servers::shared(), one_table).await;
        let (name, pool) = (db.name.clone(), db.pool().clone());
        let _in_use = pool.acquire().await.expect("a connection");
        drop(db);
        let mut admin = PgConnection::connect(&Servers::shared().database_url)
            .await
            .expect("connected");
        let exists: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
                .bind(&name)
                .fetch_one(&mut admin)
                .await
                .expect("looked");
        assert!(!exists, "{name} is still there");
    }

    #[test]
    fn a_url_keeps_its_parameters_when_the_database_changes() {
        assert_eq!(
            with_database("postgres://u:p@h:1/old?sslmode=disable", "new"),
            "postgres://u:p@h:1/new?sslmode=disable"
        );
    }
}
