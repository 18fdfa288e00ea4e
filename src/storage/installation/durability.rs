//! Whether what is committed stays.

use super::{Inspection, rights};
use crate::storage::StorageError;

/// What the server says of it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Durability {
    /// `off`: a crash of the machine loses commits, or the whole database.
    pub fsync: bool,
    /// `off`: a crash of the machine can leave torn pages.
    pub full_page_writes: bool,
    /// Tables of the ledger and balances that a crash empties.
    pub unlogged: Vec<String>,
    /// `synchronous_standby_names`.
    pub synchronous: String,
    /// Standbys that are connected now.
    pub standbys: i64,
    /// How far the furthest behind of them is, in bytes; `None` if this role may not see it.
    pub behind_bytes: Option<i64>,
}

impl Inspection {
    /// What a crash or a failover would do to what is committed.
    pub async fn durability(&mut self) -> Result<Durability, StorageError> {
        self.ask(async |connection| {
            sqlx::query_as(
                "select current_setting('fsync')::bool as fsync,
                        current_setting('full_page_writes')::bool as full_page_writes,
                        array(select c.relname::text from unnest($1::text[]) w (name)
                              join pg_class c on c.oid = to_regclass(w.name)
                              where c.relpersistence = 'u') as unlogged,
                        current_setting('synchronous_standby_names') as synchronous,
                        r.standbys, r.behind_bytes
                 from (select count(*) as standbys,
                              max(pg_wal_lsn_diff(s.sent_lsn, s.flush_lsn))::bigint as behind_bytes
                       from pg_stat_replication s
                       where s.application_name is distinct from 'pg_basebackup') r",
            )
            .bind(&rights::GUARDED[..])
            .fetch_one(connection)
            .await
        })
        .await
    }
}
