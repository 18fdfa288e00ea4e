//! What the README shows in SQL runs as it stands there.

use std::{fs, path::Path};

use serde_json::Value;
use sqlx::{AssertSqlSafe, types::Json};

use crate::support::books::Books;

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    fs::read_to_string(path).expect("a README")
}

/// What stands between `start` and the next `end`, each time.
fn between<'t>(text: &'t str, start: &str, end: &str) -> Vec<&'t str> {
    let pieces = text.split(start).skip(1);
    pieces
        .map(|piece| piece.split(end).next().expect("at least one"))
        .collect()
}

#[tokio::test]
async fn the_sql_of_the_readme_runs_as_pasted() {
    let (books, readme) = (Books::open().await, readme());
    // The company that the README makes before.
    let companies = between(&readme, "deploy/local.sh psql -c \"", "\"\n");
    assert!(!companies.is_empty());
    for insert in companies {
        books.execute(insert).await;
    }
    let examples = between(&readme, "```sql\n", "```");
    assert!(!examples.is_empty());
    for example in examples {
        // Pasted twice it charges once.
        for idempotent in [false, true] {
            let answer = sqlx::query_scalar(AssertSqlSafe(example.trim().trim_end_matches(';')))
                .fetch_one(books.pool())
                .await;
            let Json(answer): Json<Value> =
                answer.unwrap_or_else(|error| panic!("{example}: {error}"));
            assert_eq!(answer["success"], true, "{answer:#}");
            assert_eq!(answer["idempotent"], idempotent, "{answer:#}");
        }
    }
}
