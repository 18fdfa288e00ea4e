//! Database roles of a test's own.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{finish, site::Site};

/// A role that may log in, dropped with all its rights, also when the test panics. Declared after its site,
/// it goes before the site's database does.
#[derive(Debug)]
pub(crate) struct TestRole {
    name: String,
    url: String,
    admin_url: String,
}

impl TestRole {
    /// May nothing yet.
    pub(crate) async fn create(site: &Site) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // With what a careless quoting would stumble over.
        let name = format!("token_billing test\"{}_{number}'; --", std::process::id());
        let admin_url = site.db.url().to_owned();
        let mut url = url::Url::parse(&admin_url).expect("a URL");
        url.set_username(&name).expect("a user's name");
        url.set_password(Some("let me in")).expect("a password");
        let role = Self {
            name,
            url: url.to_string(),
            admin_url,
        };
        let name = role.quoted();
        site.db
            .execute(format!("create role {name} login password 'let me in'"))
            .await;
        role
    }

    /// The role that `migrate --print-grants` makes, by the SQL as it is printed.
    pub(crate) async fn granted(site: &Site, purpose: &str) -> Self {
        let role = Self::create(site).await;
        let args = ["migrate", "--print-grants", &role.name, "--for", purpose];
        let ran = site.run(&args).await;
        // Twice: that a role has some of it already is no error.
        for _ in 0..2 {
            site.db.execute(ran.done()).await;
        }
        role
    }

    /// As it stands in SQL.
    pub(crate) fn quoted(&self) -> String {
        format!("\"{}\"", self.name.replace('"', "\"\""))
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for TestRole {
    fn drop(&mut self) {
        let name = self.quoted();
        finish(&name, async {
            let mut admin = PgConnection::connect(&self.admin_url).await?;
            let sql = format!("drop owned by {name}; drop role {name}");
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut admin)
                .await?;
            Ok(admin.close().await?)
        });
    }
}

/// An installation in order, with settings of the role that was printed for `serve`.
pub(crate) async fn healthy() -> (Site, TestRole) {
    let mut site = Site::new().await;
    site.declare().await;
    let role = TestRole::granted(&site, "serve").await;
    site.set("DATABASE__URL", role.url());
    (site, role)
}
